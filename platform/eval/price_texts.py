"""On what text the price of steering is measured: held-out text of what the model itself was trained on.

A model reads questions because it was trained on text; whether an edit breaks it shows on such text and not on more
questions. Where the text comes from, in this order:

- a file that the user names (any kind that `mplat perplexity` reads): documents, each cut into windows;
- what the model's folder says of its training (`training.yaml` in it, or the record of the training run that it lies
  in): for the facts world the same generator, at the difficulty at which training ended and packed as there, with a
  seed that training did not use;
- else the evaluation's own questions with their answers, and the run says that it is so.

`PriceTexts.source` names the choice and stands in every row of the price. Windows of one document have its name in
common: they count as one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InputError, UsageError
from ..core.json_files import read_object
from ..core.yaml_source import read
from ..datasets.records import Question
from ..models.decoding.text import Encoded, added_before, encode_text

if TYPE_CHECKING:
    from ..models import LanguageModel

SEED = 7919  # far from the seeds that people choose for training
MAX_TOKENS = 512  # of one text
TRAINING = "training.yaml"  # in a model's folder: the settings it was trained with
OWN_QUESTIONS = "the questions of this evaluation"


class PriceText(NamedTuple):
    """A text in tokens. document: texts of one document count as one. n_bytes: of the text that is predicted, which is
    that of all tokens but the first, without the tokens that stand for no text."""

    id: str
    document: str
    tokens: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class PriceTexts:
    """source: what the texts are, in words. known: whether they are what the model was trained on, or what the user
    chose; False for the evaluation's own questions. separators: tokens that stand for no text."""

    source: str
    known: bool
    texts: tuple[PriceText, ...]
    separators: tuple[int, ...]

    @property
    def digest(self) -> str:
        """sha256 of all that is read."""
        content = json.dumps([self.source, [list(text) for text in self.texts]], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()


def price_texts(model: LanguageModel, questions: Sequence[Question], *, file: Path | None, limit: int) -> PriceTexts:
    """At most `limit` texts for `model`. questions: what the evaluation asks, read where nothing better is known.

    Raises InputError for a file without a text, and for a training record that is damaged.
    """
    if limit < 1:
        raise UsageError(f"the price is measured on at least one text, not on {limit}")
    if file is not None:
        return _of_file(model, file, limit)
    trained = trained_on(model)
    if trained is not None and trained["data"]["source"] == "facts":
        return _of_the_facts_world(model, trained, limit)
    return _of_questions(model, questions, limit)


def trained_on(model: LanguageModel) -> dict[str, Any] | None:
    """The settings that `model` was trained with; None where its folder does not say. Raises InputError where what it
    says is no such record."""
    folder = _folder(model)
    if folder is None:
        return None
    path, beside = folder / TRAINING, folder.parent / "run.json"
    if path.is_file():
        try:
            settings: Any = read(path).data
        except UsageError as error:
            raise InputError(f"{path}: {error}") from error
    elif beside.is_file():
        record = read_object(beside)
        if record.get("command") != "train":
            return None
        path, settings = beside, record.get("config")
    else:
        return None
    data = settings.get("data") if isinstance(settings, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("source"), str):
        raise InputError(f"{path}: not the settings of a training, it has no data.source; remove it or write it anew")
    return settings


def why_not_known(model: LanguageModel) -> str:
    """One sentence on why the price is measured on the evaluation's own questions."""
    trained = trained_on(model)
    says = (
        "does not say on what text it was trained"
        if trained is None
        else f"was trained on data of the source {trained['data']['source']!r}, whose held-out part is not at hand"
    )
    return (
        f"price: {model.name} {says}, so it is measured on {OWN_QUESTIONS}, which says little about other text; "
        "name held-out text of its training with --price-texts FILE"
    )


def _folder(model: LanguageModel) -> Path | None:
    from ..models.files.catalog import shipped

    there = Path(model.name)
    return shipped().get(model.name) or (there if there.is_dir() else None)


def _of_the_facts_world(model: LanguageModel, trained: Mapping[str, Any], limit: int) -> PriceTexts:
    """Documents as training packs them: whole ones, and those that end where a row ends. Each is read on its own, as
    the reset at its beginning does it in training."""
    from ..datasets.facts import Difficulty, training_batch
    from ..datasets.tokenizer import SHIPPED

    knobs = trained["data"].get("facts") or {}
    curriculum = float(knobs.get("curriculum", 1.0))
    reached = 1.0 if curriculum == 0 else min(1.0, 1 / curriculum)
    difficulty = Difficulty.at(reached * float(knobs.get("hardest", 1.0)))
    seed = SEED if trained.get("seed") != SEED else SEED + 1
    folder = _folder(model)
    assert folder is not None, model.name  # trained_on has read it there
    tokenizer = folder if (folder / "tokenizer.json").is_file() else SHIPPED
    decode, end = _decoder(tokenizer)
    found: list[PriceText] = []
    for step in range(limit):  # every batch has at least one document
        batch = training_batch(
            seed, step, 1, int(trained["sequence_length"]), difficulty, tokenizer,
            shape_noise=float(knobs.get("shape_noise", 0.0)),
        )  # fmt: skip
        row, starts = batch.tokens[0].tolist(), batch.reset[0].nonzero()[0].tolist()
        for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
            tokens = tuple(row[start:stop])
            text = [token for token in tokens[1:] if token != end]
            if text and len(found) < limit:
                name = f"facts-{seed}-{len(found):05d}"
                found.append(PriceText(name, name, tokens, len(decode(text).encode())))
        if len(found) == limit:
            break
    words = f"the facts world, training split, seed {seed}, difficulty {reached * float(knobs.get('hardest', 1.0)):g}"
    return PriceTexts(words, True, tuple(found), (end,))


def _decoder(folder: Path) -> tuple[Any, int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    assert end is not None, folder  # the generator has refused such a tokenizer
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)), int(end)


