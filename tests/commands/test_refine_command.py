"""`mplat refine` from the command line: what it writes and says, and how it refuses."""

from __future__ import annotations

import json

import pytest
from mplat.commands import main
from planted_models import talking

TEXTS = ["Bekdok lives in Kanbak.", "The boss of Zusnen is Fulgal. " * 8, "Kanbak is a place. Nothing else is known."]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two small models and a corpus in two files."""
    folder = tmp_path_factory.mktemp("refine")
    talking("mamba").save(folder / "small")
    talking("mamba", seed=4).save(folder / "large")
    for name, texts in (("a.jsonl", TEXTS[:1]), ("b.jsonl", TEXTS[1:])):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture
def run(place, capfd):
    def call(*words, files=("a.jsonl", "b.jsonl"), reference="small", teacher="large"):
        named = []
        for role, model in (("--reference", reference), ("--teacher", teacher)):
            named += [role, str(place / model)] if model else []
        code = main(["refine", *(str(place / file) for file in files), *named, "--address", "none", *words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_it_says_what_it_kept_and_writes_it(run, tmp_path):
    code, out, err = run("--chunk", "24", "--keep", "0.25", "--out", str(tmp_path / "run"), "--json")
    assert code == 0, err
    said, manifest = json.loads(out), json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert said["sets"] == manifest["sets"] and said["threshold"] == manifest["threshold"]
    counts = said["sets"]["all"]
    assert counts["documents"] == 3 and counts["kept_chunks"] == -(-counts["chunks"] // 4)
    assert manifest["data"]["files"] == ["a.jsonl", "b.jsonl"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"kept.jsonl.zst", "scores.parquet", "manifest.json", "run.json", "work"}


def test_a_dry_run_says_what_it_costs_and_writes_nothing(run, tmp_path):
    code, out, _ = run("--dry-run", "--json", "--out", str(tmp_path / "run"))
    said = json.loads(out)
    assert code == 0 and said["chunks"] == 3 and said["score_per"] == "token"
    assert said["cost"]["seconds"] > 0 and "one batch of 3 chunks was read by the reference in" in said["cost"]["how"]
    assert not (tmp_path / "run").exists()


def test_two_models_that_are_one_are_said(run, tmp_path):
    code, _, err = run("--out", str(tmp_path / "run"), teacher="small")
    assert code == 0 and "reference and teacher are the same model: every score is 0" in err


def test_a_teacher_that_knows_less_is_said(run, tmp_path):
    told = [run("--out", str(tmp_path / f"{a}-{b}"), reference=a, teacher=b)[2]
            for a, b in (("small", "large"), ("large", "small"))]  # fmt: skip
    assert sum("predicts these texts no better than the reference" in err for err in told) == 1


@pytest.mark.parametrize(("words", "change", "code", "said"), [
    (["--keep", "0"], {}, 2, "--keep 0"),
    (["--keep", "1.5"], {}, 2, "--keep 1.5"),
    (["--chunk", "0"], {}, 2, "--chunk 0"),
    ([], {"reference": None}, 2, "no reference is named; give --reference M"),
    ([], {"teacher": None}, 2, "no teacher is named; give --teacher M"),
    ([], {"files": ["a.jsonl", "a.jsonl"]}, 2, "two of the files have the same name, 'a.jsonl'"),
    ([], {"files": ["absent.jsonl"]}, 3, "absent.jsonl: there is no such file"),
    ([], {"files": ["empty.jsonl"]}, 3, "empty.jsonl: the file is empty"),
    ([], {"files": ["blank.jsonl"]}, 3, "1 of 1 records are no documents"),
    ([], {"teacher": "dumb"}, 3, "dumb has no tokenizer for the texts; name one with --teacher-tokenizer"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(run, place, tmp_path, words, change, code, said):
    (place / "empty.jsonl").write_text("")
    (place / "blank.jsonl").write_text('{"text": ""}\n')
    dumb = talking("mamba")
    dumb.tokenizer = None
    dumb.save(place / "dumb")
    found, out, err = run("--out", str(tmp_path / "run"), *words, **change)
    assert (found, out) == (code, "") and said in err, err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_can_be_named(run, place, tmp_path):
    dumb = talking("mamba")
    dumb.tokenizer = None
    dumb.save(place / "dumb")
    code, _, err = run("--out", str(tmp_path / "run"), "--reference-tokenizer", "tiny-mamba", reference="dumb")
    assert code == 0, err


def test_chunks_without_a_score_end_with_exit_1_and_the_whole_result(run, tmp_path, monkeypatch):
    def fails(model, documents, *args, **kwargs):
        return [float("nan")] * len(documents)

    monkeypatch.setattr("mplat.models.decoding.scored_texts.log_likelihoods", fails)
    code, out, err = run("--out", str(tmp_path / "run"), "--json")
    assert code == 1 and "3 of 3 chunks have no score, more than the --fail-over 0.01 allows" in err
    assert json.loads(out)["sets"]["all"]["kept_chunks"] == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["threshold"] is None
