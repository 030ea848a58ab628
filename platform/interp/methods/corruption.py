"""The two corruptions of causal tracing: noise on the subject's embeddings, and another subject of equal token length.

Noise (Meng et al., arXiv 2202.05262, "ROME"): a standard normal draw times `noise` is added to the embeddings of the
subject's tokens, `samples` times; by default `noise` is three times the unbiased standard deviation over all entries
of those embeddings. The draws depend on seed and shapes alone, so that every restoration meets the same ones.
Over several prompts each has a seed of its own, made from the run's and the prompt's id (`prompt_seed`): one draw for
all would be one accident repeated, which no average over prompts removes and no interval over prompts shows.
Replacement ("symmetric"): the tokens of another prompt; one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...models.access.edits import Add, Edit
from ...models.inputs import Readable, prompts_of
from ...runtime.plan import digest_of
from .arguments import integer, is_list
from .typed_tensors import ints

if TYPE_CHECKING:
    from ...models import LanguageModel
    from .prompts import FactItem

Span = tuple[int, int]  # start and stop of tokens
NOISE_STDS = 3.0


@dataclass(frozen=True)
class Corruption:
    """A clean prompt and its corrupted versions.

    clean (T,); corrupted (S, T): tokens. noise (S, n, d) in the units of the embedding table, added to the tokens from
    `subject[0]` on, or None. subject: the span that differs. first: the first position that differs. std: of the noise.
    """

    clean: Tensor
    corrupted: Tensor
    noise: Tensor | None
    subject: Span
    first: int
    std: float | None

    @property
    def samples(self) -> int:
        return len(self.corrupted)

    def rows(self, samples: slice) -> Tensor:
        """Tokens (1 + n, T): the clean prompt, then the corrupted ones of `samples`."""
        return torch.cat([self.clean[None], self.corrupted[samples]])

    def edits(self, model: LanguageModel, samples: slice) -> list[Edit]:
        """What to do to a run over `rows(samples)`."""
        if self.noise is None:
            return []
        noise = self.noise[samples]
        start, stop = self.subject
        added = noise.new_zeros(1 + len(noise), len(self.clean), noise.shape[2])
        added[1:, start:stop] = noise * model.embedding_scale
        return [Add("embed", added)]


def corrupt(
    model: LanguageModel,
    clean: Readable,
    corrupted: Readable | None = None,
    *,
    subject: Span | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
) -> Corruption:
    """The corruption that these arguments of `causal_trace` ask for.

    Raises UsageError for prompts of unequal length, a span that is empty or outside of the prompt, a corruption that
    changes nothing, and where both or neither kind is asked for.
    """
    row = token_row(model, clean, "clean")
    if corrupted is not None:
        if noise is not None:
            raise UsageError("give either corrupted (replacement) or noise (noise on the subject), not both")
        return _replaced(row, token_row(model, corrupted, "corrupted"), subject)
    if subject is None:
        raise UsageError(
            "nothing to corrupt: give subject=(start, stop), the tokens that get noise, "
            "or corrupted, the tokens of another prompt of equal length"
        )
    subject = check_span(subject, len(row))
    samples = integer(samples, "samples, the number of noisy runs,", 1)
    std = subject_noise(model, [row], [subject]) if noise is None else noise
    if isinstance(std, str) or not isfinite(std) or std <= 0:
        raise UsageError(f"noise of standard deviation {std!r} changes nothing; give a positive number")
    std, generator = float(std), torch.Generator().manual_seed(integer(seed, "seed"))
    shape = (samples, subject[1] - subject[0], model.embedding.embedding_dim)
    # drawn in float64, so that models of any dtype see the same draw
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * std
    return Corruption(row, row.expand(samples, -1), drawn.to(row.device), subject, subject[0], std)


def prompt_seed(seed: int, id_: str) -> int:
    """The seed of the noise of prompt `id_` in a run with `seed`: independent of the other prompts and their order."""
    return int(digest_of([integer(seed, "seed"), id_])[:15], 16)


def subject_noise(model: LanguageModel, prompts: Sequence[Tensor], subjects: Sequence[Span]) -> float:
    """3 x the unbiased standard deviation over all entries of the concatenated subject-token embeddings.

    prompts: 1-D tokens, subjects: the span in each. For averages over prompts give all of them, as ROME does, and pass
    the answer to every `causal_trace` as `noise`. Raises UsageError as `corrupt`, and for lists of unequal length.
    """
    if not prompts or len(prompts) != len(subjects):
        raise UsageError(f"{len(prompts)} prompts and {len(subjects)} subjects: give one span for each prompt")
    rows = [token_row(model, prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
    parts = [row[slice(*check_span(span, len(row)))] for row, span in zip(rows, subjects, strict=True)]
    entries = model.embedding.weight.detach()[torch.cat(parts)].double()
    return NOISE_STDS * float(entries.std())


def items_noise(model: LanguageModel, items: Sequence[FactItem], given: float | None) -> float | None:
    """The noise of a run over factual prompts: None where subjects are replaced, else `given`, else `subject_noise`."""
    if items[0].corrupted is not None:
        return None
    if given is not None:
        return given
    return subject_noise(model, [torch.tensor(item.tokens) for item in items], [item.subject for item in items])


def token_row(model: LanguageModel, tokens: Readable, what: str) -> Tensor:
    """`tokens`, a text, ids or a tokenizer's output of one text, as integers (T,) on the model's device; whether they
    are in the vocabulary is for the model to say. Raises UsageError for anything else; what: their name in errors."""
    if isinstance(tokens, str) and model.tokenizer is None:
        raise UsageError(f"{what}: give token ids, not text: model {model.name} has no tokenizer")
    if isinstance(tokens, (str, Mapping)):
        rows = prompts_of(model, tokens)
        if len(rows) != 1:
            raise UsageError(f"{what}: a tokenizer's output of {len(rows)} texts; give that of one")
        tokens = rows[0]
    numbers = is_list(tokens) and all(isinstance(value, (int, Sequence)) for value in tokens)
    if not numbers and not hasattr(tokens, "__array__"):
        raise UsageError(f"{what}: tokens must be integers of shape (time >= 1,), not {type(tokens).__name__}")
    row = torch.as_tensor(tokens, device=model.device)
    if row.ndim != 1 or row.is_floating_point() or row.dtype == torch.bool or not len(row):
        raise UsageError(
            f"{what}: tokens must be integers of shape (time >= 1,), not {row.dtype} {tuple(row.shape)}"
            + ("; take one row of the batch" if row.ndim == 2 else "")
        )
    return row.long()


def check_span(span: Span, length: int) -> Span:
    """(start, stop) with 0 <= start < stop <= length; raises UsageError otherwise."""
    try:
        start, stop = (int(bound) for bound in span)
    except (TypeError, ValueError):
        raise UsageError(f"subject must be (start, stop), the token positions of the subject, not {span!r}") from None
    if stop <= start:
        raise UsageError(f"subject ({start}, {stop}) is empty: stop is the position after its last token")
    if start < 0 or stop > length:
        raise UsageError(f"subject ({start}, {stop}) lies outside of the prompt, which has positions 0 to {length - 1}")
    return start, stop


def _replaced(clean: Tensor, corrupted: Tensor, subject: Span | None) -> Corruption:
    if len(clean) != len(corrupted):
        raise UsageError(
            f"the clean prompt has {len(clean)} tokens, the corrupted one {len(corrupted)}: positions would not "
            "correspond; choose a subject of equal token length"
        )
    changed = ints((clean != corrupted).nonzero()[:, 0])
    if not changed:
        raise UsageError("the corrupted prompt equals the clean one: there is nothing to restore")
    span = (changed[0], changed[-1] + 1)
    if subject is not None:
        span = check_span(subject, len(clean))
        outside = next((p for p in changed if not span[0] <= p < span[1]), None)
        if outside is not None:
            raise UsageError(
                f"the prompts differ at position {outside}, outside of the subject {span}; leave subject out, "
                "or give the span that was replaced"
            )
    return Corruption(clean, corrupted[None], None, span, changed[0], None)
