"""The configuration of a training run: every knob, its default and its meaning.

Promises: frozen, unknown keys refused, values checked here once, so that the loop need not check again.
Does not read files (`mplat.config.load_config` does), does not import torch.
Defaults train a tiny Mamba-2 on the facts world on a laptop.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..core.config import Config, Seed, differing_keys
from ..core.errors import UsageError
from ..core.option import Option
from .data_sections import DataSection
from .workers_section import WorkersSection

#: four times what the largest published runs read in an optimizer step
MOST_TOKENS_PER_STEP = 2**26
LOG_PER_DECADE = 4  # checkpoints of schedule `log` in each factor of ten
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_tokens(text: str | int) -> int:
    """A count of tokens: 10M, 250k, 1.5B or a plain integer. Raises UsageError for anything else or below 1."""
    match = re.fullmatch(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([kKmMbBtT]?)\s*", str(text))
    count = float(match[1].replace("_", "")) * _UNITS[match[2].lower()] if match else 0.0
    if count < 1 or count != int(count):
        raise UsageError(f"{text!r} is not a count of tokens; write it as 10M, 250k, 1B or a whole number")
    return int(count)


def _full_name(arch: str) -> str:
    """An architecture however it is spelt, as it is registered; an unknown one as it is, for the builder to refuse."""
    from ..core.names import known_as
    from ..models.mixer import names

    return known_as(arch, names()) or arch


class ModelSection(Config):
    """Which model to build. A size sets the shape; every other field, when given, overrides the size's value."""

    arch: Annotated[str, AfterValidator(_full_name), Option()] = Field(
        default="mamba2", description="Architecture, such as mamba or mamba2."
    )
    size: Annotated[str, Option()] = Field(default="tiny", description="Size, such as nano, tiny or 130m.")
    d_model: int | None = Field(default=None, ge=1, le=65_536)
    n_layers: int | None = Field(default=None, ge=1, le=4096)
    vocab_size: int | None = Field(
        default=None,
        ge=1,
        le=2**23,
        description="default: the tokenizer's size, rounded up to a multiple of 8 (mamba2: 16)",
    )
    init: Literal["reference", "recall"] = Field(
        default="reference",
        description="first weights; recall: every layer but the first can look a value up by its key from the start",
    )
    embedding_std: float = Field(default=0.02, gt=0, description="standard deviation of the first embeddings")
    options: dict[str, Any] = Field(default_factory=dict, description="further fields of mplat.models.ModelConfig")


class StartSection(Config):
    """A model to train on, instead of a new one; its shape and tokenizer are the run's."""

    model: Annotated[
        str | None, Option("--from", "MODEL", "Train this model on: a shipped one, a folder, a hub id.")
    ] = Field(default=None, description="what to start from: a shipped model, a folder, RUN@STEP or a hub id")
    lora_rank: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="learn changes of this rank of the projections alone, merged at the end; null: all weights",
    )
    lora_alpha: float = Field(default=16.0, gt=0, description="the changes count alpha / rank times")


class OptimizerSection(Config):
    """AdamW, or Muon for the matrices of blocks beside it. Weight decay applies to the decay group of
    `model.param_groups` only."""

    name: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: matrices of blocks move in orthogonal steps of AdamW's size"
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="peak")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="global gradient norm above which gradients are scaled; null: never"
    )

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("betas must lie in [0, 1)")
        return value


class ScheduleSection(Config):
    """Learning rate over the run: linear warm-up to the peak, then one of three shapes down to the floor."""

    shape: Literal["cosine", "wsd", "linear"] = "cosine"
    warmup_steps: int | None = Field(default=None, ge=0, description="default: warmup_fraction of all steps")
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    floor: float = Field(default=1e-5, ge=0, description="learning rate of the last step")
    decay_fraction: float = Field(
        default=0.2, ge=0, le=1, description="wsd: last part of the run, over which the rate falls"
    )


class EvaluationSection(Config):
    """Evaluation on a fixed held-out set while training."""

    every: int = Field(default=250, ge=0, description="steps between evaluations; 0: only after the last step")
    prompts_per_level: int = Field(default=50, ge=1, le=10**6, description="facts: evaluation prompts per level")
    batch_size: int = Field(default=32, ge=1, le=2**20, description="rows per forward pass")
    seed: int = Field(default=0, ge=0, description="facts: seed of the evaluation prompts")
    averaged: bool = Field(default=True, description="with ema: evaluate the averaged weights")
    samples: tuple[str, ...] = Field(
        default=(), description="prompts that are continued at every evaluation, greedily and drawn, into log.jsonl"
    )
    sample_tokens: int = Field(default=32, ge=1, le=4096, description="tokens of each of these continuations")


