"""`mplat interp ls`: the analyses that there are, with their settings."""

from __future__ import annotations

import json

from ..core.plain_text import Table
from .frame.command import command
from .frame.options import Json
from .frame.output import Output


@command("interp ls", order=41)
def interp_ls(as_json: Json = False) -> None:
    """List the analyses: what each finds, what it needs, its settings."""
    from ..interp import all_steps

    steps = list(all_steps().values())
    rows = [[s.name, s.version, s.items, ", ".join(s.needs) or None, s.meaning] for s in steps]
    defaults = {s.name: s.settings().model_dump(mode="json") for s in steps}
    lines = [f"{name}.{key}={json.dumps(value)}" for name in defaults for key, value in defaults[name].items()]
    values = [
        {"step": s.name, "version": s.version, "items": s.items, "needs": s.needs, "meaning": s.meaning,
         "settings": defaults[s.name]}
        for s in steps
    ]  # fmt: skip
    shown = Table(["step", "version", "items", "needs", "finds"], rows)
    Output(json=as_json).result({"steps": values}, shown, "\nsettings, for --set KEY=VALUE:", *lines)
