"""Run folders become a report whose numbers are the runs' own; what is absent is said, what is damaged is an error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError
from mplat.report import load
from mplat.report.documents import flat
from mplat.steering import Recipe
from mplat.steering.in_words import describe
from report_runs import RECIPE, questions, record, write_classification, write_eval_run, write_interp_run


def test_the_numbers_are_those_of_the_summary(tmp_path: Path) -> None:
    summary = write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    assert [c.name for c in run.conditions] == ["unsteered", "steered", "control_random"]
    assert [c.draws for c in run.conditions] == [0, 0, 2]
    groups = [*summary["levels"], summary["overall"]]
    assert [row.total for row in run.levels] == [False] * 6 + [True]
    for row, group in zip(run.levels, groups, strict=True):
        for i, condition in enumerate(run.conditions):
            assert row.em[i]._asdict() == group["em"]["conditions"][condition.name]
            assert row.f1[i]._asdict() == group["f1"]["conditions"][condition.name]
    for comparison, name in zip(run.comparisons, ["steered-unsteered", "steered-control_random"], strict=True):
        found = [d._asdict() for d in comparison.rows if d is not None]
        assert found == [group["em"]["differences"][name] for group in groups]
    assert run.verdict == summary["verdict"]["sentence"]
    assert [row.nll._asdict() for row in run.price] == list(summary["price"]["nll"]["conditions"].values())
    assert run.price[0].change is None
    assert not run.missing


def test_what_was_cut_is_told_as_the_summary_has_it(tmp_path: Path) -> None:
    summary = write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    assert [row.title for row in run.cuts] == ["prompt cut", "prompt whole", "evidence kept", "evidence lost"]
    for row, group in zip(run.cuts, [*summary["cuts"], *summary["evidence"]], strict=True):
        assert row.em[0]._asdict() == group["em"]["conditions"]["unsteered"]
    del summary["cuts"], summary["evidence"]  # as an earlier version wrote it
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    assert load([tmp_path / "eval"]).evaluations[0].cuts == ()


def test_examples_show_the_prompts_that_the_run_kept(tmp_path: Path) -> None:
    """They may have been cut, and the questions may be gone."""
    write_eval_run(tmp_path / "eval")
    path = tmp_path / "eval" / "items.parquet"
    items = pq.read_table(path)
    digests = [f"digest of {name}" for name in items["question_id"].to_pylist()]
    place = items.schema.get_field_index("prompt_digest")
    pq.write_table(items.set_column(place, "prompt_digest", pa.array(digests)), path)
    kept = pa.table({"prompt_digest": sorted(set(digests)), "text": [f"text: {d}" for d in sorted(set(digests))]})
    pq.write_table(kept, tmp_path / "eval" / "prompts.parquet")
    (run,) = load([tmp_path / "eval"]).evaluations
    assert run.answers and all(a.prompt == f"text: digest of {a.id}" for a in run.answers)


def test_every_status_is_counted(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    counts = {row.condition: dict(zip(run.statuses, row.counts, strict=True)) for row in run.status_rows}
    assert counts["unsteered"] == {"ok": 24, "model_nonfinite": 0}
    assert counts["steered"] == {"ok": 23, "model_nonfinite": 1}


def test_recipe_and_candidates_are_those_of_the_search_on_all_development_questions(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    assert run.recipe == tuple(describe(Recipe.from_dict(RECIPE, source="recipe")))
    assert [c.logprob_gain for c in run.candidates] == [0.75, 0.25, None], "the best first, what failed last"
    assert run.found is not None and (run.found.naive, run.found.cross_fitted, run.found.se) == (0.3, 0.2, 0.05)


def test_examples_are_at_most_twelve_right_and_wrong_with_what_the_model_read(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    prompts = {question.id: question.prompt for question in questions()}
    assert 0 < len(run.answers) <= 12
    assert {a.unsteered_right for a in run.answers} == {True, False}
    assert all(answer.prompt == prompts[answer.id] for answer in run.answers)
    failed = questions()[5].id
    assert failed not in {answer.id for answer in run.answers}  # it has no answer when steered


def test_the_command_names_what_is_not_the_default(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    (run,) = load([tmp_path / "eval"]).evaluations
    assert run.reproduce == f"mplat eval --model toy --per-level 4 --draws 2 --address none --out {tmp_path / 'eval'}"


@pytest.mark.parametrize("name", ["summary.json", "search.parquet", "items.parquet", "prompts.parquet"])
def test_a_partial_run_says_what_is_missing_and_how_to_make_it(tmp_path: Path, name: str) -> None:
    write_eval_run(tmp_path / "eval")
    (tmp_path / "eval" / name).unlink()
    (run,) = load([tmp_path / "eval"]).evaluations
    (line,) = run.missing
    assert name in line and "mplat eval --model toy" in line
    if name == "summary.json":
        assert run.levels == () and "not finished" in run.verdict


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"verdict": NaN}', '{"verdict": {}}', '{"verdict": {"sentence": 3}}', "[]", '"text"', "[" * 100_000],
)
def test_a_damaged_summary_is_an_error_that_names_it_and_the_command(tmp_path: Path, content: str) -> None:
    write_eval_run(tmp_path / "eval")
    (tmp_path / "eval" / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"summary\.json.*mplat eval --model toy"):
        load([tmp_path / "eval"])


def test_a_missing_number_is_an_error_and_no_zero(tmp_path: Path) -> None:
    summary = write_eval_run(tmp_path / "eval")
    del summary["levels"][2]["em"]["conditions"]["steered"]["mean"]
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"levels\[2\]\.em\.conditions\.steered.*'mean'"):
        load([tmp_path / "eval"])


def test_i15_damaged_tables_are_errors(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval")
    whole = (tmp_path / "eval" / "items.parquet").read_bytes()
    (tmp_path / "eval" / "items.parquet").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"items\.parquet.*mplat eval"):
        load([tmp_path / "eval"])
    pq.write_table(pa.table({"question_id": ["a"]}), tmp_path / "eval" / "items.parquet")
    with pytest.raises(InputError, match=r"items\.parquet.*no column.*prediction"):
        load([tmp_path / "eval"])


def test_a_folder_without_a_run_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run; make one with `mplat quickstart`"):
        load([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"holds no run; make one with .*run\.json"):
        load([tmp_path])
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(InputError, match="not finished; run its command again"):
        load([tmp_path])
    (tmp_path / "run.json").write_text(json.dumps(record("dance", "toy")))
    with pytest.raises(InputError, match="nothing to show.*mplat dance"):
        load([tmp_path])


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    write_eval_run(tmp_path / "eval" / "a", model="a")
    write_eval_run(tmp_path / "eval" / "b", model="b")
    write_interp_run(tmp_path / "interp" / "a", model="a")
    write_classification(tmp_path / "classify")
    report = load([tmp_path])
    assert [run.model for run in report.evaluations] == ["a", "b"]
    assert [run.model for run in report.interpretations] == ["a"]
    assert report.title == "Steering a, b"
    (classification,) = report.classifications
    assert [(row.category, row.by_dataset, row.taken) for row in classification.rows] == [("two_hop", (2,), 2)]
    assert "hotpotqa: 2 questions of 3 records; left out: no_answer 1" in classification.notes


def test_maps_hold_every_layer_and_channel_and_ablations_their_controls(tmp_path: Path) -> None:
    write_interp_run(tmp_path / "interp")
    (run,) = load([tmp_path / "interp"]).interpretations
    (sensitivity,) = run.maps
    assert sensitivity.layers == (0, 1)
    assert sensitivity.values == ((0.0, 0.1, 0.01),) * 2
    (table,) = run.tables
    (row,) = table.rows  # the random draws stand beside the channels they are compared with
    assert "\u22120.500 (\u22120.600 to \u22120.400)" in row
    assert "\u22120.250, +0.125" in row
    (tmp_path / "interp" / "bottlenecks.parquet").unlink()
    (run,) = load([tmp_path / "interp"]).interpretations
    assert run.tables == () and "bottlenecks.parquet" in run.missing[0]


def test_settings_are_listed_one_by_one_and_blanks_can_be_seen() -> None:
    nested = {"a": {"b": [1, 2], "stop": ["\n"]}, "c": None, "d": "text", "e": [], "f": [{"g": ""}]}
    assert list(flat(nested)) == [
        ("a.b", "1, 2"), ("a.stop", '"\\n"'), ("c", "null"), ("d", "text"), ("e", "(none)"), ("f.0.g", '""'),
    ]  # fmt: skip


def test_the_log_of_a_training_run_is_thinned_out_but_not_changed(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": i, "loss": 5 / (1 + i)} for i in range(1, 1001)]
    lines += [{"kind": "eval", "step": 500, "loss": None, "exact_match": 0.25}]
    (tmp_path / "run.json").write_text(json.dumps(record("train", "toy")))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (training,) = load([tmp_path]).trainings
    assert 300 <= len(training.loss) <= 400
    assert all(value == 5 / (1 + step) for step, value in training.loss)
    assert (training.held_out, training.exact_match) == ((), ((500.0, 0.25),))


def test_a_result_that_is_not_the_file_that_the_run_wrote_is_named(tmp_path):
    folder = tmp_path / "run"
    write_eval_run(folder)
    record = json.loads((folder / "run.json").read_text())
    names = ("items.parquet", "summary.json")
    record["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    record["files"] |= {"../run/price.parquet": "ab", "gone.parquet": "ab"}
    (folder / "run.json").write_text(json.dumps(record))
    assert load([folder]).missing == ()
    (folder / "summary.json").write_text((folder / "summary.json").read_text() + " ")
    found = load([folder]).missing
    assert len(found) == 1 and "summary.json: is not the file that the run wrote" in found[0]
