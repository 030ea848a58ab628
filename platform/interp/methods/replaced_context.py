"""What a model's next token loses when all but the last tokens of a prompt are replaced by tokens of other prompts.

    D_k = mean over draws of KL(p(. | x_1 ... x_T) || p(. | r_1 ... r_{T-k-1} x_{T-k} ... x_T))

so k tokens before the last one are kept. The replacing tokens are drawn, each by itself, from the tokens of all other
prompts. Special tokens stay where they are and are never drawn: the unknown token is one, and for some tokenizers it is
also the end of text, after which a model expects something new. A draw is one row of tokens for all k, so that what
differs between two k is what is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .corruption import prompt_seed
from .typed_tensors import pieces

if TYPE_CHECKING:
    from ...models import LanguageModel

_ROWS = 64  # that go through the model together


def token_counts(prompts: Iterable[Sequence[int]], special: Collection[int]) -> Counter[int]:
    """How often each token occurs in `prompts`, special ones left out."""
    return Counter(token for prompt in prompts for token in prompt if token not in special)


def special_tokens(model: LanguageModel) -> set[int]:
    """Those of its tokenizer, the unknown token among them; none without a tokenizer."""
    return set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)


def drawn_tokens(
    id_: str, prompt: Sequence[int], every: Mapping[int, int], special: Collection[int], draws: int, seed: int
) -> Tensor | None:
    """Rows (draws, T) to replace `prompt` by; None where the other prompts have no token to draw.

    every: `token_counts` of all prompts, this one among them. The draw depends on seed, id and counts alone.
    """
    own = token_counts([prompt], special)
    others = {token: count - own[token] for token, count in sorted(every.items()) if count > own[token]}
    if not others:
        return None
    generator = torch.Generator().manual_seed(prompt_seed(seed, id_))
    weights = torch.tensor(list(others.values()), dtype=torch.float64)
    chosen = torch.multinomial(weights, draws * len(prompt), replacement=True, generator=generator)
    rows = torch.tensor(list(others))[chosen].view(draws, len(prompt))
    whole = torch.tensor(list(prompt))
    fixed = torch.tensor([token in special for token in prompt])
    return torch.where(fixed, whole, rows)


@torch.no_grad()
def divergences(model: LanguageModel, prompt: Sequence[int], rows: Tensor, kept: Sequence[int]) -> Tensor:
    """KL (K, draws) in nats, float64, of the next-token distributions with `kept` tokens before the last one; rows
    (draws, T): of `drawn_tokens`. NaN where logits are not finite."""
    whole = torch.tensor(list(prompt))
    last = len(whole) - 1
    distance = last - torch.arange(len(whole))
    mixed = torch.cat([torch.where(distance <= k, whole, rows) for k in kept])
    runs = torch.cat([whole[None], mixed]).to(model.device)
    found = [model(part, phase="prefill", last_only=True)[:, 0].double() for part in pieces(runs, _ROWS)]
    logits = torch.cat(found).log_softmax(-1).cpu()
    true, other = logits[:1], logits[1:]
    return (true.exp() * (true - other)).sum(-1).clamp(min=0.0).view(len(kept), len(rows))
