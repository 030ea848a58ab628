"""What can be said of a tokenizer: its vocabulary, and how many bytes of a text a token stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..datasets.tokens.encoding import Encoder
from ..datasets.tokens.reading import BadLines, documents
from ..datasets.tokens.tokenizer import TokenizerFacts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def shown(tokenizer: Tokenizer, facts: TokenizerFacts) -> dict[str, Any]:
    """Its size, its special tokens, and the token with the longest text."""
    longest = max(range(facts.size), key=lambda i: (len(tokenizer.decode([i])), -i))
    return {
        "digest": facts.digest,
        "vocabulary": facts.size,
        "end_of_text": tokenizer.id_to_token(facts.eos_id),
        "before_a_text": [tokenizer.id_to_token(token) for token in facts.begin],
        "longest": tokenizer.decode([longest]),
    }


def bytes_per_token(tokenizer: Tokenizer, text: Path, most: int, field: str = "text") -> dict[str, Any]:
    """Over the first documents of `text` that have `most` bytes together. Raises InputError where it holds none."""
    texts: list[str] = []
    size = 0
    for document in documents(text, field, BadLines(0)):
        texts.append(document)
        size += len(document.encode())
        if size >= most:
            break
    if not texts:
        raise InputError(f"{text}: holds no text")
    tokens = len(Encoder(tokenizer).ids(texts)[0])
    return {"documents": len(texts), "bytes": size, "tokens": tokens, "bytes_per_token": size / tokens}
