"""The tables of a trace over prompts, written down once: one row per prompt, site, layer and position, and averages.

`status` is `ok` or the reason why a prompt has no effects; it has one row then, in which everything that was not
reached is null, never zero and never NaN. Effects are in the units of the metric; probabilities are probabilities.
"""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column
from ..engine.statuses import MODEL_WRONG

#: what a row's status may be. model_wrong: the model's first answer token is another one, and only prompts that are
#: answered correctly were asked for; that is a finding and no failure. no_place: subject or answer has no token of its
#: own
STATUSES = (
    "ok", MODEL_WRONG, "bad_input", "no_place", "too_long", "no_replacement", "model_nonfinite", "worker_lost",
)  # fmt: skip

TRACE_SCHEMA = pa.schema([
    column("id", pa.string(), "of the prompt"),
    column("site", pa.string(), "what was restored; several sites joined by +"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("position", pa.int32(), "token position, from 0"),
    column("token", pa.string(), "the clean prompt's token there; its id for a model without tokenizer"),
    column("bin", pa.string(), "the position's place relative to the subject"),
    column("effect", pa.float64(), "mean over samples of the restored run's metric minus the corrupted run's"),
    column("effect_std", pa.float64(), "unbiased standard deviation of that difference over samples; null for one"),
    column("samples", pa.int32(), "corrupted runs"),
    column("p_clean", pa.float64(), "probability of the answer in the clean run"),
    column("p_corrupted", pa.float64(), "the same in the corrupted runs, their mean"),
    column("metric_clean", pa.float64(), "metric of the clean run"),
    column("metric_corrupted", pa.float64(), "metric of the corrupted runs, their mean; the rest is the total effect"),
    column("answer", pa.int32(), "token id: the first of the fact's target, or the clean run's most probable"),
    column("answer_token", pa.string(), "what it says"),
    column("predicted", pa.int32(), "the clean run's most probable token"),
    column("predicted_token", pa.string(), "what it says"),
    column("correct", pa.bool_(), "whether it is the first token of the target; null where there is none"),
    column("status", pa.string(), "ok, or why there is no effect"),
    column("reason", pa.string(), "the status in words; null where it is ok"),
])  # fmt: skip
TRACE_ORDER = ("id", "site", "layer", "position")
