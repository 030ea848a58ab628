"""`mplat models`: the models that can be named, those that ship with mplat and the public ones it knows."""

from __future__ import annotations

from ..core.plain_text import Table
from .frame.command import command
from .frame.options import Json
from .frame.output import Output


@command("models", order=80)
def models(as_json: Json = False) -> None:
    """List shipped models and known public ones."""
    from ..models.files import catalog

    entries = catalog.entries()
    columns = ["model", "architecture", "parameters", "used by a token", "size", "licence", "needs network"]
    rows = [
        [
            e.name,
            e.arch,
            e.n_parameters,
            e.n_active_parameters,
            f"{e.n_bytes / 1e6:,.1f} MB",
            e.licence,
            e.needs_network,
        ]
        for e in entries
    ]
    more = "\nA folder with config.json and model.safetensors can be named as well."
    Output(json=as_json).result({"models": [entry._asdict() for entry in entries]}, Table(columns, rows), more)
