"""What latents go with: their correlation with properties of the activation, of the token's place and of the question.

Properties of one activation x (C,): magnitude |x|; sparsity, Hoyer's (sqrt C - l1/l2) / (sqrt C - 1), 0 for equal sizes
and 1 for a single channel; polarity, the share of channels above 0; variance over the channels; excess kurtosis over
the channels. Beside them anything that is known of the token, such as its position. Pearson correlations over tokens,
from sums of one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..typed_tensors import lengths
from .dictionary import SparseDictionary
from .examples import Examples, chunks

#: name -> what it is
PROPERTIES = {
    "magnitude": "length of the activation",
    "sparsity": "Hoyer sparsity of the activation's channels",
    "polarity": "share of the activation's channels above 0",
    "variance": "variance over the activation's channels",
    "kurtosis": "excess kurtosis over the activation's channels",
}


def properties(x: Tensor) -> Tensor:
    """`PROPERTIES` (n, 5) of x (n, C), float64; 0 where a vector is constant and one is not defined."""
    x = x.double()
    width = x.shape[1]
    length = lengths(x)
    hoyer = (width**0.5 - x.abs().sum(1) / length) / (width**0.5 - 1)
    centred = x - x.mean(1, keepdim=True)
    variance = (centred**2).mean(1)
    kurtosis = (centred**4).mean(1) / variance**2 - 3
    polarity = (x > 0).double().mean(1)
    return torch.stack([length, hoyer, polarity, variance, kurtosis], 1).nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def correlations(dictionary: SparseDictionary, examples: Examples, known: Tensor) -> Tensor:
    """Correlation (F, 5 + p) of each latent with `PROPERTIES` and with `known` (n, p), over all examples; NaN where one
    of the two does not vary."""
    n, p = len(examples), len(PROPERTIES) + known.shape[1]
    count = dictionary.n_latents
    sums, squares, products = (torch.zeros(*shape, dtype=torch.float64) for shape in ((count,), (count,), (count, p)))
    middle, of_properties = torch.zeros(p, dtype=torch.float64), torch.zeros(2, p, dtype=torch.float64)
    for start, x in chunks(examples):
        values = torch.cat([properties(x), known[start : start + len(x)].double()], 1)
        if start == 0:
            middle = values.mean(0)  # near the mean, so that squares do not cancel
        values = values - middle
        f = dictionary.latents(x).double()
        sums += f.sum(0)
        squares += (f**2).sum(0)
        products += f.T @ values
        of_properties += torch.stack([values.sum(0), (values**2).sum(0)])
    covariance = products / n - torch.outer(sums / n, of_properties[0] / n)
    variance = squares / n - (sums / n) ** 2
    spread = of_properties[1] / n - (of_properties[0] / n) ** 2
    tiny = 1e-12
    usable = (variance > tiny * (squares / n))[:, None] & (spread > tiny * (1 + middle**2))[None]
    scale = torch.outer(variance.clamp(min=0).sqrt(), spread.clamp(min=0).sqrt())
    return torch.where(usable, (covariance / scale).clamp(-1, 1), torch.nan)
