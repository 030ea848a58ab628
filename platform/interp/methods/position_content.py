"""How much of a site is position, how much the token that stands there: the same tokens probed at different places.

Every probe is a text of p random tokens of a prompt, behind its first one, that ends in a probed token; what the site
holds at that token is read. In each prompt all of K tokens are probed at all of P positions, at one position behind the
same context. With x (n, P, K, C) of n prompts,

    a_r[p] = mean over k of x_r[p, k], less its mean over p          b_r[k] likewise for the tokens
    position = mean over pairs r != s of <a_r, a_s> / P              content = that of b / K
    total = mean over r of the variance of x_r over p and k, summed over channels

Products between different prompts hold no context of a single one (a U-statistic), so that both shares of `total` are
unbiased, and can be negative where there is none. The rest is context: what comes before, and what it does with the
token. The null deals the positions anew in every prompt. Sites wider than `WIDTH` are sketched (Charikar et al. 2002):
inner products are kept on average.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...scoring.statistics import Resampling
from ...scoring.statistics.samples import blocks
from ..engine.batches import Batch
from .watched_sites import watched_sites

if TYPE_CHECKING:
    from ...models import LanguageModel

Floats = NDArray[np.float64]
WIDTH = 256
BATCH_SCHEMA = pa.schema(
    [("id", pa.string()), ("layer", pa.int32()), ("site", pa.string()), ("position", pa.list_(pa.float64())),
     ("content", pa.list_(pa.float64())), ("total", pa.float64()), ("size", pa.float64())]
)  # fmt: skip


class Share(NamedTuple):
    """A share of the total and its bootstrap interval over prompts; None for fewer than four prompts."""

    value: float
    low: float | None
    high: float | None


class Shares(NamedTuple):
    """position, content, context: they add up to 1. p: one-sided, of so large a share of position by chance."""

    position: Share
    content: Share
    context: Share
    p: float


def sketch(x: Tensor, width: int = WIDTH) -> Tensor:
    """x (n, C) in at most `width` coordinates: each goes into one of them, drawn by C alone, with a drawn sign."""
    channels = x.shape[1]
    if channels <= width:
        return x
    generator = torch.Generator().manual_seed(channels)
    into = torch.randint(0, width, (channels,), generator=generator)
    sign = torch.randint(0, 2, (channels,), generator=generator).to(x.dtype) * 2 - 1
    return x.new_zeros(len(x), width).index_add_(1, into, x * sign)


@torch.no_grad()
def batch_probed(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Rows of the items in arguments["ids"], one for each watched site; profiles are null where one is not finite."""
    items = [item for item in batch.items if item.id in arguments["ids"]]
    probed, positions = arguments["tokens"], arguments["positions"]
    sites = watched_sites(model, arguments["layers"], arguments["sites"])
    seen: dict[str, list[Tensor]] = {name: [] for name in sites}
    for p in positions if items else ():
        texts = [[*_context(item, p), token] for item in items for token in probed]
        with model.capture(*[f"{name}@-1" for name in sites]) as captured:
            model(torch.tensor(texts, device=batch.device), last_only=True)
        for name in sites:
            x = captured[name][:, 0].flatten(1).double().cpu()
            seen[name].append(torch.unflatten(sketch(x), 0, (len(items), len(probed))))
    rows: list[dict[str, Any]] = []
    for name, (layer, site) in sites.items() if items else ():
        for item, x in zip(items, torch.stack(seen[name], 1).unbind(0), strict=True):  # x (P, K, C)
            rows.append({"id": item.id, "layer": layer, "site": site} | _profiles(x))
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _context(item: Any, count: int) -> list[int]:
    """`count` tokens before a probe: the prompt's first, and others of it drawn with replacement."""
    first, *others = item.prompt
    return [first, *random.Random(f"{item.id} {count}").choices(others or [first], k=count - 1)]


def _profiles(x: Tensor) -> dict[str, Any]:
    if not bool(torch.isfinite(x).all()):
        return {}
    mean = x.mean((0, 1))
    return {
        "position": (x.mean(1) - mean).flatten().numpy(), "content": (x.mean(0) - mean).flatten().numpy(),
        "total": float((x - mean).square().sum() / (x.shape[0] * x.shape[1])),
        "size": float(x.square().sum() / (x.shape[0] * x.shape[1])),
    }  # fmt: skip


def shares(position: Floats, content: Floats, totals: Floats, *, how: Resampling, draws: int) -> Shares | None:
    """position (n, P, C), content (n, K, C): profiles of n prompts; totals (n,). None for fewer than two prompts, and
    where nothing varies."""
    n = int(position.shape[0])
    if n < 2 or totals.sum() <= 0:
        return None
    grams = [(flat @ flat.T) / of.shape[1] for of in (position, content) for flat in [of.reshape(n, -1)]]

    def of(weights: Floats) -> Floats:
        """(3,): the shares of a sample of prompts, with pairs of different prompts alone."""
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0.0)
        total = weights @ totals / weights.sum()
        found = [float((pairs * gram).sum() / pairs.sum() / total) for gram in grams]
        return np.array([*found, 1 - sum(found)])

    value = of(np.ones(n))
    rng = np.random.default_rng(how.seed)
    chance = _by_chance(position, draws, rng) / totals.mean()
    p = (1 + int((chance >= value[0] - 1e-12).sum())) / (1 + draws)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(how.resamples)]
    resampled = np.stack([of(w) for w in drawn if np.count_nonzero(w) > 1 and w @ totals > 0])
    tail = (1 - how.confidence) / 2
    bounds = np.quantile(resampled, [tail, 1 - tail], axis=0).T.tolist() if n > 3 else [(None, None)] * 3
    found = [Share(v, *ends) for v, ends in zip(value.tolist(), bounds, strict=True)]
    return Shares(found[0], found[1], found[2], float(p))


def _by_chance(position: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """What `shares` would measure (draws,) with the positions of every prompt in an order of its own, times `total`."""
    n, places = map(int, position.shape[:2])
    rows = position.reshape(n * places, -1)
    gram = rows @ rows.T
    own = float(np.trace(gram)) / places  # an order changes it in no prompt
    found: list[Floats] = []
    for count in blocks(draws, n * places * places):
        numbers: NDArray[np.int64] = np.broadcast_to(np.arange(places), (count, n, places)).copy()
        order = rng.permuted(numbers, axis=2)
        chosen = np.zeros((count, places, n * places))
        np.put_along_axis(chosen, (order + places * np.arange(n)[:, None]).swapaxes(1, 2), 1.0, axis=2)
        summed = ((chosen.reshape(-1, n * places) @ gram).reshape(chosen.shape) * chosen).sum((1, 2))
        found.append((summed / places - own) / (n * (n - 1)))
    return np.concatenate(found)
