"""A trace over prompts says what `causal_trace` says of each, averages that, and accounts for every prompt."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import reader
from mplat.core.errors import InputError, UsageError
from mplat.datasets.factual import FactualPrompt, facts_world_prompts, locate
from mplat.interp import Cache
from mplat.interp.methods import prompts
from mplat.interp.methods.trace_config import TraceConfig, check_settings
from mplat.interp.methods.trace_folder import TraceResult, run_trace
from mplat.interp.methods.trace_plan import TracePlan, prepare
from mplat.interp.methods.trace_schema import STATUSES, TRACE_SCHEMA
from mplat.interp.steps import causal_trace as step_file
from mplat.interp.tracing import causal_trace, prompt_seed, token_bins
from mplat.models import LanguageModel, load
from mplat.models.decoding.generation import encode
from mplat.report.trace_pictures import draw
from mplat.runtime import open_session, read_table

SITES = ("resid_post", "delta", "h_post+conv_state")
# Rounding of float32, in probabilities and their logarithms: a row's matrix products may depend on the number of rows.
ROUNDING, LOG_ROUNDING = 4e-9, 2e-6


def prompt(
    name: str, subject: str, before: str = "", after: str = " is in", answer: str = "Paris", relation: str = ""
) -> FactualPrompt:
    span = (len(before), len(before) + len(subject))
    return FactualPrompt(name, "test", before + subject + after, subject, span, answer, relation)


PROMPTS = [
    prompt("a", "Mona Lisa"),
    prompt("b", "the table", before="On "),
    prompt("c", "Rome", after=" was built in the year"),
    prompt("d", "a ship", before="They were on "),
    prompt("e", "I"),
]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


def settings(**changes: object) -> TraceConfig:
    values = {"samples": 3, "sites": SITES, "correct_only": False, "batch_size": 2, "resamples": 200, "pictures": 1}
    return TraceConfig.model_validate(values | changes)


def run(plan: TracePlan, out: Path, **more: object) -> TraceResult:
    """Without anything cached by another test; pictures, which take longest, where they are asked for."""
    with open_session("none") as session:
        return run_trace(plan, out=out, session=session, **({"cache": Cache(out / "cache")} | more))


def of(table: pa.Table, name: str) -> list[dict]:
    return [row for row in table.to_pylist() if row["id"] == name]


def test_the_rows_of_a_prompt_are_those_of_causal_trace(model, tmp_path) -> None:
    plan = prepare(settings(window=2, layers=(0, 1)), model, PROMPTS)
    result = run(plan, tmp_path / "out")
    assert result.statuses == {"ok": 5} and result.traces.schema.equals(TRACE_SCHEMA)
    embeddings = model.backbone.embeddings.weight.detach()
    of_subjects = torch.cat([embeddings[list(i.tokens[slice(*i.subject)])] for i in plan.items])
    noise = 3 * float(of_subjects.double().std())
    for item, given in zip(plan.items, PROMPTS, strict=True):
        answer = encode(model, [f" {given.answer}"])[0][0]
        alone = causal_trace(
            model, torch.tensor(item.tokens), subject=item.subject, noise=noise, samples=3,
            seed=prompt_seed(1, item.id), sites=SITES, window=2, answer=answer,
        ).to_pylist()  # fmt: skip
        bins = token_bins(len(item.tokens), item.subject)
        rows = of(result.traces, given.id)
        by_place = {(r["site"], r["layer"], r["position"]): r for r in rows}
        assert len(rows) == len(alone) == len(SITES) * 2 * len(item.tokens)
        for row in alone:
            found = by_place[row["site"], row["layer"], row["position"]]
            assert found["effect"] == pytest.approx(row["effect"], rel=0, abs=ROUNDING)
            assert (found["token"], found["samples"]) == (row["token"], 3)
            assert found["bin"] == bins[row["position"]]
        clean = torch.softmax(model(torch.tensor([item.tokens]))[0, -1].detach().double(), -1)
        assert rows[0]["p_clean"] == pytest.approx(float(clean[answer]), rel=1e-5)
        assert (rows[0]["correct"], rows[0]["predicted"]) == (int(clean.argmax()) == answer, int(clean.argmax()))


def test_averages_are_means_over_prompts_of_means_over_a_bins_tokens(model, tmp_path) -> None:
    plan = prepare(settings(), model, PROMPTS)
    result = run(plan, tmp_path / "out")
    assert result.averages is not None
    rows = result.averages.to_pylist()
    assert list(dict.fromkeys(row["site"] for row in rows)) == list(SITES)  # in the order asked for
    traces = result.traces.to_pylist()
    for row in rows:
        per_prompt = {}
        for r in traces:
            if (r["site"], r["layer"], r["bin"]) == (row["site"], row["layer"], row["bin"]):
                per_prompt.setdefault(r["id"], []).append(r["effect"])
        means = [np.mean(values) for values in per_prompt.values()]
        assert row["prompts"] == len(means)
        assert row["effect"] == pytest.approx(np.mean(means), abs=1e-12)
        if len(means) > 1:
            assert min(means) - 1e-12 <= row["low"] <= row["effect"] + 1e-12 and row["effect"] <= row["high"] + 1e-12
        else:
            assert row["low"] is row["high"] is None
    totals = {r["id"]: r["metric_clean"] - r["metric_corrupted"] for r in traces}
    assert len({row["ate"] for row in rows}) == 1
    assert rows[0]["ate"] == pytest.approx(np.mean(list(totals.values())), abs=1e-12)


@pytest.mark.slow
def test_files_are_what_run_json_says(model, tmp_path) -> None:
    result = run(prepare(settings(), model, PROMPTS), tmp_path, draw=draw)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["command"], record["status"], record["counts"]) == ("trace", "done", {"ok": 5})
    assert record["plan"]["corruption"]["kind"] == "noise" and record["plan"]["corruption"]["samples"] == 3
    pictures = {f"heat_maps/{name}.{kind}" for name in ("averages", "01-a") for kind in ("png", "svg")}
    assert record["files"] == result.files and result.files.keys() == {"traces.parquet", "averages.parquet",
                                                                       "trace.html", *pictures}  # fmt: skip
    for name in ("traces.parquet", "averages.parquet"):
        read_table(tmp_path / name, record["files"][name])


@pytest.mark.slow
def test_the_same_trace_gives_the_same_bytes_and_an_interrupted_one_continues(model, tmp_path, monkeypatch) -> None:
    values = {"sites": ("resid_post", "delta"), "pictures": 0}  # one picture, of the averages
    first = run(prepare(settings(**values), model, PROMPTS), tmp_path / "first", draw=draw)
    traced: list[str] = []
    whole = step_file.trace_item

    def dies(model, item, arguments, method):
        if len(traced) == 3:
            raise KeyboardInterrupt
        return counted(model, item, arguments, method)

    def counted(model, item, arguments, method):
        traced.append(item.id)
        return whole(model, item, arguments, method)

    monkeypatch.setattr(step_file, "trace_item", dies)
    with pytest.raises(KeyboardInterrupt):
        run(prepare(settings(**values), model, PROMPTS), tmp_path / "second")
    kept, traced[:] = set(traced[:2]), []  # one batch of two prompts was finished
    monkeypatch.setattr(step_file, "trace_item", counted)
    second = run(prepare(settings(**values), model, PROMPTS), tmp_path / "second", draw=draw)
    assert set(traced) == {"a", "b", "c", "d", "e"} - kept and second.files == first.files
    traced.clear()
    again = run(prepare(settings(**values), model, PROMPTS), tmp_path / "second", draw=draw)
    assert again.files == first.files and traced == []


@pytest.mark.slow
@pytest.mark.ray
def test_tables_are_the_same_from_one_and_two_workers_and_in_process(tmp_path, ray_workers) -> None:
    folder = reader().save(tmp_path / "model")
    plan = prepare(settings(sites=("resid_post",), pictures=0), load(folder), PROMPTS)
    here = run(plan, tmp_path / "here").files
    for actors in (1, 2):
        out = tmp_path / f"ray{actors}"
        there = run_trace(plan, out=out, session=ray_workers(actors), cache=Cache(out / "cache"))
        assert there.files == here


def test_a_prompt_that_cannot_be_traced_is_a_row_that_says_why(model, tmp_path, monkeypatch) -> None:
    def joins(given, tokenizer):
        if given.id == "joined":
            raise InputError("the tokenizer joins the end of the prompt with the answer")
        return locate(given, tokenizer)

    monkeypatch.setattr(prompts, "locate", joins)
    odd = [prompt("long", "Rome", after=" is" * 40), prompt("joined", "Rome")]
    result = run(prepare(settings(max_tokens=30), model, [*PROMPTS, *odd]), tmp_path)
    assert result.statuses == {"no_place": 1, "ok": 5, "too_long": 1}
    assert result.failed_share == pytest.approx(2 / 7)
    for name, status in (("long", "too_long"), ("joined", "no_place")):
        (row,) = of(result.traces, name)
        assert row["status"] == status and row["reason"]
        assert {key for key, value in row.items() if value is not None} == {"id", "status", "reason"}
    assert set(result.statuses) <= set(STATUSES)


@pytest.mark.slow
def test_only_prompts_answered_correctly_are_traced_unless_all_are_asked_for(tmp_path) -> None:
    knows = load("tiny-mamba")
    given = facts_world_prompts(3, n_facts=2)
    given[1] = replace(given[1], answer="nobody")
    right = {}
    for p in given:
        ids, answer = (encode(knows, [text])[0] for text in (p.prompt, f" {p.answer}"))
        right[p.id] = int(knows(torch.tensor([ids]))[0, -1].argmax()) == answer[0]
    assert right[given[0].id] and not right[given[1].id]
    cheap = {"sites": ("resid_post",), "layers": (3,), "samples": 1}
    result = run(prepare(settings(correct_only=True, **cheap), knows, given), tmp_path / "correct")
    ok = sum(right.values())
    assert result.statuses == {"model_wrong": 3 - ok, "ok": ok} and result.failed_share == 0
    (row,) = of(result.traces, given[1].id)
    assert row["effect"] is None and row["correct"] is False and 0 <= row["p_clean"] < 0.5
    assert repr(row["predicted_token"]) in row["reason"] and repr(row["answer_token"]) in row["reason"]
    assert result.averages is not None and max(result.averages["prompts"].to_pylist()) == ok
    everything = run(prepare(settings(**cheap), knows, given), tmp_path / "all")
    assert everything.statuses == {"ok": 3}
    assert {r["id"]: r["correct"] for r in everything.traces.to_pylist()} == right
    rows = run(prepare(settings(judged="predicted", **cheap), knows, given), tmp_path / "predicted").traces.to_pylist()
    assert all(row["answer"] == row["predicted"] for row in rows) and {r["id"]: r["correct"] for r in rows} == right


def test_where_nothing_is_answered_correctly_nothing_is_averaged(model, tmp_path) -> None:
    result = run(prepare(settings(correct_only=True), model, PROMPTS), tmp_path)
    assert result.traced == 0 and result.averages is None and list(result.files) == ["traces.parquet"]


def test_scores_that_are_not_finite_are_no_effects(tmp_path) -> None:
    broken = reader(seed=3)
    with torch.no_grad():
        broken.backbone.embeddings.weight[encode(broken, ["I"])[0][0]] = torch.nan
    result = run(prepare(settings(noise=0.5), broken, PROMPTS), tmp_path)
    assert result.statuses["model_nonfinite"] >= 1
    (row,) = of(result.traces, "e")
    assert row["status"] == "model_nonfinite" and row["effect"] is None and row["p_clean"] is None


def test_subjects_are_replaced_by_others_of_their_relation_and_length(model, tmp_path) -> None:
    given = [prompt("x", "Mona", answer="Paris", relation="1"), prompt("y", "Lisa", answer="Rome", relation="2"),
             prompt("z", "Dora", answer="Berlin", relation="1")]  # fmt: skip
    sizes = {p.id: _length(model, p.prompt) for p in given}
    assert sizes["x"] == sizes["z"]
    plan = prepare(settings(corruption="replacement"), model, given)
    assert plan.noise is None and [(e.id, e.status) for e in plan.excluded] == [("y", "no_replacement")]
    assert {i.id: model.tokenizer.decode(i.corrupted) for i in plan.items} == {"x": "Dora is in", "z": "Mona is in"}
    result = run(plan, tmp_path)
    assert result.statuses == {"no_replacement": 1, "ok": 2}
    clean, other = (torch.tensor(t) for t in (plan.items[0].tokens, plan.items[0].corrupted))
    alone = causal_trace(model, clean, other, sites=SITES, answer=plan.items[0].answer).to_pylist()
    key = ("site", "layer", "position")
    found = {tuple(r[k] for k in key): r["effect"] for r in of(result.traces, "x")}
    assert found == pytest.approx({tuple(r[k] for k in key): r["effect"] for r in alone}, rel=0, abs=ROUNDING)


def test_one_prompt_with_another_subject_in_its_place(model, tmp_path) -> None:
    config = settings(prompt="Berlin is in", subject="Berlin", model="nano", correct_only=True)
    same = next(w for w in ("London", "Vienna", "Dublin", "Madrid") if _length(model, w) == _length(model, "Berlin"))
    plan = prepare(config.model_copy(update={"corrupt_with": same}), model)
    result = run(plan, tmp_path)
    rows = result.traces.to_pylist()
    other = torch.tensor(encode(model, [f"{same} is in"])[0])
    alone = causal_trace(model, torch.tensor(plan.items[0].tokens), other, sites=SITES).to_pylist()
    key = ("site", "layer", "position")
    effects, expected = ({tuple(r[k] for k in key): r["effect"] for r in table} for table in (rows, alone))
    assert effects == pytest.approx(expected, rel=0, abs=LOG_ROUNDING)
    assert {row["correct"] for row in rows} == {None} and {row["effect_std"] for row in rows} == {None}
    with pytest.raises(UsageError, match="--corrupt-with.*equal token length"):
        prepare(config.model_copy(update={"corrupt_with": "the whole of the old world"}), model)


def _length(model: LanguageModel, text: str) -> int:
    return len(encode(model, [text])[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no model is named"),
        ({"model": "m"}, "say what to trace"),
        ({"model": "m", "prompt": "a", "facts": "known_1000"}, "not both"),
        ({"model": "m", "prompt": "a"}, "needs --subject"),
        ({"model": "m", "prompt": "a", "subject": "a", "limit": 3}, "--limit belongs to --facts"),
        ({"model": "m", "facts": "x", "answer": "a"}, "--answer belongs to --prompt"),
        ({"model": "m", "facts": "x", "corruption": "replacement", "noise": 1.0}, "--noise is for"),
        ({"model": "m", "prompt": "a", "subject": "a", "corruption": "replacement"}, "--corrupt-with"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        check_settings(TraceConfig.model_validate(values))


def test_what_does_not_fit_the_model_is_refused_before_anything_is_computed(model) -> None:
    for changes, message in (
        ({"sites": ("delte",)}, "did you mean 'mixer.delta'"),
        ({"layers": (7,)}, "there is no block 7"),
        ({"memory_mib": 1, "max_tokens": 5000}, "memory_budget"),
    ):
        texts = PROMPTS if "memory_mib" not in changes else [prompt("long", "word " * 2000)]
        with pytest.raises(UsageError, match=message):
            prepare(settings(**changes), model, texts)
    with pytest.raises(InputError, match="'a' occurs more than once"):
        prepare(settings(), model, [PROMPTS[0], PROMPTS[0]])
    with pytest.raises(InputError, match="none of the 1 prompts can be traced; the first, 'a'"):
        prepare(settings(max_tokens=2), model, PROMPTS[:1])


@pytest.mark.slow
def test_a_folder_holds_one_trace(model, tmp_path) -> None:
    one_site = {"sites": ("resid_post",)}
    run(prepare(settings(**one_site), model, PROMPTS), tmp_path, draw=draw)
    with pytest.raises(UsageError, match=r"differs in samples"):
        run(prepare(settings(**one_site, samples=2), model, PROMPTS), tmp_path)
    with pytest.raises(UsageError, match="the prompts"):
        run(prepare(settings(**one_site), model, PROMPTS[:3]), tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    assert list((tmp_path / "heat_maps").glob("01-*"))
    result = run(prepare(settings(**one_site, samples=2, pictures=0), model, PROMPTS), tmp_path, fresh=True, draw=draw)
    assert set(result.traces["samples"].to_pylist()) == {2} and (tmp_path / "mine.txt").read_text() == "kept"
    assert not list((tmp_path / "heat_maps").glob("01-*"))
    (tmp_path / "run.json").write_text(json.dumps({"command": "eval", "config": {}}))
    with pytest.raises(UsageError, match="holds a run of `mplat eval`"):
        run(prepare(settings(), model, PROMPTS), tmp_path, fresh=True)
