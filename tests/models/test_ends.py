"""A text ends where transformers' `generate` on the same folder ends it, or at the tokenizer's own end of a text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mplat.core.errors import InputError
from mplat.datasets.tokenizer import SHIPPED
from mplat.models import LanguageModel, generate, load
from mplat.models.decoding.ends import record
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    GPTNeoXConfig,
    Mamba2Config,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

SHAPE: dict[str, Any] = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 1}
STATES = SHAPE | {"state_size": 4, "initializer_range": 3.0}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mamba": MambaConfig(**STATES),
    "mamba2": Mamba2Config(**STATES, num_heads=4, head_dim=8, n_groups=1),
    "falcon_mamba": FalconMambaConfig(**STATES),
    "gpt_neox": GPTNeoXConfig(**SHAPE, num_attention_heads=2, intermediate_size=32, initializer_range=1.0),
}
PROMPT, LENGTH = [5, 9, 7], 24


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose greedy text has at least four different tokens, as transformers saves it."""
    path = tmp_path_factory.mktemp(request.param)
    for seed in range(50):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
        for name, weight in model.named_parameters():
            if "embed" in name or "head" in name:
                torch.nn.init.normal_(weight, std=1.0)
        model.save_pretrained(path)
        if len(set(their_text(path, eos_token_id=None))) > 3:
            return path
    raise AssertionError("no lively model")


def their_text(folder: Path, **given: Any) -> list[int]:
    """What transformers' greedy `generate` writes after PROMPT, the end token, where it wrote one, left out."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if "eos_token_id" in given:
        model.generation_config.eos_token_id = given["eos_token_id"]
    model.generation_config.pad_token_id = 0
    new = model.generate(torch.tensor([PROMPT]), max_new_tokens=LENGTH, do_sample=False)[0, len(PROMPT) :].tolist()
    return new if len(new) == LENGTH else new[:-1]


@cache
def free_text(folder: Path) -> list[int]:
    """What it writes where nothing ends a text."""
    return their_text(folder, eos_token_id=None)


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """Set keys of a JSON file; those set to ... are taken out."""
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def our_text(model: LanguageModel) -> tuple[list[int], str]:
    (found,) = generate(model, [PROMPT], max_new_tokens=LENGTH, stop=())
    return list(found.tokens), found.stop_reason


@pytest.mark.parametrize(
    ("folder", "case"),
    [
        *(
            ("mamba", case)
            for case in ("int", "list", "generation int", "generation list", "generation none", "absent")
        ),
        *((name, case) for name in CONFIGS if name != "mamba" for case in ("list", "generation int")),
    ],
    indirect=["folder"],
)
def test_texts_end_where_those_of_transformers_do(folder: Path, case: str, tmp_path: Path) -> None:
    free = free_text(folder)
    late, early = sorted(set(free), key=free.index)[-1:0:-2][:2]
    unused = next(i for i in range(48) if i not in free)
    config: Any = {"int": late, "list": [unused, late, early], "absent": ...}.get(case, early)
    own: Any = {"generation int": late, "generation list": [late, unused], "generation none": ...}.get(case)
    here = tmp_path / "model"
    here.mkdir()
    for file in folder.iterdir():
        (here / file.name).write_bytes(file.read_bytes())
    rewrite(here / "config.json", {"eos_token_id": config})
    if own is None:
        (here / "generation_config.json").unlink()
    else:
        rewrite(here / "generation_config.json", {"eos_token_id": own, "temperature": 0.5, "do_sample": True})
    model = load(here)
    expected = their_text(here)
    assert our_text(model)[0] == expected
    assert our_text(model)[1] == ("length" if case in ("absent", "generation none") else "eos")
    again = load(model.save(tmp_path / "saved"))
    assert again.end_tokens == model.end_tokens and again.digest == model.digest
    assert their_text(tmp_path / "saved") == expected
    assert (again.generation_settings or {}).get("temperature") == (None if own is None else 0.5)


def test_the_tokenizers_own_end_is_one_of_several(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    free = free_text(folder)
    end = sorted(set(free), key=free.index)[2]
    model.generation_settings = {"eos_token_id": [40, 41]}
    before = model.digest
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(end)
    assert model.end_tokens == tuple(sorted({end, 40, 41}))
    assert our_text(model) == (free[: free.index(end)], "eos")
    assert record(model) == {"ids": sorted({end, 40, 41}), "generation_config.json": [40, 41], "tokenizer": [end]}
    model._digest = None
    assert model.digest != before


def test_a_stale_generation_config_does_not_survive_saving(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 3}')
    model = load("tiny-mamba")
    assert model.end_tokens == (0,)
    assert load(model.save(tmp_path)).end_tokens == (0,)


@pytest.mark.parametrize("value", ["2", 2.0, True, [], [1, None], {"a": 1}, -1, [2, -1]])
def test_a_wrong_generation_config_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    load("tiny-mamba").save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id must be a token id or a list"):
        load(tmp_path)
