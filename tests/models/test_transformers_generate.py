"""transformers' own `generate` on our architectures: our greedy texts, beams and samples with and without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import LanguageModel, generate, load
from mplat.models.auto_classes.transformers_auto import own_architectures
from mplat.models.auto_classes.transformers_cache import StateCache
from mplat.models.files import catalog
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

OWN = own_architectures()
LENGTHS, PAD = (7, 3, 5), 39


@pytest.fixture(scope="module", params=OWN)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Any]:
    ours = nano(request.param, dtype=torch.float32, tie_embeddings=False, eos_token_id=None, pad_token_id=PAD)
    with torch.no_grad():
        for n, part in enumerate((ours.backbone.embeddings, ours.lm_head)):
            part.weight.normal_(generator=torch.Generator().manual_seed(n))  # type: ignore[union-attr]
    folder = ours.save(tmp_path_factory.mktemp(request.param))
    return ours, AutoModelForCausalLM.from_pretrained(folder).eval()


def padded() -> dict[str, torch.Tensor]:
    """Three prompts, padded on the left."""
    ids = tokens(3, max(LENGTHS))
    mask = torch.stack([(torch.arange(max(LENGTHS)) >= max(LENGTHS) - n).long() for n in LENGTHS])
    return {"input_ids": ids.where(mask.bool(), torch.tensor(PAD)), "attention_mask": mask}


def written(model: PreTrainedModel, **options: Any) -> list[list[int]]:
    out = model.generate(**padded(), max_new_tokens=6, **{"do_sample": False, **options})
    return out[:, max(LENGTHS) :].tolist()


def test_greedy_texts_are_ours(pair) -> None:
    ours, theirs = pair
    prompts = [row[-n:].tolist() for row, n in zip(tokens(3, max(LENGTHS)), LENGTHS, strict=True)]
    expected = [list(g.tokens) for g in generate(ours, prompts, max_new_tokens=6, stop=())]
    assert len({t for row in expected for t in row}) > 3
    assert written(theirs) == written(theirs, use_cache=False) == written(theirs, prefill_chunk_size=2) == expected


def test_beams_and_samples_need_no_cache_to_be_the_same(pair) -> None:
    _, theirs = pair
    for options in ({"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 2}):
        found = []
        for use_cache in (True, False):
            torch.manual_seed(5)
            found.append(written(theirs, use_cache=use_cache, **options))
        assert found[0] == found[1] and len(found[0]) == 6


@torch.no_grad()
def test_a_text_read_in_parts_is_the_whole_text(pair) -> None:
    _, theirs = pair
    given = padded()
    whole = theirs(**given)
    assert isinstance(whole.past_key_values, StateCache) and whole.past_key_values.get_seq_length() == 7
    first = theirs(given["input_ids"][:, :5], attention_mask=given["attention_mask"][:, :5])
    rest = theirs(given["input_ids"][:, 5:], given["attention_mask"], past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, whole.logits[:, 5:], rtol=0, atol=2e-5)
    kept = theirs(**given, logits_to_keep=2, use_cache=False)
    assert kept.past_key_values is None and torch.equal(kept.logits, whole.logits[:, -2:])
    assert torch.allclose(theirs(**given, logits_to_keep=1).logits, whole.logits[:, -1:], atol=1e-5)


@pytest.mark.parametrize("ends", [2, 3])
def test_it_ends_where_ours_ends(pair, ends: int, tmp_path: Path) -> None:
    ours, theirs = pair
    free = written(theirs)
    chosen = sorted({row[ends] for row in free})
    ours.generation_settings = {"eos_token_id": chosen}
    folder = ours.save(tmp_path)
    ours.generation_settings = None
    model, again = load(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [row[-n:].tolist() for row, n in zip(tokens(3, max(LENGTHS)), LENGTHS, strict=True)]
    expected = [[t for t in row[: next(i for i, t in enumerate(row) if t in chosen)]] for row in free]
    assert [list(g.tokens) for g in generate(model, prompts, max_new_tokens=6, stop=())] == expected
    for row, cut in zip(written(again), expected, strict=True):
        assert row[: len(cut)] == cut and row[len(cut)] in chosen


def test_shapes_are_no_settings_of_generation(tmp_path: Path) -> None:
    for arch, options in (("hyena", {"max_length": 16}), ("moe_mamba", {"router": "topk", "top_k": 2})):
        folder = nano(arch, dtype=torch.float32, **options).save(tmp_path / arch)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert not model.generation_config.to_diff_dict().keys() & options.keys()
        assert getattr(model.config, "max_position_embeddings", None) == options.get("max_length")
        model.save_pretrained(tmp_path / "again")
        assert load(tmp_path / "again").config == load(folder).config


def test_what_a_state_cannot_do_is_refused_by_name() -> None:
    model = AutoModelForCausalLM.from_pretrained(catalog.shipped()["tiny-stable-mamba"], dtype="float32")
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(UsageError, match="cache_implementation 'static'"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(ids, max_new_tokens=2, prompt_lookup_num_tokens=2, do_sample=False)
    with pytest.raises(UsageError, match="has no hidden states"):
        model(ids, output_hidden_states=True)
    with pytest.raises(UsageError, match="give input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, 8))
    with pytest.raises(UsageError, match="continues a StateCache, not a tuple"):
        model(ids, past_key_values=())
    with pytest.raises(UsageError, match="cannot be cut back"):
        model(ids).past_key_values.crop(1)


@pytest.mark.parametrize("name", sorted(catalog.shipped()))
def test_shipped_tokenizers_say_how_far_their_model_sees(name: str) -> None:
    """Hyena's filters end after so many tokens; the others carry a state without end, and say 2,048."""
    tokenizer = AutoTokenizer.from_pretrained(catalog.shipped()[name])
    limit = getattr(load(name).config.own, "max_length", None)
    assert tokenizer.model_max_length == (limit or 2048)
