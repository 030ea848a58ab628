"""`mplat perplexity` from the command line: what it writes and says, and how it refuses."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import pytest
import zstandard
from mplat.commands import main
from mplat.datasets.readers.pile import read
from mplat.models import LanguageModel
from planted_models import talking

TEXTS = {
    "Wikipedia (en)": ["Bekdok lives in Kanbak.", "The boss of Zusnen\u2028is Fulgal. " * 20, "Oslo"],
    "FreeLaw": ["A has B.", "Kanbak is a place, and nothing else is known of it."],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model and a packed file of documents."""
    folder = tmp_path_factory.mktemp("perplexity")
    talking("mamba").save(folder / "model")
    records = [{"text": t, "meta": {"pile_set_name": name}} for name, texts in TEXTS.items() for t in texts]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "pile.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    return folder


@pytest.fixture
def run(place, capfd):
    def call(*words, data=place / "pile.jsonl.zst", model=place / "model"):
        named = ["--model", str(model)] if model else []
        code = main(["perplexity", str(data), *named, "--address", "none", "--set", "resamples=200", *words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def first(place):
    words = ["perplexity", str(place / "pile.jsonl.zst"), "--model", str(place / "model"), "--window", "16"]
    assert main([*words, "--address", "none", "--set", "resamples=200", "--quiet", "--out", str(place / "run")]) == 0
    return place / "run"


def test_the_table_has_every_set_and_all(first, run):
    code, out, err = run("--window", "16", "--out", str(first))
    assert code == 0, err
    rows = [line.split("  ")[0].strip() for line in out.splitlines()[2:5]]
    assert rows == ["FreeLaw", "Wikipedia (en)", "all"]
    assert "all 5 documents are there from an earlier run" in err


def test_the_numbers_are_those_of_the_rows(first):
    rows = pq.read_table(first / "documents.parquet").to_pylist()
    summary = json.loads((first / "summary.json").read_text())
    assert {p.name for p in first.iterdir()} == {"run.json", "summary.json", "documents.parquet", "work"}
    assert len(rows) == 5 and {row["status"] for row in rows} == {"ok"}
    for found in summary["sets"]:
        mine = [row for row in rows if found["set"] in (row["set_name"], "all")]
        nats, n_bytes = -sum(r["log_likelihood"] for r in mine), sum(r["n_bytes"] for r in mine)
        assert found["bits_per_byte"]["value"] == pytest.approx(nats / n_bytes / math.log(2))
        texts = [t for name, of_set in TEXTS.items() for t in of_set if found["set"] in (name, "all")]
        assert n_bytes == sum(len(text.encode()) for text in texts)


def test_the_same_command_again_makes_no_forward_pass_and_the_same_files(first, run, monkeypatch):
    before = {p.name: p.read_bytes() for p in first.iterdir() if p.is_file()}

    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(LanguageModel, "forward", refuse)
    assert run("--window", "16", "--out", str(first))[0] == 0
    assert {p.name: p.read_bytes() for p in first.iterdir() if p.is_file()} == before


def test_fresh_makes_the_same_files_again(first, run):
    before = {p.name: p.read_bytes() for p in first.iterdir() if p.suffix == ".parquet"}
    assert run("--window", "16", "--out", str(first), "--fresh")[0] == 0
    assert {p.name: p.read_bytes() for p in first.iterdir() if p.suffix == ".parquet"} == before


def test_the_window_does_not_matter_where_the_state_is_carried(first, run, tmp_path):
    code, out, _ = run("--out", str(tmp_path / "run"), "--json")
    assert code == 0
    before = json.loads((first / "summary.json").read_text())["sets"]
    for mine, theirs in zip(json.loads(out)["sets"], before, strict=True):
        assert mine["bits_per_byte"]["value"] == pytest.approx(theirs["bits_per_byte"]["value"], rel=1e-4)


def test_the_harness_method_goes_under_its_own_names(first, run, tmp_path):
    code, out, _ = run("--method", "harness", "--window", "16", "--overall", "--out", str(tmp_path / "run"), "--json")
    (found,) = json.loads(out)["sets"]
    assert code == 0 and found["set"] == "all" and "bits_per_byte" not in found
    carried = json.loads((first / "summary.json").read_text())["sets"][-1]
    assert found["pile_bits_per_byte"]["value"] != pytest.approx(carried["bits_per_byte"]["value"], rel=1e-4)


def test_a_dry_run_counts_the_documents_and_writes_nothing(run, tmp_path):
    code, out, _ = run("--dry-run", "--limit", "1", "--out", str(tmp_path / "run"), "--json")
    told = json.loads(out)
    assert code == 0 and not list(tmp_path.iterdir())
    assert {name: s["documents"] for name, s in told["data"]["sets"].items()} == {"FreeLaw": 2, "Wikipedia (en)": 3}


def test_other_settings_and_other_data_in_the_same_folder_are_refused(first, run, place, tmp_path):
    changed = {"method": ["--method", "harness"], "limit, the documents": ["--limit", "1"]}
    for differing, words in changed.items():
        code, _, err = run("--window", "16", *words, "--out", str(first))
        assert code == 2 and f"differs in {differing}" in err
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "x", "meta": {"pile_set_name": "FreeLaw"}}\n')
    code, _, err = run("--window", "16", "--out", str(first), data=other)
    assert code == 2 and "differs in the documents" in err


def test_bad_records_are_said_and_follow_the_tolerance(run, tmp_path):
    good = '{"text": "Bekdok", "meta": {"pile_set_name": "FreeLaw"}}\n'
    (tmp_path / "a.jsonl").write_text(good * 3 + '{"meta": {"pile_set_name": "FreeLaw"}}\n')
    code, _, err = run("--out", str(tmp_path / "run"), data=tmp_path / "a.jsonl")
    assert code == 3 and "1 of 4 records" in err and "--fail-over 0.25" in err and not (tmp_path / "run").exists()
    code, out, err = run("--fail-over", "0.25", "--out", str(tmp_path / "run"), "--json", data=tmp_path / "a.jsonl")
    assert code == 0 and "missing_field 1" in err
    assert json.loads(out)["data"]["bad"] == {"missing_field": 1}


def test_documents_without_a_value_end_with_exit_1_and_the_whole_result(run, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr("mplat.models.decoding.scored_texts.log_likelihoods", fails)
    code, out, err = run("--out", str(tmp_path / "run"))
    assert code == 1 and "5 of 5 documents have no value" in err and "all" in out
    assert {r["status"] for r in pq.read_table(tmp_path / "run" / "documents.parquet").to_pylist()} == {"scorer_error"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--limit", "0"], 2, "--limit 0"),
        (["--window", "0"], 2, "--window 0"),
        (["--method", "rolling"], 2, "--method rolling"),
        (["--set", "windw=3"], 2, "window"),
        (["--model", "tiny-mamab"], 3, "did you mean 'tiny-mamba'"),
    ],
)
def test_wrong_input_is_one_sentence_and_its_exit_code(run, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*words)
    assert found == code, err
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert not out and not list(tmp_path.iterdir())


def test_without_a_model_or_with_a_file_that_is_not_there(run, tmp_path):
    code, _, err = run(model=None)
    assert code == 2 and "no model is named" in err
    code, _, err = run(data=tmp_path / "absent.jsonl")
    assert code == 3 and "absent.jsonl: there is no such file" in err


def test_real_documents_are_measured(run, shared_data, tmp_path):
    short = [d for d in read(shared_data / "pile").documents if d.n_bytes < 900][:6]
    lines = (json.dumps({"text": d.text, "meta": {"pile_set_name": d.set_name}}) + "\n" for d in short)
    (tmp_path / "real.jsonl").write_text("".join(lines))
    words = ["--model", "tiny-mamba", "--out", str(tmp_path / "run"), "--json"]
    code, out, err = run(*words, data=tmp_path / "real.jsonl", model=None)
    assert code == 0, err
    everything = json.loads(out)["sets"][-1]
    assert everything["scored"] == 6 and everything["bytes"] == sum(d.n_bytes for d in short)
    assert 1 < everything["bits_per_byte"]["value"] < 40
