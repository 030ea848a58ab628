"""A recipe behind the name of a model: the same numbers as its edits, one digest, and one way to be opened anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import mplat
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interp_jobs import reader
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.interp.methods.parity import measure
from mplat.models import LanguageModel, lending, load
from mplat.models.changes import base_of, parted
from mplat.models.files.model_folders import resolve
from mplat.models.provenance import computation_key
from mplat.steering import Part, Recipe
from recipes import scaled

TEXT = "Zakdor lives in Nornik. Sisgat lives in Karfen.\nQ: Where does Sisgat live?\nA:"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model in `small`, with recipes for it beside it: `loud.json` and `still.json`, which changes nothing."""
    folder = tmp_path_factory.mktemp("home")
    reader().save(folder / "small")
    model = load(folder / "small")
    scaled(model, (0, 3), 4.0).save(folder / "loud.json")
    scaled(model, (0, 3), 1.0).save(folder / "still.json")
    return folder


@pytest.fixture(scope="module")
def plain(home: Path) -> LanguageModel:
    return load(home / "small")


def name(home: Path, recipe: str) -> str:
    return f"{home}/small:{home}/{recipe}"


@torch.no_grad()
def test_a_model_with_a_recipe_is_the_model_under_the_recipes_edits(home: Path, plain: LanguageModel) -> None:
    steered = mplat.load(name(home, "loud.json"))
    with plain.edit(*Recipe.load(home / "loud.json", plain).edits(plain)):
        expected, said = plain(TEXT), plain.generate([TEXT], 5)
    assert torch.equal(steered(TEXT), expected) and steered.generate([TEXT], 5) == said
    assert not torch.equal(steered(TEXT), plain(TEXT))
    again = load(name(home, "loud.json"))
    assert again.digest == steered.digest != plain.digest and steered.name == name(home, "loud.json")
    assert lending.label(steered) == "small:loud.json"


@torch.no_grad()
def test_a_recipe_that_changes_nothing_leaves_the_model_itself(home: Path, plain: LanguageModel) -> None:
    still = load(name(home, "still.json"))
    assert torch.equal(still(TEXT), plain(TEXT)) and still.digest == plain.digest and not still.edits


@torch.no_grad()
def test_a_worker_elsewhere_opens_the_same_model(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    steered = load("small:loud.json")
    how = lending.opens(steered)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lending, "_LENT", {})
    opened = lending.open_model(how["model"], how["model_digest"], dtype=how["dtype"])
    assert opened is not steered and torch.equal(opened(TEXT), steered(TEXT))
    with lending.lent(load(home / "small")):  # the model as it is, lent beside it, is not mistaken for it
        assert lending.open_model(how["model"], steered.digest).changes


@torch.no_grad()
def test_recipes_stack(home: Path, plain: LanguageModel, tmp_path: Path) -> None:
    steered = load(name(home, "loud.json"))
    scaled(steered, (1,), 0.5, 0).save(tmp_path / "more.json")
    both = load(f"{steered.name}:{tmp_path}/more.json")
    with steered.edit(*scaled(steered, (1,), 0.5, 0).edits(steered)):
        assert torch.equal(both(TEXT), steered(TEXT))
    assert base_of(both.name) == f"{home}/small" and lending.label(both) == "small:loud.json:more.json"
    with pytest.raises(InputError, match="was found on the model with digest"):
        load(f"{home}/small:{tmp_path}/more.json")


def test_results_are_keyed_by_the_recipe_and_by_the_code_that_carries_it_out(home: Path, plain: LanguageModel) -> None:
    here, there = computation_key(plain), computation_key(load(name(home, "loud.json")))
    assert here["model"] != there["model"]
    added = there["sources"].keys() - here["sources"].keys()
    assert {"mplat.steering.part", "mplat.steering.operators.scale_channels"} <= added


def test_a_steered_model_keeps_all_that_is_promised_of_a_model(home: Path) -> None:
    steered = load(name(home, "loud.json"))
    found = measure(steered, torch.tensor([steered.tokenizer.encode(TEXT)]))
    assert [one.problem for one in found if one.problem] == []
    assert not [one for one in found if one.check == "identity" and one.difference]


