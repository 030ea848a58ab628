"""Addition modulo p: every equation a + b = c, which of them are trained on, their tokens and their text.

The numbers 0 to p - 1 are the tokens of that number, behind them stand the equals sign, the end of a text and what is
none of these. An equation is four tokens, a b = c; as text `3 5 =` and ` 8`. Which equations are trained on follows
from the seed alone, so that whoever looks at a trained model can ask it for those that it never saw.
Task and split: Power et al. 2022 (arXiv 2201.02177); the fraction of 30 %: Nanda et al. 2023 (arXiv 2301.05217).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from .records import Question

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "modular_addition"
#: categories of the questions: what a model was trained on, and what it was not
TRAINED, HELD_OUT = "trained", "held out"
EQUALS, END, UNKNOWN = "=", "<|endoftext|>", "<|unknown|>"


def equations(p: int) -> NDArray[np.int64]:
    """Tokens (p * p, 4) of a b = c for every pair, a first: equation a * p + b is that of a and b.

    Raises UsageError unless p is odd and at least 5: of an even number the highest frequency has no sine.
    """
    if p < 5 or p % 2 == 0:
        raise UsageError(f"addition modulo {p}: p must be odd and at least 5, usually a prime such as 31 or 113")
    a, b = np.divmod(np.arange(p * p), p)
    return np.stack([a, b, np.full(p * p, p), (a + b) % p], axis=1)


def n_trained(p: int, fraction: float) -> int:
    """How many equations are trained on."""
    return round(fraction * p * p)


def trained_on(p: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which of the equations (p * p,) are trained on, drawn without replacement.

    Raises UsageError where none of them would be, or none held out.
    """
    count = n_trained(p, fraction)
    if not 0 < count < p * p:
        raise UsageError(f"a fraction {fraction:g} of {p * p} equations leaves none to train on, or none to hold out")
    chosen = np.zeros(p * p, np.bool_)
    chosen[np.random.default_rng(seed).permutation(p * p)[:count]] = True
    return chosen


def questions(p: int, fraction: float, seed: int) -> list[Question]:
    """Every equation as a question with its prompt, in the order of `equations`; `category` says its side."""
    found: list[Question] = []
    for (a, b, _, c), seen in zip(equations(p).tolist(), trained_on(p, fraction, seed).tolist(), strict=True):
        found.append(Question(
            f"{a}+{b}", NAME, "train" if seen else "eval", f"{a} + {b} modulo {p}?", answers=(str(c),),
            metric="squad_v1", category=TRAINED if seen else HELD_OUT, prompt=f"{a} {b} {EQUALS}",
        ))  # fmt: skip
    return found


def question_lines(p: int, fraction: float, seed: int) -> bytes:
    """`questions` as a file of prompts (.jsonl), as `mplat interp --questions` reads it."""
    rows = (
        {"id": q.id, "prompt": q.prompt, "answers": list(q.answers), "category": q.category}
        for q in questions(p, fraction, seed)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def vocabulary(p: int) -> dict[str, int]:
    """Token -> id."""
    return {word: i for i, word in enumerate([*map(str, range(p)), EQUALS, END, UNKNOWN])}


def tokenizer(p: int) -> Tokenizer:
    """Words between spaces; one that is none of the vocabulary is UNKNOWN."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(vocabulary(p), unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # spaces between words
    made.add_special_tokens([AddedToken(END, special=True), AddedToken(UNKNOWN, special=True)])
    return made


def tokenizer_files(p: int) -> dict[str, bytes]:
    """Name -> content of a folder with this tokenizer, as Hugging Face's programs read it."""
    config = {
        "clean_up_tokenization_spaces": False, "bos_token": END, "eos_token": END, "pad_token": END,
        "model_max_length": 1_000_000_000, "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN,
    }  # fmt: skip
    settings = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {
        "tokenizer.json": f"{tokenizer(p).to_str(pretty=True)}\n".encode(),
        "tokenizer_config.json": settings.encode(),
    }
