"""What the tables of the step `apd` hold: schemas with a meaning for each column."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column
from .spd_schema import OF, PLACE, STATUS

RUNS = pa.schema([
    *OF,
    column("components", pa.int32(), "parameter components"),
    column("alive", pa.int32(), "those that some prompt uses"),
    column("used", pa.float64(), "components a prompt uses, mean"),
    column("error", pa.float64(), "faithfulness: squared error of the sums over the weights' own square"),
    column("divergence", pa.float64(), "KL in nats at the last token from the model to it with the used components"),
    column("same_token", pa.float64(), "share of prompts whose most probable next token stays the same"),
    column("loss", pa.float64(), "of training, mean over the last tenth of the steps"),
    column("n_prompts", pa.int32(), "prompts counted"),
    *STATUS,
])  # fmt: skip
COMPONENTS = pa.schema([
    *OF[1:],
    *PLACE,
    column("component", pa.int32(), "its number in the tensors"),
    column("norm", pa.float64(), "Frobenius norm of its part in this matrix"),
    column("effective_rank", pa.float64(), "exp of the entropy of its singular values over their sum; of rows: null"),
    column("use", pa.float64(), "share of prompts that use it"),
    column("attribution", pa.float64(), "mean over prompts, in logits: root mean square over scores"),
    column("rank", pa.int32(), "by attribution"),
    column("top_kind", pa.string(), "kind of question that uses it most"),
    *STATUS,
])  # fmt: skip
COMPARISON = pa.schema([
    *OF[1:],
    *PLACE,
    column("with", pa.string(), "spd: the first run of the step spd; seed: the first other run of this step"),
    column("compared", pa.int32(), "of SPD components that are alive, of this step those that are used"),
    column("mean_max_cosine", pa.float64(), "mean over these of the largest |cosine| with one of this run's parts"),
    column("random", pa.float64(), "the same for random directions in their place, of the same norms"),
    *STATUS,
])  # fmt: skip
