"""Which files a worker reads to open a model, whatever its name consists of; and the copies have the same label."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from mplat.core.copies import placed, use_copies
from mplat.datasets.classify.token_counts import files_of as files_of_tokenizer
from mplat.datasets.classify.token_counts import open_counter
from mplat.models import load
from mplat.models.lending import files_of, label_of, loadable, open_model
from planted_models import talking


def named(name: str, tokenizer: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, tokenizer_name=tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "talking"
    talking("mamba").save(place)
    return place


def test_of_a_folder_a_checkpoint_a_recipe_and_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    step = tmp_path / "run" / "checkpoints" / "step-00000003"
    shutil.copytree(folder, step)
    (step / "optimizer.safetensors").write_bytes(b"large")
    (step / "deeper").mkdir()
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{}")
    of_folder = sorted(str(file) for file in folder.iterdir())
    assert files_of(named(str(folder))) == {str(folder): of_folder}
    checkpoint = f"{tmp_path / 'run'}@3"
    in_step = {checkpoint: [str(step / Path(file).name) for file in of_folder]}
    assert files_of(named(checkpoint)) == in_step
    assert files_of(named(f"{checkpoint}:{recipe}")) == in_step | {str(recipe): [str(recipe)]}
    tokenizer = str(folder / "tokenizer.json")
    assert files_of(named("tiny-mamba", tokenizer)) == {tokenizer: [tokenizer]}
    assert files_of(named("tiny-mamba")) == files_of(named("owner/of-the-hub")) == {}


def test_a_copy_opens_as_the_model_and_has_its_label(folder: Path, tmp_path: Path) -> None:
    model = load(str(folder))
    name = loadable(model)["model"]
    assert name is not None
    copy = tmp_path / "key" / folder.name
    copy.mkdir(parents=True)
    for file in files_of(model)[name]:
        shutil.copy(file, copy)
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    use_copies({name: str(copy)})
    try:
        assert open_model(name, model.digest).name == str(copy)
        assert label_of(placed(name)) == "talking"
    finally:
        use_copies({})
        hidden.rename(folder)


def test_of_a_tokenizer_that_questions_are_counted_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "tokenizer.json"
    assert files_of_tokenizer(str(folder)) == (str(folder), {str(folder): [str(file)]})
    assert files_of_tokenizer(str(file)) == (str(file), {str(file): [str(file)]})
    assert files_of_tokenizer("tiny") == ("tiny", {})
    monkeypatch.chdir(folder.parent)  # a worker may have another working folder
    assert files_of_tokenizer("talking") == (str(folder), {str(folder): [str(file)]})
    assert open_counter("talking").digest == open_counter(str(folder)).digest
