"""An evaluation from questions to files, on models whose right answers are known."""

# pyright: reportOperatorIssue=false
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mplat.core.errors import InputError, UsageError
from mplat.core.folder_lock import FolderLock
from mplat.core.plain_text import Table
from mplat.core.whole_files import sha256_of
from mplat.datasets.prompting.prompts import Prompt
from mplat.datasets.records import to_table
from mplat.eval import answers, finding, side_effects
from mplat.eval.conditions import Condition
from mplat.eval.eval_config import EvalConfig
from mplat.eval.in_words import result_words
from mplat.eval.planning import prepare
from mplat.eval.runner import evaluate
from mplat.eval.schema import ITEM_SCHEMA
from mplat.eval.split import split
from mplat.models import Scale, save_edits
from mplat.runtime import open_session, read_table
from mplat.runtime.record import read_run
from mplat.steering import Recipe
from planted_models import ANSWER_TOKENS, CHANNELS, DAMAGE, LAYER, planted, talking
from recipes import scaled


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def case(place):
    """The damaged model in place/model, its questions in place/questions.parquet."""
    made = planted(place / "model")
    pq.write_table(to_table(made.questions), place / "questions.parquet")
    for name, strength in (("right", 1 / DAMAGE), ("mild", 3.0)):
        scaled(made.damaged, CHANNELS, strength, LAYER).save(place / f"{name}.json")
    return made


def settings(place, *, steering=None, **changes):
    """The planted channels and the right factor, as a recipe that is given."""
    values = {
        "questions": place / "questions.parquet", "max_new_tokens": ANSWER_TOKENS, "batch_size": 8,
        "development_share": 0.4, "draws": 19, "resamples": 500, "price_limit": 4, "controls": ["random"],
        "steering": steering if steering is not None else {"recipe": place / "right.json"},
    }  # fmt: skip
    return EvalConfig.model_validate({**values, **changes})


def run(config, model, out, session=None, **more):
    plan = prepare(config, model)
    if session is not None:
        return evaluate(plan, out=out, session=session, **more)
    with open_session("none") as own:
        return evaluate(plan, out=out, session=own, **more)


SEARCH = {"sites": ["mixer_out"], "layers": [LAYER], "budget": 600_000, "alpha": 0.4}


@pytest.fixture(scope="module")
def found(place, case):
    return run(settings(place), case.damaged, place / "run")


@pytest.fixture(scope="module")
def few(place, case):
    """The same with two draws of the control, for what does not turn on their number."""
    return run(settings(place, draws=2), case.damaged, place / "few")


@pytest.fixture(scope="module")
def searched(place, case):
    """A search of one place."""
    return run(
        settings(place, steering=SEARCH, controls=["shuffled_labels"], draws=1), case.damaged, place / "searched"
    )


def items(result):
    return read_table(result.out / "items.parquet").to_pylist()


def test_steering_repairs_the_damage_on_test_questions_and_random_channels_do_not(found):
    em = found.summary.overall.em.conditions
    assert em["steered"].mean == 1.0
    assert em["unsteered"].mean < 0.3 and em["control_random"].mean < 0.3
    assert found.summary.verdict.supported, found.summary.verdict.sentence


def test_the_choice_saw_development_questions_alone_and_the_verdict_test_questions_alone(searched, found, case):
    for result in (searched, found):
        assert all(row["split"] == sides(case)[row["question_id"]] for row in items(result))
        test = {name for name, where in sides(case).items() if where == "test"}
        tested = {r["question_id"] for r in items(result) if r["split"] == "test"}
        assert result.summary.overall.n == len(test) == len(tested)
    seen = {(row["split"], row["family"]) for row in items(searched)}
    assert {("development", "unsteered"), ("development", "steered"), ("test", "steered")} <= seen
    assert searched.recipe.decided_on and not {r["split"] for r in items(found)} & {"development"}


def sides(case):
    development, test = split(case.questions, seed=0, share=0.4)
    return {q.id: "development" for q in development} | {q.id: "test" for q in test}


def test_a_search_leaves_every_candidate_and_what_it_says_of_the_one_it_chose(searched, case):
    table = read_table(searched.out / "search.parquet")
    assert table.num_rows > 10 and set(table["layer"].to_pylist()) == {LAYER}
    summary = json.loads((searched.out / "summary.json").read_text())
    assert summary["search"]["tokens"] <= SEARCH["budget"]
    assert summary["search"]["cross_fitted"]["n"] == sum(where == "development" for where in sides(case).values())
    if searched.recipe.is_identity:
        assert summary["verdict"]["kind"] == "left_alone"


