"""Adapted models compute what transformers' do, from its files and for its files; and are right where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_zoo import CASES, adapted, theirs
from model_zoo import tokens
from mplat.core.errors import InputError
from mplat.models import Scale, adapters, load
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers_float64 import everything_float64, relative


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    reference, text = theirs(case), tokens(3, 37)
    expected = reference(text).logits
    assert expected.std() > 0.3  # weights large enough that a wrong part would be seen
    ours = adapted(case, tmp_path, torch.float32)
    assert relative(ours(text), expected) <= 1e-5
    with everything_float64():
        expected64 = reference.double()(text).logits
    ours64 = load(tmp_path, dtype=torch.float64)(text)
    assert ours64.dtype == expected64.dtype == torch.float64
    assert relative(ours64, expected64) <= 1e-10


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_folder_we_write_is_read_by_transformers(case: str, tmp_path: Path) -> None:
    ours = adapted(case, tmp_path / "theirs", torch.float32)
    again = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path / "ours"), experts_implementation="eager").eval()
    assert type(again) is type(theirs(case))
    assert relative(again(tokens(2, 21)).logits, ours(tokens(2, 21))) <= 1e-5
    theirs_names = load_file(tmp_path / "theirs" / "model.safetensors").keys()
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() == theirs_names


@torch.no_grad()
def test_chunked_prefill_is_right_where_transformers_is_wrong(tmp_path: Path) -> None:
    """transformers starts the second chunk of a Mamba-1 layer from h = 0, here in Jamba."""
    reference, text = theirs("jamba"), tokens(2, 37)
    ours = adapted("jamba", tmp_path, torch.float32)
    _, state = ours(text[:, :20], return_state=True)
    assert relative(ours(text[:, 20:], state=state), ours(text)[:, 20:]) <= 1e-5
    first = reference(text[:, :20], use_cache=True)
    second = reference(text[:, 20:], past_key_values=first.past_key_values, use_cache=True).logits
    assert relative(second, reference(text).logits[:, 20:]) > 1e-2


@torch.no_grad()
def test_delta_is_clamped_in_decode_steps_too(tmp_path: Path) -> None:
    """transformers forgets `time_step_min` where it reads one token after others."""
    case, text = "nemotron_h:latent", tokens(2, 9)
    reference, ours = theirs(case), adapted(case, tmp_path, torch.float32)
    with ours.capture("blocks.1.mixer.delta") as acts:
        _, state = ours(text[:, :8], return_state=True)
    assert float(acts["blocks.1.mixer.delta"].min()) == pytest.approx(0.4)  # the limit is felt
    assert relative(ours(text[:, 8:], state=state), ours(text)[:, 8:]) <= 1e-5
    first = reference(text[:, :8], use_cache=True)
    step = reference(text[:, 8:], past_key_values=first.past_key_values, use_cache=True).logits
    assert relative(step, reference(text).logits[:, 8:]) > 1e-3


@torch.no_grad()
def test_packed_documents_are_separate_where_transformers_mixes_them(tmp_path: Path) -> None:
    ours, text = adapted("bamba", tmp_path), tokens(1, 12)
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[:, 5] = True
    torch.testing.assert_close(ours(text, reset=reset)[:, 5:], ours(text[:, 5:]), rtol=0, atol=1e-11)


# -- names of published files ----------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


@torch.no_grad()
def test_the_first_files_of_gpt2_have_no_prefix_and_a_table_of_the_mask(tmp_path: Path) -> None:
    model = adapted("gpt2", tmp_path, torch.float32)
    mask = {f"h.{i}.attn.bias": torch.tril(torch.ones(1, 1, 140, 140, dtype=torch.uint8)) for i in range(2)}
    rewrite(tmp_path, lambda weights: {n.removeprefix("transformer."): t for n, t in weights.items()} | mask)
    assert load(tmp_path).digest == model.digest


@pytest.mark.parametrize(
    ("case", "old", "new"), [("gpt_neox", "embed_out.", "lm_head."), ("nemotron_h", "backbone.", "model.")]
)
def test_both_names_of_a_part_are_read(case: str, old: str, new: str, tmp_path: Path) -> None:
    model = adapted(case, tmp_path, torch.float32)
    extra = {"mtp.layers.0.weight": torch.ones(2)} if case == "nemotron_h" else {}
    rewrite(tmp_path, lambda weights: {n.replace(old, new): t for n, t in weights.items()} | extra)
    assert load(tmp_path).digest == model.digest


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    adapted("jamba", tmp_path)
    rewrite(tmp_path, lambda weights: {n: t for n, t in weights.items() if "A_log" not in n})
    with pytest.raises(InputError, match=r"missing \['model.layers.0.mamba.A_log'"):
        load(tmp_path)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is not supported"),
        ("bamba", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        (
            "gpt_neox",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'dynamic' is not supported",
        ),
        ("jamba", {"attn_layer_offset": 2}, "not a configuration of jamba .*must be smaller"),
        ("falcon_h1", {"hidden_size": "wide"}, 'hidden_size must be a whole number from 1 to 65536, not "wide"'),
    ],
)
def test_what_we_do_not_compute_is_refused_with_the_reason(
    case: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    adapted(case, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert "config.json" in str(error.value)


def test_an_unknown_type_names_the_nearest_one(tmp_path: Path) -> None:
    adapted("zamba2", tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "zamba3"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="did you mean 'zamba2'"):
        load(tmp_path)


@torch.no_grad()
def test_a_text_longer_than_the_table_of_positions_is_refused(tmp_path: Path) -> None:
    model, text = adapted("gpt2", tmp_path), tokens(1, 141)
    assert model(text[:, :140]).shape[1] == 140
    with pytest.raises(InputError, match="a text of 141 tokens is longer than its 140 positions"):
        model(text)
    _, state = model(text[:, :140], return_state=True)
    with pytest.raises(InputError, match="141 tokens"):
        model(text[:, 140:], state=state)
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[:, 100] = True  # positions count within a document
    assert model(text, reset=reset).shape[1] == 141


def test_new_weights_are_transformers_and_follow_the_seed(tmp_path: Path) -> None:
    config = adapted("jamba", tmp_path).config
    assert isinstance(config, adapters.AdaptedConfig)
    before = torch.random.get_rng_state()
    a, b, c = (adapters.build(config, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert a.digest == b.digest != c.digest
    assert 0.01 < float(a.embedding.weight.detach().std()) < 0.03  # initializer_range


def test_positions_are_learned_in_gpt2_and_streams_are_parallel_in_neox(tmp_path: Path) -> None:
    gpt2, neox = adapted("gpt2", tmp_path / "a"), adapted("gpt_neox", tmp_path / "b")
    names = {s.name for s in neox.sites()}
    assert "blocks.0.resid_mid" not in names and "blocks.0.mlp_in" in names
    assert "blocks.0.resid_mid" in {s.name for s in gpt2.sites()}
    assert gpt2.config.arch == neox.config.arch == "transformer"
    text = tokens(1, 5)
    with neox.capture("blocks.0.mlp_in") as plain:
        neox(text)
    with neox.edit(Scale("blocks.0.mixer_out", 0.0)), neox.capture("blocks.0.mlp_in") as edited:
        neox(text)
    assert torch.equal(plain["blocks.0.mlp_in"], edited["blocks.0.mlp_in"])


@pytest.mark.parametrize("case", ["gpt_neox", "bamba", "falcon_h1", "zamba2:adapters"])
def test_tables_of_frequencies_are_not_parameters(case: str, tmp_path: Path) -> None:
    model = adapted(case, tmp_path, torch.float32)
    at = {"gpt_neox": "gpt_neox.layers.0.attention"}.get(case, "model.layers.0.self_attn")
    rewrite(tmp_path, lambda weights: weights | {f"{at}.rotary_emb.inv_freq": torch.ones(4)})
    assert load(tmp_path).digest == model.digest
