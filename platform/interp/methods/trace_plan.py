"""What a trace will do, decided before anything is computed: a plan of the step `causal_trace`, of one prompt or many.

Wrong settings and prompts that cannot be used are found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from ...core.errors import UsageError
from ...models.lending import label
from ..engine.encoded import Encoded
from ..engine.inputs import Given
from ..engine.interp_config import config_model
from ..engine.run import Plan, plan_steps
from ..engine.step import Excluded
from .corruption import items_noise
from .facts_source import read_facts
from .memory import Memory
from .over_prompts import shared_by_all, single_traces
from .prompts import FactItem, check_item, encode_facts, open_item
from .restoration import restorations
from .trace_config import TraceConfig, TraceSettings, check_settings

if TYPE_CHECKING:
    from ...datasets.factual import FactualPrompt
    from ...models import LanguageModel

ONE_PROMPT = "prompt"  # the id of the prompt that --prompt gives
STEP = "causal_trace"


@dataclass(frozen=True)
class TracePlan:
    """A trace with everything that decides its tables, and what its pictures say.

    data: the prompts that are traced, in the order given, and those that cannot be. plan: of the step. sites: what is
    restored. noise: standard deviation in units of the embeddings, None where subjects are replaced. many: whether
    these are facts, and not the one prompt of --prompt.
    """

    config: TraceConfig
    model: LanguageModel
    data: Encoded
    plan: Plan
    sites: tuple[str, ...]
    noise: float | None
    many: bool

    @property
    def items(self) -> tuple[FactItem, ...]:
        """The prompts that are traced."""
        return self.data.items

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """The prompts that cannot be."""
        return self.data.excluded

    @property
    def given(self) -> int:
        """How many prompts there are."""
        return len(self.data.items) + len(self.data.excluded)

    @cached_property
    def texts(self) -> dict[str, str]:
        """The texts of the prompts that are traced, by id."""
        return {item.id: text for item, text in zip(self.data.items, self.data.texts, strict=True)}

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks at which something is restored."""
        return self.plan.layers

    @property
    def kind(self) -> str:
        """Which corruption it is: noise or replacement."""
        return "replacement" if self.noise is None else "noise"

    @property
    def samples(self) -> int:
        """Corrupted runs of every prompt."""
        return 1 if self.noise is None else self.config.samples

    @property
    def correct_only(self) -> bool:
        """Whether only prompts that are answered correctly are traced."""
        return self.many and self.config.correct_only

    @property
    def restorations(self) -> int:
        """Runs that would have to be made one by one: sites x layers x positions x samples of all prompts, at most."""
        return sum(self.data.lengths) * len(self.sites) * len(self.layers) * self.samples

    def singles(self, traces: pa.Table) -> list[pa.Table]:
        """`single_traces` of this trace's table."""
        shared = shared_by_all(self.config, label(self.model), self.noise, self.config.seed)
        return single_traces(traces, self.items, self.sites, shared)


def prepare(
    config: TraceConfig, model: LanguageModel | None = None, prompts: Sequence[FactualPrompt] | None = None
) -> TracePlan:
    """The plan of a trace. model: default loaded as the configuration says. prompts: default those that it names.

    Raises UsageError for settings that contradict each other or do not fit the model, InputError where no prompt can
    be used.
    """
    many = prompts is not None or config.facts is not None
    if prompts is None:
        check_settings(config)
        prompts = read_facts(config).prompts if many else ()  # before a large model is loaded
    if model is None:
        from ...models import load

        assert config.model is not None
        model = load(config.model, config.device, config.dtype, tokenizer=config.tokenizer)
    sites = tuple(r.name for r in restorations(model, config.sites, config.layers)[0])
    if many:
        swapped = config.corruption == "replacement"
        data = encode_facts(model, prompts, max_tokens=config.max_tokens, swapped=swapped)
    else:
        data = Encoded((_one(config, model),), texts=(config.prompt or "",))
    Memory(model, max(data.lengths), config.memory_mib * 2**20)  # refuses what is too small
    settings = {name: getattr(config, name) for name in TraceSettings.model_fields}
    settings |= {"correct_only": many and config.correct_only, "sites": sites}
    shared = {name: getattr(config, name) for name in ("layers", "seed", "batch_size", "max_tokens")}
    steps = config_model().model_validate(shared | {"steps": (STEP,), STEP: settings})
    try:
        plan = plan_steps(model, config=steps, given=Given(encoded={"facts": data}))
    except UsageError as error:
        raise UsageError(str(error).removeprefix(f"{STEP}: ")) from error
    return TracePlan(config, model, data, plan, sites, items_noise(model, data.items, config.noise), many)


def _one(config: TraceConfig, model: LanguageModel) -> FactItem:
    """The prompt of --prompt and --subject."""
    assert config.prompt is not None and config.subject is not None
    item = open_item(
        model, ONE_PROMPT, config.prompt, config.subject, answer=config.answer, replacement=config.corrupt_with
    )
    check_item(model, item, config.max_tokens)
    return item
