"""`mplat tokenizer train FILES`: a vocabulary for the texts that a model is to be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.plain_text import byte_size
from .frame.command import command
from .frame.run import At, Outcome, Run, Typed
from .tokenize import Texts

if TYPE_CHECKING:
    from ..tokenise.vocabulary_config import VocabularyConfig


@command(
    "tokenizer train",
    order=25,
    config="tokenise.vocabulary_config.VocabularyConfig",
    without=("FILES", "--actors", "--address"),
)
def tokenizer_train(typed: Typed[VocabularyConfig], texts: Texts = None) -> Run:
    """Train a byte-level BPE tokenizer on a sample of texts, into a folder that Hugging Face's programs read too."""
    from ..tokenise.vocabulary import planned, prepare, train_vocabulary

    plan = prepare(typed.with_value("files", texts).config)
    config = plan.config

    def work(at: At) -> Outcome:
        made = train_vocabulary(plan, at.folder, fresh=at.fresh, observer=at.console)
        values = vars(made) | {"out": str(made.out)}
        size = f"{made.vocabulary:,} tokens from {made.sample_documents:,} of {made.documents:,} documents"
        return Outcome(values, [f"{size}, {byte_size(made.sample_bytes)}", f"tokenizer: {made.out}"])

    first = plan.files[0] + (f" and {len(plan.files) - 1} more" if len(plan.files) > 1 else "")
    return Run(
        work,
        folder=Path("runs") / f"tokenizer-{config.vocab}",
        check=planned(plan).check,
        operations=None,
        lines=[f"texts: {first}, {byte_size(sum(plan.sizes))}",
               f"vocabulary: {config.vocab:,} tokens, from about {byte_size(config.sample)} of text"],
        plan={"files": list(plan.files), "config": config.model_dump(mode="json")},
    )  # fmt: skip
