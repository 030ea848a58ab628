"""Base and source prompts for interchange, as tokens: what is read, where, and which answer the causal model gives.

What a pair means is said where it is made (`datasets.facts.counterfactuals`). Here it becomes tokens: base and source
of equal length, three answers with three different first tokens, by which an output is judged, and where in each of
the two prompts the sites stand:

    last      the last token of the prompt
    entity    the last token of the name that the question is about
    fact      the last token of the sentence that answers the (first hop of the) question

At `fact` the question has not been read: a variable of the question cannot be set there (`READ_AT`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from ...core.errors import InputError
from ...datasets.facts.asked import Asked
from ...datasets.facts.counterfactuals import Counterfactual, Part, Variable, counterfactuals
from ...models.decoding.text import Encoded, encode_continued, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Position = Literal["last", "entity", "fact"]
POSITIONS: tuple[Position, ...] = get_args(Position)
#: the variables that a model can know of at a position
READ_AT: Mapping[Position, tuple[Variable, ...]] = {
    "last": ("entity", "relation", "hop1"), "entity": ("entity", "relation", "hop1"), "fact": ("hop1",),
}  # fmt: skip
_PATIENCE = 500  # draws in a row that do not fit, after which a tokenizer is taken to have no such pairs


class Answers(NamedTuple):
    """First tokens of the answers: of the base with the variable set, of the base, and of the source."""

    target: int
    base: int
    source: int


@dataclass(frozen=True)
class Pair:
    """base, source: tokens, equally many. counterfactual: the tokens of the prompt whose answer is the target.
    at: position -> (place in the base, place in the source). group: pairs of one group count as one."""

    id: str
    group: str
    base: tuple[int, ...]
    source: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answers: Answers
    at: Mapping[str, tuple[int, int]]
    texts: tuple[str, str] = ("", "")


def pairs_of_facts(tokenizer: PreTrainedTokenizerFast, variable: Variable, part: Part, seed: int) -> Iterator[Pair]:
    """Pairs of the facts world about `variable`, as many as are asked for.

    Raises InputError where the tokenizer makes no pairs of equal length.
    """
    refused = 0
    for drawn in counterfactuals(variable, part, seed):
        pair = _in_tokens(tokenizer, drawn)
        refused = 0 if pair is not None else refused + 1
        if pair is not None:
            yield pair
        elif refused >= _PATIENCE:
            raise InputError(
                f"of {_PATIENCE} drawn pairs about {variable!r} none has equally many tokens in base and source and "
                "answers that differ in their first tokens; this tokenizer does not suit the facts world"
            )


def _in_tokens(tokenizer: PreTrainedTokenizerFast, drawn: Counterfactual) -> Pair | None:
    """None for a pair that does not fit: see the module."""
    base, source = (encode_continued(tokenizer, one.text, one.answer) for one in (drawn.base, drawn.source))
    if len(base.prompt) != len(source.prompt):  # most pairs
        return None
    counterfactual = encode_continued(tokenizer, drawn.counterfactual.text, drawn.counterfactual.answer)
    answers = Answers(*(one.continuation[0] for one in (counterfactual, base, source)))
    if len(set(answers)) < len(answers) or base.merged or source.merged or counterfactual.merged:
        return None
    places = [_places(encode_text(tokenizer, one.text), one) for one in (drawn.base, drawn.source)]
    at = {name: (places[0][name], places[1][name]) for name in POSITIONS}
    id_ = drawn.base.id.removesuffix("-base")
    texts = (drawn.base.text, drawn.source.text)
    return Pair(id_, drawn.group, base.prompt, source.prompt, counterfactual.prompt, answers, at, texts)


def _places(encoded: Encoded, asked: Asked) -> dict[Position, int]:
    """Where the sites stand in a prompt."""
    question = len(asked.text) - len("\nA:") - len(asked.question)
    head = question + len((asked.shape.before + asked.head).lstrip())
    fact = len(" " + " ".join(s.sentence for s in asked.stated[: asked.evidence[0] + 1]))
    at_head, at_fact = (encoded.tokens_of(end - 1, end)[1] - 1 for end in (head, fact))
    return {"last": len(encoded.ids) - 1, "entity": at_head, "fact": at_fact}
