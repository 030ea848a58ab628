"""One question taken apart: its numbers are those of the steps, its sentences name the planted blocks, and nothing is
left empty without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from interp_jobs import reader, run_step
from mplat.core.errors import InputError, UsageError
from mplat.datasets.records import Question
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.cache import Cache
from mplat.interp.engine.interp_config import InterpConfig, config_model
from mplat.interp.explain.choosing import Chosen, choose, find
from mplat.interp.explain.explanation import Explanation, explain
from mplat.interp.explain.findings import findings, percent, rows_of, signed
from mplat.interp.explain.reading_rows import pooled
from mplat.interp.explain.spans import Beside, mean_beside, other_spans, some_spans
from mplat.interp.explain.traced_rows import distances
from mplat.interp.methods.evidence_state import left_by_token, mean_left, write_sizes, written
from mplat.interp.methods.forgetting import batch_forgetting
from mplat.interp.methods.prompts import FactItem
from mplat.interp.methods.recurrences import recurrences_of
from mplat.interp.methods.state_adjoint import Units
from mplat.models import LanguageModel, load
from mplat.models.planted import find_planted

ARCHITECTURES = ("mamba2", "moe_mamba", "dense_mamba", "stable_mamba", "hyena", "striped_hyena")
PROMPT = "The red box is in Rome. Where is the box? It is in"


def question(prompt: str = PROMPT, answer: str = "Rome", id_: str = "box-1", **more: Any) -> Question:
    return Question(id=id_, dataset="own", split="", question="", answers=(answer,), prompt=prompt, **more)


def config(**more: Any) -> InterpConfig:
    return config_model().model_validate({"fact_tracing": {"samples": 1}, "model": None, **more})


def explained(model: LanguageModel, asked: Question, cache: Path) -> Explanation:
    return explain(model, choose(model, asked, config()), config(), cache=Cache(cache))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    return explained(reader(), question(), tmp_path_factory.mktemp("cache"))


def ok(table: pa.Table) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["status"] == "ok"]


def test_traces_are_those_of_the_step(found: Explanation) -> None:
    item, sites = found.chosen.item, ("mixer_out", "h_post")
    assert item.fact is not None
    behind = len(item.prompt) - item.fact[1]
    rows = ok(run_step("fact_tracing", found.model, [item], sites=sites, samples=1,
                       distances=tuple(range(behind)))[""])  # fmt: skip
    known = {(r["site"], r["layer"], r["position"]): r["effect"] for r in rows_of(found, "traces")}
    assert rows and all(
        known[r["site"], r["layer"], r["position"]] == pytest.approx(r["effect"], abs=1e-6) for r in rows
    )
    assert {site for site, _, _ in known} >= {"resid_post", "state"}


def test_what_is_read_and_what_a_cut_costs_are_those_of_the_steps(found: Explanation) -> None:
    chosen, span = found.chosen, found.chosen.span
    assert span is not None
    fact = FactItem("a", chosen.item.prompt, span, chosen.item.answer[0])
    shares = ok(run_step("hidden_attention", found.model, [fact])["prompts"])  # type: ignore[list-item]
    cuts = ok(run_step("knockout", found.model, [fact], sources=("subject",))["prompts"])  # type: ignore[list-item]
    for row in rows_of(found, "readers"):
        if row["layer"] is None:
            continue
        here = [r["share"] for r in shares if r["layer"] == row["layer"] and r["bin"].startswith("subject")]
        assert row["read"] == pytest.approx(sum(here))
        assert [row["cut"]] == pytest.approx([r["effect"] for r in cuts if r["layer"] == row["layer"]], abs=1e-6)
    lens = ok(run_step("logit_lens", found.model, [fact], bins=("last",))["prompts"])  # type: ignore[list-item]
    assert [r["answer_prob"] for r in rows_of(found, "lens")] == pytest.approx([r["answer_prob"] for r in lens])
    assert found.answer.p == pytest.approx(lens[-1]["answer_prob"], rel=1e-5)


def test_what_decay_leaves_and_delta_are_those_of_the_steps(found: Explanation) -> None:
    item = found.chosen.item
    rows = batch_forgetting(found.model, Batch([item], found.model.device), {"layers": found.layers, "theta": 0.5})
    survival = {r["layer"]: r["survival"] for r in rows.to_pylist() if r["question_id"] and r["layer"] is not None}
    assert {r["layer"]: r["left_coordinates"] for r in rows_of(found, "states")} == pytest.approx(survival)
    moments = run_step("delta_sensitivity", found.model, [item], sites=("mixer.delta",))[""].to_pylist()
    for layer in found.layers:
        mean = [r["mean"] for r in moments if r["layer"] == layer]
        delta = [r["delta"] for r in rows_of(found, "tokens", layer=layer)]
        assert sum(delta) / len(delta) == pytest.approx(sum(mean) / len(mean))


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_writes_and_what_is_left_of_them_against_the_states_themselves(arch: str) -> None:
    model, span = reader(arch, dtype=torch.float64), (2, 4)
    decay = recurrences_of(model, 1)[0]
    tokens = torch.randint(0, 1000, (9,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), model.capture(*decay.inputs) as values:
        model(tokens[None])
    scan = decay.rebuild(values)
    units = Units.of(scan, torch.arange(scan.units))
    sizes = (units.written * units.B)[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(write_sizes(scan), sizes)
    torch.testing.assert_close(written(scan, decay.A, (0, 9)).real, units.states()[0, -1])
    x = torch.zeros_like(scan.x)
    x[:, slice(*span)] = scan.x[:, slice(*span)]
    norms = Units.of(scan._replace(x=x), torch.arange(scan.units)).states()[0].flatten(1).norm(dim=1)
    mean, kept = left_by_token(decay, scan, span)
    torch.testing.assert_close(kept, norms[span[1] - 1 :] / norms[span[1] - 1])
    assert mean_left(decay, scan, [span[1]], 9 - span[1]) == pytest.approx([float(mean[-1])])


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_the_planted_block_is_the_one_that_is_named(arch: str, tmp_path: Path) -> None:
    name = f"planted-associative-recall-{arch}"
    settings = config(model=name)
    found = explain(load(name), choose(load(name), find(settings, "associative_recall-0-0001"), settings), settings,
                    cache=Cache(tmp_path))  # fmt: skip
    (layer,) = {part.layer for part in find_planted(name).truth.of("state")}
    says = findings(found)
    assert f"block {layer} writes the evidence most strongly" in says["written"]
    assert says["read"].startswith(f"Block {layer} reads the evidence for the answer")
    assert f"block {layer} has " in says["held"] and f"what block {layer} hands on" in says["held"]
    assert says["answer"].endswith("right.")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_explained_or_says_why_not(arch: str, tmp_path: Path) -> None:
    found = explained(reader(arch), question(), tmp_path)
    says = findings(found)
    assert all(text.endswith((".", "%).", "right.")) and "None" not in text for text in says.values())
    for name in ("tokens", "states", "reads"):
        rows = found.tables[name].to_pylist()
        assert rows and all(row["reason"] for row in rows if row["status"] != "ok")
    if arch == "hyena":
        assert says["written"].startswith("The block has no recurrent state") and "no selective scan" in says["read"]
    assert rows_of(found, "traces") and not [r for r in found.tables["traces"].to_pylist() if r["status"] != "ok"]


def test_without_evidence_the_sections_say_why(tmp_path: Path) -> None:
    found = explained(reader(), question("Where is the box? It is in"), tmp_path)
    assert found.chosen.span is None and "traces" not in found.tables
    says = findings(found)
    for section in ("written", "held", "read", "trace"):
        assert says[section].startswith("The prompt does not state the answer word for word"), section
    assert "Read out after every block" in says["lens"] and "no sparse autoencoder" in says["features"]


def test_an_answer_that_is_not_stated_falls_back_on_the_sentence_of_evidence() -> None:
    asked = question(
        "The sky is blue. The box is red. Is the box red?", "yes", source_fields='{"evidence":["The box is red."]}'
    )
    chosen = choose(reader(), asked, config())
    assert chosen.span is not None
    assert "".join(chosen.tokens[slice(*chosen.span)]).strip() == "The box is red."


def test_unknown_ids_and_questions_without_an_answer_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"id": "first", "prompt": "a b"}\n{"id": "second", "prompt": "a b"}\n')
    with pytest.raises(UsageError, match="'scond': no question has this id; did you mean 'second'"):
        find(config(questions=file), "scond")
    with pytest.raises(InputError, match="no answer is given"):
        choose(reader(), find(config(questions=file), "second"), config())
    for generated in ("facts-eval-L1-0003", "facts-interp-eval-L6-0001"):
        assert find(config(), generated).id == generated


def test_numbers_beside_others_and_maps_of_long_prompts() -> None:
    assert other_spans(6, (2, 4)) == [(0, 2)]  # of (4, 6) the last token is not taken
    assert some_spans(20, (4, 6), 3) and all(stop <= 4 or start >= 6 for start, stop in some_spans(20, (4, 6), 3))
    assert mean_beside([1.0, 2.0, 9.0, 4.0, 5.0], (2, 3)) == Beside(9.0, 3, 2.0, 7 / 3, 1.0, 4.0, 0.0)
    assert Beside.of(1.0, []) == Beside(1.0, 0)
    shares = torch.ones(5, 5).tril().double()
    rows = (shares / shares.sum(1, keepdim=True)).numpy()
    cells = pooled(rows, side=3)  # groups of 2, 2 and 1 tokens
    assert [cell["width"] for cell in cells] == [2] * 6
    assert [sum(c["share"] for c in cells if c["reader"] == row) for row in (0, 2, 4)] == pytest.approx([1.0] * 3)
    assert distances(3) == [0, 1, 2, 3] and len(distances(1000)) == 64 and distances(1000)[-1] == 1000
    assert (percent(0.6249), percent(0.0312), signed(0.0), signed(1e-6), signed(-0.5)) == (
        "62 %", "3.1 %", "0.0 %", "0.0 %", "\u221250 %",
    )  # fmt: skip


def test_what_is_chosen_says_what_it_is() -> None:
    chosen: Chosen = choose(reader(), question(), config())
    assert chosen.span is not None and "".join(chosen.tokens[slice(*chosen.span)]).strip() == "Rome"
    assert chosen.evidence == "the tokens that state the answer" and "".join(chosen.tokens).strip() == PROMPT
