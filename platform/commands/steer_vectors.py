"""`mplat steer vectors PAIRS`: a direction for each layer that separates two sets of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from .frame.command import command
from .frame.folders import writable
from .frame.models import opened
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..steering.vectors import Contrast
    from ..steering.vectors.vectors_config import VectorsConfig

FACTS = "facts"
FILE = "vectors.json"


@command(
    "steer vectors",
    order=49,
    config="steering.vectors.vectors_config.VectorsConfig",
    without=("--actors", "--address", "--fresh"),
)
def steer_vectors(typed: Typed[VectorsConfig]) -> Run:
    """Fit a steering vector for each layer, with its separability on held-out texts."""
    from ..steering.vectors import fit_vectors, in_words

    config = typed.config
    model = opened(config.model, config.tokenizer, config.device)
    config = typed.with_blocks(model.n_layers)
    contrast = _contrast(config, model)
    out = typed.shared.out

    def work(at: At) -> Outcome:
        vectors = fit_vectors(
            model,
            contrast,
            method=config.method,
            site=config.site,
            layers=config.layers,
            at=config.at,
            folds=config.folds,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        path = None if out is None else vectors.save(out / FILE)
        return Outcome(in_words.values(vectors, path), in_words.words(vectors, path))

    texts = len(contrast.positive) + len(contrast.negative)
    return Run(
        work,
        folder=None,
        operations=None,
        lines=(f"{contrast.source}: {texts} texts are read by {model.name}",),
        plan={"texts": texts, "texts_digest": contrast.digest, "config": config.model_dump(mode="json")},
        warnings=[f"{why}, left out" for why in contrast.left_out],
        says_lines=False,
        prepare=writable,
    )


def _contrast(config: VectorsConfig, model: LanguageModel) -> Contrast:
    """What is contrasted with what, by the kind of file and the options that go with it."""
    from ..steering.vectors import of_answers, of_columns, of_facts, read_pairs

    chosen = (config.positive, config.negative)
    if config.pairs is None:
        raise UsageError("PAIRS is missing: a file of contrast pairs or questions, or the word facts")
    if str(config.pairs) == FACTS:
        if any(chosen):
            raise UsageError("facts has no columns; leave out --positive and --negative")
        return of_facts(
            model, per_level=config.per_level, seed=config.seed, control=config.control, max_tokens=config.max_tokens
        )
    if not any(chosen):
        return read_pairs(config.pairs)
    if config.positive is None or config.negative is None:
        raise UsageError("two subsets of a file are --positive COLUMN=VALUE and --negative COLUMN=VALUE; give both")
    if _is_answers(config.pairs):
        return of_answers(config.pairs, config.positive, config.negative)
    return of_columns(model, config.pairs, config.positive, config.negative, max_tokens=config.max_tokens)


def _is_answers(path: Path) -> bool:
    """Whether the file holds the answers of an evaluation, which lie beside the prompts that were read."""
    return path.suffix == ".parquet" and path.with_name("prompts.parquet").is_file()
