"""From a configuration to the pieces of a run: data, model shape, device, arithmetic; and the record of all that.

`prepare` finds every mistake it can before anything is written; `Setup.lines` says what was chosen and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from .data import DataSource, open_source
from .micro_batch import rows_that_fit
from .precision import Precision, choose_device, choose_precision, set_threads
from .run_folder import RunFolder
from .sizes import model_config
from .starting_model import shape_of_start, started_from, with_tokenizer_of_start
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
    workers: int = 1

    def build_model(self) -> LanguageModel:
        """The model to start with, float32, on the run's device: `start.model`, or one with the weights of `model.init`
        drawn from the run's seed."""
        from ..models import build

        section = self.config.model
        if self.config.start.model is not None:
            model = started_from(self.config.start, self.config.seed, self.device)
        else:
            model = build(
                self.shape,
                seed=self.config.seed,
                device=self.device,
                init=section.init,
                embedding_std=section.embedding_std,
            )
        model.recompute_blocks = self.config.activation_checkpointing
        return model

    @cached_property
    def micro_batch_size(self) -> int:
        """Rows of a forward pass, at most a worker's part of the batch; `auto` is found out by one row of training."""
        given, rows = self.config.micro_batch_size, self.config.batch_size
        if given == "auto":
            given = rows_that_fit(self.build_model(), rows, self.config.sequence_length)
        return min(given or rows, math.ceil(rows / self.workers))

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
        workers = [] if self.workers == 1 else [f"workers: {self.workers}, each with {self._part}"]
        return [
            f"model: {s.arch}, {s.n_layers} layers, d_model {s.d_model}, state {s.state_size}, "
            f"vocabulary {s.vocab_size}",
            f"data: {self.source.description}",
            f"steps: {c.total_steps:,} of {c.tokens_per_step:,} tokens ({c.total_steps * c.tokens_per_step:,} in all), "
            f"{math.ceil(c.batch_size / self.micro_batch_size)} forward passes each",
            f"arithmetic: {self.precision.name} ({self.precision.reason}) on {self.device}, {self.threads} threads",
            *workers,
        ]

    def cautions(self, model: LanguageModel) -> list[str]:
        """What makes this run another one than in one process would be."""
        given = self.config.micro_batch_size
        asked = given if isinstance(given, int) else self.config.batch_size
        if self.workers == 1 or self.micro_batch_size == asked or model.n_active_parameters == model.n_parameters:
            return []
        return [
            f"experts are balanced among the {self.micro_batch_size} rows of a forward pass, and not among {asked} as "
            f"in one process; micro_batch_size={self.micro_batch_size} makes both the same"
        ]

    @property
    def _part(self) -> str:
        return "a share of every weight" if self.config.workers.fsdp else "a copy of the model"


def prepare(
    config: TrainConfig, folder: RunFolder, *, dry_run: bool, workers: int = 1, device: str | None = None
) -> Setup:
    """Open the data, choose the model's shape, device and arithmetic. With `dry_run` nothing is written.

    device: instead of the configuration's.
    """
    require_trackers(config)
    where = choose_device(device or config.device)
    config = with_tokenizer_of_start(config)
    source = open_source(config, folder.path, dry_run=dry_run)
    known = source.tokenizer
    if config.start.model is None:
        shape = model_config(
            config.model, known.size, tokenizer_name=str(known.folder), eos_id=known.eos_id, bos_id=known.start_id
        )
    else:
        shape = shape_of_start(config.start.model, known)
    _require_memory(config, shape, str(where))
    return Setup(
        config,
        source,
        shape,
        where,
        choose_precision(config.dtype, where, shape.d_model),
        set_threads(config.threads),
        workers,
    )


def _require_memory(config: TrainConfig, shape: ModelConfig, device: str) -> None:
    """Raise UsageError where the weights, with gradients and two moments on the CPU, or what one forward pass keeps
    at least, do not fit into this machine."""
    from ..models import build
    from ..models.memory import require_memory, require_weights

    each = 16 if device == "cpu" else 4
    require_weights(shape, bytes_each=each)
    require_weights(shape, build(shape, seed=0, device="meta").n_parameters, bytes_each=each)
    rows = config.micro_batch_size or config.batch_size
    if device == "cpu" and rows != "auto":
        name = "batch_size" if config.micro_batch_size is None else "micro_batch_size"
        tokens = {name: rows, "sequence_length": config.sequence_length}
        scores = tokens | {"vocab_size": shape.vocab_size}
        if config.cross_entropy == "whole":
            require_memory(4 * math.prod(scores.values()), scores, "the scores of one forward pass")
        inputs = tokens | {"d_model": shape.d_model, "n_layers": shape.n_layers}
        require_memory(4 * math.prod(inputs.values()), inputs, "the inputs of all blocks of one forward pass")


def sections(setup: Setup, model: LanguageModel) -> dict[str, Any]:
    """What run.json says of a run besides its configuration, as `RunRecord` has it."""
    from ..models.provenance import kernels

    return {
        "model": {
            "name": setup.config.name,
            "arch": model.config.arch,
            "parameters": model.n_parameters,
            "dtype": str(model.dtype).removeprefix("torch."),
            "digest": None,
        },
        "data": {
            "digest": setup.source.digest,
            "counts": setup.source.counts,
            "left_out": setup.source.left_out,
        },
        "backend": {
            "device": str(setup.device),
            "dtype": setup.precision.name,
            "kernels": kernels(model),
            "threads": setup.threads,
        },
        "details": {"tokenizer": setup.source.tokenizer.digest, "arithmetic": setup.precision.reason},
    }
