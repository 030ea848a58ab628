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

from ...models.access.edits import Add
from ...models.parts.norms import wide
from ..engine.columns import column
from ..engine.places import Place, places
from .asked import about_runs, check_finite, chosen_layers, evaluating, prompt_positions
from .corruption import Span, corrupt
from .metric import make_metric
from .table import text_metadata

if TYPE_CHECKING:
    from ...models import LanguageModel

SCHEMA = pa.schema([
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("position", pa.int32(), "token position"),
    column("channel", pa.int32(), "channel of the site"),
    column("coordinate", pa.int32(), "coordinate of the channel's state; null where a channel holds one value"),
    column("effect", pa.float64(), "its term of the estimated effect of restoring the site, mean over samples"),
])  # fmt: skip


def coordinate_attribution(
    model: LanguageModel,
    clean: Tensor,
    corrupted: Tensor | None,
    site: str,
    position: int,
    *,
    subject: Span | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    layers: Sequence[int] | None = None,
    answer: int | tuple[int, int] | None = None,
    metric: str = "prob",
) -> pa.Table:
    """The terms of one site's attribution at one position, for every layer (None: all that have the site).

    Arguments as in `attribution_patching`. Returns a table of `SCHEMA` by layer, channel and coordinate. Raises
    UsageError for arguments that do not fit the model or each other, InputError where a run is not finite.
    """
    corruption = corrupt(model, clean, corrupted, subject=subject, noise=noise, samples=samples, seed=seed)
    (t,) = prompt_positions([position], len(corruption.clean), "position")
    found = places(model, chosen_layers(model, layers), [site], one_axis=False)
    names = [f"{place.name}@[{t}]" for place in found]
    tokens = corruption.rows(slice(None))
    dtype, device = wide(model.dtype), model.device
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        shapes = [(len(tokens), 1, *place.shape) for place in found]
        zeros = [torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]
        added = [Add(name, zero) for name, zero in zip(names, zeros, strict=True)]
        stack.enter_context(model.edit(*corruption.edits(model, slice(None)), *added))
        acts = stack.enter_context(model.capture(*names))
        logits = model(tokens, phase="prefill", last_only=True)[:, 0]
        before, after = logits[0].detach(), logits[1:].detach()
        check_finite(model, before, after)
        judge = make_metric(metric, answer, before, after)
        slopes = torch.autograd.grad(judge(logits[1:]).sum(), zeros)
    parts: list[pa.Table] = []
    for place, name, slope in zip(found, names, slopes, strict=True):
        value = acts[name].detach()
        effect = ((value[:1] - value[1:]).double() * slope[1:].double()).mean(0)[0]
        parts.append(_rows(place, t, effect))
    about = about_runs(model, corruption, judge, before, after, seed)
    return pa.concat_tables(parts).replace_schema_metadata(text_metadata(about))


def _rows(place: Place, t: int, effect: Tensor) -> pa.Table:
    values = effect.cpu().numpy()
    n, index = values.size, np.indices(values.shape).astype(np.int32)
    held = pa.array(index[1].ravel()) if values.ndim > 1 else pa.nulls(n, pa.int32())
    columns = [
        pa.array([place.site] * n, pa.string()), pa.array(np.full(n, place.layer, np.int32)),
        pa.array(np.full(n, t, np.int32)), pa.array(index[0].ravel()), held, pa.array(values.ravel()),
    ]  # fmt: skip
    return pa.table(columns, schema=SCHEMA)
