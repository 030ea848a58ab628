"""Sets of factual prompts: every record becomes a prompt whose subject stands where it says, or is counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mplat.core.errors import InputError, UsageError
from mplat.datasets.data_set import BadRecord
from mplat.datasets.factual import FactualPrompt, read_factual
from mplat.datasets.factual.factual_set import get
from mplat.datasets.factual.pararel import usable_start
from mplat.datasets.factual.reading import owner
from mplat.interp.methods.facts_source import read_facts
from mplat.interp.methods.trace_config import TraceConfig

(KNOWN,) = get("known_1000").sample
NESTED, FLAT = get("counterfact").sample
FLAT = {**FLAT, "case_id": 3}
(RELATION,) = get("lre_relations").sample
FACTS, PATTERNS = get("pararel").sample[:2], get("pararel").sample[2:]


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_known_1000_prompts_may_be_longer_than_their_templates(tmp_path: Path) -> None:
    (prompt,) = read_factual("known_1000", write(tmp_path / "k.json", json.dumps([KNOWN]).encode())).prompts
    assert prompt == FactualPrompt(
        "7", "known_1000", "{Ab} 100% lies in the city of", "{Ab} 100%", (0, 9), "Rome", "P17", licence="MIT"
    )
    other = {**KNOWN, "template": "The city of {} is", "prompt": "In which city is {Ab} 100%? In"}
    (prompt,) = read_factual("known_1000", write(tmp_path / "k.json", json.dumps([other]).encode())).prompts
    assert prompt.prompt[slice(*prompt.subject_span)] == prompt.subject and prompt.subject_span == (17, 26)


def test_both_forms_of_counterfact_say_the_same(tmp_path: Path) -> None:
    (flat,) = read_factual("counterfact", write(tmp_path / "a.jsonl", lines(FLAT))).prompts
    (nested,) = read_factual("counterfact", write(tmp_path / "b.json", json.dumps([NESTED]).encode())).prompts
    assert (flat.prompt, flat.subject_span, flat.answer, flat.other_answer) == (
        "The home of Ann is in",
        (12, 15),
        "Rome",
        "Oslo",
    )
    assert (flat.paraphrases, flat.neighbours) == (("Ann lives in",), ("Bob lives in",))
    assert flat.relation == "" and nested.relation == "P19"
    assert {**flat.to_json(), "relation": ""} == {**nested.to_json(), "relation": ""}
    assert FactualPrompt.from_json(json.loads(json.dumps(nested.to_json()))) == nested


def test_a_subject_is_found_as_a_whole_word_first(tmp_path: Path) -> None:
    record = {**FLAT, "prompt": "Annals of Ann are in"}
    (prompt,) = read_factual("counterfact", write(tmp_path / "a.jsonl", lines(record))).prompts
    assert prompt.subject_span == (10, 13)


def test_a_relation_is_a_prompt_for_each_sample(tmp_path: Path) -> None:
    reading = read_factual("lre_relations", write(tmp_path / "r.jsonl", lines(RELATION)))
    ann, bob = reading.prompts
    assert (ann.id, ann.prompt, ann.answer, ann.relation) == ("home of/0", "Ann lives in", "Rome", "home of")
    assert bob.paraphrases == ("The home of Bob is", "Where does Bob live? In")
    assert reading.records == 1 and reading.bad == {}


def test_pararel_joins_facts_with_the_patterns_that_end_with_the_object(tmp_path: Path) -> None:
    write(tmp_path / "facts.jsonl.zst", zstandard.ZstdCompressor().compress(lines(*FACTS)))
    write(tmp_path / "patterns.jsonl", lines(*PATTERNS))
    write(tmp_path / "SOURCE.md", b"not data")
    reading = read_factual("pararel", tmp_path)
    (ann,) = reading.prompts
    assert (ann.prompt, ann.paraphrases, ann.answer) == ("Ann lives in", ("The home of Ann is",), "Rome")
    assert reading.bad == {"no_pattern": 1}  # relations without a pattern are told, and no damage
    assert [file.name for file in reading.files] == ["facts.jsonl.zst", "patterns.jsonl"]
    with pytest.raises(InputError, match="read both files"):
        read_factual("pararel", tmp_path / "facts.jsonl.zst")
    assert usable_start("[X], in [Y] .") == "[X], in" and usable_start("[Y] of [X]") is None
    with pytest.raises(BadRecord):
        usable_start("[X] and [X] in [Y]")


@pytest.mark.parametrize(
    ("name", "record", "told"),
    [
        ("known_1000", {**KNOWN, "subject": "Bonn"}, "subject_not_in_prompt"),
        ("known_1000", {**KNOWN, "attribute": " "}, "missing_field"),
        ("known_1000", {**KNOWN, "template": "it lies in"}, "bad_template"),
        ("known_1000", {**KNOWN, "prompt": 5}, "wrong_type"),
        ("counterfact", {**FLAT, "ground_truth": None}, "missing_field"),
        ("counterfact", {**NESTED, "requested_rewrite": {}}, "missing_field"),
        ("lre_relations", {**RELATION, "prompt_templates": ["lives in"]}, "bad_template"),
        ("lre_relations", {**RELATION, "samples": [{"subject": "Ann"}]}, "missing_field"),
        ("lre_relations", {**RELATION, "samples": "Ann"}, "wrong_type"),
        ("pararel", {**FACTS[0], "uuid": ""}, "missing_field"),
    ],
)
def test_a_record_that_is_wrong_is_named_with_its_place_and_reason(tmp_path: Path, name, record, told) -> None:
    good = {"known_1000": KNOWN, "counterfact": FLAT, "lre_relations": RELATION, "pararel": PATTERNS[1]}[name]
    path = write(tmp_path / "a.jsonl", lines(good, record))
    with pytest.raises(InputError, match=rf"a\.jsonl.*{told} .*the first: .*a\.jsonl, line 2.*{told}"):
        read_factual(name, path)


def test_few_bad_records_are_tolerated_and_counted(tmp_path: Path) -> None:
    records = [{**KNOWN, "known_id": i} for i in range(199)] + [{**KNOWN, "known_id": 199, "subject": "Bonn"}]
    path = write(tmp_path / "k.jsonl", lines(*records))
    reading = read_factual("known_1000", path)
    assert (len(reading.prompts), reading.records, reading.bad) == (199, 200, {"subject_not_in_prompt": 1})
    with pytest.raises(InputError, match="1 of 200"):
        read_factual("known_1000", path, fail_over=0.0)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = zstandard.ZstdCompressor().compress(lines(*[{**FLAT, "case_id": i} for i in range(2000)]))
    for data, name, told in [
        (lines(FLAT, FLAT), "a.jsonl", "the id '3' is there twice"),
        (whole[:-20], "a.jsonl.zst", "cut off"),
        (lines(FLAT)[:-20], "a.jsonl", "cut off"),
        (b"", "a.jsonl", "empty"),
        (lines(KNOWN), "a.jsonl", "not a CounterFact file; expected"),
        (lines(FLAT, FLAT).replace(b'"Rome"', b'"\xff"', 1), "a.jsonl", "invalid_utf8"),
    ]:
        with pytest.raises(InputError, match=told):
            read_factual("counterfact", write(tmp_path / name, data))
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="no such file"):
        read_factual("counterfact", tmp_path / "none.jsonl")
    write(tmp_path / "known.jsonl", lines(KNOWN))
    with pytest.raises(InputError, match=r"holds no CounterFact file, but known\.jsonl"):
        read_factual("counterfact", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'counterfact'"):
        read_factual("counterfacts", tmp_path)
    with pytest.raises(UsageError, match="from 0 to 1"):
        read_factual("counterfact", tmp_path, fail_over=3)
    with pytest.raises(InputError, match="not a factual prompt"):
        FactualPrompt.from_json({"id": "a"})


def test_a_file_that_two_sets_claim_is_an_error_that_names_both(tmp_path: Path) -> None:
    """In a folder, and where the set is to be told from the file; who names set and file has said it."""
    file = write(tmp_path / "a.jsonl", lines({**KNOWN, **FLAT}))
    asked = r"a\.jsonl: has the form of CounterFact \(counterfact\) and known_1000 \(known_1000\)"
    for call in (
        lambda: read_factual("known_1000", tmp_path),
        lambda: owner(file),
        lambda: read_facts(TraceConfig(model="tiny-mamba", facts=str(file))),
        lambda: read_facts(TraceConfig(model="tiny-mamba", facts="counterfact", data_dir=tmp_path)),
    ):
        with pytest.raises(InputError, match=asked):
            call()
    assert len(read_factual("counterfact", file).prompts) == 1


COUNTS = {
    "known_1000": ("known_1000.json", r"records: (\S+) facts", 0),
    "counterfact": ("counterfact_edit", r"records: (\S+) facts", 0),
    "pararel": ("trex_facts", r"records: (\S+) facts", 240),
}


@pytest.mark.parametrize("name", COUNTS)
def test_all_records_of_the_shared_files_are_read(shared_data: Path, name: str) -> None:
    """As many as SOURCE.md counts; 240 facts of ParaRel belong to two relations without a pattern."""
    file, counted, without = COUNTS[name]
    source = (shared_data / name / "SOURCE.md").read_text(encoding="utf-8")
    section = source.split(f"## {file}")[1]
    expected = int(re.search(counted, section)[1].replace(",", ""))  # type: ignore[index]
    reading = read_factual(name, shared_data / name)
    assert len(reading.prompts) + without == expected
    assert sum(reading.bad.values()) == without
    assert all(p.prompt[slice(*p.subject_span)] == p.subject and p.answer for p in reading.prompts)
    assert all(p.prompt == p.prompt.strip() for p in reading.prompts)


def test_all_relations_of_the_shared_file_are_read(shared_data: Path) -> None:
    reading = read_factual("lre_relations", shared_data / "lre_relations")
    assert reading.records == 40 == len({p.relation for p in reading.prompts})
    text = (
        zstandard.ZstdDecompressor()
        .decompressobj()
        .decompress((shared_data / "lre_relations" / "relations.jsonl.zst").read_bytes())
    )
    assert len(reading.prompts) == text.count(b'"subject":') == 3114
    assert reading.bad == {}
