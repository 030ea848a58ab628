"""Finding a data set's files by what is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import pytest
from mplat.core.errors import InputError, UsageError
from mplat.datasets.data_set import DATA_SETS, DataSet, dataset, get, names
from mplat.datasets.reading import read
from mplat.datasets.sources.finding import data_files, find

SQUAD_ROW = {
    "id": "s1",
    "title": "T",
    "context": "Rome is old.",
    "question": "What is old?",
    "answers": {"text": ["Rome"], "answer_start": [0]},
}
SQUAD_NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "Rome is old.",
                    "qas": [{"id": "n1", "question": "What?", "answers": [{"text": "Rome", "answer_start": 0}]}],
                }
            ],
        }
    ],
}
HOTPOT = {
    "_id": "h1",
    "question": "?",
    "answer": "Rome",
    "supporting_facts": [["A", 0]],
    "context": [["A", ["Rome."]]],
}
TRIVIA = {"Data": [{"QuestionId": "t1", "Question": "?", "Answer": {"NormalizedAliases": ["rome"]}}], "Split": "dev"}
OPEN = {"id": "test_1", "question": "?", "golden_answers": ["Rome"]}


def store(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three data sets under names that say nothing, and other files around them."""
    store(tmp_path / "b" / "one.jsonl", SQUAD_ROW)
    store(tmp_path / "a" / "deep" / "er" / "two.json", SQUAD_NESTED)
    store(tmp_path / "c" / "three.jsonl", HOTPOT)
    store(tmp_path / "four.json", TRIVIA)
    store(tmp_path / "five.jsonl", OPEN)
    store(tmp_path / "evidence.jsonl", {"Filename": "a.txt", "text": "Rome"})
    store(tmp_path / "musique.jsonl", {"id": "2hop__1", "paragraphs": [], "question": "?", "answer": "x"})
    store(tmp_path / ".hidden" / "six.jsonl", SQUAD_ROW)
    (tmp_path / "README.md").write_text("not data")
    return tmp_path


def found(folder: Path, name: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find([name], folder)[name].files]


def test_files_are_told_by_their_content_and_come_in_the_order_of_their_paths(folder: Path) -> None:
    assert found(folder, "squad") == ["a/deep/er/two.json", "b/one.jsonl"]
    assert found(folder, "hotpotqa") == ["c/three.jsonl"]
    assert found(folder, "triviaqa") == ["five.jsonl", "four.json"]


def test_all_data_sets_are_found_in_one_look(folder: Path) -> None:
    together = find(["squad", "hotpotqa", "triviaqa"], folder)
    assert {name: len(entry.files) for name, entry in together.items()} == {"squad": 2, "hotpotqa": 1, "triviaqa": 2}


def test_version_two_of_squad_is_left_out_with_a_note(folder: Path) -> None:
    store(folder / "v2.json", {**SQUAD_NESTED, "version": "v2.0"})
    store(folder / "squad_v2" / "all_answerable.jsonl", SQUAD_ROW)
    store(folder / "flat.jsonl", {**SQUAD_ROW, "is_impossible": True, "answers": {"text": [], "answer_start": []}})
    entry = find(["squad"], folder)["squad"]
    assert len(entry.files) == 2
    assert [note.split(":")[0] for note in entry.notes] == ["flat.jsonl", "squad_v2/all_answerable.jsonl", "v2.json"]
    assert all("SQuAD v2" in note for note in entry.notes)


def test_open_domain_files_under_another_data_sets_name_are_left_out(folder: Path) -> None:
    store(folder / "nq" / "test.jsonl", OPEN)
    store(folder / "natural-questions.jsonl", OPEN)
    store(folder / "nq_and_triviaqa" / "test.jsonl", OPEN)
    entry = find(["triviaqa"], folder)["triviaqa"]
    assert [path.name for path in entry.files] == ["five.jsonl", "four.json", "test.jsonl"]
    assert len(entry.notes) == 2


BOOLQ = [
    {"question": "is rome old", "passage": "Rome is old.", "answer": True},
    {"question": "is rome old", "title": "Rome", "answer": True, "passage": "Rome is old."},
    {"question": "is rome old", "passage": "Rome is old.", "idx": 0, "label": 1},
]
OTHERS = [
    {"question": "what is old", "passage": "Rome is old.", "answer": ["Rome"], "id": 1},  # open answers, with a passage
    {
        "question_id": "q1",
        "question": "what is old",
        "answer": {"text": "Rome", "start": 0},
    },  # an answer object of others
    {"article": "Rome is old.", "question": "what is old", "options": ["Rome", "Oslo"], "answer": "A"},  # RACE
]


