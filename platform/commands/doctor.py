"""`mplat doctor`: is this installation sound, and what to do where it is not."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ..core.errors import ToleranceError
from .frame.command import command
from .frame.options import Json
from .frame.output import Output

Cluster = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="WHERE",
        help="Ask every node of a Ray cluster too: HOST:PORT, or auto for that of RAY_ADDRESS.",
    ),
]


@command("doctor", order=90)
def doctor(address: Cluster = None, as_json: Json = False) -> None:
    """Check this installation: Python, packages, threads, GPU, kernels, Ray, folders, models; of a cluster every
    node."""
    from ..diagnosis import diagnose, diagnose_nodes

    checks = diagnose()
    if address is not None:
        checks += diagnose_nodes(address)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:4}  {check.name:{width}}  {check.found}")
        if check.advice:
            lines.append(f"      {'':{width}}  -> {check.advice}")
    failed = [check.name for check in checks if check.status == "fail"]
    data = {"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]}
    Output(json=as_json).result(data, "\n".join(lines))
    if failed:
        raise ToleranceError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
