"""The one question that is explained: found by its id, in tokens, with its evidence.

Evidence is the tokens that state the answer (`methods.evidence`), of a factual prompt its subject's; where a question's
answer is not stated word for word, the last sentence that holds evidence; else there is none, and the reason is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...core.errors import InputError, UsageError, suggest
from ...datasets.factual import FactualPrompt
from ...datasets.records import Question
from ...models.planted import is_planted
from ..engine.batches import Item
from ..engine.encoded import Encoded
from ..engine.inputs import Given, read_missing
from ..engine.questions import encode
from ..methods.evidence import Span
from ..methods.prompts import encode_facts
from ..methods.table import token_labels

if TYPE_CHECKING:
    from ...datasets.prompting.prompts import Prompt
    from ...models import LanguageModel
    from ..engine.interp_config import InterpConfig
    from ..engine.step import Kind

_LEAST_PER_LEVEL = 100  # of the generated questions that `mplat eval` asks, whatever number of them is analysed


class Chosen(NamedTuple):
    """A question in tokens. item.fact: the tokens (start, stop) of its evidence, None where there is none; evidence:
    what they are, or why there are none, in words. tokens: what each token of the prompt says. gold: right answers."""

    item: Item
    text: str
    tokens: tuple[str, ...]
    gold: tuple[str, ...]
    dataset: str
    evidence: str
    data: Encoded

    @property
    def span(self) -> Span | None:
        """The tokens of the evidence."""
        return self.item.fact


def find(config: InterpConfig, wanted: str) -> Question | FactualPrompt:
    """The question or factual prompt called `wanted`, of those that `config` names; without questions named, of the
    generated ones that analyses and evaluations are asked.

    Raises UsageError with the nearest id where there is none, InputError for files that cannot be used.
    """
    kinds: list[Kind] = ["questions"] if config.facts is None else ["questions", "facts"]
    given = read_missing(kinds, config, Given())
    known: dict[str, Question | FactualPrompt] = {}
    for one in (*(given.questions or ()), *_evaluated(config), *(given.facts or ())):
        known.setdefault(one.id, one)
    if wanted not in known:
        raise UsageError(f"--explain {wanted!r}: no question has this id; {suggest(wanted, known, limit=5)}")
    return known[wanted]


def _evaluated(config: InterpConfig) -> list[Question]:
    """The generated questions that `mplat eval` asks with the same seed."""
    if config.questions is not None or is_planted(config.model):
        return []
    from ...datasets import facts

    return facts.prompts(per_level=max(config.per_level, _LEAST_PER_LEVEL), seed=config.seed)


def choose(model: LanguageModel, found: Question | FactualPrompt, config: InterpConfig) -> Chosen:
    """`found` in the tokens of `model`. InputError where it cannot be asked: no answer, too long, no tokenizer."""
    if isinstance(found, FactualPrompt):
        data = encode_facts(model, [found], max_tokens=config.max_tokens)
        (fact,) = data.items
        assert fact.answer is not None, "every factual prompt has an answer"
        item = Item(fact.id, fact.tokens, (fact.answer,), fact.subject)
        text, gold, evidence = found.prompt, (found.answer,), "the subject of the fact"
    else:
        data = encode(model, [found], max_tokens=config.max_tokens, template=config.template)
        ((item,), (prompt,)) = (data.items, data.prompts)
        text, gold = prompt.text, found.answers
        evidence = "the tokens that state the answer"
        if item.fact is None:
            span, evidence = _sentence(prompt)
            item = Item(**{**vars(item), "fact": span})
    labels = tuple(token_labels(model, item.prompt))
    if not labels:
        raise InputError(f"--explain {item.id!r}: its prompt has no token")
    return Chosen(item, text, labels, gold, found.dataset, evidence, data)


def _sentence(prompt: Prompt) -> tuple[Span | None, str]:
    """The tokens of the last sentence with evidence, without the prompt's last token, and what they are."""
    none = "the prompt does not state the answer word for word, and no sentence of it is named as evidence"
    if prompt.encoded is None:
        return None, none
    last = len(prompt.tokens) - 1
    for start, stop in sorted(prompt.evidence, reverse=True):
        first, behind = prompt.encoded.tokens_of(start, stop)
        if first < min(behind, last):
            words = "the last sentence that holds evidence; the answer is not stated in it word for word"
            return (first, min(behind, last)), words
    return None, none
