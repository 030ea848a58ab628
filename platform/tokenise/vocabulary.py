"""A byte-level BPE tokenizer from texts, as GPT-2's: trained by the `tokenizers` library on a sample of documents.

    plan = prepare(VocabularyConfig(files=("texts.jsonl",), vocab=8000))
    trained = train_vocabulary(plan, Path("T"))

The sample is those documents whose hashes, keyed by the seed, are smallest, as many as have the wanted bytes together:
the same whatever the order of the files, and a larger sample only adds. All texts are read once for it, in this
process; the sample is held in memory. Every text round-trips, because all 256 bytes are tokens. `<|endoftext|>`, id 0,
is the only special token; nothing is added to a text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..datasets.sources.json_text import Unusable
from ..datasets.tokens.corpus import corpus_files
from ..datasets.tokens.hub_texts import HUB
from ..datasets.tokens.reading import BadLines, Fields
from ..datasets.tokens.spans import SpanReader, survey
from ..datasets.tokens.tokenizer import FILES, digest
from ..runtime import digest_of
from ..runtime.stage import Observer, Planned, Stage
from .vocabulary_config import VocabularyConfig
from .worker import LIMIT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
STAGE = Stage("tokenizer train", results=FILES, by_content={"files"}, data_is="texts")
_STEP = 64 << 20


@dataclass(frozen=True)
class VocabularyPlan:
    """What will be read. sizes: bytes of each file as it is; 0 for the hub's."""

    config: VocabularyConfig
    files: Sequence[str]
    sizes: Sequence[int]


@dataclass(frozen=True)
class Trained:
    """A tokenizer's folder, and the texts that it was trained on. digest: as of every tokenizer."""

    out: Path
    digest: str
    vocabulary: int
    documents: int
    sample_documents: int
    sample_bytes: int


@dataclass(frozen=True)
class Sample:
    """Chosen documents, by their keyed hash; `documents` is how many there were."""

    texts: list[str]
    bytes: int
    documents: int
    left_out: dict[str, int]
    sources: dict[str, str]


def prepare(config: VocabularyConfig) -> VocabularyPlan:
    """Find the files. Raises UsageError where nothing is named, InputError where a file is not there."""
    files = corpus_files(config.files)
    return VocabularyPlan(config, files, [0 if f.startswith(HUB) else Path(f).stat().st_size for f in files])


def planned(plan: VocabularyPlan) -> Planned:
    """The run of `plan` with its record."""
    names = [file if file.startswith(HUB) else Path(file).name for file in plan.files]
    data = {"digest": digest_of([names, list(plan.sizes)]), "counts": {"files": len(plan.files)}}
    return STAGE.plan(plan.config, data=data, seeds={"seed": plan.config.seed})


def train_vocabulary(
    plan: VocabularyPlan, out: Path, *, fresh: bool = False, observer: Observer | None = None
) -> Trained:
    """Train a tokenizer into the folder `out`. Raises as `Stage.begin` does, and InputError for files that cannot be
    read to their end or hold no text."""
    with planned(plan).begin(out, observer=observer, fresh=fresh) as run:
        chosen = sample(plan)
        run.observer.say(f"training on {len(chosen.texts):,} of {chosen.documents:,} documents, {chosen.bytes:,} bytes")
        tokenizer = train(chosen.texts, plan.config.vocab)
        size = tokenizer.get_vocab_size()
        if size < plan.config.vocab:
            run.observer.warn(f"{size:,} tokens and not {plan.config.vocab:,}: the sample has no more pairs to merge")
        for name, content in tokenizer_files(tokenizer).items():
            run.bytes(name, content)
        made = Trained(out, digest(out), size, chosen.documents, len(chosen.texts), chosen.bytes)
        run.update(
            counts={"documents": made.documents, "sample_documents": made.sample_documents, "vocabulary": size},
            details={"digest": made.digest, "sample_bytes": made.sample_bytes, "left_out": chosen.left_out,
                     "sources": chosen.sources},
        )  # fmt: skip
    return made


def sample(plan: VocabularyPlan) -> Sample:
    """The documents to train on, in the order of their hashes. Raises InputError as `train_vocabulary` does."""
    config = plan.config
    reader, bad = SpanReader(Fields(config.field, "")), BadLines(config.bad_limit, LIMIT)
    key = config.seed.to_bytes(8, "little")
    kept: list[tuple[int, int, str]] = []  # a heap, the largest hash on top
    held = documents = 0
    sources: dict[str, str] = {}
    for file in plan.files:
        surveyed = survey(file, _STEP)
        sources[surveyed.path] = surveyed.sha256
        for span in surveyed.spans:
            for number, found in reader.records(span):
                if isinstance(found, Unusable):
                    bad.add(span.name, number, found)
                elif found.text.strip():
                    documents += 1
                    utf8 = found.text.encode()
                    hashed = int.from_bytes(hashlib.blake2b(utf8, digest_size=8, key=key).digest(), "little")
                    heappush(kept, (-hashed, len(utf8), found.text))
                    held += len(utf8)
                    while held - kept[0][1] >= config.sample:
                        held -= heappop(kept)[1]
    if not kept:
        raise InputError(f"{', '.join(config.files)}: no text to train on; is {config.field!r} the field of the texts?")
    texts = [text for _, _, text in sorted(kept, reverse=True)]
    return Sample(texts, held, documents, dict(sorted(bad.reasons.items())), sources)


def train(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens; equal texts in any order give an equal one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Name -> content of a folder that Hugging Face's programs read."""
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    config = special | {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    contents = {"tokenizer_config.json": config, "special_tokens_map.json": special}
    return {
        "tokenizer.json": f"{tokenizer.to_str(pretty=True)}\n".encode(),
        **{name: f"{json.dumps(content, indent=2, sort_keys=True)}\n".encode() for name, content in contents.items()},
    }
