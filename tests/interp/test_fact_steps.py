"""Steps over factual prompts: their rows are those of the methods called directly, and what has none says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import reader
from mplat.core.errors import UsageError
from mplat.datasets.factual import FactualPrompt, facts_world_prompts
from mplat.interp import Cache, all_steps, config_model, run_steps
from mplat.interp.engine.inputs import Given
from mplat.interp.methods.coordinate_attribution import coordinate_attribution
from mplat.interp.methods.hidden_attention import hidden_attention
from mplat.interp.methods.knockout import knockout
from mplat.interp.methods.logit_lens import logit_lens
from mplat.interp.methods.path_patching import path_patching
from mplat.interp.methods.prompts import FactItem, encode_facts
from mplat.interp.tracing import attribution_patching, causal_trace, prompt_seed, token_bins
from mplat.models import LanguageModel
from planted_copy import ANSWERS, NAMES, WORDS, planted_copy, prompt

ROUNDING = 1e-12  # of float64: a row's matrix products may depend on the number of rows


def facts() -> list[FactualPrompt]:
    """Each name with its answer, at several places."""
    made = []
    for i, (name, answer) in enumerate(zip(NAMES, ANSWERS, strict=True)):
        text = " ".join(WORDS[int(token)] for token in prompt(name, i, 2, 1 + i))
        start = text.index(name)
        made.append(FactualPrompt(name, "made", text, name, (start, start + len(name)), answer))
    return made


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return planted_copy().model


@pytest.fixture(scope="module")
def items(model: LanguageModel) -> tuple[FactItem, ...]:
    return encode_facts(model, facts(), max_tokens=100).items


def table(
    name: str, model: LanguageModel, given: list[FactualPrompt] | None = None, *, part: str = "", **settings: Any
) -> pa.Table:
    """What the step finds; by default what it says of every prompt."""
    shared = {key: settings.pop(key) for key in ("layers", "seed", "corruption", "max_tokens") if key in settings}
    config = config_model().model_validate({"steps": (name,), name: settings} | shared)
    found = run_steps(model, config=config, given=Given(facts=given or facts()), cache=Cache(Path("cache")))[name]
    return found.tables[part or ("traces" if "traces" in found.tables else "prompts")]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The rows have what is expected of them, in its order; numbers up to rounding."""
    assert len(rows) == len(expected) > 0
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, rel=1e-9, abs=ROUNDING) if isinstance(value, float) else value)


def of_each(items: tuple[FactItem, ...], rows_of: Any) -> list[dict[str, Any]]:
    found = ((item, rows_of(item, torch.tensor(item.tokens))) for item in items)
    return [{"id": item.id, "status": "ok", **row} for item, rows in found for row in rows]


def test_a_knockout_cuts_what_the_planted_circuit_reads(model, items) -> None:
    rows = table("knockout", model, window=1, sources=("subject", "further")).to_pylist()

    def expected(item: FactItem, tokens: torch.Tensor) -> list[dict[str, Any]]:
        bins, last, found = token_bins(len(tokens), item.subject), len(tokens) - 1, []
        for source, of in (("subject", "subject_last"), ("further", "further")):
            places = [t for t, name in enumerate(bins) if name == of]
            direct = knockout(model, tokens, last, places, [[0], [1]], answer=item.answer).to_pylist()
            found += [{"source": source, **row} for row in direct]
        return found

    same(rows, of_each(items, expected))
    for row in rows:  # the last token reads the relay in block 1, and nothing else
        assert (row["effect"] < -0.5) == (row["source"] == "further" and row["layer"] == 1)
        assert row["p"] == pytest.approx(row["p0"] * (1 + row["effect"]))
    both = table("knockout", model, window=2, sources=("before", "further"), decay=2).to_pylist()
    assert {tuple(row["layers"]) for row in both if row["status"] == "ok"} == {(0, 1)}
    assert {row["group"] for row in both if row["status"] == "ok"} == {"fast", "slow"}
    (without,) = [row for row in both if row["status"] != "ok"]  # the first prompt begins with its subject
    assert (without["id"], without["source"], without["status"]) == (NAMES[0], "before", "not_applicable")


def test_the_lens_is_read_at_the_tokens_asked_for(model, items) -> None:
    rows = table("logit_lens", model, bins=("last", "further"), top=2).to_pylist()

    def expected(item: FactItem, tokens: torch.Tensor) -> list[dict[str, Any]]:
        places = list(range(item.subject[1], len(tokens)))
        return logit_lens(model, tokens, positions=places, answer=item.answer, top=2).to_pylist()

    same(rows, of_each(items, expected))
    assert all(row["bin"] == "last" for row in rows if row["token"] == "?")
    assert {row["answer_rank"] for row in rows if row["bin"] == "last" and row["layer"] == 1} == {1}


