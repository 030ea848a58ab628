"""What a trace will do, decided before anything is computed: prompts in tokens, what is restored, the noise.

Wrong settings and prompts that cannot be used are found here. The noise is that of all prompts together, three times
the standard deviation of their subjects' embeddings (ROME), so that every prompt meets the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ...core.errors import InputError, UsageError
from ...runtime.plan import digest_of
from .corruption import subject_noise
from .facts_source import read_facts
from .memory import Memory
from .prompts import Excluded, Item, check_item, fact_items, open_item
from .restoration import restorations
from .trace_config import TraceConfig, check_settings

if TYPE_CHECKING:
    from ...datasets.factual import FactualPrompt
    from ...models import LanguageModel

ONE_PROMPT = "prompt"  # the id of the prompt that --prompt gives


@dataclass(frozen=True)
class TracePlan:
    """A trace with everything that decides its tables.

    texts: every prompt's text by id. items: the prompts that are traced, in the order given; excluded: those that
    cannot be. sites, layers: what is
    restored. noise: standard deviation in units of the embeddings, None where subjects are replaced. many: whether
    these are facts, and not the one prompt of --prompt.
    """

    config: TraceConfig
    model: LanguageModel
    texts: Mapping[str, str]
    items: tuple[Item, ...]
    excluded: tuple[Excluded, ...]
    sites: tuple[str, ...]
    layers: tuple[int, ...]
    noise: float | None
    many: bool

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

    @cached_property
    def digest(self) -> str:
        """sha256 over the prompts in tokens and those left out."""
        return digest_of([[i.to_json() for i in self.items], [list(e) for e in self.excluded]])

    @property
    def restorations(self) -> int:
        """Runs that would have to be made one by one: sites x layers x positions x samples of all prompts, at most."""
        tokens = sum(len(item.tokens) for item in self.items)
        return tokens * len(self.sites) * len(self.layers) * self.samples

    def arguments(self) -> dict[str, Any]:
        """What all prompts share of `causal_trace`'s arguments, and whether wrong answers are traced."""
        config = self.config
        return {
            "sites": list(self.sites), "layers": list(self.layers), "window": config.window, "metric": config.metric,
            "samples": config.samples, "noise": self.noise, "seed": config.seed,
            "memory_budget": config.memory_mib * 2**20, "correct_only": self.correct_only,
            "judged": config.judged,
        }  # fmt: skip


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
        model = load(config.model, dtype=config.dtype, tokenizer=config.tokenizer)
    wanted, layers = restorations(model, config.sites, config.layers)
    sites = tuple(r.name for r in wanted)
    if config.window > model.n_layers:
        raise UsageError(
            f"--window {config.window}: {model.name} has {model.n_layers} blocks, so 1 to {model.n_layers} can be "
            "restored together"
        )
    if many:
        swapped = config.corruption == "replacement"
        items, excluded = fact_items(model, prompts, max_tokens=config.max_tokens, swapped=swapped)
        texts = {prompt.id: prompt.prompt for prompt in prompts}
        if not items:
            first = f"; the first, {excluded[0].id!r}: {excluded[0].reason}" if excluded else ""
            raise InputError(f"none of the {len(prompts)} prompts can be traced{first}")
    else:
        items, excluded = [_one(config, model)], []
        texts = {ONE_PROMPT: config.prompt or ""}
    Memory(model, max(len(item.tokens) for item in items), config.memory_mib * 2**20)  # refuses what is too small
    noise = _noise(config, model, items)
    return TracePlan(config, model, texts, tuple(items), tuple(excluded), sites, layers, noise, many)


def _one(config: TraceConfig, model: LanguageModel) -> Item:
    """The prompt of --prompt and --subject."""
    assert config.prompt is not None and config.subject is not None
    item = open_item(
        model, ONE_PROMPT, config.prompt, config.subject, answer=config.answer, replacement=config.corrupt_with
    )
    check_item(model, item, config.max_tokens)
    return item


def _noise(config: TraceConfig, model: LanguageModel, items: Sequence[Item]) -> float | None:
    if config.corrupt_with is not None or config.corruption == "replacement":
        return None
    if config.noise is not None:
        return config.noise
    return subject_noise(model, [torch.tensor(i.tokens) for i in items], [i.subject for i in items])
