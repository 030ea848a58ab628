"""How much disk a run takes at most: its checkpoints, the exported model, and the tokens made of its texts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .milestones import milestones
from .setup import Setup
from .train_config import TrainConfig

_SAVED = 12  # bytes a parameter in a checkpoint: float32 weights and the two moments of AdamW
_EXPORTED = {"float32": 4, "float16": 2, "bfloat16": 2}
_TEXT_OF_A_TOKEN = 4  # bytes of English a token, about
_COMPRESSION = {".gz": 3, ".zst": 3, ".parquet": 3}  # bytes of text a byte of the file, about


class Disk(NamedTuple):
    """Bytes of a run's folder, by what they are for."""

    checkpoints: int  # how many lie there at once at most, while one is being written
    checkpoint_bytes: int  # of all of them
    export_bytes: int
    data_bytes: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.checkpoint_bytes + self.export_bytes + self.data_bytes


def disk(setup: Setup, parameters: int) -> Disk:
    """What a run of a model of so many parameters leaves on the disk, the log and pictures left out."""
    config = setup.config
    kept = min(_kept(config), config.total_steps)
    wide = 4 if setup.source.tokenizer.size > 2**16 else 2
    return Disk(
        checkpoints=kept,
        checkpoint_bytes=_SAVED * parameters * kept,
        export_bytes=_EXPORTED[config.export.dtype] * parameters,
        data_bytes=_text_bytes(config) * wide // _TEXT_OF_A_TOKEN,
    )


def _kept(config: TrainConfig) -> int:
    """The latest, the best, those of early steps, and the one that is written before the oldest goes."""
    return config.checkpoint.keep_latest_k + 2 + len(milestones(config.checkpoint.per_decade, config.total_steps))


def _text_bytes(config: TrainConfig) -> int:
    """Bytes of text whose tokens the run writes; none where they are tokens already, or are made while training."""
    if config.data.source != "text" or config.data.text.cache is not None:
        return 0
    paths = [Path(name) for name in config.data.text.paths]
    return sum(path.stat().st_size * _COMPRESSION.get(path.suffix, 1) for path in paths)
