"""The settings of a trace: one prompt or many, what is corrupted, what is restored, how that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from ...core.errors import UsageError
from ...core.option import Device, Model, Option, Tokenizer
from ...core.typed_lists import parse_words
from ..engine.step import Sites, StepSettings
from .facts_config import FactsConfig
from .metric import METRICS
from .restoration import SITES

Metric = Literal["prob", "logprob", "logit_diff"]
assert Metric.__args__ == METRICS  # type: ignore[attr-defined]


class CorruptionSettings(StepSettings):
    """Which prompts count, how they are corrupted, and what is measured."""

    small = {"samples": 1, "correct_only": False}

    correct_only: bool = True
    """Of facts, trace only those whose first answer token the model gets right, as ROME does; false: all."""
    judged: Literal["target", "predicted"] = "target"
    """Of facts, whose probability is measured: the fact's target, or what the model finds most probable, which is of
    use with models that do not know the facts."""
    samples: int = Field(10, ge=1)
    """Noisy runs of every prompt."""
    noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise, in units of the embeddings; default: 3 times theirs over all subjects."""
    metric: Metric = "prob"
    """What is compared: the answer's probability, its logarithm, or its logit minus that of the strongest other."""


class EffectSettings(CorruptionSettings):
    """What is restored, and how effects are averaged over prompts."""

    small = {**CorruptionSettings.small, "sites": ("resid_post",), "resamples": 100}

    sites: Sites = tuple(f"{site}?" for site in SITES)
    """What is restored (with ?: where the model has it), several sites together joined by +."""
    memory_mib: int = Field(1024, ge=1)
    """What tracing may take beside the model, in each worker; part of the result, because it decides the last bits."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of all intervals."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of the prompts."""


class TraceSettings(EffectSettings):
    """The settings of the step `causal_trace`."""

    window: int = Field(1, ge=1)
    """Blocks restored together, around each; the residual stream is always restored after one."""


class TraceConfig(TraceSettings, FactsConfig):
    """Everything that decides the tables of a trace; where it runs is not part of it."""

    marks: ClassVar[Mapping[str, Option]] = {
        "facts": Option(
            metavar="NAME|FILE", help="Trace many prompts: known_1000, counterfact, relations, generated, a file."
        ),
        "correct_only": Option(off="--all", help="Of facts, those answered correctly (the default), or all."),
        "judged": Option(help="Of facts, measure the target, or what the model itself says."),
        "sites": Option(
            metavar="A,B+C", help="What is restored, + joins several; default: all the model has.", parse=parse_words
        ),
        "window": Option(help="Blocks restored together."),
        "samples": Option(),
        "noise": Option(metavar="X", help="Its standard deviation; default: 3 times that of the subjects."),
        "metric": Option(help="What is compared."),
    }

    model: Model = None
    tokenizer: Tokenizer = None

    prompt: Annotated[str | None, Option(metavar="TEXT", help="Trace this one prompt.")] = None
    """One prompt; its answer is the token that follows."""
    subject: Annotated[str | None, Option(metavar="WORDS", help="The part of --prompt that is corrupted.")] = None
    """The words of that prompt that are corrupted, where they first occur."""
    corrupt_with: Annotated[
        str | None,
        Option(metavar="WORDS", help="Replace the subject by these words of equal token length: no noise."),
    ] = None
    """Other words of equal token length in their place, instead of noise."""
    answer: Annotated[
        str | None,
        Option(metavar="WORDS", help="Answer to --prompt; default: what the model finds most probable."),
    ] = None
    """The answer, of which the first token is judged; default: what the model finds most probable."""

    sites: tuple[str, ...] | None = None  # type: ignore[assignment]
    """What is restored, several sites together joined by +; default: all that the model has."""
    layers: Annotated[tuple[int, ...] | None, Option(metavar="0,2-4|all", blocks=True)] = None
    """Blocks; default all."""
    max_tokens: int = Field(512, ge=2)
    """Longest prompt; longer ones are left out."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of weights and states."""
    device: Device = "cpu"
    """Where models compute: cpu, cuda, cuda:1, or auto, a GPU where there is one. Each has its own last bits."""
    batch_size: int = Field(4, ge=1)
    """Prompts that a worker is given at a time."""
    fail_over: Annotated[
        float, Option(metavar="SHARE", help="Share of prompts that fail above which the exit is 1.")
    ] = Field(0.05, ge=0, le=1)
    """Share of prompts that may fail; a wrong answer of the model is no failure."""
    pictures: int = Field(4, ge=0)
    """Single prompts of which heat maps are drawn as PNG and SVG; the tables and the page have more."""

    @field_validator("sites", "layers")
    @classmethod
    def _distinct(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if values is not None and (not values or len(set(values)) != len(values)):
            raise ValueError("give at least one value, and none twice")
        return values


def check_settings(config: TraceConfig) -> None:
    """Raises UsageError where settings contradict each other, or do not say what to trace."""
    if config.model is None:
        raise UsageError("no model is named; give --model M (`mplat models` lists those that ship)")
    if (config.prompt is None) == (config.facts is None):
        raise UsageError(
            "say what to trace: one prompt with --prompt TEXT --subject WORDS, or many with --facts NAME or FILE"
            + ("" if config.prompt is None else "; not both")
        )
    if config.prompt is not None:
        _refuse(config, ("limit", "data_dir"), "belongs to --facts; --prompt traces one prompt")
        if config.subject is None:
            raise UsageError("--prompt needs --subject WORDS, the part of the prompt that is corrupted")
        if config.corruption == "replacement":
            raise UsageError("corruption replacement belongs to --facts; for one prompt give --corrupt-with WORDS")
    else:
        _refuse(config, ("subject", "corrupt_with", "answer"), "belongs to --prompt; facts bring their own")
    replaced = config.corrupt_with is not None or config.corruption == "replacement"
    if replaced and config.noise is not None:
        raise UsageError("--noise is for noise on the subject, and the subject is replaced here; leave one of them out")


def _refuse(config: TraceConfig, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(config, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} {why}")
