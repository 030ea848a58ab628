"""Does a gain survive other words, longer contexts and other questions? Alternative question sets, and what they say.

A recipe that was found and judged on questions of one form may have learned the form. `paraphrased` and
`with_longer_contexts` ask the same test questions in another form; everything made from one question counts as one
with it (`Question.derived_from`), so that the gains can be compared question by question. `of_another_seed` asks
questions that nobody has seen.

- paraphrased: questions of the facts world in other sentence shapes (`datasets.facts.variations`), those of data
  sets under a plain prompt template in place of their own, ready-made prompts of the user not at all;
- with longer contexts: further facts about others, or further paragraphs of other questions, where the evidence stays
  among them. Contexts that do not fit the longest prompt are cut as always, what holds no evidence first.

Questions that have no such alternative are named with the reason. Pure functions: they ask nothing and write nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from ..core.errors import UsageError
from ..core.plain_text import with_interval
from ..datasets.prompting.templates import find, template_for
from ..datasets.records import Question
from ..scoring.statistics import Difference, Resampling
from .paired import mean_difference

OTHER_TEMPLATE = "facts"  # plain: "Q:" and "A:" around context and question, no instructions
SPLIT = "robust_"  # how the side of rows of alternatives begins
STREAM = "again"  # names the draw of other questions


@dataclass(frozen=True)
class Alternative:
    """A set of questions in place of others. kind: in words. without: id -> why there is none for this question.
    template: under which those are to be asked that bring no prompt; None: that of their data set."""

    kind: str
    questions: tuple[Question, ...]
    without: Mapping[str, str]
    template: str | None = None

    @property
    def split(self) -> str:
        """What its rows have in the column of the side."""
        return SPLIT + self.kind.replace(" ", "_")


class Robust(NamedTuple):
    """A gain in another form. gain: steered minus unsteered there; change: that minus the gain on the originals,
    question by question, with n = 0 where they are other questions. holds: its lower bound is above 0."""

    kind: str
    gain: Difference
    change: Difference
    holds: bool


def paraphrased(questions: Sequence[Question], *, seed: int) -> Alternative:
    """The questions in other words. seed: with which questions of the facts world were made. Raises UsageError for
    those that were made with another."""
    from ..datasets.facts.variations import reworded

    world, others, without = _sorted_out(questions)
    made = reworded(world, seed=seed)
    for question in others:
        if question.prompt is not None:
            without[question.id] = "a prompt of its own has no other words"
        elif template_for(question.dataset).digest == find(OTHER_TEMPLATE).digest:
            without[question.id] = "its data set is asked in plain words already"
        elif question.answerable is False:
            without[question.id] = "nothing answers it, and plain words do not say what to write then"
        else:
            made.append(_made_from(question, "reworded"))
    return Alternative("in other words", tuple(made), without, OTHER_TEMPLATE)


def with_longer_contexts(
    questions: Sequence[Question], *, seed: int, facts: int = 8, paragraphs: int = 2
) -> Alternative:
    """The questions with `facts` more facts (the facts world) or up to `paragraphs` more paragraphs (all others), which
    are those of other questions that do not hold the answer. seed: with which questions of the facts world were made,
    and of the choice. Raises UsageError as `paraphrased`, and for fewer than one of either."""
    from ..datasets.facts.variations import lengthened

    if paragraphs < 1:
        raise UsageError(f"a context is lengthened by at least one paragraph, not by {paragraphs}")
    world, others, without = _sorted_out(questions)
    made = lengthened(world, facts, seed=seed) if world else []
    for question in others:
        if question.prompt is not None:
            without[question.id] = "a prompt of its own has no context to add to"
            continue
        rng = Random(f"longer-{seed}-{question.id}")
        titles = {paragraph.sentences for paragraph in question.context}
        pool = [
            paragraph
            for other in others
            if other.origin != question.origin
            for paragraph in other.context
            if paragraph.sentences not in titles and not _names(paragraph.sentences, question.answers)
        ]
        distinct = list({paragraph.sentences: paragraph for paragraph in pool}.values())
        if not question.context or not distinct:
            without[question.id] = "it has no context" if not question.context else "no other question has a paragraph"
            continue
        chosen = rng.sample(distinct, min(paragraphs, len(distinct)))
        before = rng.randint(0, len(chosen))
        context = (*chosen[:before], *question.context, *chosen[before:])
        facts_at = tuple(dataclasses.replace(s, paragraph=s.paragraph + before) for s in question.supporting_facts)
        steps = tuple(
            dataclasses.replace(s, paragraph=None if s.paragraph is None else s.paragraph + before)
            for s in question.decomposition
        )
        made.append(
            _made_from(
                question,
                f"longer{len(chosen)}",
                context=context,
                supporting_facts=facts_at,
                decomposition=steps,
                answer_starts=(),
                context_words=None,
                context_tokens=None,
                evidence_distance=(),
                evidence_tokens=(),
            )  # fmt: skip
        )
    return Alternative("with longer contexts", tuple(made), without)


def of_another_seed(
    per_level: int, *, seed: int, besides: Iterable[Question] = (), decided_on: Collection[str] = ()
) -> Alternative:
    """Questions of the facts world, a draw of its own whatever the seed, without what is or belongs to what is in
    `besides`, the questions that something was decided on, and without those that are known by their digest alone
    (`decided_on`). Raises UsageError where a level has not so many."""
    from ..datasets import facts
    from ..datasets.prompting.asked_before import question_digest

    asked = list(besides)
    known = {*decided_on, *(question_digest(question) for question in asked)}
    groups = {q.group for q in asked if q.group}
    drawn = facts.prompts(per_level=per_level, seed=seed, split="eval", stream=STREAM)
    gone = {q.id: "it was asked before" for q in drawn if question_digest(q) in known}
    gone |= {q.id: "it is about what was asked about before" for q in drawn if q.id not in gone and q.group in groups}
    return Alternative("of another seed", tuple(q for q in drawn if q.id not in gone), gone)


def alternatives(
    test: Sequence[Question],
    development: Sequence[Question],
    *,
    seed: int,
    per_level: int | None,
    decided_on: Collection[str] = (),
) -> tuple[Alternative, ...]:
    """Every alternative of `test` that there is a question of. per_level: of another seed; None where questions of the
    facts world are not what is asked. decided_on: digests of what is asked in none. Raises UsageError as each of
    them."""
    found = [paraphrased(test, seed=seed), with_longer_contexts(test, seed=seed)]
    if per_level is not None:
        found.append(of_another_seed(per_level, seed=seed, besides=development, decided_on=decided_on))
    return tuple(alternative for alternative in found if alternative.questions)


def in_words(found: Sequence[Robust]) -> list[str]:
    """One sentence for each form."""
    lines = []
    for form in found:
        gain = with_interval(form.gain.mean, form.gain.low, form.gain.high, "+.3f", "+.3f")
        change = with_interval(form.change.mean, form.change.low, form.change.high, "+.3f", "+.3f")
        compared = f", {change} against the gain on the questions themselves" if form.change.n else ""
        holds = "holds" if form.holds else "does not hold"
        lines.append(f"questions {form.kind}: gain {gain} on {form.gain.n}{compared}: it {holds}")
    return lines


def compare(
    originals: Iterable[Mapping[str, Any]],
    alternatives: Mapping[str, Iterable[Mapping[str, Any]]],
    how: Resampling,
    *,
    steered: str = "steered",
    unsteered: str = "unsteered",
    metric: str = "em",
) -> list[Robust]:
    """The gain in every form. originals, alternatives (kind -> rows): of ITEM_SCHEMA, under both conditions."""
    groups: dict[str, str] = {}
    there = _gains(originals, steered, unsteered, metric, groups)
    found = []
    for kind, rows in alternatives.items():
        here = _gains(rows, steered, unsteered, metric, groups)
        gain = mean_difference(here, how, groups, scores=True)
        changes = {origin: here[origin] - there[origin] for origin in here if origin in there}
        change = mean_difference(changes, how, groups, scores=False)
        found.append(Robust(kind, gain, change, gain.low is not None and gain.low > 0))
    return found


def _gains(
    rows: Iterable[Mapping[str, Any]], steered: str, unsteered: str, metric: str, groups: dict[str, str]
) -> dict[str, float]:
    """Original question -> mean gain of what was made from it and answered under both conditions. groups: notes of each
    what it belongs to."""
    values: dict[str, dict[str, float]] = {steered: {}, unsteered: {}}
    origins: dict[str, str] = {}
    for row in rows:
        if row["condition"] in values and row["status"] == "ok" and not row["control"]:
            values[row["condition"]][row["question_id"]] = row[metric]
            origin = origins[row["question_id"]] = row["derived_from"] or row["question_id"]
            groups[origin] = row["group"] or origin
    gains: dict[str, list[float]] = {}
    for name, value in values[steered].items():
        if name in values[unsteered]:
            gains.setdefault(origins[name], []).append(value - values[unsteered][name])
    return {origin: sum(of) / len(of) for origin, of in gains.items()}


def _sorted_out(questions: Sequence[Question]) -> tuple[list[Question], list[Question], dict[str, str]]:
    """(of the facts world, others, id -> why neither)."""
    without = {q.id: "it has no answer" for q in questions if q.control}
    asked = [q for q in questions if not q.control]
    world = [q for q in asked if q.dataset == "facts" and q.prompt is not None and not q.derived_from]
    ids = {q.id for q in world}
    without |= {
        q.id: "it is no original question of the facts world" for q in asked if q.dataset == "facts" and q.id not in ids
    }
    return world, [q for q in asked if q.dataset != "facts"], without


def _made_from(question: Question, kind: str, **changes: Any) -> Question:
    return dataclasses.replace(
        question,
        id=f"{question.id}-{kind}",
        derived_from=question.derived_from or question.id,
        prompt_digest="",
        **changes,
    )


def _names(sentences: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether a text holds one of the answers, in whatever case."""
    text = " ".join(sentences).casefold()
    return any(answer.casefold() in text for answer in answers if answer)