def _of_file(model: LanguageModel, file: Path, limit: int) -> PriceTexts:
    """Windows of at most MAX_TOKENS tokens: the first of every document, then the second of every one, and so on."""
    from ..datasets.readers import pile

    reading = pile.read(file, limit=limit, seed=SEED)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the texts of {file}; name one with --tokenizer")
    start = _start(model)
    windows = [_windows(document.id, encode_text(tokenizer, document.text), start) for document in reading.documents]
    found = [of[i] for i in range(max(map(len, windows), default=0)) for of in windows if i < len(of)]
    if not found:
        raise InputError(f"{file}: holds no text of at least two tokens to measure the price on")
    return PriceTexts(f"{file.name}, {len(reading.documents)} documents", True, tuple(found[:limit]), start)


def _start(model: LanguageModel) -> tuple[int, ...]:
    """The token that the first token of a document is predicted from, as `mplat perplexity` has it; () for none."""
    tokenizer = model.tokenizer
    assert tokenizer is not None, model.name
    if added := added_before(tokenizer):
        return added[-1:]
    known = [t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None]
    return (int(known[0]),) if known else ()  # type: ignore[call-overload]


def _windows(document: str, encoded: Encoded, start: tuple[int, ...]) -> list[PriceText]:
    """The document in windows. Each but the first begins with the last token of the one before it, which it does not
    predict; so does the first where nothing begins texts."""
    ids, offsets = encoded.ids[encoded.added :], encoded.offsets[encoded.added :]
    found: list[PriceText] = []
    at = 0 if start else 1  # first token that is predicted
    while at < len(ids):
        stop = min(len(ids), at + MAX_TOKENS - 1)
        before = ids[at - 1 : at] if at else start
        # a token may hold a part of a character, whose whole then counts where its last token stands
        first = offsets[at - 1][1] if at else 0
        text = encoded.text[first : offsets[stop - 1][1]]
        name = f"{document}#{len(found):03d}"
        found.append(PriceText(name, document, (*before, *ids[at:stop]), len(text.encode("utf-8", "surrogatepass"))))
        at = stop
    return found


def _of_questions(model: LanguageModel, questions: Sequence[Question], limit: int) -> PriceTexts:
    from ..datasets.prompting.prompts import prompt_text

    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"model {model.name} has no tokenizer for the questions; name one with --tokenizer")
    start = _start(model)
    found: list[PriceText] = []
    for question in questions:
        if len(found) == limit:
            break
        answer = f" {question.answers[0]}" if question.answers else ""
        encoded = encode_text(tokenizer, f"{prompt_text(question)}{answer}\n")
        windows = _windows(question.id, encoded, start)
        if windows:
            found.append(windows[-1]._replace(document=question.origin))
    if not found:
        raise InputError("none of the questions is a text to measure the price on; name a file with --price-texts FILE")
    return PriceTexts(OWN_QUESTIONS, False, tuple(found), start)
