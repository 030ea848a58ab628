"""What steps look at: the items of each kind as they are given or as the configuration names them, in tokens.

Where nothing is named, questions and factual prompts are those of the facts world, or of a planted model its own; plain
texts have to be named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError, UsageError
from ...datasets.planted import planted_facts, planted_questions
from ...models.changes import base_of
from ...models.planted import is_planted
from ..methods.facts_source import GENERATED, GENERATED_PROMPTS, read_facts
from ..methods.prompts import encode_facts
from .encoded import Encoded
from .graph import all_steps
from .interp_config import INTERP, InterpConfig
from .lengths import Length
from .questions import encode
from .step import Kind, Step
from .texts import PlainText, encode_texts, read_texts

if TYPE_CHECKING:
    from ...datasets.factual import FactualPrompt
    from ...datasets.records import Question
    from ...models import LanguageModel


class Given(NamedTuple):
    """Items that were read before. encoded: in tokens already, instead of any other of their kind. notes: in words,
    what of files could not be used."""

    questions: Sequence[Question] | None = None
    facts: Sequence[FactualPrompt] | None = None
    texts: Sequence[PlainText] | None = None
    encoded: Mapping[Kind, Encoded] = {}
    notes: tuple[str, ...] = ()


def chosen_steps(config: InterpConfig, known: Mapping[str, Step] | None = None, others: int = 0) -> Sequence[str]:
    """The steps that are asked for. Where none is named, those that take questions, and with facts or texts named those
    that take these (others would take long, and look at prompts that nobody asked about); of steps that are given
    further models only those that take so many."""
    if config.steps is not None:
        return config.steps
    kinds = {"questions", *(kind for kind in ("facts", "texts") if getattr(config, kind) is not None)}
    steps = all_steps() if known is None else known
    return [n for n, step in steps.items() if step.items in kinds and (not step.others or step.takes(others))]


def read_missing(kinds: Collection[Kind], config: InterpConfig, given: Given) -> Given:
    """`given` with the items of these kinds that it lacks, read as `config` names them.

    Raises UsageError where texts are needed and none are named, InputError for files that cannot be used.
    """
    lacking = [kind for kind in kinds if getattr(given, kind) is None and kind not in given.encoded]
    base = base_of(config.model or "")  # a model with a recipe is asked what it is asked without
    if "questions" in lacking:
        given = given._replace(questions=_questions(config))
    if "facts" in lacking and config.facts in (None, GENERATED) and is_planted(base):
        given = given._replace(facts=planted_facts(base, config.limit or GENERATED_PROMPTS, config.seed))
    elif "facts" in lacking:
        read = read_facts(config.model_copy(update={"facts": config.facts or GENERATED}))
        given = given._replace(facts=read.prompts, notes=read.notes)
    if "texts" in lacking:
        if config.texts is None:
            raise UsageError("a step takes plain texts; name a file of them with --texts FILE")
        given = given._replace(texts=read_texts(Path(config.texts)))
    return given


def encode_kind(kind: Kind, model: LanguageModel, config: InterpConfig, given: Given) -> Encoded:
    """The items of one kind, which are given, in the tokens of `model`. Raises as the kind's own encoding does."""
    if kind in given.encoded:
        return given.encoded[kind]
    length = None if config.length is None else Length(config.length, config.filler)
    if kind == "questions":
        return encode(
            model, given.questions or (), max_tokens=config.max_tokens, template=config.template, length=length
        )
    if kind == "facts":
        swapped = config.corruption == "replacement"
        return encode_facts(model, given.facts or (), max_tokens=config.max_tokens, swapped=swapped, length=length)
    return encode_texts(model, given.texts or (), max_tokens=config.max_tokens, length=config.length)


def _questions(config: InterpConfig) -> list[Question]:
    """What is asked; controls that their text does not answer are for `mplat eval`."""
    base = base_of(config.model or "")
    if config.questions is None and is_planted(base):
        return planted_questions(base, 6 * config.per_level, config.seed)
    if config.questions is None:
        from ...datasets import facts

        return facts.prompts(per_level=config.per_level, seed=config.seed, stream=INTERP)
    from ...datasets.readers.own_prompts import read_questions

    found = read_questions(config.questions)
    asked = [question for question in found if not question.control]
    if found and not asked:
        raise InputError(f"{config.questions}: holds only questions without an answer, which no analysis asks")
    return asked
