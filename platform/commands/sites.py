"""`mplat sites MODEL`: every quantity of a model that has a name, and whether it can be read and edited.

The text shows a site that all blocks have once, as `blocks.{i}....`; `--json` lists every single one. A model that
mplat knows needs no weights for this, so nothing is downloaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.plain_text import Table
from .frame.command import command
from .frame.options import Json
from .frame.output import Output

if TYPE_CHECKING:
    from ..models import Site


@command("sites", order=82)
def sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A shipped or known model, a folder, or a hub id.")],
    as_json: Json = False,
) -> None:
    """List the named quantities of a model: shape, type, meaning."""
    from ..models import build, load
    from ..models.files import catalog
    from ..models.planted import is_planted

    if model in catalog.shipped() or model in catalog.HUB or is_planted(model):
        there = build(catalog.shape(model), device="meta").sites()
    else:
        there = load(model).sites()
    blocks = {int(site.name.split(".")[1]) for site in there if site.name.startswith("blocks.")}
    shown = Table(["site", "blocks", "shape", "dtype", "read", "edit", "meaning"], _folded(there, len(blocks)))
    how = f"\ni = 0..{max(blocks)}; B sequences of T tokens; `*` stands for every block: blocks.*.mixer_out"
    Output(json=as_json).result({"model": model, "sites": [site._asdict() for site in there]}, shown, how)


def _folded(there: list[Site], n_blocks: int) -> list[list[object]]:
    """One row for each site of the blocks, and one more for each variant of it where blocks differ."""
    rows: dict[tuple[object, ...], list[object]] = {}
    having: dict[tuple[object, ...], list[str]] = {}
    for site in there:
        name = re.sub(r"^blocks\.\d+\.", "blocks.{i}.", site.name)
        row = [name, f"({', '.join(map(str, site.shape))})", site.dtype, site.readable, site.editable, site.meaning]
        rows.setdefault(tuple(row), row)
        having.setdefault(tuple(row), []).append(site.name.split(".")[1] if name != site.name else "")
    for key, row in rows.items():
        row.insert(1, "all" if len(having[key]) == n_blocks else ",".join(having[key]))
    return list(rows.values())
