"""What brings the answer back after noise on the evidence, and what every block's residual stream says at the end.

The first is the step `fact_tracing` at (nearly) every token behind the evidence, with the block's whole state among
what is restored; the second the step `logit_lens` at the prompt's last token. Both with these steps' settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..engine.batches import Batch
from ..engine.interp_config import settings_of
from ..engine.step import STEPS
from ..methods.prompts import FactItem
from ..methods.restoration import STATE, present
from ..steps.fact_tracing import batch_traces
from ..steps.logit_lens import batch_lenses
from .choosing import Chosen

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.interp_config import InterpConfig

SITES = ("resid_post", "mixer_out", "mlp_out?", f"{STATE}?", "h_post?", "conv_state?")
POSITIONS = 64  # tokens behind the evidence at which something is restored, at most


def traced_table(model: LanguageModel, chosen: Chosen, layers: Sequence[int], config: InterpConfig) -> pa.Table:
    """The rows of `fact_tracing` for the question, which has evidence."""
    item = chosen.item
    assert item.fact is not None
    settings: Any = settings_of(config, STEPS.get("fact_tracing"))
    arguments = {
        "ids": [item.id], "layers": list(layers), "seed": config.seed % 2**63,
        "sites": present(model, SITES, layers), "distances": distances(len(item.prompt) - item.fact[1]),
    } | settings.model_dump(mode="json", include={"samples", "window", "metric"})  # fmt: skip
    return batch_traces(model, Batch([item], model.device), arguments)


def distances(behind: int, most: int = POSITIONS) -> list[int]:
    """0 to `behind` tokens after the evidence; of many the first and last few, and others spread evenly between."""
    if behind < most:
        return list(range(behind + 1))
    near = most // 8
    between = np.linspace(near, behind - near, most - 2 * near).round().astype(int).tolist()
    return sorted({*range(near), *between, *range(behind - near + 1, behind + 1)})


def lens_table(model: LanguageModel, chosen: Chosen, layers: Sequence[int], config: InterpConfig) -> pa.Table:
    """The rows of `logit_lens` for the question's last token."""
    item = chosen.item
    settings: Any = settings_of(config, STEPS.get("logit_lens"))
    last = len(item.prompt) - 1
    # the subject is where tokens are read: here the last one, which `logit_lens` calls subject_last
    fact = FactItem(item.id, item.prompt, (last, last + 1), item.answer[0])
    arguments = {"layers": list(layers), "site": settings.site, "top": settings.top, "bins": ["subject_last"]}
    return batch_lenses(model, Batch([fact], model.device), arguments)
