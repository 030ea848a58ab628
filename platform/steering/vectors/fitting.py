"""From a model and a contrast to vectors: activations of every text, a direction for each layer, and how well each
separates held-out texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ...core.errors import InputError
from .contrast import Contrast
from .method import Labelled, direction_of, find_vector_method
from .separability import folds_by_group, held_out_auroc
from .site_activations import read_site
from .vectors import LayerVector, Vectors

if TYPE_CHECKING:
    from ...models import LanguageModel

FOLDS = 5


def fit_vectors(
    model: LanguageModel,
    contrast: Contrast,
    *,
    method: str = "difference_of_means",
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    at: str = "last",
    folds: int = FOLDS,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Vectors:
    """A vector for each layer (None: all that have `site`), fitted on all texts of `contrast`.

    at: the last token, the mean over the evidence, or over all tokens. folds: of the held-out AUROC, by group; the
    direction of a fold is fitted on the other folds, the one that is kept on all. seed: of the folds and of what the
    method draws. batch_size: texts read together. progress: called with the number of layers done.

    Raises UsageError for a method, site, layer or `at` that is none; InputError for a contrast with too few groups, for
    activations that are not finite, and for a layer in which both sets are equal.
    """
    find_vector_method(method)
    groups = [t.group for t in contrast.positive], [t.group for t in contrast.negative]
    folds_by_group(*groups, folds, seed)  # too few groups are said before anything is computed
    n = len(contrast.positive)
    found = read_site(
        model, [*contrast.positive, *contrast.negative], site=site, layers=layers, at=at, batch_size=batch_size
    )
    vectors: dict[int, LayerVector] = {}
    for done, (layer, values) in enumerate(found.values.items(), 1):
        examples = Labelled(values[:n], values[n:], contrast.paired, seed)
        try:
            direction = direction_of(method, examples)
            separability = held_out_auroc(method, examples, *groups, folds=folds)
        except InputError as error:
            raise InputError(f"layer {layer}, site {site}: {error}") from error
        apart = float((examples.positive.mean(0) - examples.negative.mean(0)) @ direction)
        tensor = torch.as_tensor(direction.reshape(found.shape)).float()
        vectors[layer] = LayerVector(tensor, apart, found.rms[layer], separability)
        if progress is not None:
            progress(done)
    return Vectors(
        method=method,
        site=site,
        at=at,
        seed=seed,
        folds=folds,
        layers=vectors,
        model_digest=model.digest,
        texts_digest=contrast.digest,
        source=contrast.source,
        n_positive=n,
        n_negative=len(contrast.negative),
        decided_on=contrast.decided_on,
    )
