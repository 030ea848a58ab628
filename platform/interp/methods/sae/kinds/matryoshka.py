"""BatchTopK whose first latents must reconstruct without the later ones (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

from . import Options, sae_kind
from .batch_topk import BatchTopK


@sae_kind("matryoshka")
class Matryoshka(BatchTopK):
    """As batch_topk, and each of several prefixes of the latents reconstructs alone: the first ones stay general."""

    def prefixes(self, options: Options) -> tuple[int, ...]:
        sizes = {max(1, round(share * options.n_latents)) for share in options.nested}
        return tuple(sorted({*sizes, options.n_latents}))
