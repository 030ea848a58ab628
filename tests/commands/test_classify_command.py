"""`mplat classify`: the table, the files, and how it ends when the data cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from mplat.commands import main
from mplat.core.whole_files import read_table
from mplat.datasets.records import from_table


def document(version: str = "1.1") -> dict:
    context = "Rome is old. Milan is not."
    qas = [
        {"id": f"s{n}", "question": "What is old?", "answers": [{"text": "Rome", "answer_start": 0}]} for n in range(6)
    ]
    long = context + " It rains." * 9
    paragraphs = [{"context": context, "qas": qas[:4]}, {"context": long, "qas": qas[4:]}]
    return {"version": version, "data": [{"title": "T", "paragraphs": paragraphs}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "squad_v1").mkdir(parents=True)
    (folder / "squad_v1" / "dev.json.gz").write_bytes(gzip.compress(json.dumps(document()).encode()))
    trivia = [{"id": f"t{n}", "question": "Who?", "golden_answers": ["Puck"]} for n in range(3)]
    (folder / "trivia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trivia))
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["classify", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


TABLE = """\
rule set evidence, seed 0: questions by data set, and the sample

category       level  squad  triviaqa  ambiguous  taken
simple_recall      1      4         0          0      3
two_hop            2      0         0          0      0
three_hop          3      0         0          0      0
long_context       4      0         0          0      0
combined           5      0         0          0      0
stress_test        6      2         0          0      2
query_dataset      -      0         3          0      3
all                -      6         3          0      8

short of      wanted  taken  why
two_hop            3      0  no question of the chosen data sets falls into it
three_hop          3      0  no question of the chosen data sets falls into it
long_context       3      0  no question of the chosen data sets falls into it
combined           3      0  no question of the chosen data sets falls into it
stress_test        3      2  there are only 2

8 questions; --out FILE.parquet keeps them
"""


def test_the_tables(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    words = ("--datasets", "squad,triviaqa", "--data-dir", str(data), "--per-category", "3")
    assert run(capsys, *words) == (0, TABLE, "")


def test_out_keeps_the_questions_and_the_summary(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "questions.parquet"
    words = ("--datasets", "all", "--data-dir", str(data), "--out", str(out), "--json")
    code, text, errors = run(capsys, *words)
    assert code == 3 and "no DROP file" in json.loads(text)["error"]["message"]
    words = ("--datasets", "squad,triviaqa", *words[2:])
    code, text, errors = run(capsys, *words)
    result = json.loads(text)
    assert (code, errors, result["questions"], result["out"]) == (0, "", 9, str(out))
    assert text.count("\n") == 1
    questions = from_table(read_table(out, result["table"]["sha256"]))
    assert [question.category for question in questions] == ["simple_recall"] * 4 + ["stress_test"] * 2 + [
        "query_dataset"
    ] * 3
    summary = json.loads((tmp_path / "runs" / "questions.summary.json").read_text())
    assert summary == {key: value for key, value in result.items() if key != "out"}
    before = out.read_bytes()
    assert run(capsys, *words)[0] == 0 and out.read_bytes() == before


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "q.parquet"
    words = ("--datasets", "squad", "--data-dir", str(data), "--out", str(out), "--dry-run")
    code, text, _ = run(capsys, *words)
    assert code == 0 and "6 questions" in text and not out.parent.exists()


def test_what_was_left_out_is_said_on_stderr(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    (data / "v2.json").write_text(json.dumps(document("v2.0")))
    with open(data / "trivia.jsonl", "a") as file:
        file.write("{broken\n")
    words = ("--datasets", "squad,triviaqa", "--data-dir", str(data), "--fail-over", "0.5")
    code, _, errors = run(capsys, *words)
    assert code == 0
    assert "squad: left out: v2.json: has SQuAD v2 records" in errors
    assert "warning: triviaqa: 1 of 4 records left out: broken_json 1" in errors


def test_a_wrong_tokenizer_ends_with_three_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, errors = run(capsys, "--data-dir", str(tmp_path / "nowhere"), "--tokenizer", "gpt-5")
    assert (code, out) == (3, "") and "tokenizer gpt-5: neither a folder here nor" in errors


def test_i4_duplicate_ids_follow_the_tolerance(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    with open(data / "trivia.jsonl", "a") as file:
        file.write(json.dumps({"id": "t0", "question": "Again?", "golden_answers": ["x"]}) + "\n")
    words = ("--datasets", "triviaqa", "--data-dir", str(data), "--json")
    code, text, _ = run(capsys, *words)
    assert code == 3 and "duplicate_id 1" in json.loads(text)["error"]["message"]
    code, text, errors = run(capsys, *words, "--fail-over", "0.25")
    assert code == 0 and json.loads(text)["datasets"]["triviaqa"]["bad"] == {"duplicate_id": 1}
    assert "1 of 4 records left out: duplicate_id 1" in errors


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_write_what_this_process_writes(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    files = []
    for where in (("none",), ("local", "--actors", "2")):
        out = tmp_path / where[0] / "q.parquet"
        words = ("--datasets", "squad,triviaqa", "--data-dir", str(data), "--out", str(out), "--address", *where)
        assert run(capsys, *words)[0] == 0
        files.append((out.read_bytes(), out.with_suffix(".summary.json").read_bytes()))
        assert sorted(path.name for path in out.parent.iterdir()) == ["q.parquet", "q.run.json", "q.summary.json"]
    assert files[0] == files[1]


def test_bad_data_ends_with_three(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    words = ("--datasets", "squad", "--data-dir", str(data))
    packed = (data / "squad_v1" / "dev.json.gz").read_bytes()
    (data / "squad_v1" / "dev.json.gz").write_bytes(packed[:-12])
    code, out, errors = run(capsys, *words)
    assert (code, out) == (3, "") and f"dev.json.gz: cut off at byte {len(packed) - 12}" in errors
    (data / "squad_v1" / "dev.json.gz").write_bytes(b"")
    assert run(capsys, *words)[0] == 3
    (data / "squad_v1" / "dev.json.gz").write_bytes(gzip.compress(json.dumps(document("v2.0")).encode()))
    code, _, errors = run(capsys, *words)
    assert code == 3 and "SQuAD v2" in errors
    code, _, errors = run(capsys, "--datasets", "squad", "--data-dir", str(data / "missing"))
    assert code == 3 and "there is no such folder" in errors
    with open(data / "trivia.jsonl", "a") as file:
        file.write(json.dumps({"id": "t0", "question": "Again?", "golden_answers": ["x"]}) + "\n")
    code, _, errors = run(capsys, "--datasets", "triviaqa", "--data-dir", str(data))
    assert code == 3 and "line 4: duplicate_id: 't0' is there already" in errors


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--datasets", "squad,trivaqa"), "unknown name 'trivaqa'; did you mean 'triviaqa'"),
        (("--datasets", "squad,,triviaqa"), "an entry is empty"),
        (("--rule-set", "sources"), "did you mean 'source'"),
        (("--per-category", "-1"), "--per-category -1"),
        (("--fail-over", "2"), "from 0 to 1"),
        (("--actors", "2", "--address", "none"), "2 actors need Ray"),
        (("--out", "questions.json"), "ends in .parquet"),
        (("--seed", "-1"), "--seed -1"),
    ],
)
def test_wrong_words_end_with_two(
    capsys: pytest.CaptureFixture[str], data: Path, words: tuple[str, ...], sentence: str
) -> None:
    code, out, errors = run(capsys, "--datasets", "squad,triviaqa", "--data-dir", str(data), *words)
    assert (code, out) == (2, "") and sentence in errors
