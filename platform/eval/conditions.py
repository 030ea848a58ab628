"""Conditions: the model as it is, steered, and under every control; what is computed once is never computed twice.

A condition without a recipe and without a header, or with a recipe that changes nothing, is the model as it is. Such
conditions are answered once, as "unsteered", and their rows are copies of those answers under their own name
(`aliases`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..steering.recipe import Recipe
from .changed_weights import changed_weights, digest_of, from_plain
from .schema import condition_fields

if TYPE_CHECKING:
    from ..models import LanguageModel

UNSTEERED = "unsteered"
STEERED = "steered"
CONTROL = "control_"  # what the families of controls begin with


@dataclass(frozen=True)
class Condition:
    """name: unique in a run. family: the name without its number. recipe: None leaves the model as it is. header: text
    that is put before every prompt. weights: low-rank changes as JSON (`changed_weights`), none leaves them."""

    name: str
    family: str
    recipe: Recipe | None = None
    draw: int | None = None
    header: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_plain(self) -> bool:
        """Whether the model is left as it is and asked as it was."""
        return not self.header and not self.weights and (self.recipe is None or self.recipe.is_identity)

    def fields(self) -> dict[str, Any]:
        """The columns of its rows."""
        row = condition_fields(self.name, self.family, self.draw, self.recipe)
        return row | {"operator": "weights", "recipe_digest": digest_of(self.weights)} if self.weights else row

    @contextmanager
    def model_of(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Inside the block `model` has the condition's weights; recipes are for whoever knows the prompts."""
        with changed_weights(model, from_plain(self.weights)):
            yield model

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for a worker."""
        recipe = None if self.recipe is None else self.recipe.to_dict()
        weights = {"weights": dict(self.weights)} if self.weights else {}
        return {
            "name": self.name, "family": self.family, "draw": self.draw, "recipe": recipe, "header": self.header,
        } | weights  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Condition:
        """The inverse of `to_dict`."""
        recipe = None if values["recipe"] is None else Recipe.from_dict(values["recipe"], source="condition")
        return cls(
            values["name"], values["family"], recipe, values["draw"], values["header"], values.get("weights", {})
        )


PLAIN = Condition(UNSTEERED, UNSTEERED)


def judged(recipe: Recipe, controls: Mapping[str, Sequence[Recipe]], header: str = "") -> list[Condition]:
    """The conditions that the test questions are answered under: steered, then every draw of every control, and the
    model as it is with `header` before its prompts."""
    conditions = [Condition(STEERED, STEERED, recipe)]
    for name, draws in controls.items():
        family = f"{CONTROL}{name}"
        conditions += [Condition(f"{family}_{i}", family, control, i) for i, control in enumerate(draws)]
    if header:
        conditions.append(Condition(f"{CONTROL}prompt_0", f"{CONTROL}prompt", None, 0, header))
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
