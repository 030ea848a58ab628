"""Any edit that can be stored, as a part of a recipe."""

from __future__ import annotations

from typing import Any

from ...core.errors import UsageError, suggest
from ...models import Edit
from ...models.access.edit_kinds import KINDS
from . import Target, operator


@operator(
    "stored_edit",
    sites=("*",),
    units=("share",),
    tensors={f"{name}?": "any" for name in ("factor", "value", "direction", "mean", "basis", "encoder", "bias",
                                            "decoder", "centre", "threshold")},
    options={"kind": "kind of the edit", "fields?": "its numbers by name"},
    low=0.0,
    high=1.0,
)  # fmt: skip
def stored_edit(target: Target) -> list[Edit]:
    """Apply an edit as it was stored: strength 1 is the edit, 0 is none, and there is nothing between.

    Raises UsageError for a strength between, a kind that there is not, and fields that make no such edit.
    """
    kind, fields = target.options["kind"], target.options.get("fields", {})
    if target.strength != 1.0:
        raise UsageError(f"a stored edit is applied (strength 1) or not (0), and not by {target.strength:g}")
    if kind not in KINDS:
        raise UsageError(f"there is no edit of kind {kind!r}; {suggest(str(kind), KINDS)}")
    values: dict[str, Any] = {**fields, **target.tensors}
    try:
        return [KINDS[kind](target.site, channels=target.channels, **values)]
    except TypeError as error:
        raise UsageError(f"a stored edit of kind {kind!r} is not whole ({error})") from error
