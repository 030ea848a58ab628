"""What stays float32 in a model of half precision: the list for every architecture, in memory and in files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from adapter_zoo import CASES, adapted, theirs
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import LanguageModel, load
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

MAMBA, MAMBA2 = {"A_log", "D"}, {"A_log", "D", "dt_bias"}
#: names within a layer, its number and the path to the mixer left out
KEPT: dict[str, set[str]] = {
    "mamba": MAMBA,
    "falcon_mamba": MAMBA,
    "dense_mamba": MAMBA,
    "mamba2": MAMBA2,
    "moe_mamba": MAMBA | {"router.weight"},
    "black_mamba": MAMBA | {"router.weight", "router.bias"},
    "stable_mamba": {"tau_offset", "rho_logits", "D"},
    "stable_mamba_attached": MAMBA | {"stable.tau_offset", "stable.rho_logits", "stable.D"},
    "striped_hyena": {"filter.log_decay", "filter.angle", "filter.residues"},
    "hyena": {
        f"implicit_filter.{part}" for part in (
            "freq", "rates", "hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias",
            "hidden.2.weight", "hidden.2.bias", "out.weight",
        )
    },
    "jamba": MAMBA | {"router.weight"},
    "nemotron_h": MAMBA2 | {"gate.weight", "gate.e_score_correction_bias"},
    "bamba": MAMBA2, "zamba2": MAMBA2, "falcon_h1": MAMBA2,
    "gpt2": set(), "gpt_neox": set(),
}  # fmt: skip
HYBRIDS = [case for case in CASES if ":" not in case]
ALL = [*ARCHITECTURES, *HYBRIDS]


def wide_names(tensors: dict[str, torch.Tensor]) -> set[str]:
    """What is float32 among halves, by its name within the layer."""
    assert {t.dtype for t in tensors.values()} <= {torch.float32, torch.bfloat16}
    path = r".*layers\.\d+\.((mixer|mamba|mamba_decoder\.mamba|feed_forward)\.)?"
    return {re.sub(path, "", n) for n, t in tensors.items() if t.dtype == torch.float32}


@pytest.fixture(params=ALL)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, LanguageModel]:
    arch = request.param
    if arch in HYBRIDS:
        return arch, adapted(arch, tmp_path / "theirs", torch.float32)
    return arch, nano(arch, dtype=torch.float32)


@torch.no_grad()
def test_the_list(made: tuple[str, LanguageModel], tmp_path: Path) -> None:
    arch, model = made
    whole = {n: t.clone() for n, t in model.state_dict().items()}
    file = load_file(model.save(tmp_path / "half", dtype=torch.bfloat16) / "model.safetensors")
    assert wide_names(file) == KEPT[arch]
    loaded = load(tmp_path / "half", dtype=torch.bfloat16)
    assert wide_names(loaded.state_dict()) == KEPT[arch] and loaded.dtype == torch.bfloat16
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, whole[name].to(tensor.dtype)), name
        assert torch.equal(tensor, file[name]), name
    assert loaded(tokens(2, 5)).isfinite().all()
    again = load_file(loaded.save(tmp_path / "again") / "model.safetensors")
    assert all(torch.equal(t, file[n]) and t.dtype == file[n].dtype for n, t in again.items())
    cast = model.to(torch.bfloat16)
    assert cast.digest == loaded.digest  # however it became half
    assert wide_names(cast.half().bfloat16().state_dict()) == KEPT[arch]
    assert {t.dtype for t in cast.double().state_dict().values()} == {torch.float64}
    assert {t.dtype for t in load(tmp_path / "half").state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("case", HYBRIDS)
def test_what_transformers_keeps_is_kept(case: str) -> None:
    theirs_kept = theirs(case)._keep_in_fp32_modules_strict or set()
    assert all(any(part in name for name in KEPT[case]) for part in theirs_kept)


def test_a_file_of_halves_is_read_exactly(tmp_path: Path) -> None:
    """A checkpoint that was stored in bfloat16 throughout: nothing is lost further, and what was float32 is not."""
    config = transformers.Mamba2Config(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, state_size=5, head_dim=8, num_heads=6, n_groups=2
    )
    model = transformers.Mamba2ForCausalLM(config)
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.A_log.add_(0.3).add_(torch.rand(6))
    model.save_pretrained(tmp_path / "whole")
    model.bfloat16().save_pretrained(tmp_path / "half")
    whole, half = (load(tmp_path / name, dtype=torch.bfloat16) for name in ("whole", "half"))
    name = "backbone.layers.0.mixer.A_log"
    stored = load_file(tmp_path / "whole" / "model.safetensors")[name]
    assert torch.equal(whole.state_dict()[name], stored) and not torch.equal(stored, stored.bfloat16().float())
    assert torch.equal(half.state_dict()[name], stored.bfloat16().float())


def test_gradients_of_what_is_kept_are_float32_and_not_lost() -> None:
    model = nano("mamba", dtype=torch.float32)
    model(tokens(1, 5)).sum().backward()
    before = model.blocks[0].mixer.A_log.grad.clone()  # type: ignore[union-attr,operator]
    model.to(torch.bfloat16)
    after = model.blocks[0].mixer.A_log.grad
    assert torch.equal(after, before) and model.embedding.weight.grad.dtype == torch.bfloat16  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize("arch", ["moe_mamba", "striped_hyena", "hyena"])
def test_transformers_keeps_ours_too(arch: str, tmp_path: Path) -> None:
    nano(arch, dtype=torch.float32).save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert wide_names(model.state_dict()) == KEPT[arch]


def test_other_layouts_keep_it_in_their_files(tmp_path: Path) -> None:
    nano("mamba2", dtype=torch.float32).save(tmp_path / "a", layout="original", dtype=torch.bfloat16)
    stored = torch.load(tmp_path / "a" / "pytorch_model.bin", weights_only=True)  # noqa: TID251
    assert wide_names(stored) == MAMBA2
    nano("striped_hyena", dtype=torch.float32).save(tmp_path / "b", layout="stripedhyena", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "b" / "model.safetensors")
    poles = {n.rpartition(".")[2]: t.dtype for n, t in stored.items() if "filter.poles" in n or "residues" in n}
    assert poles == {"poles": torch.float64, "residues": torch.float32}