def test_every_question_has_one_row_in_every_condition_in_a_fixed_order(found):
    table = read_table(found.out / "items.parquet")
    assert table.schema.remove_metadata() == ITEM_SCHEMA
    keys = [(r["split"], r["question_id"], r["condition"]) for r in table.to_pylist()]
    assert keys == sorted(set(keys))
    conditions = {c for s, _, c in keys if s == "test"}
    assert conditions == {"unsteered", "steered", *(f"control_random_{i}" for i in range(19))}


def test_the_files_say_what_was_done(found, case):
    record = read_run(found.out)
    assert record.status == "done" and record.model is not None and record.model.digest == case.damaged.digest
    assert record.backend is not None and record.backend.session is not None
    assert record.backend.session["kind"] == "in-process" and record.backend.kernels["scan"]
    for name, digest in record.files.items():
        assert sha256_of((found.out / name).read_bytes()) == digest
    assert Recipe.load(found.out / "recipe.json", case.damaged) == found.recipe
    summary = json.loads((found.out / "summary.json").read_text())
    assert summary["overall"]["em"]["conditions"]["steered"]["mean"] == 1.0
    assert summary["verdict"]["supported"] is True
    assert sum(summary["split"]["test"].values()) == found.summary.overall.n


def refuse(*args, **kwargs):
    raise AssertionError("a forward pass was made")


def test_running_again_makes_no_forward_pass_and_the_same_files(found, place, case, monkeypatch):
    files = sorted(p for p in found.out.iterdir() if p.is_file())
    before = {p.name: p.read_bytes() for p in files}
    monkeypatch.setattr(answers, "generate", refuse)
    monkeypatch.setattr(side_effects, "read_logits", refuse)
    monkeypatch.setattr(finding, "discover", refuse)
    run(settings(place), case.damaged, found.out)
    assert {p.name: p.read_bytes() for p in files} == before
    with pytest.raises(AssertionError, match="forward pass"):
        answers.generate(case.damaged, [[1]])