@pytest.mark.parametrize("row", BOOLQ + OTHERS)
def test_rows_of_unknown_data_sets_are_no_ones(tmp_path: Path, row: dict) -> None:
    store(tmp_path / "rows.jsonl", row)
    with pytest.raises(InputError, match="no file of a known data set among 1 data files"):
        find(names(), tmp_path, whatever_is_there=True)


class Yes(DataSet):
    """Whether a passage says so; recognised by as little as its author thought of."""

    title, expects, path_hint = "BoolQ", "rows of question, passage, answer", re.compile("boolq")

    def recognise(self, sample: Sequence[Any], path: PurePath) -> str | None:
        return "rows" if isinstance(sample[0], dict) and {"question", "passage", "answer"} <= sample[0].keys() else None

    question = row = None  # type: ignore[assignment]


@pytest.fixture
def yes(monkeypatch: pytest.MonkeyPatch) -> type[DataSet]:
    """Registered for one test."""
    monkeypatch.setattr(DATA_SETS, "_entries", dict(DATA_SETS._entries))
    made = type("Yes", (Yes,), {"__abstractmethods__": frozenset()})
    return dataset("yes")(made)


def test_a_file_that_two_data_sets_claim_is_an_error_that_names_both(tmp_path: Path, yes: type[DataSet]) -> None:
    store(tmp_path / "boolq.jsonl", BOOLQ[0])
    assert found(tmp_path, "yes") == ["boolq.jsonl"]
    both = {"query_id": "d1", "passage": "Rome is old.", "question": "?", "answer": {"spans": ["Rome"]}}
    file = store(tmp_path / "deep" / "rows.jsonl", both)
    for wanted in (["drop"], ["yes"], ["yes", "drop"], names()):
        with pytest.raises(InputError, match=r"deep/rows\.jsonl: has the form of DROP \(drop\) and BoolQ \(yes\)"):
            find(wanted, tmp_path, whatever_is_there=True)
    with pytest.raises(InputError, match="has the form of DROP"):
        find(["drop", "yes"], file)
    assert find(["drop"], file)["drop"].files == (file,), "a file alone, and whose it is, leaves nothing open"
    store(tmp_path / "squad.jsonl", SQUAD_ROW)
    assert found(tmp_path, "squad") == ["squad.jsonl"], "two claims on a file that nobody asked for are no matter"


def test_what_is_a_special_case_of_another_keeps_its_files(tmp_path: Path, yes: type[DataSet]) -> None:
    yes.special_case_of = ("drop",)
    store(tmp_path / "rows.jsonl", {"query_id": "d1", "passage": "Rome.", "question": "?", "answer": {"spans": ["a"]}})
    assert found(tmp_path, "yes") == ["rows.jsonl"]
    with pytest.raises(InputError, match="no DROP file"):
        find(["drop"], tmp_path)


def test_a_damaged_file_is_an_error_only_where_its_name_claims_the_data_set(folder: Path) -> None:
    (folder / "broken.json.gz").write_bytes(b"not gzip")
    entry = find(["squad"], folder)["squad"]
    assert len(entry.files) == 2 and "not gzip data" in entry.notes[0]
    (folder / "squad_v1").mkdir()
    (folder / "squad_v1" / "train.json").write_bytes(b"")
    with pytest.raises(InputError, match=r"squad_v1/train\.json: the file is empty"):
        find(["squad"], folder)
    assert find(["hotpotqa"], folder)["hotpotqa"].files


def test_a_data_set_without_files_is_an_error_that_says_what_was_looked_for(folder: Path) -> None:
    (folder / "c" / "three.jsonl").unlink()
    with pytest.raises(InputError, match="no HotpotQA file among 6 data files; expected records of _id"):
        find(["squad", "hotpotqa"], folder)
    with pytest.raises(InputError, match="there is no such folder"):
        find(["squad"], folder / "nowhere")
    (folder / "void").mkdir()
    with pytest.raises(InputError, match="among 0 data files"):
        find(["squad"], folder / "void")


def test_a_file_may_stand_for_the_folder(folder: Path) -> None:
    assert find(["squad"], folder / "b" / "one.jsonl")["squad"].files == (folder / "b" / "one.jsonl",)
    (folder / "empty.json").write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        find(["squad"], folder / "empty.json")


