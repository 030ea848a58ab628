"""From a configuration to the pieces of a run: data, model shape, device, arithmetic; and the record of all that.

`prepare` finds every mistake it can before anything is written; `Setup.lines` says what was chosen and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from .data import DataSource, open_source
from .precision import Precision, choose_device, choose_precision, set_threads
from .run_folder import RunFolder
from .sizes import model_config
from .tracker import require_trackers
from .train_config import TrainConfig

if TYPE_CHECKING:
    from ..models import LanguageModel, ModelConfig


@dataclass(frozen=True)
class Setup:
    """Everything decided before the first step."""

    config: TrainConfig
    source: DataSource
    shape: ModelConfig
    device: torch.device
    precision: Precision
    threads: int

    def build_model(self) -> LanguageModel:
        """A model with the weights of `model.init` drawn from the run's seed, float32, on the run's device."""
        from ..models import build

        model = self.config.model
        return build(
            self.shape,
            seed=self.config.seed,
            device=self.device,
            init=model.init,
            embedding_std=model.embedding_std,
        )

    def count_parameters(self) -> int:
        """Parameters of the model, found without filling any."""
        return self._outline.n_parameters

    def count_active_parameters(self) -> int:
        """Those that one token uses, found in the same way."""
        return self._outline.n_active_parameters

    @cached_property
    def _outline(self) -> LanguageModel:
        from ..models import build

        return build(self.shape, seed=0, device="meta")

    def lines(self) -> list[str]:
        """What the run consists of, for a reader."""
        c, s = self.config, self.shape
        micro = c.micro_batch_size or c.batch_size
        return [
            f"model: {s.arch}, {s.n_layers} layers, d_model {s.d_model}, state {s.state_size}, "
            f"vocabulary {s.vocab_size}",
            f"data: {self.source.description}",
            f"steps: {c.total_steps:,} of {c.tokens_per_step:,} tokens ({c.total_steps * c.tokens_per_step:,} in all), "
            f"{c.batch_size // micro} forward passes each",
            f"arithmetic: {self.precision.name} ({self.precision.reason}) on {self.device}, {self.threads} threads",
        ]


def prepare(config: TrainConfig, folder: RunFolder, *, dry_run: bool) -> Setup:
    """Open the data, choose the model's shape, device and arithmetic. With `dry_run` nothing is written."""
    require_trackers(config)
    device = choose_device(config.device)
    source = open_source(config, folder.path, dry_run=dry_run)
    known = source.tokenizer
    shape = model_config(
        config.model, known.size, tokenizer_name=str(known.folder), eos_id=known.eos_id, bos_id=known.start_id
    )
    _require_memory(config, shape, str(device))
    return Setup(
        config,
        source,
        shape,
        device,
        choose_precision(config.dtype, device, shape.d_model),
        set_threads(config.threads),
    )


def _require_memory(config: TrainConfig, shape: ModelConfig, device: str) -> None:
    """Raise UsageError where the weights, with gradients and two moments on the CPU, or the scores of one forward pass
    alone do not fit into this machine."""
    from ..models import build
    from ..models.memory import require_memory, require_weights

    each = 16 if device == "cpu" else 4
    require_weights(shape, bytes_each=each)
    require_weights(shape, build(shape, seed=0, device="meta").n_parameters, bytes_each=each)
    rows = config.micro_batch_size or config.batch_size
    scores = 4 * rows * config.sequence_length * shape.vocab_size
    name = "batch_size" if config.micro_batch_size is None else "micro_batch_size"
    if device == "cpu":
        sizes = {name: rows, "sequence_length": config.sequence_length, "vocab_size": shape.vocab_size}
        require_memory(scores, sizes, "the scores of one forward pass")


def sections(setup: Setup, model: LanguageModel) -> dict[str, Any]:
    """What run.json says of a run besides its configuration, as `RunRecord` has it."""
    from ..models.provenance import identity, kernels

    name = f"{setup.config.model.arch}-{setup.config.model.size}"
    return {
        "model": {**identity(model), "name": name, "digest": None},
        "data": {"digest": setup.source.digest},
        "backend": {
            "device": str(setup.device),
            "dtype": setup.precision.name,
            "kernels": kernels(model),
            "threads": setup.threads,
        },
        "details": {"tokenizer": setup.source.tokenizer.digest, "arithmetic": setup.precision.reason},
    }