def test_a_folder_or_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader(seed=1).save("a:b")
    (tmp_path / "b").mkdir()
    assert parted("a:b") is None and load("a:b").digest == load(tmp_path / "a:b").digest and resolve("a:b").is_dir()
    (tmp_path / "r:1.json").write_text("{}")
    assert parted("x:r:1.json") == ("x", Path("r:1.json"))  # the first colon behind which something stands
    (tmp_path / "1.json").write_text("{}")
    assert parted("x:r:1.json") == ("x", Path("r:1.json")) and parted("x:y:1.json") == ("x:y", Path("1.json"))
    assert parted("C:\\models\\small") is None and parted("m@10:none.json") == ("m@10", Path("none.json"))


@given(st.text(alphabet="ab:/.@", max_size=12))
def test_a_name_is_parted_at_one_of_its_colons_or_not_at_all(text: str) -> None:
    found = parted(text)
    assert found is None or (found.base and f"{found.base}:" == text[: len(found.base) + 1])


def decoding(model: LanguageModel) -> Recipe:
    part = Part("scale_channels", "mixer_out", (0,), 2.0, channels=(1,), phase="decode")
    return Recipe((part,), model.digest)


def of_rows(model: LanguageModel) -> Recipe:
    value = {"value": torch.ones(2, 1, 24)}
    return Recipe(
        (Part("stored_edit", "mixer_out", (0,), 1.0, tensors=value, options={"kind": "replace"}),), model.digest
    )


WRONG = {
    "of another model": (lambda model: scaled("f" * 64), "was found on the model with digest ffffffffffff"),
    "at the question": (lambda model: scaled(model, positions="question"), "part 0 .* acts at positions 'question'"),
    "at the last token": (lambda model: scaled(model, positions="last"), "at all positions in both phases"),
    "at numbered tokens": (lambda model: scaled(model, positions=(0,)), "acts at positions 'numbered tokens'"),
    "while decoding": (decoding, "acts in the phase 'decode'"),
    "of single rows": (of_rows, "acts at some tokens of some texts"),
    "at a channel there is not": (lambda model: scaled(model, (999,)), "channel 999"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_recipe_that_is_no_part_of_a_model_is_refused(what: str, plain: LanguageModel, home: Path, tmp_path) -> None:
    make, message = WRONG[what]
    path = make(plain).save(tmp_path / "recipe.json")
    with pytest.raises(InputError, match=message):
        load(f"{home}/small:{path}")
    if what in {"at the question", "while decoding"}:
        Recipe.load(path).everywhere().save(path)
        assert load(f"{home}/small:{path}").changes  # as the message advises


def test_wrong_names_and_uses_end_with_one_sentence(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        load(f"{home}/small:{home}/absent.json")
    with pytest.raises(InputError, match="no model 'nothing'"):
        load(f"nothing:{home}/loud.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load(f"{home}/small:{tmp_path}/broken.json")
    with pytest.raises(InputError, match="a model with a recipe, which no folder holds"):
        resolve(name(home, "loud.json"))
    with pytest.raises(UsageError, match="would lose what stands behind the colon"):
        load(name(home, "loud.json")).save(tmp_path / "out")


def test_commands_take_it_where_they_take_a_model(home: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(home)
    shared = ["--per-level", "1", "--address", "none", "--cache", str(tmp_path / "cache"), "--json"]

    def run(*words: str, code: int = 0) -> dict:
        assert main([*words, *shared]) == code
        return json.loads(capsys.readouterr().out)

    three = ["small", "small:loud.json", "small:still.json"]
    rows = run("compare", *three, "--steps", "model_overview")["results"]["model_overview"][""]
    assert [row["model"] for row in rows] == three
    assert rows[0]["logprob"] == rows[2]["logprob"] != rows[1]["logprob"]
    plans = [run("interp", "--model", model, "--steps", "attribution", "--dry-run")["steps"][0] for model in three]
    assert plans[0]["key"] == plans[2]["key"] != plans[1]["key"]
    refused = run("interp", "--model", "small:absent.json", "--dry-run", code=3)
    assert "absent.json: cannot be read" in refused["error"]["message"]
