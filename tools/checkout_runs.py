"""What is run in a checkout to compare it with another: small runs of the commands, and the files they read.

Every command has its own folder, which it is started in, so that all paths in results are relative and the same
everywhere. Data are made here, in the formats of SQuAD v1.1, HotpotQA and The Pile, and prompts of one's own; real
records are read too where there are any. Between them the runs read every shipped model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

DATA, REAL_DATA = INPUTS = "data", "real_data"  # folders beside the results
PEOPLE = ("Zakdor", "Sisgat", "Bemgon", "Purmel", "Senvil", "Tarlok")
PLACES = ("Nornik", "Karfen", "Kanbak", "Norvun", "Fulgal", "Dersom")


class Place(NamedTuple):
    """Where the work of a run is done."""

    name: str
    address: tuple[str, ...]
    workers: tuple[str, ...]  # for commands that let these be chosen


IN_PROCESS = Place("none", ("--address", "none"), ())
ON_WORKERS = Place("2 workers", ("--address", "local"), ("--actors", "2"))


class Subject(NamedTuple):
    """What the runs depend on: the steps of the checkout before, and whether there are real records."""

    steps: tuple[str, ...]
    real_data: bool


Runs = Callable[[Subject], Iterator[str]]
"""The runs of a command, each as its words after `cli.py`, in the order they are started in."""

_EVAL = "--limit 24 --draws 2 --max-new-tokens 4 --set price_texts_per_level=1 --set resamples=500"


def _prompts(_: Subject) -> Iterator[str]:
    yield "prompts --per-level 6 --out prompts.parquet"
    yield "prompts --per-level 4 --controls all --out controls.parquet"
    yield "prompts --per-level 2 --distances 0,64 --shots 1 --out distances.parquet"


def _classify(subject: Subject) -> Iterator[str]:
    yield f"classify --data-dir {DATA} --datasets squad,hotpotqa --out made.parquet"
    yield f"classify --data-dir {DATA} --datasets squad --rule-set source --per-category 3 --out by_source.parquet"
    if subject.real_data:
        yield f"classify --data-dir {REAL_DATA} --datasets all --per-dataset 40 --per-category 20 --out real.parquet"


def _eval(_: Subject) -> Iterator[str]:
    search = "--strength 0.5,2 --layers 0,1"
    yield f"eval --model tiny-mamba --per-level 6 {search} {_EVAL} --out generated"
    yield f"eval --model tiny-hyena --questions {DATA}/prompts.jsonl {search} {_EVAL} --out own"
    yield f"classify --data-dir {DATA} --datasets squad,hotpotqa --out questions.parquet --address none"
    yield (
        "eval --model tiny-mamba --recipe generated/recipe.json --questions questions.parquet --mode both --per-level 4"
        f" {_EVAL} --out judged"
    )


def _interp(subject: Subject) -> Iterator[str]:
    steps = ",".join(subject.steps)
    yield f"interp --model tiny-mamba --steps {steps} --per-level 1 --out mamba"
    yield f"interp --model tiny-striped-hyena --steps {steps} --per-level 1 --out striped_hyena"
    of_recurrences = ",".join(step for step in subject.steps if step in {"eigenvalues", "selection_clusters"})
    for model in ("mamba2", "stable-mamba"):
        yield f"interp --model tiny-{model} --steps {of_recurrences} --per-level 1 --out {model.replace('-', '_')}"


def _trace(_: Subject) -> Iterator[str]:
    few = "--samples 2 --set pictures=0 --set resamples=200"
    yield f"trace --model tiny-mamba --facts {DATA}/prompts.jsonl --all --judged predicted --limit 3 {few} --out own"
    yield f"trace --model tiny-mamba2 --facts generated --limit 2 --layers 1,2 {few} --out generated"


def _perplexity(_: Subject) -> Iterator[str]:
    yield f"perplexity {DATA}/pile.jsonl --model tiny-dense-mamba --window 64 --set resamples=200 --out carried"
    yield f"perplexity {DATA}/pile.jsonl --model tiny-moe-mamba --method harness --set resamples=200 --out harness"


def _quickstart(_: Subject) -> Iterator[str]:
    yield (
        'quickstart --set models=["tiny-mamba2"] --set per_level=6 --set classify.per_level=4 --set steering.draws=2'
        " --set steering.development_limit=12 --set steering.price_limit=4 --out quickstart"
    )


COMMANDS: dict[str, Runs] = {
    "prompts": _prompts,
    "classify": _classify,
    "perplexity": _perplexity,
    "eval": _eval,
    "interp": _interp,
    "trace": _trace,
    "quickstart": _quickstart,
}
_IN_PROCESS_ONLY = {"prompts"}  # has no --address
_NO_ACTORS = {"quickstart"}  # has no --actors: as many workers as there are processors


def argument_lists(command: str, subject: Subject, place: Place) -> list[list[str]]:
    """The runs of `command` at `place`, each as the arguments of cli.py; none where the place changes nothing."""
    if command in _IN_PROCESS_ONLY and place is not IN_PROCESS:
        return []
    runs = [run.split() for run in COMMANDS[command](subject)]
    return [words if _is_placed(words) else words + _options(words[0], place) for words in runs]


def _is_placed(words: list[str]) -> bool:
    return "--address" in words or words[0] in _IN_PROCESS_ONLY


def _options(command: str, place: Place) -> list[str]:
    return [*place.address, *(() if command in _NO_ACTORS else place.workers)]


def write_inputs(folder: Path, real_data: Path | None) -> None:
    """Write what the runs read below `folder`, and link real records into it."""
    data = folder / DATA
    data.mkdir(parents=True)
    _write(data / "squad.json", {"version": "1.1", "data": [{"title": "Made up", "paragraphs": list(_paragraphs())}]})
    _write(data / "hotpotqa.json", list(_hotpotqa_records()))
    _write_lines(data / "prompts.jsonl", list(_own_prompts()))
    _write_lines(data / "pile.jsonl", list(_documents()))
    if real_data is not None:
        (folder / REAL_DATA).symlink_to(real_data)


def _paragraphs() -> Iterator[dict[str, object]]:
    """SQuAD v1.1: one-sentence evidence among 1 to 6 sentences."""
    for i, (person, place) in enumerate(zip(PEOPLE, PLACES, strict=True)):
        others = [
            f"{PEOPLE[(i + k) % 6]} once went from {PLACES[(i + 2 * k) % 6]} to the sea." for k in range(1, i + 1)
        ]
        context = " ".join([*others, f"{person} lives in the town of {place}."])
        answer = {"text": place, "answer_start": context.rindex(place)}
        question = {"id": f"town-{i}", "question": f"Where does {person} live?", "answers": [answer]}
        yield {"context": context, "qas": [question]}


def _hotpotqa_records() -> Iterator[dict[str, object]]:
    """HotpotQA: two hops over two of three paragraphs."""
    for i, person in enumerate(PEOPLE):
        friend, place = PEOPLE[(i + 1) % 6], PLACES[(i + 1) % 6]
        context = [
            [person, [f"{person} has a friend named {friend}.", " They met at school."]],
            [friend, [f"{friend} lives in {place}.", f" {friend} owns a boat."]],
            [PLACES[i], [f"{PLACES[i]} is a town by the sea."]],
        ]
        yield {
            "_id": f"friend-{i}",
            "question": f"Where does the friend of {person} live?",
            "answer": place,
            "type": "bridge",
            "level": "easy",
            "supporting_facts": [[person, 0], [friend, 0]],
            "context": context,
        }


def _own_prompts() -> Iterator[dict[str, object]]:
    for i, (person, place) in enumerate(zip(PEOPLE, PLACES, strict=True)):
        for k, end in enumerate((f"{person} lives in", f"Q: Where does {person} live?\nA:")):
            fact = f"{person} lives in {place}."
            yield {
                "prompt": f"{fact} {PEOPLE[i - 1]} lives in {PLACES[i - 1]}.\n{end}",
                "answers": [place],
                "category": "stated" if k == 0 else "asked",
                "group": person,
                "evidence": [fact],
                "subject": person,
                "id": f"{person}-{k}",
            }


def _documents() -> Iterator[dict[str, object]]:
    """The Pile: two sets, one document longer than a window, one of other letters."""
    long = " ".join(f"{person} knows {place}." for person in PEOPLE for place in PLACES)
    for i, text in enumerate(["Zakdor lives in Nornik.", long, "Oslo, Århus \u2028 and 東京.", "A has B. " * 9]):
        yield {"text": text, "meta": {"pile_set_name": ("Wikipedia (en)", "FreeLaw")[i % 2]}}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