def test_hidden_attention_is_shared_out_over_the_tokens(model, items) -> None:
    rows = table("hidden_attention", model).to_pylist()

    def expected(item: FactItem, tokens: torch.Tensor) -> list[dict[str, Any]]:
        bins, found = token_bins(len(tokens), item.subject), []
        for layer in (0, 1):
            sizes = hidden_attention(model, tokens, layer).weights[:, len(tokens) - 1].abs().sum(0)
            if not sizes.any():
                found.append({"layer": layer, "bin": None, "share": None, "status": "not_applicable"})
                continue
            for name in sorted(set(bins), key=bins.index):
                where = [t for t, other in enumerate(bins) if other == name]
                share = sum(float(sizes[t]) for t in where) / float(sizes.sum())
                found.append({"layer": layer, "bin": name, "positions": bins.count(name), "share": share,
                              "strongest": max(where, key=lambda t, sizes=sizes: float(sizes[t]))})  # fmt: skip
        return found

    same(rows, of_each(items, expected))
    for item in items:
        shares = [row["share"] for row in rows if (row["id"], row["layer"]) == (item.id, 1)]
        assert sum(shares) == pytest.approx(1.0) and len(shares) > 2


@pytest.mark.parametrize("positions", ["subject", "all"])
def test_paths_go_from_each_sender_to_each_later_receiver(model, items, positions) -> None:
    rows = table("path_patching", model, positions=positions, receiver="resid_post", samples=2, seed=4, noise=0.7)

    def expected(item: FactItem, tokens: torch.Tensor) -> list[dict[str, Any]]:
        where = f"@[{item.subject[0]}]" if positions == "subject" else ""
        found = path_patching(
            model, tokens, None, [f"blocks.{i}.mixer_out{where}" for i in (0, 1)],
            ["blocks.0.resid_post", "blocks.1.resid_post"], subject=item.subject, noise=0.7, samples=2,
            seed=prompt_seed(4, item.id), answer=item.answer,
        )  # fmt: skip
        return found.to_pylist()

    same(rows.to_pylist(), of_each(items, expected))
    places = set(zip(rows["sender_layer"].to_pylist(), rows["receiver_layer"].to_pylist(), strict=True))
    assert places == {(0, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize(
    ("name", "method", "own"),
    [("causal_trace", causal_trace, {"window": 2}), ("attribution_patching", attribution_patching, {}),
     ("attribution_patching", attribution_patching, {"integrated_steps": 3})],
)  # fmt: skip
@pytest.mark.parametrize("corruption", ["noise", "replacement"])
def test_restorations_and_their_estimates_have_the_same_columns(model, name, method, own, corruption) -> None:
    sites = ("resid_post", "h_post+conv_state")
    settings = {"sites": sites, "samples": 2, "metric": "logprob", "resamples": 100} | own
    rows = table(name, model, seed=2, corruption=corruption, **settings)
    swapped = corruption == "replacement"
    items = {item.id: item for item in encode_facts(model, facts(), max_tokens=100, swapped=swapped).items}
    embeddings = model.backbone.embeddings.weight.detach()
    noise = (
        None if swapped else 3 * float(torch.cat([embeddings[[i.tokens[i.subject[0]]]] for i in items.values()]).std())
    )
    expected = []
    for item in sorted(items.values(), key=lambda item: item.id):
        other = torch.tensor(item.corrupted) if item.corrupted is not None else None
        found = method(
            model, torch.tensor(item.tokens), other, subject=item.subject, noise=noise, samples=2, sites=sites,
            seed=prompt_seed(2, item.id), metric="logprob", answer=item.answer, **own,
        )  # fmt: skip
        expected += [{"id": item.id, "status": "ok", **row} for row in found.to_pylist()]
    expected.sort(key=lambda row: (row["id"], row["site"], row["layer"], row["position"]))
    same(rows.to_pylist(), expected)


def test_prompts_that_cannot_be_used_and_wrong_answers_are_rows_that_say_why(model) -> None:
    wrong = FactualPrompt("wrong", "made", facts()[0].prompt, NAMES[0], facts()[0].subject_span, ANSWERS[2])
    long = FactualPrompt("long", "made", "the " * 200 + "anna so ?", "anna", (800, 804), "north")
    for name in ("logit_lens", "knockout", "hidden_attention", "path_patching", "attribution_patching"):
        kept = {"max_tokens": 100, "seed": 1}
        status = {row["id"]: row["status"] for row in table(name, model, [*facts(), wrong, long], **kept).to_pylist()}
        assert status["long"] == "too_long" and status[NAMES[1]] == "ok"
        traced = name in ("path_patching", "attribution_patching")
        assert status["wrong"] == ("model_wrong" if traced else "ok")
    broken = planted_copy().model
    with torch.no_grad():
        broken.backbone.embeddings.weight[NAMES.index("clara")] = torch.nan
    for name in ("logit_lens", "knockout", "path_patching"):
        own = {"noise": 0.5} if name == "path_patching" else {}
        rows = table(name, broken, correct_only=False, **own) if own else table(name, broken)
        assert {row["status"] for row in rows.to_pylist() if row["id"] == "clara"} == {"model_nonfinite"}
        assert {row["status"] for row in rows.to_pylist() if row["id"] == "boris"} == {"ok"}


def test_a_block_without_a_scan_is_a_row_that_holds_no_number() -> None:
    hybrid = reader("striped_hyena")
    for name in ("knockout", "hidden_attention"):
        found = table(name, hybrid, facts_world_prompts(2))
        assert found.num_rows == hybrid.n_layers
        for row in found.to_pylist():
            assert (row["status"], row["id"]) == ("not_applicable", None) and "no selective scan" in row["reason"]
            assert not any(isinstance(value, float) for value in row.values())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("knockout", {"window": 3}, "a window of 3 blocks, and 2"),
        ("logit_lens", {"site": "resid_mid"}, "no site 'resid_mid'"),
        ("logit_lens", {"top": 10_000}, "the vocabulary has"),
        ("path_patching", {"receiver": "mixer_inn"}, "did you mean 'mixer_in'"),
        ("attribution_patching", {"sites": ("state",)}, "no single tensor"),
        ("causal_trace", {"window": 9}, "has 2 blocks"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_computed(model, name, settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        table(name, model, **settings)


def test_coordinates_are_means_over_prompts_of_their_terms(model, items) -> None:
    own = {"samples": 2, "seed": 4, "noise": 0.7}
    rows = table("coordinate_attribution", model, part="coordinates", **own).to_pylist()
    terms = [
        coordinate_attribution(
            model, torch.tensor(item.tokens), None, "h_post", item.subject[1] - 1, subject=item.subject, noise=0.7,
            samples=2, seed=prompt_seed(4, item.id), answer=item.answer,
        ).to_pylist()
        for item in items
    ]  # fmt: skip
    effects = np.array([[row["effect"] for row in of_item] for of_item in terms])
    assert len(rows) == effects.shape[1] and {row["n_prompts"] for row in rows} == {len(items)}
    for i, row in enumerate(rows):
        assert all(row[name] == terms[0][i][name] for name in ("site", "layer", "channel", "coordinate"))
        assert row["effect"] == pytest.approx(effects[:, i].mean(), rel=1e-9, abs=ROUNDING)
        assert row["standard_error"] == pytest.approx(effects[:, i].std(ddof=1) / 2, rel=1e-9, abs=ROUNDING)
    best = {(row["channel"], row["coordinate"]) for row in rows if row["layer"] == 0 and row["rank"] <= 4}
    assert best == planted_copy().coordinates[0]  # what is written at the name
    assert table("coordinate_attribution", model, **own)["status"].to_pylist() == ["ok"] * 4
    hyena = table("coordinate_attribution", reader("hyena"), facts_world_prompts(2), part="coordinates")
    assert set(hyena["status"].to_pylist()) == {"not_applicable"}


def test_averages_are_means_over_prompts_of_a_prompts_mean(model) -> None:
    for name, keys, value in (
        ("logit_lens", ("layer", "bin"), "answer_prob"), ("knockout", ("source", "group", "layer"), "effect"),
    ):  # fmt: skip
        own = {"bins": ("further", "last")} if name == "logit_lens" else {}
        rows = [row for row in table(name, model, seed=3, **own).to_pylist() if row["status"] == "ok"]
        averages = table(name, model, part="averages", seed=3, **own).to_pylist()
        assert len(averages) == len({tuple(row[key] for key in keys) for row in rows})
        for average in averages:
            mine = [row for row in rows if all(row[key] == average[key] for key in keys)]
            means = [np.mean([r[value] for r in mine if r["id"] == id_]) for id_ in {r["id"] for r in mine}]
            assert average["prompts"] == len(means)
            assert average["mean"] == pytest.approx(np.mean(means), rel=1e-12)
            assert min(means) <= average["low"] <= average["high"] <= max(means)
    nothing = table("hidden_attention", reader("hyena"), facts_world_prompts(2), part="averages")
    assert nothing.num_rows == 0


def test_every_column_of_a_fact_step_says_what_it_means(model) -> None:
    for name, step in all_steps().items():
        if step.items == "facts" and not step.others:
            for field in table(name, model, facts()[:2], layers=(0, 1)).schema:
                assert (field.metadata or {}).get(b"meaning"), f"{name}: {field.name}"
