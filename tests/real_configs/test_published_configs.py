"""Folders as the hub has them, scaled down: logits, states, padded greedy texts and saving agree with transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_zoo import tokens
from mplat.models import LanguageModel, ModelConfig, adapters, build, load
from mplat.models.files import catalog, layouts
from published_configs import OF_TRANSFORMERS, OTHERS
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers_float64 import relative

PROMPTS = [[5, 17, 60, 3, 44], [9, 33], [71, 8, 25]]


def write(folder: Path, content: dict[str, Any]) -> Path:
    """A folder with this config.json; infinity as Python and transformers 4 write it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def theirs(name: str, folder: Path) -> Any:
    """transformers' model of the small size, stirred, and its folder with the config.json of the hub."""
    content = OF_TRANSFORMERS[name].small
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(write(folder, content))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if "A_log" in parameter_name else 0.1))
    model.save_pretrained(folder)
    write(folder, content)
    return model


def cached(cache: Any, layer: int) -> dict[str, Tensor]:
    """What transformers carries of a layer, by our names."""
    kept, found = cache.layers[layer], {}
    for recurrent in getattr(kept, "recurrent_states", {}).values():
        found["h"] = recurrent
    if getattr(kept, "keys", None) is not None:
        found["past_k"], found["past_v"] = (t.transpose(2, 3).flatten(1, 2) for t in (kept.keys, kept.values))
    return found


#: one checkpoint of each small shape
SMALL = {json.dumps(one.small, sort_keys=True): name for name, one in OF_TRANSFORMERS.items()}


@pytest.mark.parametrize("name", SMALL.values())
@torch.no_grad()
def test_a_published_folder_is_transformers_model(name: str, tmp_path: Path) -> None:
    reference = theirs(name, tmp_path / "hub")
    ours = load(tmp_path / "hub")
    text = tokens(2, 11, vocab=ours.config.vocab_size)
    expected = reference(text, use_cache=True)
    assert expected.logits.std() > 0.02  # weights large enough that a wrong part would be seen
    logits, state = ours(text, return_state=True)
    assert relative(logits, expected.logits) <= 1e-5

    cache = expected.get("past_key_values", None) or expected.get("cache_params")
    compared = 0
    for i, layer in enumerate(state.layers):
        for part, value in cached(cache, i).items():
            assert relative(layer[part].flatten(1), value.flatten(1)) <= 1e-5, (i, part)
            compared += 1
    assert compared

    given = OF_TRANSFORMERS[name].small["eos_token_id"]
    ends = given if isinstance(given, list) else [given]
    width = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    written = reference.generate(
        input_ids=padded, attention_mask=mask, max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=-1
    )
    for ids, answer in zip(written[:, width:].tolist(), ours.generate(PROMPTS, max_new_tokens=9), strict=True):
        assert answer == ids[: len(answer)] and (len(answer) == 9 or ids[len(answer)] in ends)

    again = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path / "ours"), experts_implementation="eager").eval()
    assert type(again) is type(reference)
    assert relative(again(text).logits, expected.logits) <= 1e-6
    assert load(tmp_path / "ours").config == ours.config and load(tmp_path / "ours").digest == ours.digest


def shape(content: dict[str, Any], folder: Path) -> LanguageModel:
    """A model without memory for its weights, of what config.json says."""
    read = json.loads((write(folder, content) / "config.json").read_text())
    layout = layouts.recognise(folder, read)
    if layout is not None:
        return build(layout.read_config(folder, read), device="meta")
    if read["model_type"] in adapters.names():
        with torch.device("meta"):
            return adapters.construct(adapters.AdaptedConfig.from_hf(read))
    return build(ModelConfig.from_hf(read), device="meta")


# one size of each shape, and not the one of 128 experts in 23 layers, which takes seconds even without memory
SIZES = [
    n
    for n in OF_TRANSFORMERS
    if n not in ("ai21labs/AI21-Jamba-Mini-1.5", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_published_size_has_as_many_parameters_as_in_transformers(name: str, tmp_path: Path) -> None:
    ours = shape(OF_TRANSFORMERS[name].as_published, tmp_path)
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert ours.n_parameters == sum(p.numel() for p in reference.parameters())
    if name in catalog.HUB:
        assert ours.n_parameters == build(catalog.shape(name), device="meta").n_parameters


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_published_folders_of_other_programs(name: str, tmp_path: Path) -> None:
    published, known = shape(OTHERS[name].as_published, tmp_path).config, catalog.shape(name)
    assert (
        replace(published, eos_token_id=known.eos_token_id) == known
    )  # that of a layout without the key is known by name
    small = shape(OTHERS[name].small, tmp_path)
    layout = layouts.recognise(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    assert layout is not None
    model = build(small.config, seed=5).eval()
    written = load(model.save(tmp_path / "again", layout=layout.name))
    text = tokens(2, 11, vocab=model.config.vocab_size)
    assert written.config == model.config
    torch.testing.assert_close(written(text), model(text), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OF_TRANSFORMERS | OTHERS)
def test_what_is_peculiar_is_kept_when_scaled_down(name: str) -> None:
    published = (OF_TRANSFORMERS | OTHERS)[name]
    for a, b in published.kept:
        assert published.as_published[a] * published.small[b] == published.as_published[b] * published.small[a]