def _schedule(text: str) -> str:
    if re.fullmatch(r"even|log(:([1-9]\d?|100))?", text) is None:
        raise ValueError("must be even, log, or log:N with 1 to 100 checkpoints in each factor of ten")
    return text


class CheckpointSection(Config):
    """What is saved to continue from. The best checkpoint is kept besides the latest ones."""

    every: int = Field(
        default=250, ge=0, description="steps between checkpoints; 0: only after the last step and when stopped"
    )
    keep_latest_k: int = Field(default=2, ge=1)
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        default="even",
        description="log: also after 1, 2, 3, 6, 10, 18, ... steps, each with an evaluation, kept besides the latest; "
        "log:N has N of them in each factor of ten instead of 4; even: none but those of `every`",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_its_former_name(cls, values: Any) -> Any:
        """`per_decade: N`, as earlier versions wrote it."""
        if isinstance(values, dict) and isinstance(former := values.get("per_decade"), int):
            rest = {name: value for name, value in values.items() if name != "per_decade"}
            return {"schedule": f"log:{former}" if former else "even"} | rest
        return values

    @property
    def per_decade(self) -> int:
        """Checkpoints that are kept of each factor of ten in steps."""
        kind, _, number = self.schedule.partition(":")
        return 0 if kind == "even" else int(number or LOG_PER_DECADE)


