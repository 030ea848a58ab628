"""What the model writes now: continuations of fixed prompts at every evaluation, for a reader to judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..datasets.tokens.tokenizer import open_tokenizer
from .data import TokenizerFacts

if TYPE_CHECKING:
    from ..models import LanguageModel

TEMPERATURE = 0.8  # of the drawn continuation


def samples(
    model: LanguageModel, known: TokenizerFacts, prompts: Sequence[str], length: int, seed: int
) -> Iterator[dict[str, str]]:
    """For each prompt {"prompt", "greedy", "drawn"}: up to `length` tokens of the most likely continuation, and of one
    drawn at temperature 0.8 from `seed`. The generators of the training are left alone."""
    from ..models.decoding.generation import generate

    if not prompts:
        return
    tokenizer, _ = open_tokenizer(known.folder)
    read = [[*known.begin, *tokenizer.encode(text, add_special_tokens=False).ids] or [known.eos_id] for text in prompts]
    written: dict[str, list[str]] = {}
    for name, temperature in (("greedy", 0.0), ("drawn", TEMPERATURE)):
        found = generate(model, read, max_new_tokens=length, stop=(), temperature=temperature, seed=seed)
        written[name] = [
            # decoded with the prompt, because the first token of a text loses its space
            tokenizer.decode([*ids, *new.tokens])[len(tokenizer.decode(ids)) :]
            for ids, new in zip(read, found, strict=True)
        ]
    for prompt, greedy, drawn in zip(prompts, written["greedy"], written["drawn"], strict=True):
        yield {"prompt": prompt, "greedy": greedy, "drawn": drawn}
