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
from ..core.errors import UsageError, suggest
from ..core.option import Option

#: four times what the largest published runs read in an optimizer step
MOST_TOKENS_PER_STEP = 2**26
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


class FactsSection(Config):
    """The facts world: questions about invented people, places and things, made while training."""

    answer_weight: float = Field(default=1.0, gt=0, description="weight of an answer token in the loss")
    context_weight: float = Field(default=0.1, ge=0, description="weight of every other token")
    curriculum: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="fraction of the steps in which difficulty rises; 0: as hard as it gets from the start",
    )
    hardest: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="where it ends, as the argument of Difficulty.at; 0.15: one hop among at most four facts",
    )
    shape_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the words between names that are left out, replaced by a random word or followed by one",
    )


class TextSection(Config):
    """Documents from .jsonl (objects with a text field, one a line) or .txt (one document a file), also .gz or .zst."""

    paths: tuple[str, ...] = Field(default=(), description="files, read in this order")
    field: str = Field(default="text", description="JSON field that holds the document")
    bad_line_limit: int = Field(default=0, ge=0, description="broken lines to skip, counted, before the run is refused")
    holdout_every: int = Field(default=50, ge=2, description="every k-th document is held out for evaluation")
    holdout_tokens: int = Field(default=65_536, ge=1, description="tokens after which no more documents are held out")
    cache: str | None = Field(
        default=None, description="folder of tokenised data, may be shared by runs; default: <out>/data"
    )


class ModularAdditionSection(Config):
    """Equations a + b = c modulo p, of which a fixed part is trained on."""

    p: int = Field(default=113, ge=5, le=1009, description="modulus, an odd number, usually a prime")
    train_fraction: float = Field(default=0.3, gt=0, lt=1, description="share of the p * p equations to train on")

    @field_validator("p")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd: of an even number the highest frequency has no sine")
        return value

    @property
    def rows(self) -> int:
        """Equations that are trained on."""
        from ..datasets.modular_addition import n_trained

        return n_trained(self.p, self.train_fraction)


def _data(text: str) -> dict[str, Any]:
    """What --data sets: a source by its name, or a file of texts."""
    from .data import source_names

    names = source_names()
    if text in names:
        return {"data.source": text}
    if not text.strip() or (not Path(text).exists() and not Path(text).suffix and len(Path(text).parts) == 1):
        raise UsageError(f"--data {text!r}: neither a file nor a source of data; {suggest(text, names)}")
    return {"data.source": "text", "data.text.paths": [text]}


class DataSection(Config):
    """Where tokens come from."""

    source: Annotated[
        str,
        Option("--data", "facts|FILE", "The facts world, or texts as .jsonl, .txt, .csv, .parquet.", sets=_data),
    ] = Field(default="facts", description="a registered data source: facts, text, modular_addition")
    tokenizer: str | None = Field(
        default=None, description="folder with tokenizer.json; default: the shipped tiny tokenizer"
    )
    facts: FactsSection = FactsSection()
    text: TextSection = TextSection()
    modular_addition: ModularAdditionSection = ModularAdditionSection()
    options: dict[str, Any] = Field(default_factory=dict, description="for sources registered elsewhere")


class OptimizerSection(Config):
    """AdamW. Weight decay applies to the decay group of `model.param_groups` only."""

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


class CheckpointSection(Config):
    """What is saved to continue from. The best checkpoint is kept besides the latest ones."""

    every: int = Field(
        default=250, ge=0, description="steps between checkpoints; 0: only after the last step and when stopped"
    )
    keep_latest_k: int = Field(default=2, ge=1)
    per_decade: int = Field(
        default=0,
        ge=0,
        le=100,
        description="checkpoints for each factor of ten in steps, each with an evaluation, kept besides the latest; "
        "0: none",
    )


class ExportSection(Config):
    """The Hugging Face folder written at the end."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    weights: Literal["last", "best"] = Field(
        default="last", description="weights of the last step, or of the best evaluation"
    )


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
    sequence_length: int = Field(
        default=256, ge=2, le=2**24, description="tokens per row; of modular_addition always 3"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, le=2**20, description="rows per forward pass; default: batch_size (no accumulation)"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32", description="arithmetic of the matrix products; weights stay float32"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")
    threads: int | Literal["auto"] = Field(default="auto", description="CPU threads of torch; auto: torch's own choice")
    log_every: int = Field(default=1, ge=1, description="steps between lines of log.jsonl")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    log: LogSection = LogSection()

    @field_validator("tokens", mode="before")
    @classmethod
    def _tokens_with_unit(cls, value: Any) -> Any:
        return parse_tokens(value) if isinstance(value, str) else value

    @field_validator("tokens")
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
    def _consistent(self) -> TrainConfig:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("give steps or tokens, not both")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.tokens_per_step > MOST_TOKENS_PER_STEP:
            raise ValueError(
                f"batch_size {self.batch_size} times sequence_length {self.sequence_length} are more than "
                f"{MOST_TOKENS_PER_STEP:,} tokens a step"
            )
        if self.schedule.floor > self.optimizer.learning_rate:
            raise ValueError("schedule.floor is above optimizer.learning_rate")
        if self.schedule.warmup_steps is not None and self.schedule.warmup_steps > self.total_steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} is more than the run's {self.total_steps} steps"
            )
        return self

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
        """The same run with its length in steps and its warm-up in steps, so that equal runs compare equal."""
        schedule = self.schedule.model_copy(update={"warmup_steps": self.warmup_steps})
        return self.model_copy(update={"steps": self.total_steps, "tokens": None, "schedule": schedule})

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        given = self.schedule.warmup_steps
        return int(self.schedule.warmup_fraction * self.total_steps) if given is None else given


#: what may differ between a run and its continuation, because no trained number depends on it
NOT_SEMANTIC = frozenset(
    {
        "threads",
        "log_every",
        "log.trackers",
        "log.project",
        "log.name",
        "evaluation.every",
        "evaluation.batch_size",
        "checkpoint.every",
        "checkpoint.keep_latest_k",
        "checkpoint.per_decade",
        "export.dtype",
        "export.weights",
        "data.text.cache",
        # checkpoints hold digests of what these name
        "data.text.paths",
        "data.tokenizer",
    }
)


def differing_fields(ours: TrainConfig, theirs: dict[str, Any]) -> list[str]:
    """Dotted names, sorted, of the fields in which a stored config differs in a way that changes the training."""
    return differing_keys(ours, theirs, ignored=NOT_SEMANTIC)
