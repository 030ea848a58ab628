"""A comparison is each model's own trace, on the same texts, put side by side by kind, relative depth and token bin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_zoo import adapted
from mplat.core.errors import InputError, UsageError
from mplat.datasets.factual import FactualPrompt
from mplat.interp import Cache, config_model, run_steps
from mplat.interp.engine.inputs import Given
from mplat.interp.methods.comparison import mixer_kind
from mplat.interp.tracing import bin_trace, causal_trace, compare, prompt_seed, subject_noise
from mplat.models import LanguageModel, ModelConfig, build

WORDS = "the tower of Paris Rome London stands in a big old city France Italy England and is near to".split()
TEXTS = (("the tower of Paris stands in", "Paris"), ("a big old city near Rome is in", "big old city"),
         ("the city of London is near to", "city of London"), ("Rome and Paris", "Rome"))  # fmt: skip
FAST = {"samples": 2, "n_resamples": 200}


def tokenizer(pieces: int | None) -> Any:
    """Whole words, or words cut into pieces of so many letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = WORDS if pieces is None else [w[i : i + pieces] for w in WORDS for i in range(0, len(w), pieces)]
    vocabulary = {"?": 0} | {word: i + 1 for i, word in enumerate(dict.fromkeys(found))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    split = [pre_tokenizers.WhitespaceSplit()]
    if pieces is not None:
        split.append(pre_tokenizers.Split(Regex(f".{{1,{pieces}}}"), "isolated"))
    made.pre_tokenizer = pre_tokenizers.Sequence(split)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def small(arch: str, seed: int = 0, n_layers: int = 3) -> LanguageModel:
    config = {"arch": arch, "vocab_size": 64, "d_model": 24, "n_layers": n_layers, "state_size": 5, "head_dim": 8}
    model = build(ModelConfig.from_dict(config), seed, dtype=torch.float64)
    with torch.no_grad():
        model.backbone.embeddings.weight.mul_(30)
    model.tokenizer = tokenizer(None)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    """Mamba, Mamba-2, a hybrid of recurrence, attention and feed-forward layers, and GPT-2 with another tokenizer."""
    made = {"mamba": small("mamba"), "mamba2": small("mamba2", n_layers=2)}
    for name, case in (("hybrid", "nemotron_h"), ("gpt2", "gpt2")):
        made[name] = adapted(case, tmp_path_factory.mktemp(name), vocab_size=64)
        made[name].tokenizer = tokenizer(3 if name == "gpt2" else None)
    return made


def prompt(name: str, text: str, subject: str, answer: str = "France") -> FactualPrompt:
    at = text.index(subject)
    return FactualPrompt(name, "made", text, subject, (at, at + len(subject)), answer)


def prompts(answer: Callable[[str], str] = lambda text: "France") -> list[FactualPrompt]:
    return [prompt(f"p{i}", text, subject, answer(text)) for i, (text, subject) in enumerate(TEXTS)]


def said(model: LanguageModel, text: str) -> str:
    words: Any = model.tokenizer
    ids = words(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        scores = model(torch.tensor([ids]))[0, -1]
    scores[len(words) :] = -torch.inf
    return str(words.decode([int(scores.argmax())]))


@pytest.mark.slow
def test_a_comparison_is_each_models_own_traces(models: dict[str, LanguageModel]) -> None:
    table = compare(models, prompts(), counted="all", **FAST)
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    assert list(dict.fromkeys(row["model"] for row in rows)) == list(models)
    for name, model in models.items():
        words: Any = model.tokenizer
        encoded = [words(p.prompt, add_special_tokens=False, return_offsets_mapping=True) for p in prompts()]
        tokens = [torch.tensor(e["input_ids"]) for e in encoded]
        subjects = []
        for asked, e in zip(prompts(), encoded, strict=True):
            start, stop = asked.subject_span
            inside = [i for i, (a, b) in enumerate(e["offset_mapping"]) if a < stop and b > start]
            subjects.append((inside[0], inside[-1] + 1))
        noise = subject_noise(model, tokens, subjects)
        answer = words(" France", add_special_tokens=False)["input_ids"][0]
        sites = [
            s for s in ("resid_post", "mixer_out", "mlp_out") if any(x.name.endswith(f"0.{s}") for x in model.sites())
        ]
        cells: dict[tuple[str, int, str], list[float]] = {}
        for asked, row, subject in zip(prompts(), tokens, subjects, strict=True):
            trace = causal_trace(
                model,
                row,
                subject=subject,
                noise=noise,
                samples=2,
                seed=prompt_seed(1, asked.id),
                sites=sites,
                answer=answer,
            )
            for cell in bin_trace(trace).to_pylist():
                cells.setdefault((cell["site"], cell["layer"], cell["bin"]), []).append(cell["effect"])
        mine = {(r["site"], r["layer"], r["bin"]): r for r in rows if r["model"] == name}
        assert mine.keys() == cells.keys()
        for key, effects in cells.items():
            assert mine[key]["effect"] == pytest.approx(np.mean(effects), abs=1e-12)
            assert mine[key]["prompts"] == len(effects)
            assert (mine[key]["low"] is None) == (len(effects) < 2)
            assert mine[key]["depth"] == pytest.approx((key[1] + 0.5) / model.n_layers)


@pytest.mark.slow
def test_kinds_are_the_same_in_all_models_whatever_their_layers_are(models: dict[str, LanguageModel]) -> None:
    rows = compare(models, prompts(), counted="all", **FAST).to_pylist()

    def layers(model: str, kind: str) -> dict[int, tuple[str, str]]:
        found = [r for r in rows if (r["model"], r["kind"], r["status"]) == (model, kind, "ok")]
        return {r["layer"]: (r["site"], r["mixer"]) for r in found}

    assert layers("mamba", "mixer") == {i: ("mixer_out", "recurrence") for i in range(3)}
    assert layers("gpt2", "mixer") == {i: ("mixer_out", "attention") for i in range(2)}
    assert layers("gpt2", "mlp") == {i: ("mlp_out", "attention") for i in range(2)}
    assert layers("hybrid", "mixer") == {0: ("mixer_out", "recurrence"), 2: ("mixer_out", "attention")}
    assert layers("hybrid", "mlp") == {i: ("mixer_out", "feed_forward") for i in (1, 3)}
    assert set(layers("hybrid", "residual")) == set(range(4))
    missing = [r for r in rows if (r["model"], r["kind"]) == ("mamba", "mlp")]
    assert [(r["status"], r["effect"], r["layer"]) for r in missing] == [("not_applicable", None, None)]


@pytest.mark.slow
def test_a_site_that_only_some_models_have_is_compared_where_it_is(models: dict[str, LanguageModel]) -> None:
    rows = compare(models, prompts(), sites=["h_post", "mixer"], counted="all", **FAST).to_pylist()
    found = {name: {r["status"] for r in rows if (r["model"], r["kind"]) == (name, "h_post")} for name in models}
    assert found == {"mamba": {"ok"}, "mamba2": {"ok"}, "hybrid": {"ok"}, "gpt2": {"not_applicable"}}


@pytest.mark.slow
def test_by_default_only_prompts_count_that_every_model_answers(models: dict[str, LanguageModel]) -> None:
    a, b = small("mamba"), small("mamba2")
    right = {text: said(a, text) for text, _ in TEXTS}
    other = {text: said(b, text) for text, _ in TEXTS}
    agreed = [f"p{i}" for i, (text, _) in enumerate(TEXTS) if right[text] == other[text]]
    asked = prompts(lambda text: right[text])
    twins = {"a": a, "again": small("mamba")}
    table = compare(twins, asked, **FAST)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert json.loads(about["used"]) == {"a": ["p0", "p1", "p2", "p3"], "again": ["p0", "p1", "p2", "p3"]}
    assert about["prompts"] == "common" and json.loads(about["answered"]) == {"a": 4, "again": 4}
    first, second = ([{**r, "model": ""} for r in table.to_pylist() if r["model"] == name] for name in twins)
    assert first == second
    each = compare({"a": a, "b": b}, asked, counted="correct", **FAST)
    used = json.loads(each.schema.metadata[b"used"])
    assert used == {"a": ["p0", "p1", "p2", "p3"], "b": agreed}
    if not agreed:
        assert {r["status"] for r in each.to_pylist() if r["model"] == "b"} == {"not_applicable"}
        with pytest.raises(InputError, match="answered correctly by every model"):
            compare({"a": a, "b": b}, asked, **FAST)


def test_a_model_that_is_not_finite_has_a_status_and_the_others_their_numbers() -> None:
    broken = small("mamba2")
    with torch.no_grad():
        broken.backbone.norm_f.weight.fill_(float("nan"))
    rows = compare({"a": small("mamba"), "broken": broken}, prompts(), counted="all", **FAST).to_pylist()
    assert {(r["status"], r["effect"]) for r in rows if r["model"] == "broken"} == {("model_nonfinite", None)}
    assert {r["status"] for r in rows if (r["model"], r["kind"]) == ("a", "residual")} == {"ok"}


def test_a_prompt_that_one_model_cannot_read_counts_for_none_and_is_named() -> None:
    long = prompt("long", "the tower of Paris " * 20 + "is in", "Paris")
    table = compare([small("mamba")], [*prompts(), long], counted="all", max_tokens=40, **FAST)
    assert json.loads(table.schema.metadata[b"left_out"])["mamba"]["long"].startswith("too_long")
    assert json.loads(table.schema.metadata[b"used"])["mamba"] == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": {}}, UsageError, "at least one model"),
        ({"models": "twice"}, UsageError, "two models are called 'mamba'"),
        ({"sites": ["mixr"]}, UsageError, "did you mean 'mixer'"),
        ({"sites": "mixer"}, UsageError, "list of names"),
        ({"sites": []}, UsageError, "at least one site"),
        ({"counted": "corect"}, UsageError, "did you mean 'correct'"),
        ({"noise_stds": 0.0}, UsageError, "above 0"),
        ({"prompts": []}, InputError, "no prompts"),
        ({"prompts": [prompt("p", "Rome", "Rome")] * 2}, InputError, "more than once"),
        ({"max_tokens": 1}, InputError, "no model can use any of the prompts; the first one: too_long"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small("mamba")
    values: dict[str, Any] = {"models": [model], "prompts": prompts(), "counted": "all"} | change
    if values["models"] == "twice":
        values["models"] = [model, model]
    with pytest.raises(error, match=message):
        compare(values.pop("models"), values.pop("prompts"), **values)


@pytest.mark.parametrize(
    ("case", "kinds"),
    [("bamba", ["recurrence", "attention", "recurrence"]), ("falcon_h1", ["recurrence+attention"] * 2),
     ("zamba2", ["recurrence+attention", "recurrence"]), ("gpt_neox", ["attention"] * 2)],
)  # fmt: skip
def test_what_mixes_tokens_in_a_block(case: str, kinds: list[str], tmp_path: Path) -> None:
    model = adapted(case, tmp_path)
    assert [mixer_kind(model, i) for i in range(len(kinds))] == kinds


@pytest.mark.parametrize("counted", ["all", "correct", "common"])
def test_the_step_finds_what_the_comparison_finds(
    models: dict[str, LanguageModel], counted: str, tmp_path: Path
) -> None:
    pair = [models["mamba"], models["gpt2"]]
    given = [prompt("p0", *TEXTS[0], said(pair[0], TEXTS[0][0])), *prompts()[1:3], prompt("p3", *TEXTS[3], "London")]
    own = {"samples": 2, "counted": counted, "resamples": 200, "kinds": ("residual", "mixer", "mlp", "h_post")}
    config = config_model().model_validate({"steps": ("model_comparison",), "seed": 3, "model_comparison": own})
    cache = Cache(tmp_path)
    results = run_steps(pair[0], config=config, given=Given(facts=given), others=pair[1:], cache=cache)
    found = results["model_comparison"].tables
    names = {"mamba": pair[0], pair[1].name: pair[1]}
    try:
        direct = compare(
            names, given, sites=own["kinds"], counted=counted, samples=2, n_resamples=200, seed=3
        ).to_pylist()
    except InputError as nothing:  # no prompt counts for any model: rows that say so, and no error
        assert "no prompt" in str(nothing)
        assert set(found["effects"]["status"].to_pylist()) == {"not_applicable"}
        return
    rows = found["effects"].to_pylist()
    assert len(rows) == len(direct) > 3
    numbers = ("effect", "low", "high", "total_effect", "depth")
    for row, wanted in zip(rows, direct, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            close = name in numbers and value is not None
            assert row[name] == (pytest.approx(value, rel=1e-9, abs=1e-12) if close else value)
    asked = found["prompts"].to_pylist()
    assert [(row["model"], row["id"]) for row in asked] == [(name, p.id) for name in names for p in given]
    counts = {name: sum(row["counted"] for row in asked if row["model"] == name) for name in names}
    assert counts == {name: max(r["prompts"] for r in direct if r["model"] == name) for name in names}
    assert asked[0]["correct"]
