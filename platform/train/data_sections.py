"""The part of a training run's configuration that says where tokens come from: a section for every source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..core.config import Config
from ..core.errors import UsageError, suggest
from ..core.option import Option


class FactsSection(Config):
    """The facts world: questions about invented people, places and things, made while training."""

    answer_weight: float = Field(default=1.0, gt=0, description="weight of an answer token in the loss")
    context_weight: float = Field(default=0.1, ge=0, description="weight of every other token")
    curriculum: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="fraction of the steps in which difficulty rises; 0: as hard as it gets from the start",
    )
    hardest: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="where it ends, as the argument of Difficulty.at; 0.15: one hop among at most four facts",
    )
    shape_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the words between names that are left out, replaced by a random word or followed by one",
    )


class TextSection(Config):
    """Documents from .jsonl (objects with a text field, one a line) or .txt (one document a file), also .gz or .zst."""

    paths: tuple[str, ...] = Field(default=(), description="files, read in this order")
    field: str = Field(default="text", description="JSON field that holds the document")
    bad_line_limit: int = Field(default=0, ge=0, description="broken lines to skip, counted, before the run is refused")
    shuffle_words: bool = Field(
        default=False,
        description="words of every document in random order, held-out ones too: a model that knows words, not order",
    )
    holdout_every: int = Field(default=50, ge=2, description="every k-th document is held out for evaluation")
    holdout_tokens: int = Field(default=65_536, ge=1, description="tokens after which no more documents are held out")
    cache: str | None = Field(
        default=None, description="folder of tokenised data, may be shared by runs; default: <out>/data"
    )


class TokensSection(Config):
    """Documents that `mplat tokenize` made tokens of: what is held out, and how often each set is read."""

    paths: tuple[str, ...] = Field(default=(), description="folders, all of one tokenizer")
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict,
        description="how often a set is read while one of weight 1 is read once, such as {FreeLaw: 1.5}; default: 1",
    )
    holdout_share: float = Field(
        default=0.005, gt=0, lt=1, description="of all texts, told by their hashes, held out for evaluation"
    )
    holdout_tokens: int = Field(default=65_536, ge=1, description="of a set, after which no more are held out")
    deduplicate: bool = Field(default=False, description="read a text once that is there several times")
    shingle: int = Field(default=13, ge=2, le=1000, description="tokens in a row by which near-duplicates are told")
    near_duplicate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="a held-out document is left out where one in training has this share of its shingles",
    )
    cache: str | None = Field(
        default=None,
        description="folder of what was found about duplicates, may be shared by runs; default: <out>/data",
    )


class AnsweredSection(Config):
    """Texts whose answers are marked: records with `text` and `answers`, or with `prompt` and `completion`."""

    paths: tuple[str, ...] = Field(default=(), description="files, read in this order")
    answer_weight: float = Field(default=1.0, gt=0, description="weight of an answer token in the loss")
    context_weight: float = Field(default=0.0, ge=0, description="weight of every other token")
    order: Literal["random", "files"] = Field(
        default="random", description="of rows; files: as they stand there, where that is a curriculum"
    )
    holdout_every: int = Field(default=50, ge=2, description="every k-th text is held out for evaluation")


class ModularAdditionSection(Config):
    """Equations a + b = c modulo p, of which a fixed part is trained on."""

    p: int = Field(default=113, ge=5, le=1009, description="modulus, an odd number, usually a prime")
    train_fraction: float = Field(default=0.3, gt=0, lt=1, description="share of the p * p equations to train on")

    @field_validator("p")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd: of an even number the highest frequency has no sine")
        return value

    @property
    def rows(self) -> int:
        """Equations that are trained on."""
        from ..datasets.modular_addition import n_trained

        return n_trained(self.p, self.train_fraction)


def _data(text: str) -> dict[str, Any]:
    """What --data sets: a source by its name, a folder of tokens, or a file of texts."""
    from ..datasets.tokens.folder import is_token_folder
    from .data import source_names

    names = source_names()
    if text in names:
        return {"data.source": text}
    if not text.strip() or (not Path(text).exists() and not Path(text).suffix and len(Path(text).parts) == 1):
        raise UsageError(f"--data {text!r}: neither a file nor a source of data; {suggest(text, names)}")
    if is_token_folder(text):
        return {"data.source": "tokens", "data.tokens.paths": [text]}
    return {"data.source": "text", "data.text.paths": [text]}


class DataSection(Config):
    """Where tokens come from."""

    source: Annotated[
        str,
        Option(
            "--data",
            "facts|FILE|FOLDER",
            "The facts world, texts as .jsonl, .txt, .csv, .parquet, or a folder of tokens.",
            sets=_data,
        ),
    ] = Field(default="facts", description="a registered data source: facts, text, tokens, answered, modular_addition")
    reset: Annotated[bool, Option(off="--no-reset")] = Field(
        default=True,
        description="Documents packed into a row do not see each other; --no-reset: states and convolutions go on.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="folder with tokenizer.json; default: the shipped tiny tokenizer, of tokens their own",
    )
    facts: FactsSection = FactsSection()
    text: TextSection = TextSection()
    tokens: TokensSection = TokensSection()
    answered: AnsweredSection = AnsweredSection()
    modular_addition: ModularAdditionSection = ModularAdditionSection()
    options: dict[str, Any] = Field(default_factory=dict, description="for sources registered elsewhere")
