"""What every registered set of factual prompts promises, tried on its own sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mplat.core.errors import InputError
from mplat.datasets.factual import FactualPrompt, names, read_factual
from mplat.datasets.factual.factual_set import get
from mplat.datasets.factual.reading import owner


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def file(name: str, tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in get(name).sample))
    return path


def test_it_says_what_it_is_and_no_other_set_takes_its_files(name: str, file: Path) -> None:
    chosen = get(name)
    assert chosen.name == name and chosen.title and chosen.licence and chosen.expects
    assert owner(file) is chosen
    for other in set(names()) - {name}:
        with pytest.raises(InputError, match=f"not a {get(other).title} file"):
            read_factual(other, file)


def test_its_records_are_prompts_of_its_name_or_counted(name: str, file: Path) -> None:
    reading = read_factual(name, file)
    assert reading.prompts and set(reading.bad) <= get(name).tolerated
    assert len({prompt.id for prompt in reading.prompts}) == len(reading.prompts)
    for prompt in reading.prompts:
        assert prompt.dataset == name and prompt.licence == get(name).licence
        assert not prompt.prompt.endswith(" ") and not prompt.answer.startswith(" "), "the space is the answer's"
        assert FactualPrompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt
    assert read_factual(name, file.parent) == reading


def test_what_is_no_record_is_counted_or_refused_never_dropped(name: str, file: Path) -> None:
    sound = read_factual(name, file)
    first = get(name).sample[0]
    for junk in ({}, [], None, 3, {key: None for key in first}):
        file.write_text("".join(json.dumps(value) + "\n" for value in [*get(name).sample, junk]))
        reading = read_factual(name, file, fail_over=1.0)
        assert reading.prompts == sound.prompts and reading.records == sound.records + 1
        assert sum(reading.bad.values()) > sum(sound.bad.values()), junk
