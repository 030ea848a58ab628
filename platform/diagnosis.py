"""Is this installation sound? One function per question; `mplat doctor` prints the answers.

Every check returns what it found, and what to do where that is not good: `fail` means that something documented cannot
work here, `warn` that it works but slower, or not in every setting. A check that itself breaks is a failure with the
error as its finding. Nothing is changed, downloaded or started, and no Ray is contacted but the one that
`diagnose_nodes` is given the address of.
"""

from __future__ import annotations

import importlib.metadata
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .core.errors import InputError
from .core.folders import CACHE_VARIABLE, cache_folder
from .models.files.known_digests import DIGEST_FILE

if TYPE_CHECKING:
    from .runtime.node_questions import Answer, Node

Status = Literal["ok", "warn", "fail"]
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numba",
    "numpy",
    "pyarrow",
    "pydantic",
    "ray",
)
MEMORY_WANTED_GIB = 4.0


@dataclass(frozen=True)
class Check:
    """The answer to one question: what was found, and what to do about it (empty where all is well)."""

    name: str
    status: Status
    found: str
    advice: str = ""


def python() -> Check:
    """Python's version and the system it runs on."""
    import platform

    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", found)


def processor() -> Check:
    """Cores that this process may use, and whether they multiply bfloat16 matrices in hardware."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _cpu_flags()
    if flags is None:
        return Check("processor", "ok", f"{cores} cores; bfloat16 instructions: not known on this system")
    present = [label for flag, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    return Check("processor", "ok", f"{cores} cores; bfloat16 instructions: {', '.join(present) or 'none'}")


def memory() -> Check:
    """Memory that is free now."""
    path = Path("/proc/meminfo")
    if not path.exists():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return Check("memory", "ok", f"{total:.1f} GiB in all; free memory not known on this system")
    kib = {line.split(":")[0]: int(line.split()[1]) for line in path.read_text().splitlines() if len(line.split()) > 1}
    total, free = kib["MemTotal"] / 2**20, kib["MemAvailable"] / 2**20
    found = f"{free:.1f} of {total:.1f} GiB free"
    if free < MEMORY_WANTED_GIB:
        return Check("memory", "warn", found, "close other programs, or use --address none and small models")
    return Check("memory", "ok", found)


def packages() -> Check:
    """Versions of the packages that decide about results."""
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    found = ", ".join(versions) + (f"; missing: {', '.join(missing)}" if missing else "")
    if missing == ["ray"]:
        return Check("packages", "warn", found, "without ray only --address none works; install it: pip install ray")
    if missing:
        return Check("packages", "fail", found, f"pip install {' '.join(missing)}")
    return Check("packages", "ok", found)


def threads() -> Check:
    """Threads that torch will use for one operation."""
    import torch

    used, cores = torch.get_num_threads(), os.cpu_count() or 1
    found = f"torch uses {used} of {cores} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"
    if used > cores:
        return Check(
            "threads", "warn", found, f"more threads than cores is slow: set OMP_NUM_THREADS to {cores} or less"
        )
    return Check("threads", "ok", found)


def accelerator() -> Check:
    """The GPU, if torch sees one, and whether this build of torch can use it."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("accelerator", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if Path("/dev/nvidia0").exists():
        advice = "install a CUDA build of torch and a driver that it supports (see pytorch.org), or work on the CPU"
        return Check("accelerator", "warn", f"an NVIDIA device, but torch {torch.__version__} cannot use it", advice)
    return Check("accelerator", "ok", "none: everything runs on the CPU")


def kernels() -> Check:
    """The backends of every kernel operation that can run here."""
    from .models.kernels import backends, operations

    usable = {operation: backends(operation) for operation in operations()}
    found = "; ".join(f"{operation}: {', '.join(names)}" for operation, names in usable.items())
    if any(names == ["reference"] for names in usable.values()):
        return Check("kernels", "fail", found, "only the slow reference is left: reinstall mplat")
    return Check("kernels", "ok", found)


