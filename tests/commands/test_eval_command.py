"""`mplat eval` from the command line: what it writes and says, and how it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from mplat.commands import main
from mplat.datasets import facts
from mplat.datasets.records import to_table
from mplat.models import LanguageModel, load
from planted_models import CHANNELS, LAYER, talking
from recipes import scaled
from safetensors.torch import load_file, save_file

ASKED = [
    "--address", "none", "--per-level", "3", "--draws", "1", "--max-new-tokens", "3", "--controls", "random",
    "--set", "price_limit=4", "--set", "resamples=200", "--set", "development_share=0.4",
]  # fmt: skip
FEW = [*ASKED, "--layers", "1,2", "--budget", "700000", "--set", "steering.sites=[mixer_out]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model that can be asked, and a cache of its own."""
    folder = tmp_path_factory.mktemp("eval_command")
    model = load(talking("mamba").save(folder / "model"))
    scaled(model, CHANNELS, 3.0, LAYER).save(folder / "given.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLAT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def run(place, capfd):
    """`run(...)` -> exit code, stdout, stderr of `mplat eval --model <the small one> ...`."""

    def call(*words, model: Path | str = place / "model"):
        code = main(["eval", "--model", str(model), *words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def given(place) -> list[str]:
    """What is asked, with a recipe in place of a search."""
    return [*ASKED, "--recipe", str(place / "given.json")]


@pytest.fixture(scope="module")
def first(place):
    """The folder of a finished run."""
    assert main(["eval", "--model", str(place / "model"), *FEW, "--quiet", "--out", str(place / "run")]) == 0
    return place / "run"


@pytest.mark.slow
def test_it_writes_the_run_and_says_what_came_out(first, run):
    assert {p.name for p in first.iterdir()} == {
        "run.json", "recipe.json", "search.parquet", "items.parquet", "prompts.parquet", "price.parquet",
        "summary.json", "work",
    }  # fmt: skip
    code, out, err = run(*FEW, "--out", str(first))
    assert code == 0
    summary = json.loads((first / "summary.json").read_text())
    assert summary["verdict"]["sentence"] in out
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[2:9]] == [
        ["1", "simple_recall"], ["2", "two_hop"], ["3", "three_hop"], ["4", "long_context"], ["5", "combined"],
        ["6", "stress_test"], ["-", "overall"],
    ]  # fmt: skip
    assert "search: gains of the channels of mixer_out in layers 1, 2; at most " in err
    assert "controls: random x 1" in err and "power: " in err


def test_the_same_command_again_makes_no_forward_pass(first, run, monkeypatch):
    before = {p.name: p.read_bytes() for p in first.iterdir() if p.is_file()}

    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(LanguageModel, "forward", refuse)
    code, out, err = run(*FEW, "--out", str(first), "--json")
    assert code == 0, err
    assert "answers are there from an earlier run" in err
    assert {p.name: p.read_bytes() for p in first.iterdir() if p.is_file()} == before
    values = json.loads(out)
    assert values["summary"] == {k: json.loads(before["summary.json"])[k] for k in values["summary"]}


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (["--draws", "2"], "draws"),
        (["--strength", "0.5"], "doses"),
        (["--seed", "1"], "seed, the questions"),
    ],
    ids=str,
)
def test_other_settings_in_the_same_folder_are_refused_and_destroy_nothing(first, run, words, differing):
    before = {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    for more in ([], ["--dry-run"]):
        code, out, err = run(*FEW, *words, "--out", str(first), *more)
        assert code == 2 and not out
        assert err.splitlines()[-1] == (
            f"error: --out {first} holds a run of `mplat eval` with another configuration (differs in {differing}); "
            "choose another --out, or start anew with --fresh, which deletes that run"
        )
    assert {p: p.read_bytes() for p in first.rglob("*") if p.is_file()} == before


def test_fresh_leaves_nothing_of_the_earlier_run(first, run, tmp_path):
    shutil.copytree(first, tmp_path / "run")
    words = [*ASKED, "--recipe", str(first / "recipe.json"), "--out"]
    assert run(*words, str(tmp_path / "run"), "--fresh")[0] == 0
    assert run(*words, str(tmp_path / "new"))[0] == 0

    def names(folder: Path) -> list[Path]:
        return sorted(p.relative_to(folder) for p in folder.rglob("*"))

    assert names(tmp_path / "run") == names(tmp_path / "new")


def test_a_dry_run_says_the_plan_and_writes_nothing(run, tmp_path):
    code, out, err = run(*FEW, "--out", str(tmp_path / "run"), "--dry-run", "--json")
    assert code == 0 and not list(tmp_path.iterdir())
    plan = json.loads(out)["plan"]
    assert plan["search"]["places"] == ["blocks.1.mixer_out", "blocks.2.mixer_out"]
    assert 0 < plan["search"]["tokens"] <= 700_000 and plan["controls"] == {"random": 1}
    assert plan["development"] + plan["test"] + plan["unused"] == 18


def test_the_variant_is_the_models_own_where_none_is_named(run, tmp_path):
    code, out, _ = run(*FEW, "--out", str(tmp_path / "run"), "--dry-run", "--json")
    assert code == 0 and json.loads(out)["plan"]["variant"] == "mamba"


def test_the_published_rule_is_planned_without_a_search(run, tmp_path):
    code, _, err = run("--steering", "mamba:source", "--per-level", "3", "--out", str(tmp_path / "run"), "--dry-run")
    assert code == 0 and "recipe: the published rule of mamba" in err and "search:" not in err


def test_what_the_published_rule_reads_is_in_the_plan(run, tmp_path, first):
    words = ["--per-level", "3", "--controls", "none", "--out", str(tmp_path / "run"), "--dry-run", "--json"]
    words += ["--set", "development_share=0.4"]
    of_rule = json.loads(run("--steering", "mamba:source", *words)[1])["plan"]
    of_recipe = json.loads(run("--recipe", str(first / "recipe.json"), *words)[1])["plan"]
    assert of_rule["tokens"] > of_recipe["tokens"] + 32 * of_rule["development"], "each of 32 channels is ablated"


def test_a_stored_recipe_is_judged(first, run, tmp_path):
    code, out, _ = run(*ASKED, "--recipe", str(first / "recipe.json"), "--out", str(tmp_path / "run"), "--json")
    assert code == 0
    assert json.loads(out)["recipe"] == json.loads((first / "recipe.json").read_text())


def test_questions_of_a_file(run, given, tmp_path):
    path = tmp_path / "questions.parquet"
    pq.write_table(to_table(facts.prompts(per_level=3, seed=9)), path)
    code, out, _ = run(*given, "--questions", str(path), "--limit", "12", "--out", str(tmp_path / "run"), "--json")
    assert code == 0
    split = json.loads((tmp_path / "run" / "summary.json").read_text())["split"]
    assert sum(sum(counts.values()) for counts in split.values()) == 12


def test_questions_without_an_answer_are_shown_as_guesses_and_judge_nothing(run, given, tmp_path):
    made = facts.prompts(per_level=3, seed=9, controls=["deleted", "absent_entity"])
    for name, questions in (("plain", made[:18]), ("made", made)):
        pq.write_table(to_table(questions), tmp_path / f"{name}.parquet")
        words = [*given, "--questions", str(tmp_path / f"{name}.parquet"), "--out", str(tmp_path / name)]
        code, out, err = run(*words)
        assert code == 0, err
        assert ("does not answer" in out) == (name == "made") == ("without an answer" in err)
    plain, with_controls = (json.loads((tmp_path / n / "summary.json").read_text()) for n in ("plain", "made"))
    assert all(plain[key] == with_controls[key] for key in ("overall", "levels", "verdict", "recipe", "price"))
    test = sum(plain["split"]["test"].values())
    assert {g["kind"]: g["n"] for g in with_controls["guesses"]} == {
        "all": test,
        "deleted": test,
        "absent_entity": test,
    }
    assert with_controls["split"]["unanswerable"] and not plain["guesses"]


def test_distances_are_groups_of_their_own_and_one_question(run, given, tmp_path):
    pq.write_table(to_table(facts.prompts(per_level=6, seed=9, distances=(0, 40))), tmp_path / "q.parquet")
    words = ["--questions", str(tmp_path / "q.parquet"), "--limit", "36", "--out", str(tmp_path / "run")]
    code, out, err = run(*given, *words)
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [g["name"] for g in summary["distances"]] == ["0", "40"] and "distance 40" in out
    assert {g["n"] for g in summary["distances"]} == {summary["overall"]["n"]}


def test_generated_prompts_twice_say_which_mode_to_use(run, tmp_path):
    pq.write_table(to_table(facts.prompts(per_level=3)), tmp_path / "q.parquet")
    code, _, err = run(*FEW, "--questions", str(tmp_path / "q.parquet"), "--mode", "both")
    assert code == 3 and "18 question ids occur more than once" in err and "--mode dataset" in err


def test_both_modes_ask_both(run, tmp_path):
    asked = [dataclasses.replace(q, id=f"own-{q.id}", dataset="own") for q in facts.prompts(per_level=2, seed=4)]
    pq.write_table(to_table(asked), tmp_path / "q.parquet")
    for mode, expected in (("dataset", 12), ("both", 30)):
        words = [
            "--questions",
            str(tmp_path / "q.parquet"),
            "--mode",
            mode,
            "--out",
            str(tmp_path / "run"),
            "--dry-run",
        ]
        code, out, err = run(*FEW, *words, "--json")
        plan = json.loads(out)["plan"]
        assert code == 0 and plan["development"] + plan["test"] + plan["unused"] == expected, err


def test_every_prompt_is_kept_once_by_its_digest(first):
    table = {row["prompt_digest"]: row for row in pq.read_table(first / "prompts.parquet").to_pylist()}
    items = pq.read_table(first / "items.parquet").to_pylist()
    asked = {q.id: q.prompt for q in facts.prompts(per_level=3)}
    assert {row["prompt_digest"] for row in items} == set(table)
    assert all(table[row["prompt_digest"]]["text"] == asked[row["question_id"]] for row in items)
    assert {row["template"] for row in table.values()} == {""}, "their prompts were ready-made"
    for row in table.values():
        ids = load("tiny-mamba2").tokenizer(row["text"])["input_ids"]
        digest = hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest()
        assert (len(ids), digest) == (row["n_tokens"], row["ids_digest"])
    assert all(table[row["prompt_digest"]]["ids_digest"] == row["ids_digest"] for row in items)


def test_f7_i7_too_many_rows_without_a_score_end_with_exit_1_and_the_whole_result(run, given, tmp_path):
    code, out, err = run(*given, "--set", "max_prompt_tokens=60", "--out", str(tmp_path / "run"))
    assert code == 1
    assert "more than the --fail-over 0.05 allows" in err and "too_long" in out
    assert (tmp_path / "run" / "items.parquet").exists()
    code, _, _ = run(
        *given, "--set", "max_prompt_tokens=60", "--out", str(tmp_path / "run"), "--fail-over", "1", "--quiet"
    )
    assert code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--steering", "mamba3"], 2, "no steering variant 'mamba3'; did you mean 'mamba'"),
        (["--steering", "mamba2"], 2, "steers mamba2 models"),
        (["--strength", "1,inf"], 2, "inf is out of range; allowed: -100 to 100"),
        (["--strength", "nan"], 2, "allowed: -100 to 100"),
        (["--strength", "1e9"], 2, "allowed: -100 to 100"),
        (["--budget", "10"], 2, "the smallest search"),
        (["--edits", "absent"], 3, "no stored edits"),
        (["--steering", "mamba:sorce"], 2, "may stand behind the colon is source"),
        (["--strength", "2,2"], 2, "given more than once"),
        (["--layers", "3"], 2, "there is no block 3; allowed: 0 to 2"),
        (["--layers", "1000000"], 2, "allowed: 0 to 2"),
        (["--layers", "-1"], 2, "allowed: 0 to 2"),
        (["--layers", "1,a"], 2, "'a' is not a block number"),
        (["--controls", "randm"], 2, "unknown name 'randm'; did you mean 'random'"),
        (["--mode", "datset"], 2, "mode"),
        (["--mode", "dataset"], 2, "--questions"),
        (["--set", "doses=[1.0, .inf]"], 2, "finite"),
        (["--set", "dosis=[1.0]"], 2, "doses"),
        (["--set", "steering.alpha=0"], 2, "greater than 0"),
        (["--per-level", "0"], 2, "--per-level 0: input should be greater than or equal to 1"),
        (["--questions", "absent.parquet"], 3, "absent.parquet"),
        (["--recipe", "absent.json"], 3, "absent.json"),
    ],
)
def test_i10_wrong_input_is_one_sentence_and_its_exit_code(run, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, out, err = run("--address", "none", *words)
    assert found == code, err
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert not out and not list(tmp_path.iterdir())


def test_i3_i15_files_that_hold_no_questions(run, tmp_path):
    empty, odd, cut = tmp_path / "empty.parquet", tmp_path / "odd.parquet", tmp_path / "cut.parquet"
    table = to_table(facts.prompts(per_level=1))
    pq.write_table(table.slice(0, 0), empty)
    pq.write_table(table.drop_columns(["answers", "metric"]), odd)
    pq.write_table(table, cut)
    cut.write_bytes(cut.read_bytes()[:-20])
    for path, message in ((empty, "holds no question"), (odd, "missing columns answers, metric"), (cut, "cut.parquet")):
        code, _, err = run("--address", "none", "--questions", str(path))
        assert code == 3 and message in err and err.count("\n") == 1, err


def test_a_model_with_nan_weights(place, run, tmp_path):
    shutil.copytree(place / "model", tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["backbone.norm_f.weight"][3] = torch.nan
    save_file(weights, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run("--address", "none", model=tmp_path / "nan")
    assert code == 3 and "backbone.norm_f.weight contains NaN" in err


def test_i9_a_recipe_of_another_model(first, run, tmp_path):
    other = talking("mamba", seed=4)
    other.save(tmp_path / "other")
    assert load(tmp_path / "other").digest != load(first.parent / "model").digest
    code, _, err = run("--address", "none", "--recipe", str(first / "recipe.json"), model=tmp_path / "other")
    assert code == 3 and "the recipe was found on the model with digest" in err


def test_a_recipe_of_the_same_model_in_another_dtype(first, run):
    code, _, err = run("--address", "none", "--recipe", str(first / "recipe.json"), "--dtype", "bfloat16")
    assert code == 3 and "in bfloat16 has" in err and "in this dtype" in err


def test_help_names_every_option(capfd):
    assert main(["eval", "--help"]) == 0
    shown = capfd.readouterr().out
    options = """--model --steering --questions --mode --per-level --strength --layers --recipe --edits
        --budget --header --controls --draws
        --max-new-tokens --batch-size --limit --address --actors --out --seed --fail-over --json --dry-run --fresh
        --config --set"""
    for option in options.split():
        assert f"{option} " in shown


def test_dtype_auto_says_what_it_took_and_bfloat16_reaches_the_workers(run, tmp_path):
    code, _, err = run(*FEW, "--dtype", "auto", "--dry-run", "--out", str(tmp_path / "auto"))
    assert code == 0 and "float32 (" in err  # nano is too narrow for bfloat16
    asked = [*ASKED, "--controls", "none", "--steering", "none"]
    assert run(*asked, "--dtype", "bfloat16", "--out", str(tmp_path / "half"))[0] == 0
    record = json.loads((tmp_path / "half" / "run.json").read_text())
    assert "bfloat16" in json.dumps(record)
    code, _, err = run(*FEW, "--dtype", "bfloat", "--out", str(tmp_path / "wrong"))
    assert code == 2 and "--dtype" in err
