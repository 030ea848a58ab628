"""Whoever asks a question makes the model read the same tokens: evaluation, analyses, the search for a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from interp_jobs import reader
from mplat.datasets import facts
from mplat.datasets.prompting import templates
from mplat.datasets.records import Question
from mplat.eval.planning import tokenize
from mplat.interp.engine.questions import encode
from mplat.interp.methods import channels
from mplat.models.decoding import generation
from real_records import FILES, published, real_questions
from tokenizer_zoo import llama_kind
from transformers import PreTrainedTokenizerFast

BUDGET = 200


def asked(shared_data: Path) -> list[Question]:
    real = [q for name in FILES if name != "squad" for q in real_questions(shared_data, name, 2)]
    return [*facts.prompts(per_level=1, seed=1), *real]


@pytest.mark.parametrize("name", ["llama", "llama with an end", "tiny", "gpt-neox-20b", "falcon"])
@pytest.mark.parametrize("template", [None, "drop"])
def test_evaluation_analyses_and_generation_read_the_same(shared_data: Path, name: str, template: str | None) -> None:
    model = reader()
    tokenizers: dict[str, PreTrainedTokenizerFast] = {"tiny": model.tokenizer}  # type: ignore[dict-item]
    tokenizers |= {"llama": llama_kind(), "llama with an end": llama_kind("<s> $A </s>")}
    model.tokenizer = tokenizers[name] if name in tokenizers else published(shared_data, name)
    questions, budget = asked(shared_data), BUDGET * (10 if "llama" in name else 1)  # characters, nearly
    chosen = None if template is None else templates.find(template)
    prompts, refused = tokenize(questions, model, budget, chosen)
    data = encode(model, [q for q in questions if q.id not in refused], max_tokens=budget, template=template)
    ends = 1 if name == "llama with an end" else 0
    for item in data.items:
        text = prompts[item.id].text
        whole = model.tokenizer(text)["input_ids"]
        assert [*item.prompt] == prompts[item.id].tokens == whole[: len(whole) - ends]
        assert generation.encode(model, [text]) == [[*item.prompt]]
        answered = model.tokenizer(f"{text} {next(q for q in questions if q.id == item.id).answers[0].strip()}")
        assert [*item.prompt, *item.answer] == answered["input_ids"][: len(answered["input_ids"]) - ends]
        assert [*item.prompt].count(1) == 1 or "llama" not in name
    assert any(prompts[item.id].cut_tokens for item in data.items)


def test_the_search_asks_with_the_budget_and_template_it_is_given(monkeypatch, tmp_path: Path) -> None:
    """Without them it would find channels on other prompts than those that judge its candidates."""
    seen = {}

    class Stopped(Exception):
        pass

    def noted(model, questions, config, **more):
        seen.update(max_tokens=config.max_tokens, template=config.template)
        raise Stopped

    monkeypatch.setattr(channels, "run_steps", noted)
    find = channels.bottleneck_finder(reader(), [], cache_dir=tmp_path, seed=0, max_tokens=77, template="drop")
    with pytest.raises(Stopped):
        find("mixer_out", 0, 1)
    assert seen == {"max_tokens": 77, "template": "drop"}