def ray_authentication() -> Check:
    """Whether the processes of a Ray cluster can be expected to agree on token authentication.

    Ray turns it on by itself for a private local Ray and leaves a token in the home folder. Where a token lies, a later
    `ray start --head` asks for it, while processes started on other machines do not send one.
    """
    name = "ray authentication"
    mode, address = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_ADDRESS")
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or token_file.is_file()
    cluster = f"RAY_ADDRESS={address}" if address else "no RAY_ADDRESS, so a private local Ray"
    found = f"RAY_AUTH_MODE={mode or 'not set'}, {'a token' if has_token else 'no token'}, {cluster}"
    if mode is not None and mode.lower() not in ("token", "disabled"):
        return Check(name, "fail", found, "set RAY_AUTH_MODE to token or disabled")
    if mode is not None and mode.lower() == "token" and address and not has_token:
        return Check(name, "fail", found, f"copy the cluster's token to {token_file}, or set RAY_AUTH_TOKEN")
    if mode is None and address:
        advice = "set RAY_AUTH_MODE (token or disabled) to the same value for `ray start` on every machine and here"
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def cache() -> Check:
    """Whether the cache folder can be written."""
    folder = cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    probe = parent / f".mplat-probe-{uuid.uuid4().hex}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        found = f"{folder}: cannot write in {parent} ({error.strerror})"
        return Check("cache", "fail", found, f"name a folder you own: {CACHE_VARIABLE}=DIR")
    return Check("cache", "ok", f"{folder}{'' if folder.exists() else ' (made when first used)'}")


def shipped_models() -> Check:
    """Whether the models that come with the package are there, load, and are what was shipped."""
    from .models import load
    from .models.files import catalog

    name = "shipped models"
    found, changed, unrecorded = [], [], []
    folders = catalog.shipped()
    if not folders:
        return Check(name, "fail", "none found", "reinstall mplat: its package data is missing")
    for model, folder in folders.items():
        try:
            found.append(f"{model} {load(model).digest[:12]}")
        except InputError as error:
            changed.append(model)
            found.append(str(error))
        if not (folder / DIGEST_FILE).is_file():
            unrecorded.append(model)
    if changed:
        return Check(
            name, "fail", f"{', '.join(changed)}: not what was shipped ({', '.join(found)})", "reinstall mplat"
        )
    if unrecorded:
        advice = f"{', '.join(unrecorded)}: no {DIGEST_FILE} file to compare with; reinstall mplat"
        return Check(name, "warn", ", ".join(found), advice)
    return Check(name, "ok", ", ".join(found))


CHECKS: tuple[Callable[[], Check], ...] = (
    python,
    processor,
    memory,
    packages,
    threads,
    accelerator,
    kernels,
    ray_authentication,
    cache,
    shipped_models,
)


def diagnose(checks: tuple[Callable[[], Check], ...] = CHECKS) -> list[Check]:
    """The answer to every question, in order."""
    return [_answer(check) for check in checks]


def diagnose_nodes(address: str) -> list[Check]:
    """What every node of a Ray cluster has, whether it is what this process has, and whether it sees this folder.

    Raises as `open_session` does.
    """
    from .runtime.node_questions import ask, living_nodes
    from .runtime.session import open_session

    with open_session(address):
        nodes = living_nodes()
        answers = {answer.node.id: answer for answer in ask(nodes, record=Path.cwd() / "doctor")}
    return [node_check(node, answers.get(node.id), Path.cwd()) for node in nodes]


def node_check(node: Node, answer: Answer | None, folder: Path) -> Check:
    """One node by what it answered, None where it did not; it was asked whether it sees `folder`."""
    from .runtime.installation import difference, installation
    from .runtime.node_questions import ANSWER_S

    has = node.resources
    name = f"node {node.name}"
    found = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs, {has.get('memory', 0) / 2**30:.1f} GiB"
    if answer is None:
        advice = "see with `ray status` whether it is alive and what it does"
        return Check(name, "fail", f"{found}; no answer within {ANSWER_S:.0f} s", advice)
    if answer.error:
        return Check(name, "fail", f"{found}; {answer.error}", "install the same mplat and Python there as here")
    there, here = answer.installation, installation()
    which = ", ".join(f"{one} {there.get(one, 'not known')}" for one in ("mplat", "python", "torch"))
    same = "the same sources" if there.get("sources") == here["sources"] else "other sources"
    sees = {True: f"sees {folder}", False: f"does not see {folder}", None: f"not known whether it sees {folder}"}
    found = f"{found}; {which}; {same}; {sees[answer.shares]}"
    if other := difference(there, here):
        return Check(name, "fail", found, other)
    if answer.shares is False:
        advice = "`mplat train` on workers needs a folder that all nodes share; models are sent to nodes without them"
        return Check(name, "warn", found, advice)
    return Check(name, "ok", found)


def _answer(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a check that cannot even run is the finding
        name = check.__name__.replace("_", " ")
        return Check(name, "fail", f"{type(error).__name__}: {error}", "reinstall mplat with `make`, or report this")


def _cpu_flags() -> frozenset[str] | None:
    """The processor's feature flags, or None where the system does not list them."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return None