@pytest.mark.slow
def test_fresh_computes_again_and_gives_the_same_tables(few, place, case):
    again = run(settings(place, draws=2), case.damaged, place / "again", fresh=True)
    for name in ("items.parquet", "price.parquet", "summary.json", "recipe.json"):
        assert (again.out / name).read_bytes() == (few.out / name).read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_result_of_an_earlier_one_and_continues(place, case, monkeypatch):
    out = place / "interrupted"
    run(settings(place, draws=1), case.damaged, out)
    asked = []
    real = answers.generate

    def twice(model, prompts, **more):
        asked.append(len(prompts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, prompts, **more)

    monkeypatch.setattr(answers, "generate", twice)
    changed = settings(place, steering={"recipe": place / "mild.json"}, draws=2)
    with pytest.raises(UsageError, match="another configuration .differs in draws"):
        run(changed, case.damaged, out)
    with pytest.raises(KeyboardInterrupt):
        run(changed, case.damaged, out, fresh=True)
    assert sorted(p.name for p in out.iterdir()) == ["run.json", "work"]
    record = read_run(out)
    assert record.status == "unfinished" and not record.files and "recipe" not in record.details
    monkeypatch.setattr(answers, "generate", real)
    finished = run(changed, case.damaged, out)
    whole = run(changed, case.damaged, place / "uninterrupted")
    assert (out / "items.parquet").read_bytes() == (whole.out / "items.parquet").read_bytes()
    assert finished.summary == whole.summary


def test_the_same_settings_with_other_questions_or_another_model_are_another_run(place, case, tmp_path):
    questions, out = tmp_path / "questions.parquet", tmp_path / "run"
    pq.write_table(to_table(case.questions), questions)
    config = settings(place, questions=questions, steering={"variant": "none"}, controls=None)
    run(config, case.damaged, out)
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    pq.write_table(to_table(case.questions[:-1]), questions)
    with pytest.raises(
        UsageError, match=r"differs in the questions\); choose another --out, or start anew with --fresh"
    ):
        run(config, case.damaged, out)
    pq.write_table(to_table(case.questions), questions)
    with pytest.raises(UsageError, match="differs in the model"):
        run(config, talking("mamba", seed=4), out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == files
    run(config.model_copy(update={"fail_over": 0.5}), case.damaged, out)  # decides no table


def test_fresh_leaves_the_files_of_a_folder_without_a_record_alone(place, case, tmp_path):
    (tmp_path / "work" / "mine").mkdir(parents=True)
    run(settings(place, draws=1), case.damaged, tmp_path, fresh=True)
    assert (tmp_path / "work" / "mine").is_dir()


def test_a_second_driver_is_kept_out(place, case):
    out = place / "shared"
    out.mkdir()
    lock = FolderLock(out / ".lock")
    with pytest.raises(UsageError, match="is locked by pid"):
        run(settings(place), case.damaged, out)
    lock.release()


def test_a_stored_recipe_is_judged_without_a_search(few, place, case, monkeypatch):
    monkeypatch.setattr(finding, "discover", refuse)
    config = settings(place, steering={"recipe": few.out / "recipe.json"}, draws=2)
    judged = run(config, case.damaged, place / "judged")
    assert judged.summary.overall == few.summary.overall
    assert not (judged.out / "search.parquet").exists()


def test_stored_edits_are_judged_like_a_recipe(few, place, case):
    edits = save_edits(place / "edits", [Scale(f"blocks.{LAYER}.mixer_out", 1 / DAMAGE, channels=CHANNELS)])
    judged = run(settings(place, steering={"edits": edits}, draws=2), case.damaged, place / "of_edits")
    assert judged.summary.overall == few.summary.overall and judged.summary.verdict == few.summary.verdict


def test_the_words_of_a_prompt_are_a_control(place, case):
    result = run(settings(place, controls=["prompt"]), case.damaged, place / "words")
    asked = {(r["question_id"], r["condition"]): r for r in items(result)}
    texts = {r["prompt_digest"]: r["text"] for r in read_table(result.out / "prompts.parquet").to_pylist()}
    for (question, condition), row in asked.items():
        if condition == "control_prompt_0":
            plain = asked[question, "unsteered"]
            assert row["n_prompt_tokens"] > plain["n_prompt_tokens"] and row["operator"] is None
            header = texts[row["prompt_digest"]].removesuffix(texts[plain["prompt_digest"]])
            assert header.count("\nA: ") == 2, "two questions of the development side with their answers"


def test_worked_examples_without_room_before_the_longest_prompt_are_no_control_and_say_why(place, case):
    plan = prepare(settings(place), case.damaged)
    header, reason = plan.shown()
    assert header == plan.examples() and reason == ""
    longest = max(len(plan.prompts[q.id].tokens) for q in plan.test)
    short = prepare(settings(place, max_prompt_tokens=longest), case.damaged)
    header, reason = short.shown()
    assert header == "" and f"the budget is {longest}" in reason and not short.refused


def test_a_header_is_read_before_every_prompt_and_moves_the_evidence(place, case):
    header = place / "header.txt"
    header.write_text("Answer with a name.\n")
    plain, with_header = (prepare(settings(place, header=h), case.damaged) for h in (None, header))
    for name, prompt in with_header.prompts.items():
        assert prompt.text == header.read_text() + plain.prompts[name].text
        pieces = [prompt.text[a:b] for a, b in prompt.evidence]
        assert pieces == [plain.prompts[name].text[a:b] for a, b in plain.prompts[name].evidence]
    header.write_text(" ")
    with pytest.raises(InputError, match="the header is empty"):
        prepare(settings(place, header=header), case.damaged)


def test_strength_one_costs_nothing_and_differs_in_nothing(place, case, monkeypatch):
    asked = []
    real = answers.generate

    def counting(model, prompts, **more):
        asked.append(len(prompts))
        return real(model, prompts, **more)

    monkeypatch.setattr(answers, "generate", counting)
    scaled(case.damaged, CHANNELS, 1.0, LAYER).save(place / "nothing.json")
    same = run(settings(place, steering={"recipe": place / "nothing.json"}), case.damaged, place / "identity")
    assert sum(asked) == sum(where == "test" for where in sides(case).values()), "every question is asked once"
    assert same.recipe.is_identity
    for difference in same.summary.overall.em.differences.values():
        assert (difference.mean, difference.p) == (0.0, 1.0) and difference.low == -difference.high < 0
    assert same.summary.price.nll.differences["steered-unsteered"].mean == 0.0
    assert not same.summary.verdict.supported
    predictions = {(r["question_id"], r["family"]): r["prediction"] for r in items(same) if r["split"] == "test"}
    assert all(predictions[q, "steered"] == predictions[q, "unsteered"] for q, _ in predictions)


def test_questions_that_cannot_be_asked_are_rows_with_a_status(place, case):
    wrong = [
        dataclasses.replace(case.questions[0], id="long", prompt="word " * 5000),
        dataclasses.replace(case.questions[0], id="mute", answers=()),
        dataclasses.replace(case.questions[0], id="blank", prompt="  "),
        dataclasses.replace(case.questions[0], id="odd", metric="bleu"),
    ]
    path = place / "wrong.parquet"
    pq.write_table(to_table([*case.questions, *wrong]), path)
    config = settings(place, questions=path, draws=1)
    result = run(config, case.damaged, place / "wrong")
    rows = [r for r in items(result) if r["question_id"] in {w.id for w in wrong}]
    expected = {"long": "too_long", "mute": "bad_input", "blank": "bad_input", "odd": "bad_input"}
    assert {r["question_id"]: r["status"] for r in rows} == expected
    assert all(r["em"] is None and r["prediction"] is None and r["reason"] for r in rows)
    for row in (r for r in rows if r["split"] == "test"):
        assert {r["condition"] for r in rows if r["question_id"] == row["question_id"]} == {
            "unsteered", "steered", "control_random_0",
        }  # fmt: skip
    tested = {r["question_id"] for r in rows if r["split"] == "test"}
    assert result.summary.bad_test_rows == 3 * len(tested) and 0 < result.bad_share < 1
    assert result.summary.overall.em.conditions["steered"].n == result.summary.overall.n - len(tested)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steering": {"layers": [3]}}, UsageError, "layer 3 does not exist; .* layers 0 to 2"),
        ({"steering": {"sites": ["mixer_ot"]}}, UsageError, "mixer_ot"),
        ({"steering": {"budget": 10}}, UsageError, "the smallest search at .* reads [0-9]+ tokens, the budget is 10"),
        ({"steering": {"variant": "mamba:sorce"}}, UsageError, "may stand behind the colon is source"),
        ({"steering": {"variant": "mamba2"}}, UsageError, "steers mamba2 models and .* is a mamba model"),
        ({"controls": ["rnd"]}, UsageError, "there is no control 'rnd'"),
        ({"mode": "both", "questions": None}, UsageError, "name it with --questions"),
        ({"mode": "prompts"}, UsageError, "would ignore --questions"),
        ({"limit": 1}, InputError, "fell on the (development|test) side"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused_before_anything_runs(place, case, change, error, message):
    with pytest.raises(error, match=message):
        prepare(settings(place, **change), case.damaged)


def test_one_id_for_two_questions_is_refused(place, case):
    path = place / "twice.parquet"
    pq.write_table(to_table([*case.questions, case.questions[3]]), path)
    with pytest.raises(InputError, match=f"the first is '{case.questions[3].id}'"):
        prepare(settings(place, questions=path), case.damaged)


def test_both_kinds_of_questions_are_summarised_apart(place, case):
    other = [dataclasses.replace(q, id=f"other-{q.id}", dataset="other", prompt=None) for q in case.questions[:12]]
    path = place / "other.parquet"
    pq.write_table(to_table(other), path)
    config = settings(place, mode="both", per_level=2, questions=path, draws=1)
    result = run(config, case.damaged, place / "both")
    assert [g.name for g in result.summary.datasets] == ["facts", "other"]
    assert sum(g.n for g in result.summary.datasets) == result.summary.overall.n


def test_doses_are_judged_beside_the_recipe_and_change_nothing_else(few, place, case):
    without = few
    result = run(settings(place, doses=[0.5, -0.25, 50.0], draws=2), case.damaged, place / "doses")
    assert result.summary.overall == without.summary.overall and result.summary.price == without.summary.price
    assert without.summary.dose_response == []
    curves = {curve.name: curve for curve in result.summary.dose_response}
    shares = {name: [point.strength for point in curve.points] for name, curve in curves.items()}
    assert shares == {"recipe above": [0.5, 1.0], "recipe below": [-0.25]}  # x 50 is more than a factor may be
    whole = curves["recipe above"].points[-1]
    assert whole.gain.mean == result.summary.overall.em.differences["steered-unsteered"].mean
    assert whole.norm == pytest.approx(2 * curves["recipe above"].points[0].norm, rel=0.01)
    table = next(line for line in result_words(result) if isinstance(line, Table) and "ships" in line.columns)
    assert len(table.rows) == 3


@pytest.mark.slow
@pytest.mark.ray
def test_one_process_and_one_or_two_actors_give_the_same_tables(few, place, case, ray_workers):
    names = ("items.parquet", "price.parquet", "summary.json")
    for actors in (1, 2):
        out = place / f"ray{actors}"
        result = run(settings(place, draws=2), case.damaged, out, session=ray_workers(actors))
        assert {n: (result.out / n).read_bytes() == (few.out / n).read_bytes() for n in names} == dict.fromkeys(
            names, True
        )


def test_prompts_that_begin_alike_stand_together_and_long_ones_come_first(place, case):
    plan = prepare(settings(place, likelihood=False), case.damaged)
    asked = plan.test[:6]
    context, other = list(range(40)), list(range(50, 90))
    tokens = [context + [1], other + [1, 2], [7] * 41, context + [1, 2, 3], other, context]
    plan = dataclasses.replace(
        plan, prompts={q.id: Prompt(t, "ok") for q, t in zip(asked, tokens, strict=True)}, refused={}
    )
    order = [item["tokens"] for item in plan.items(asked, "test", [Condition("unsteered", "unsteered")])]
    assert order == [tokens[3], tokens[0], tokens[5], tokens[1], tokens[4], tokens[2]]
