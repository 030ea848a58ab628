"""Conditions: the model as it is, steered, and under every control; what is computed once is never computed twice.

A condition without a recipe, or with the recipe of strength 1, is the model as it is. Such conditions are answered
once, as "unsteered", and their rows are copies of those answers under their own name (`aliases`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..steering.recipe import Recipe
from .schema import condition_fields

UNSTEERED = "unsteered"
STEERED = "steered"


@dataclass(frozen=True)
class Condition:
    """name: unique in a run. family: the name without its number. recipe: None leaves the model as it is."""

    name: str
    family: str
    recipe: Recipe | None = None
    draw: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the model is left as it is."""
        return self.recipe is None or self.recipe.is_identity

    def fields(self) -> dict[str, Any]:
        """The columns of its rows."""
        return condition_fields(self.name, self.family, self.draw, self.recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for a worker."""
        recipe = None if self.recipe is None else self.recipe.to_dict()
        return {"name": self.name, "family": self.family, "draw": self.draw, "recipe": recipe}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Condition:
        """The inverse of `to_dict`."""
        recipe = None if values["recipe"] is None else Recipe.from_dict(values["recipe"], source="condition")
        return cls(values["name"], values["family"], recipe, values["draw"])


PLAIN = Condition(UNSTEERED, UNSTEERED)


def candidates(recipes: Sequence[Recipe]) -> list[Condition]:
    """The conditions of a discovery grid, in its order."""
    return [Condition(f"candidate_{i:03d}", "candidate", recipe) for i, recipe in enumerate(recipes)]


def judged(recipe: Recipe, controls: Mapping[str, Sequence[Recipe]]) -> list[Condition]:
    """The conditions that the test questions are answered under: steered, then every draw of every control."""
    conditions = [Condition(STEERED, STEERED, recipe)]
    for name, draws in controls.items():
        family = f"control_{name}"
        conditions += [Condition(f"{family}_{i}", family, control, i) for i, control in enumerate(draws)]
    return conditions


def computed(conditions: Sequence[Condition]) -> list[Condition]:
    """`PLAIN` and those of `conditions` that are not the same thing under another name."""
    return [PLAIN, *(c for c in conditions if not c.is_plain)]


def aliases(table: pa.Table, conditions: Sequence[Condition]) -> pa.Table:
    """Rows for the plain ones of `conditions`: the unsteered rows of `table` under their names."""
    plain = [c for c in conditions if c.is_plain and c.name != UNSTEERED]
    rows = [row for row in table.to_pylist() if row["condition"] == UNSTEERED] if plain else []
    copies = [row | condition.fields() for condition in plain for row in rows]
    return pa.Table.from_pylist(copies, schema=table.schema)
