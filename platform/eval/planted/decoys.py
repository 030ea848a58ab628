"""Decoys: channels that follow a carrier's every move, and that nothing reads.

In a Mamba block a channel of the inner width is a world of its own: what it computes depends on its own rows of the
projections and on B, C and dt, and it is heard through its column of out_proj and, for B, C and dt, of x_proj. So a
copy of another channel's rows makes it do what that channel does, token by token, and zeros in its two columns make it
unheard. Its activity tells the answer as well as the carrier's; changing it changes nothing, to the last bit.
(Mamba-2 norms the inner width as a whole: there every channel is heard.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.errors import UsageError
from ...models import LanguageModel
from .choosing import hurting_channels
from .forced import ForcedBatch

SITE = "mixer.gated"
_HEARD = ("out_proj.weight", "x_proj.weight")


def plant_decoys(model: LanguageModel, layer: int, count: int, batches: Sequence[ForcedBatch]) -> tuple[int, ...]:
    """Make `count` channels of block `layer` decoys of the `count` that carry most, in place; gives the decoys.

    The decoys are the channels that carry least, so that little is lost. Raises UsageError for another
    architecture and for a count above half of its channels.
    """
    if model.config.arch != "mamba":
        raise UsageError(f"{model.name} is no Mamba; in other architectures no channel of the inner width is unheard")
    width = model.config.inner_size
    if not 0 < count <= width // 2:
        raise UsageError(f"block {layer} of {model.name} has {width} channels, not {count} pairs of them")
    site = f"blocks.{layer}.{SITE}"
    carriers = hurting_channels(model, site, count, batches)
    heard = set(hurting_channels(model, site, width - count, batches))
    decoys = tuple(channel for channel in range(width) if channel not in heard)
    to, of = list(decoys), list(carriers)
    with torch.no_grad():
        for name, weight in model.blocks[layer].mixer.named_parameters():
            if name in _HEARD:
                weight[:, to] = 0.0
            elif name.startswith("in_proj."):  # both halves, the channel itself and its gate
                halves = weight.unflatten(0, (2, width))
                halves[:, to] = halves[:, of].clone()
            elif name != "out_proj.bias":
                weight[to] = weight[of].clone()
    return decoys
