"""How long a training would take, how fast it would read, and what memory and disk it needs.

Time is that of one row forwards and backwards, tried here; where even a row would take long, a count of operations.
"""

from __future__ import annotations

from ..models.probe import Cost, products_per_second, training_row
from .disk import disk
from .setup import Setup

_LONG = 1e11  # operations of one row that are not tried out: about ten seconds on a laptop
_BYTES_PER_PARAMETER = 16  # float32 weights, gradients and the two moments of AdamW


def estimate(setup: Setup) -> Cost:
    """The cost of all steps on this machine. Not counted: making the data, evaluations and checkpoints."""
    config = setup.config
    parameters, active = setup.count_parameters(), setup.count_active_parameters()
    tokens = config.total_steps * config.tokens_per_step
    if 6 * active * config.sequence_length > _LONG:
        rate = products_per_second(setup.device)
        seconds, kept = 6.0 * active * tokens / rate, 0
        how = (
            f"6 operations a token and parameter that it uses, at the {rate / 1e9:.0f} G a second of a matrix product "
            f"here, which is the least it can take; memory is {_BYTES_PER_PARAMETER} bytes a parameter without what "
            "rows keep"
        )
    else:
        rows = config.total_steps * config.batch_size
        together = setup.micro_batch_size
        row_seconds, row_bytes = training_row(setup.build_model(), config.sequence_length)
        seconds, kept = row_seconds * rows, row_bytes * together
        how = (
            f"one row of {config.sequence_length} tokens took {row_seconds:.2g} s forwards and backwards, times "
            f"{rows:,} rows, which batches make faster; memory is {_BYTES_PER_PARAMETER} bytes a parameter and "
            f"{row_bytes / 2**20:.0f} MiB kept for each of {together} rows"
        )
    needed = disk(setup, parameters)
    return Cost(
        seconds,
        _BYTES_PER_PARAMETER * parameters + kept,
        f"{how}; disk is {needed.checkpoints} checkpoints with moments, the model and the tokens made of its texts",
        disk_bytes=needed.total,
        tokens_per_second=tokens / seconds,
    )
