"""How long a training would take and what memory it needs, from one row forwards and backwards.

A model that is too large to be built for that is estimated from a count of operations.
"""

from __future__ import annotations

from ..models.probe import Cost, products_per_second, training_row
from .setup import Setup

_LARGE = 200_000_000  # parameters
_BYTES_PER_PARAMETER = 16  # float32 weights, gradients and the two moments of AdamW


def estimate(setup: Setup) -> Cost:
    """The cost of all steps on this machine. Not counted: making the data, evaluations and checkpoints."""
    config = setup.config
    parameters = setup.count_parameters()
    if parameters > _LARGE:
        return _counted(setup, parameters)
    model = setup.build_model()
    seconds, kept = training_row(model, config.sequence_length)
    rows = config.total_steps * config.batch_size
    together = setup.micro_batch_size
    return Cost(
        seconds * rows,
        _BYTES_PER_PARAMETER * model.n_parameters + kept * together,
        f"one row of {config.sequence_length} tokens took {seconds:.2g} s forwards and backwards, times {rows:,} rows, "
        f"which batches make faster; memory is {_BYTES_PER_PARAMETER} bytes a parameter and {kept / 2**20:.0f} MiB "
        f"kept for each of {together} rows",
    )


def _counted(setup: Setup, parameters: int) -> Cost:
    rate = products_per_second(setup.device)
    tokens = setup.config.total_steps * setup.config.tokens_per_step
    return Cost(
        6.0 * parameters * tokens / rate,
        _BYTES_PER_PARAMETER * parameters,
        f"6 operations a parameter and token at the {rate / 1e9:.0f} G a second of a matrix product here, which is the "
        f"least it can take; memory is {_BYTES_PER_PARAMETER} bytes a parameter without what rows keep",
    )
