"""What stands in every content key: the code of this model and of what is done with it, and nobody else's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mplat.core.code_closure import FOLDER, source_digests

ARCHITECTURES = ("mamba2", "hyena", "moe_mamba")
KEYS = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("mplat", {front!r}, submodule_search_locations=[{package!r}])
module = sys.modules["mplat"] = importlib.util.module_from_spec(spec)
module.__path__ = [{package!r}]
from mplat.models import ModelConfig, build
from mplat.models.provenance import computation_key
from mplat.scoring.metrics.metric import METRICS
from mplat.models.mixer import MIXERS
from mplat.models.kernels.backend import backends
used = ["mplat.interp.steps.attribution", "mplat.eval.answers", METRICS.module("squad_v1")]
keys = {{}}
for arch in {archs!r}:
    sizes = {{"vocab_size": 16, "d_model": 16, "n_layers": 2}}
    if arch == "mamba2":
        sizes |= {{"head_dim": 8}}
    keys[arch] = computation_key(build(ModelConfig(arch=arch, **sizes), seed=0), *used)
there = [*MIXERS.names(), *METRICS.names(), *backends("ssd")]
print(json.dumps({{"keys": keys, "there": there}}))
"""
UNUSED = {
    "models/families/idle.py": """from ..mixer import Mixer, mixer
@mixer("idle")
class Idle(Mixer): ...
""",
    "models/adapters/idle.py": """from .adapter import adapter
from .base import AdaptedModel
@adapter("idle")
class Idle(AdaptedModel): ...
""",
    "scoring/metrics/idle.py": """from .metric import metric
@metric("idle")
class Idle: ...
""",
    "models/kernels/ssd/ssd_idle.py": """from ..backend import kernel
@kernel("ssd", "idle")
def idle(): ...
""",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's sources."""
    place = tmp_path_factory.mktemp("clone") / "mplat"
    shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("__pycache__", "tiny", ".*"))
    return place


def keys(clone: Path) -> dict:
    front = FOLDER.parent / "front" / "mplat" / "__init__.py"
    script = KEYS.format(front=str(front), package=str(clone), archs=ARCHITECTURES)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before(clone: Path) -> dict:
    return keys(clone)


@pytest.mark.slow
def test_what_is_added_and_not_used_changes_no_key(clone: Path, before: dict) -> None:
    for name, text in UNUSED.items():
        (clone / name).write_text(f'"""Unused."""\n\n{text}')
    try:
        after = keys(clone)
    finally:
        for name in UNUSED:
            (clone / name).unlink()
    assert set(after["there"]) - set(before["there"]) == {"idle"}
    assert after["keys"] == before["keys"]


@pytest.mark.parametrize(
    ("arch", "changed"),
    [
        ("mamba2", "models/families/mamba2/mamba2.py"),
        ("mamba2", "models/kernels/ssd/ssd_call.py"),
        ("mamba2", "models/kernels/ssd/ssd_reference.py"),
        ("hyena", "models/families/hyena/long_conv.py"),
        ("hyena", "models/parts/feed_forward.py"),
        ("hyena", "models/kernels/fft_conv/fft_conv_torch.py"),
        ("moe_mamba", "models/families/moe/sinkhorn.py"),
        ("moe_mamba", "models/families/moe/experts.py"),
        ("mamba2", "models/access/edits.py"),
        ("mamba2", "interp/methods/moments.py"),
        ("mamba2", "scoring/metrics/normalize.py"),
    ],
)
def test_a_line_that_the_result_depends_on_changes_its_key(clone: Path, before: dict, arch: str, changed: str) -> None:
    sources = before["keys"][arch]["sources"]
    file = clone / changed
    text = file.read_text()
    file.write_text(text + "\nextra = 1\n")
    try:
        after = source_digests(list(sources), folder=clone)
    finally:
        file.write_text(text)
    assert [module for module in sources if sources[module] != after[module]] == [
        "mplat." + changed.removesuffix(".py").replace("/", ".")
    ]


@pytest.mark.parametrize(
    ("arch", "not_used"),
    [
        ("mamba2", "models.families.hyena"), ("mamba2", "models.families.moe"), ("mamba2", "models.adapters.gpt2"),
        ("hyena", "models.families.mamba2"), ("hyena", "models.families.stable_mamba"),
        ("hyena", "scoring.metrics.drop"),
        ("mamba2", "models.kernels.fft_conv"), ("mamba2", "interp.engine.run"), ("mamba2", "interp.steps.activations"),
        ("mamba2", "commands"), ("mamba2", "train"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_not_in_the_key(before: dict, arch: str, not_used: str) -> None:
    assert not [module for module in before["keys"][arch]["sources"] if module.startswith(f"mplat.{not_used}")]


def test_the_backends_are_those_of_the_operations_that_the_model_uses(before: dict) -> None:
    used = {arch: set(before["keys"][arch]["backend"]) - {"device"} for arch in ARCHITECTURES}
    assert "ssd" in used["mamba2"] and "fft_conv" not in used["mamba2"]
    assert "fft_conv" in used["hyena"] and "ssd" not in used["hyena"]