def test_a_record_longer_than_the_first_look_is_found(folder: Path) -> None:
    long = "Rome is old. " * 80_000
    rows = [{**SQUAD_ROW, "id": f"long{n}", "context": long} for n in range(2)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nested = json.loads(json.dumps(SQUAD_NESTED))
    nested["data"][0]["paragraphs"][0]["context"] = long
    store(folder / "long.json", nested)
    assert found(folder, "squad") == ["a/deep/er/two.json", "b/one.jsonl", "long.json", "long.jsonl"]


@pytest.mark.parametrize(("name", "value"), [("x.json", SQUAD_NESTED), ("x.jsonl", SQUAD_ROW), ("x.json", [HOTPOT])])
def test_a_file_that_ends_in_its_first_record_is_cut_off(tmp_path: Path, name: str, value: object) -> None:
    text = json.dumps(value)
    cut = text[: text.index("Rome") + 2]
    (tmp_path / name).write_text(cut)
    with pytest.raises(InputError, match=rf"{name}: cut off at byte {len(cut)} in the middle of"):
        find(["squad", "hotpotqa"], tmp_path / name)
    with pytest.raises(InputError, match=rf"no SQuAD.*left out: cannot be looked into.*{name}: cut off at byte"):
        find(["squad"], tmp_path)
    (tmp_path / name).rename(tmp_path / f"squad_{name}")
    with pytest.raises(InputError, match=rf"^\S*squad_{name}: cut off at byte"):
        find(["squad"], tmp_path)


@pytest.mark.parametrize("data", [[], [{"title": "T", "paragraphs": []}]])
def test_a_squad_file_without_a_paragraph_is_one_still(tmp_path: Path, data: list) -> None:
    store(tmp_path / "empty.json", {"version": "1.1", "data": data})
    assert found(tmp_path, "squad") == ["empty.json"]
    with pytest.raises(InputError, match=r"empty\.json: holds no question"):
        read("squad", tmp_path / "empty.json")
    store(tmp_path / "empty.json", {"version": "v2.0", "data": data})
    with pytest.raises(InputError, match="SQuAD v2"):
        find(["squad"], tmp_path)


def test_i13_links_that_leave_the_folder_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = store(tmp_path_factory.mktemp("outside") / "secret.jsonl", SQUAD_ROW)
    (folder / "link.jsonl").symlink_to(outside)
    with pytest.raises(InputError, match=r"link\.jsonl: is a symbolic link that leaves"):
        find(["squad"], folder)
    (folder / "link.jsonl").unlink()
    (folder / "linked_folder").symlink_to(outside.parent)
    with pytest.raises(InputError, match="linked_folder: is a symbolic link that leaves"):
        find(["squad"], folder)
    (folder / "linked_folder").unlink()
    (folder / "dangling.json").symlink_to(folder / "nothing.json")
    with pytest.raises(InputError, match="symbolic link to nothing"):
        find(["squad"], folder)


def test_links_inside_the_folder_and_a_linked_folder_itself_are_fine(folder: Path, tmp_path: Path) -> None:
    (folder / "again.jsonl").symlink_to(folder / "b" / "one.jsonl")
    assert [path.name for path in data_files(folder)].count("again.jsonl") == 0
    assert len(find(["squad"], folder)["squad"].files) == 2
    alias = tmp_path.parent / f"{tmp_path.name}_alias"
    alias.symlink_to(folder)
    assert len(find(["squad"], alias)["squad"].files) == 2


def test_data_sets_are_found_by_import_and_unknown_ones_are_suggested() -> None:
    assert {"squad", "hotpotqa", "triviaqa"} <= set(names())
    assert get("squad").metric == "squad_v1"
    with pytest.raises(UsageError, match="did you mean 'hotpotqa'"):
        get("hotpot_qa")


@pytest.mark.slow
def test_the_real_files_are_found_and_nothing_else(shared_data: Path) -> None:
    entry = find(["squad", "hotpotqa", "triviaqa"], shared_data)
    relative = {name: [p.relative_to(shared_data).as_posix() for p in e.files] for name, e in entry.items()}
    assert relative == {
        "squad": ["squad_v1/dev_part_a.json.gz", "squad_v1/train_part.json.gz"],
        "hotpotqa": ["hotpotqa/hotpot_distractor.jsonl.zst"],
        "triviaqa": [
            "triviaqa/official_rc_wikipedia-dev.json",
            "triviaqa/official_rc_wikipedia-train.json",
            "triviaqa/triviaqa_open.jsonl.zst",
        ],
    }
    assert all(note.startswith("squad_v2/") for note in entry["squad"].notes) and len(entry["squad"].notes) == 2