class ExportSection(Config):
    """The Hugging Face folder written at the end."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    weights: Literal["last", "best"] = Field(
        default="last", description="weights of the last step, or of the best evaluation"
    )
    averaged: bool = Field(default=True, description="with ema: export the averaged weights")


class LogSection(Config):
    """Where numbers go besides log.jsonl."""

    trackers: tuple[str, ...] = Field(default=("tensorboard",), description="tensorboard, wandb, mlflow; []: none")
    project: str = Field(default="mplat", min_length=1, description="project of wandb, experiment of mlflow")
    name: str | None = Field(default=None, min_length=1, description="name of the run there; default: of its folder")


class TrainConfig(Config):
    """A training run. `steps` or `tokens` sets its length; tokens are rounded up to whole steps."""

    seed: Seed = 1
    steps: int | None = Field(default=None, ge=1)
    tokens: Annotated[int | None, Option(metavar="10M", sets=lambda text: {"steps": None, "tokens": text})] = Field(
        default=None, description="Tokens to train on: 250k, 10M, 1B."
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        le=2**20,
        description="rows per optimizer step; default of modular_addition: all that are trained on",
    )
    batch_tokens: Annotated[int | None, Option(metavar="512k", sets=lambda text: {"batch_tokens": text})] = Field(
        default=None, description="Tokens per optimizer step: sets batch_size, rounded down to whole rows."
    )
    sequence_length: int = Field(
        default=256, ge=2, le=2**24, description="tokens per row; of modular_addition always 3"
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=2**20)] | Literal["auto"] | None = Field(
        default=None,
        description="rows per forward pass; default: batch_size (no accumulation); auto: as many as half the memory "
        "holds",
    )
    cross_entropy: Literal["auto", "whole", "chunked"] = Field(
        default="auto", description="logits of all tokens at once, or of some at a time; auto: by their number"
    )
    activation_checkpointing: bool = Field(
        default=False, description="keep only the inputs of blocks for the way back, and compute blocks twice"
    )
    ema: float | None = Field(
        default=None, ge=0, lt=1, description="decay of a moving average of the weights, such as 0.999; null: none"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32", description="arithmetic of the matrix products; weights stay float32"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")
    threads: int | Literal["auto"] = Field(default="auto", description="CPU threads of torch; auto: torch's own choice")
    log_every: int = Field(default=1, ge=1, description="steps between lines of log.jsonl")
    model: ModelSection = ModelSection()
    start: StartSection = StartSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    workers: WorkersSection = WorkersSection()
    log: LogSection = LogSection()

    @field_validator("tokens", "batch_tokens", mode="before")
    @classmethod
    def _tokens_with_unit(cls, value: Any) -> Any:
        return parse_tokens(value) if isinstance(value, str) else value

    @field_validator("tokens", "batch_tokens")
    @classmethod
    def _tokens_positive(cls, value: int | None) -> int | None:
        return None if value is None else parse_tokens(value)

    @field_validator("threads")
    @classmethod
    def _threads_positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 4096:
            raise ValueError("threads must be 'auto' or at least 1")
        return value

    @model_validator(mode="after")
    def _rows_of_equations(self) -> TrainConfig:
        """Where equations are trained on: rows as long as one, and all of them a step, if nothing else is said."""
        if self.data.source == "modular_addition":
            for name, value in (("batch_size", max(1, self.data.modular_addition.rows)), ("sequence_length", 3)):
                if name not in self.model_fields_set:
                    object.__setattr__(self, name, value)  # a configuration is frozen from here on
        return self

    @model_validator(mode="after")
    def _rows_of_tokens(self) -> TrainConfig:
        if self.batch_tokens is not None:
            if "batch_size" in self.model_fields_set:
                raise ValueError("give batch_size or batch_tokens, not both")
            if self.batch_tokens < self.sequence_length:
                raise ValueError(
                    f"batch_tokens {self.batch_tokens} is less than one row of sequence_length {self.sequence_length}"
                )
            object.__setattr__(self, "batch_size", self.batch_tokens // self.sequence_length)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("give steps or tokens, not both")
        if isinstance(self.micro_batch_size, int) and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.tokens_per_step > MOST_TOKENS_PER_STEP:
            raise ValueError(
                f"batch_size {self.batch_size} times sequence_length {self.sequence_length} are more than "
                f"{MOST_TOKENS_PER_STEP:,} tokens a step"
            )
        if self.workers.fsdp and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer.name muon needs whole matrices, and workers.fsdp has shares of them; leave one out"
            )
        if self.workers.most > self.batch_size:
            raise ValueError(f"workers.count {self.workers.count}: a batch has {self.batch_size} rows, one a worker")
        if self.schedule.floor > self.optimizer.learning_rate:
            raise ValueError("schedule.floor is above optimizer.learning_rate")
        if self.schedule.warmup_steps is not None and self.schedule.warmup_steps > self.total_steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} is more than the run's {self.total_steps} steps"
            )
        return self

    @model_validator(mode="after")
    def _one_model(self) -> TrainConfig:
        if self.start.model is not None and self.model != ModelSection():
            raise ValueError(f"start.model {self.start.model!r} has a shape already; leave the section model out")
        if self.start.lora_rank is not None and self.start.model is None:
            raise ValueError("start.lora_rank: low-rank changes need a model to change; give start.model too")
        return self

    @property
    def name(self) -> str:
        """What is trained, in a word that can name a folder."""
        if self.start.model is None:
            return f"{self.model.arch}-{self.model.size}"
        return "from-" + re.sub(r"[^\w.@-]+", "-", Path(self.start.model).name)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step reads."""
        return self.batch_size * self.sequence_length

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run; 3000 where neither steps nor tokens is given."""
        if self.tokens is not None:
            return math.ceil(self.tokens / self.tokens_per_step)
        return 3000 if self.steps is None else self.steps

    def resolved(self) -> TrainConfig:
        """The same run with its length and warm-up in steps and its batch in rows, so that equal runs compare equal."""
        schedule = self.schedule.model_copy(update={"warmup_steps": self.warmup_steps})
        changes = {"steps": self.total_steps, "tokens": None, "batch_tokens": None, "schedule": schedule}
        return self.model_copy(update=changes)

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        given = self.schedule.warmup_steps
        return int(self.schedule.warmup_fraction * self.total_steps) if given is None else given


#: what may differ between a run and its continuation, because no trained number depends on it but for its rounding
NOT_SEMANTIC = frozenset(
    {
        "threads",
        "log_every",
        "log.trackers",
        "log.project",
        "log.name",
        "evaluation.every",
        "evaluation.batch_size",
        "evaluation.averaged",
        "evaluation.samples",
        "evaluation.sample_tokens",
        "activation_checkpointing",
        "checkpoint.every",
        "checkpoint.keep_latest_k",
        "checkpoint.schedule",
        "export.dtype",
        "export.weights",
        "export.averaged",
        "data.text.cache",
        "data.tokens.cache",
        "workers.count",
        "workers.max_failures",
        "workers.fsdp",
        # checkpoints hold digests of what these name
        "data.text.paths",
        "data.tokens.paths",
        "data.tokenizer",
    }
)


def differing_fields(ours: TrainConfig, theirs: dict[str, Any]) -> list[str]:
    """Dotted names, sorted, of the fields in which a stored config differs in a way that changes the training."""
    return differing_keys(ours, theirs, ignored=NOT_SEMANTIC)
