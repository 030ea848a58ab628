"""`mplat steer show` and `mplat steer apply`: what they say of a stored recipe, and what they refuse."""

from __future__ import annotations

import io
import json

import pytest
from mplat.commands import main
from mplat.models import Scale, load, save_edits
from mplat.steering import Part, Recipe

MODEL = "tiny-mamba"
PROMPT = "Mira lives in Karfen. Question: Where does Mira live? Answer:"


@pytest.fixture
def run(capfd):
    """`run(...)` -> exit code, stdout, stderr of `mplat steer ...`."""

    def call(*words: object):
        code = main(["steer", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The file of a recipe that takes away what the first two mixers say."""
    part = Part("scale_channels", "mixer_out", (0, 1), 0.0)
    recipe = Recipe((part,), load(MODEL).digest, "silent", made_from={"questions": ["a", "b"]})
    return recipe.save(tmp_path_factory.mktemp("recipes") / "silent.json")


def at(file, positions):
    """The same recipe at other positions, beside it."""
    recipe = Recipe.load(file)
    part = Part("scale_channels", "mixer_out", (0, 1), 0.0, positions=positions)
    return Recipe((part,), recipe.model_digest).save(file.with_name(f"{positions}.json"))


def test_show_says_what_a_recipe_does_and_for_which_model(run, silent):
    code, out, err = run("show", silent)
    assert code == 0, err
    assert "scale_channels at mixer_out of layers 0, 1" in out and "strength 0" in out
    assert Recipe.load(silent).model_digest[:12] in out and "2 questions" in out and "it fits" not in out
    code, out, err = run("show", silent, "--model", MODEL, "--json")
    said = json.loads(out)
    assert code == 0 and said["digest"] == Recipe.load(silent).digest and said["fits"] == MODEL
    assert said["made_from"] == {"questions": ["a", "b"]} and len(said["does"]) == 1


def test_show_refuses_another_model_and_what_is_no_recipe(run, silent, tmp_path):
    code, out, err = run("show", silent, "--model", "tiny-mamba2")
    assert code == 3 and out == "" and "tiny-mamba2 in float32 has" in err and len(err.strip().splitlines()) == 1
    (tmp_path / "other.json").write_text("[]")
    assert run("show", tmp_path / "other.json")[0] == 3


def test_a_folder_of_edits_or_of_a_run_is_a_recipe_too(run, silent, tmp_path):
    save_edits(tmp_path / "edits", [Scale("blocks.0.mixer_out", 2.0, channels=[1])])
    code, _, err = run("show", tmp_path / "edits")
    assert code == 2 and "--model" in err
    code, out, _ = run("show", tmp_path / "edits", "--model", MODEL)
    assert code == 0 and "mixer_out of layer 0" in out
    (tmp_path / "run").mkdir()
    Recipe.load(silent).save(tmp_path / "run" / "recipe.json")
    assert json.loads(run("show", tmp_path / "run", "--json")[1])["digest"] == Recipe.load(silent).digest


def test_apply_answers_as_the_model_does_with_and_without_the_edits(run, silent):
    code, out, err = run("apply", silent, "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", 4, "--json")
    assert code == 0, err
    model = load(MODEL)
    plain = model.generate([PROMPT], 4)[0]
    with model.edit(*[Scale(f"blocks.{i}.mixer_out", 0.0) for i in (0, 1)]):
        steered = model.generate([PROMPT], 4)[0]
    assert plain != steered
    assert json.loads(out)["answers"] == [{"prompt": PROMPT, "unsteered": plain, "steered": steered}]
    code, out, _ = run("apply", at(silent, "prompt"), "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", 1)
    assert code == 0 and "unsteered" in out and PROMPT in out


def test_apply_reads_lines_up_to_an_empty_one(run, silent, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\nMira likes\n\nnever read\n"))
    code, out, _ = run("apply", silent, "--model", MODEL, "--max-new-tokens", 2, "--json")
    assert code == 0 and [row["prompt"] for row in json.loads(out)["answers"]] == [PROMPT, "Mira likes"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("apply", silent, "--model", MODEL)
    assert code == 2 and "no prompt" in err


def test_apply_refuses_positions_that_are_not_known(run, silent):
    code, out, err = run("apply", at(silent, "evidence"), "--model", MODEL, "--prompt", PROMPT)
    assert code == 3 and out == "" and "it is not known which tokens of the prompt are the evidence" in err
    assert run("apply", silent, "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", 0)[0] == 2
