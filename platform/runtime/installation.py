"""What must be the same in two processes that make rows of one table: sources, Python, the packages that compute.

The same version of mplat is not enough: a node with other sources of it would make other rows in silence.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from ..core.versions import code_digest, versions

_SOURCES = "sources"
GPU = "GPU"
_PROCESSOR = "the processor"
_KINDS = {GPU, _PROCESSOR}  # of hardware, which nobody can install


def installation(*, gpu: bool = False) -> dict[str, str]:
    """Names and versions, and the digest of every source file of mplat, of this process, and the kind of its processor;
    with `gpu` what its first GPU is, where it has one. Another kind of either has other kernels, and other last bits.
    """
    found = {**versions(), "mplat": installed_version(), _SOURCES: code_digest(), _PROCESSOR: processor()}
    if gpu:
        import torch

        if torch.cuda.is_available():
            found[GPU] = torch.cuda.get_device_name(0)
    return found


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """In one sentence the first thing that is not the same, or None."""
    for name in dict.fromkeys(["mplat", *here]):
        theirs, ours = there.get(name, "not known"), here[name]
        if theirs == ours:
            continue
        if name == _SOURCES:
            return (
                f"the sources of mplat {here['mplat']} are others there ({theirs[:12]}) than here ({ours[:12]}); "
                "install the same on every node"
            )
        advice = "use nodes of one kind" if name in _KINDS else "install the same on every node"
        return f"{name} is {theirs} there and {ours} here; {advice}"
    return None


@cache
def processor(about: Path = Path("/proc/cpuinfo")) -> str:
    """Maker and widest vectors of this machine's processor, by which libraries choose their code."""
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = set(said.get("flags", said.get("Features", "")).split())
    widest = next((name for name in ("avx512f", "avx2", "avx", "sve", "asimd") if name in flags), "")
    maker = said.get("vendor_id", said.get("CPU implementer", platform.processor()))
    return " ".join(word for word in (platform.machine(), maker, widest) if word)


def installed_version() -> str:
    """The version of mplat that this process imports. A checkout run by its cli.py beside an installed mplat with
    other sources names itself, because workers import the installed one."""
    try:
        version = metadata.version("mplat")
    except metadata.PackageNotFoundError:
        return "not installed"
    checkout = vars(sys.modules.get("mplat", sys)).get("checkout")  # asked otherwise, mplat would load its models
    return version if checkout is None else f"the checkout {checkout}"
