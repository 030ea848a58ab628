"""A mistake is told in one sentence that names what was typed: the option, not the key behind it; the file as given."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - writes the file that has to be refused
import shutil
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from interp_jobs import reader
from mplat.commands import main
from mplat.core.errors import InputError
from mplat.core.whole_files import read_table
from mplat.datasets import facts
from mplat.datasets.records import to_table
from mplat.interp import Cache
from mplat.models import load
from planted_models import talking

MODELS = {"interp": "nano", "eval": "talking"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    reader().save(folder / "nano")
    talking("mamba").save(folder / "talking")
    return folder


@pytest.fixture
def said(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`said(2, "eval", ...)`: the sentence with which the command ends, and that it leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))

    def call(code: int, *words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        model = ["--model", str(models / MODELS[words[0]])] if words[0] in MODELS and "ls" not in words[1] else []
        assert main([*words, *model]) == code
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert sorted(tmp_path.rglob("*")) == before
        return error.removeprefix("error: ").rstrip()

    return call


@pytest.mark.parametrize("command", ["eval", "interp"])
@pytest.mark.parametrize("count", ["0", "-3"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=" ".join)
def test_there_is_at_least_one_actor(said, command, count, more) -> None:
    told = said(2, command, "--actors", count, *more)
    assert told == f"--actors {count}: give at least 1 worker, or leave it out for as many as fit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--limit", "0"], "--limit 0: input should be greater than or equal to 1"),
        (["eval", "--draws", "0"], "--draws 0: input should be greater than or equal to 1"),
        (["eval", "--fail-over", "7"], "--fail-over 7.0: input should be less than or equal to 1"),
        (["eval", "--fail-over", "nan"], "--fail-over nan: 'fail_over' must be a finite number, not nan"),
        (["eval", "--mode", "promts"], "--mode promts: input should be 'prompts', 'dataset' or 'both'"),
        (["eval", "--seed", "-1"], "--seed -1: input should be greater than or equal to 0"),
        (["interp", "--per-level", "0"], "--per-level 0: input should be greater than or equal to 1"),
        (["quickstart", "--seed", "-1"], "--seed -1: input should be greater than or equal to 0"),
        (["train", "--tokens", "0"], "--tokens 0: '0' is not a count of tokens; write it as 10M, 250k, 1B or a whole "
         "number"),
        (["train", "--set", "tokens=0"], "--set tokens=0: tokens=0: 0 is not a count of tokens; write it as 10M, 250k, "
         "1B or a whole number"),
        (["train", "--tokens", "1M", "--set", "steps=3"], "configuration: give steps or tokens, not both"),
        (["train", "--set", "foo"], "--set foo: write KEY=VALUE, with dots between nested keys, such as "
         'model.arch="mamba2"'),
        (["eval", "--set", "foo"], "--set foo: write KEY=VALUE, with dots between nested keys, such as "
         "steering.parts=1"),
        (["train", "--data", "fact"], "--data 'fact': neither a file nor a source of data; did you mean 'facts'? "
         "valid: answered, facts, modular_addition, text, tokens"),
    ],
)  # fmt: skip
def test_an_option_is_called_by_its_name(said, words, message) -> None:
    assert said(2, *words) == message


def test_the_key_that_set_suggests_exists(said) -> None:
    for command in ("train", "eval", "interp", "quickstart"):
        example = said(2, command, "--set", "foo").rsplit(" ", 1)[1]
        assert "unknown key" not in said(2, command, "--set", example, "--set", "foo")


@pytest.mark.parametrize(
    "words",
    [
        ["prompts", "--out"], ["classify", "--out"], ["classify", "--data-dir"], ["eval", "--out"], ["train", "--out"],
        ["eval", "--questions"], ["eval", "--recipe"], ["interp", "--questions"], ["interp", "--cache"],
        ["quickstart", "--config"], ["report", "--out"], ["cache ls", "--cache"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_path_is_not_this_folder(said, words) -> None:
    told = said(2, *words[0].split(), words[1], "")
    assert f"mplat {words[0]}`: invalid value for '{words[1]}': the path is empty; see " in told


def test_an_address_is_no_folder(said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = said(2, "train", "--out", "s3://bucket/run")
    assert "'--out': s3://bucket/run is an address, not a path; mount the storage and name the folder; see " in told
    assert not list(tmp_path.iterdir())


def test_an_empty_model_is_not_this_folder(said) -> None:
    assert said(2, "sites", "").startswith("the name of the model is empty; valid: tiny-")


def test_the_users_own_file_is_not_to_be_deleted(said, tmp_path) -> None:
    good, cut, absent = (tmp_path / name for name in ("good.parquet", "cut.parquet", "absent.parquet"))
    pq.write_table(to_table(facts.prompts(per_level=1)), good)
    cut.write_bytes(good.read_bytes()[:-20])
    for command in ("eval", "interp"):
        for path, what in ((cut, "not a whole Parquet file ("), (absent, "there is no such file")):
            told = said(3, command, "--questions", str(path))
            assert told.startswith(f"{path}: {what}")
            assert "; a file of prompts is .txt with one prompt a line, or .jsonl" in told
            assert "delete" not in told


def test_a_damaged_cached_file_is_either_set_aside_or_to_be_deleted(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match="; delete it and run the step that makes it again$"):
        read_table(path)
    with pytest.raises(InputError, match=r"not a whole Parquet file \([^;]*\)$"):
        read_table(path, advice="")


def test_a_damaged_cached_result_is_set_aside_without_other_advice(said, models, tmp_path, capsys) -> None:
    words = [
        "interp",
        "--model",
        str(models / "nano"),
        "--steps",
        "attribution",
        "--per-level",
        "1",
        "--address",
        "none",
    ]
    assert main([*words, "-q"]) == 0
    (entry,) = Cache(tmp_path / "cache").entries("attribution")
    (entry.folder / entry.parts[0].file).write_bytes(b"x")
    capsys.readouterr()
    assert main([*words, "-q"]) == 0
    warned = capsys.readouterr().err
    assert "will be computed again" in warned and "delete" not in warned
    (entry,) = Cache(tmp_path / "cache").entries("attribution")
    (entry.folder / entry.parts[0].file).write_bytes(b"x")
    assert main(["cache", "verify"]) == 1
    told = capsys.readouterr()
    assert "what needs them will compute them again" in told.err and "delete" not in told.out + told.err


def test_a_folder_in_the_place_of_a_model_file(models, tmp_path) -> None:
    shutil.copytree(models / "nano", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "model.safetensors").mkdir()
    with pytest.raises(InputError, match=r"model.safetensors: is a folder, and should be a file"):
        load(tmp_path / "m")


def test_a_tokenizer_without_content(models, tmp_path) -> None:
    shutil.copytree(models / "nano", tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: is not a tokenizer \(it has no '\w+'\); copy it again"):
        load(tmp_path / "m")


def test_a_pickle_is_refused_in_one_sentence(models, tmp_path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / "nano", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": json.JSONDecoder}))
    with warnings.catch_warnings(), pytest.raises(InputError, match="holds more than tensors and could run code"):
        warnings.simplefilter("error")
        load(folder)


def test_a_cache_that_is_a_file_or_not_there(said, tmp_path) -> None:
    (tmp_path / "file").touch()
    file, absent = str(tmp_path / "file"), str(tmp_path / "absent")
    for words in (["cache", "ls"], ["cache", "verify"], ["cache", "why", "attribution"], ["interp", "--dry-run"]):
        assert said(2, *words, "--cache", file) == f"--cache {file}: is a file; a cache is a folder, name one"
    for words in (["cache", "ls"], ["cache", "verify"]):
        assert said(2, *words, "--cache", absent) == (
            f"--cache {absent}: there is no such folder; `mplat interp --cache` makes one"
        )


def test_the_default_cache_need_not_be_there(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "cache"))
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out == f"nothing is cached in {tmp_path / 'cache'}\n"


def test_a_misspelt_second_word(said) -> None:
    assert said(2, "interp", "lss") == "`mplat interp lss` is no command; did you mean 'interp ls'? valid: interp ls"


def test_a_configuration_with_the_other_ending(said, tmp_path) -> None:
    (tmp_path / "run.yaml").touch()
    told = said(2, "eval", "--config", str(tmp_path / "run.yml"))
    assert told == (
        f"cannot read the configuration {tmp_path / 'run.yml'}: No such file or directory; did you mean "
        f"{tmp_path / 'run.yaml'}?"
    )
    assert said(2, "train", str(tmp_path / "rum.yaml")).endswith(f"did you mean {tmp_path / 'run.yaml'}?")
    assert "did you mean" not in said(2, "train", str(tmp_path / "absent" / "run.yaml"))


def test_doses_are_what_was_typed(models, tmp_path, capsys) -> None:
    words = ["--model", str(models / "talking"), "--strength", "0.5,2,-0.5", "--per-level", "6", "--dry-run", "--json"]
    assert main(["eval", *words, "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["doses"] == [0.5, 2.0, -0.5]
