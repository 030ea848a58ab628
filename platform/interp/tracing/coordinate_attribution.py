"""Attribution patching inside a site: which channels, and which state coordinates, carry the difference.

AP(a) of `attribution` is a sum over everything the site holds at one position. Here are its terms, one for each channel
(of a state: each channel and coordinate), so that they add up to the row of the same site, layer and position there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ...errors import UsageError
from ...models.edits import Add
from ...models.norms import wide
from ..columns import column
from ..places import check_layers, places
from .outcome import absolute_positions, answer_token, check_metric, prompt_tokens, score

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("position", pa.int32(), "token position"),
    column("channel", pa.int32(), "channel of the site"),
    column("coordinate", pa.int32(), "coordinate of the channel's state; null where a channel holds one value"),
    column("effect", pa.float64(), "its term of the estimated change of the metric when the site is restored"),
])  # fmt: skip


def coordinate_attribution(
    model: LanguageModel,
    clean: Tensor | Sequence[int],
    corrupted: Tensor | Sequence[int],
    site: str,
    position: int,
    *,
    layers: Sequence[int] | None = None,
    answer: int | str | None = None,
    metric: str = "prob",
) -> pa.Table:
    """The terms of one site's attribution at one position, for every layer (None: all that have the site).

    Arguments as in `attribution_patching`. Returns a table of `SCHEMA` by layer, channel and coordinate. Raises
    UsageError for prompts of different length, and for a site, layer or position that the model lacks.
    """
    check_metric(metric)
    before, after = prompt_tokens(model, clean, "clean"), prompt_tokens(model, corrupted, "corrupted")
    if len(before) != len(after):
        raise UsageError(f"corrupted has {len(after)} tokens, clean {len(before)}; make them equally long")
    (t,) = absolute_positions(position, len(before), "position")
    found = places(model, check_layers(layers, model.n_layers), [site], one_axis=False)
    names = [f"{place.name}@[{t}]" for place in found]
    with torch.inference_mode(False), torch.no_grad(), model.capture(*names) as there:
        said = model(before[None], last_only=True)[0, -1]
    target = answer_token(model, answer, said)
    options = {"dtype": wide(model.dtype), "device": model.device, "requires_grad": True}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        zeros = [torch.zeros(1, 1, *place.shape, **options) for place in found]
        stack.enter_context(model.edit(*(Add(name, zero) for name, zero in zip(names, zeros, strict=True))))
        here = stack.enter_context(model.capture(*names))
        logits = model(after[None], last_only=True)[:, -1]
        slopes = torch.autograd.grad(score(logits, target, metric).sum(), zeros)
    parts = []
    for place, name, slope in zip(found, names, slopes, strict=True):
        effect = ((there[name] - here[name].detach()).double() * slope.double())[0, 0].cpu().numpy()
        channel = np.indices(effect.shape)[0].ravel()
        coordinate = np.indices(effect.shape)[1].ravel() if effect.ndim > 1 else None
        n = effect.size
        parts.append(
            pa.table(
                [
                    pa.array([place.site] * n, pa.string()),
                    pa.array(np.full(n, place.layer, np.int32)),
                    pa.array(np.full(n, t, np.int32)),
                    pa.array(channel.astype(np.int32)),
                    pa.nulls(n, pa.int32()) if coordinate is None else pa.array(coordinate.astype(np.int32)),
                    pa.array(effect.ravel()),
                ],
                schema=SCHEMA.with_metadata({"answer": str(target), "metric": metric}),
            )
        )
    return pa.concat_tables(parts)
