"""Gates, timescales and attention of blocks over a batch of prompts: what they do, what an answer loses without them,
and what their parameters contribute. Batch functions; every row is of one prompt.

Below a block nothing changes when one of its parts is taken away, so that such a pass begins at the block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from ...models.access.edits import Edit, Replace, Scale
from ..engine.answers import score_answers
from ..engine.batches import AnsweredBatch, Batch
from .mixture_readings import Redundancy, decays, held, openings, ratio_of_sizes, redundancy, shares
from .prompt_measures import BATCH_SCHEMA, NONFINITE
from .recurrences import LayerRecurrence, scans_of

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.gated_timescales import GatedTimescales

Rows = list[dict[str, Any]]
#: of one prompt: (measure, of, other, value), values that there are
Readings = list[tuple[str, str, str | None, float | None]]


@dataclass(frozen=True)
class Mixture:
    """One ensemble of a block, as its mixer says it is. scan: its recurrence."""

    layer: int
    of: GatedTimescales
    scan: LayerRecurrence

    @property
    def site(self) -> str:
        """Where it stands in the block: "mixer", or beside another one."""
        return self.scan.site

    @property
    def place(self) -> tuple[int, str]:
        """Layer and site, as rows have them."""
        return self.layer, self.site

    def name(self, site: str) -> str:
        """The full name of one of its sites."""
        return self.scan.prefix + site

    @property
    def constants(self) -> list[str]:
        """Full names of the sites that are the same at every token."""
        gate = [] if self.of.attention is None else [self.of.memory_gate]
        return [self.name(site) for site in (self.of.gate_weights, self.of.timescale_weights, *gate)]


def mixtures_of(model: LanguageModel, layer: int) -> list[Mixture]:
    """The ensembles of block `layer`; none in most models."""
    every = model.blocks[layer].gated_timescales()
    scans = {scan.of.within: scan for scan in scans_of(model, layer)} if every else {}
    return [Mixture(layer, of, scans[of.within]) for of in every]


def all_mixtures(model: LanguageModel, layers: list[int]) -> list[Mixture]:
    """Those of all `layers`, ascending."""
    return [mixture for layer in layers for mixture in mixtures_of(model, layer)]


def _chosen(batch: Batch, arguments: Mapping[str, Any]) -> Batch:
    ids = frozenset(arguments["ids"])
    return Batch([item for item in batch.items if item.id in ids], batch.device)


# -- what they do -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def batch_readings(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Readings of every ensemble over every prompt. arguments: layers; ids of the prompts that count; states and every:
    of a prompt's states those after its last token and after every so many before it, so many in all."""
    batch = _chosen(batch, arguments)
    if not batch.items:
        return BATCH_SCHEMA.empty_table()
    tokens, mask = batch.prompts()
    behind = [-1 - i * arguments["every"] for i in range(arguments["states"])]
    places = all_mixtures(model, arguments["layers"])
    entries = _entries(model, tokens, mask, places)
    rows: Rows = []
    for mixture in places:
        states = f"{mixture.name('h_post')}@{behind}".replace(" ", "")
        watched = _watched(mixture)
        with model.capture(states, *watched) as seen:
            model(tokens, mask, enter=entries.get(mixture.layer), last_only=True)
        for i, item in enumerate(batch.items):
            own = slice(0, len(item.prompt))
            values = {name: seen[name] if name in mixture.constants else seen[name][i, own] for name in watched}
            kept = [n for n, position in enumerate(behind) if -position <= len(item.prompt)]
            values["states"] = seen[states][i, kept].flip(0)
            rows += _rows(item.id, mixture, _read(mixture, values))
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _watched(mixture: Mixture) -> list[str]:
    of = mixture.of
    attention = [] if of.attention is None else [of.attention]
    return [
        f"blocks.{mixture.layer}.mixer_in", *mixture.scan.inputs, *mixture.constants,
        *map(mixture.name, (*of.gates, *of.read_outs, of.mixed, *of.factors, *attention)),
    ]  # fmt: skip


def _entries(
    model: LanguageModel, tokens: Tensor, mask: Tensor, places: list[Mixture]
) -> dict[int, tuple[int, Tensor]]:
    """Where passes begin that leave everything below a block as it is: what enters it, by block."""
    layers = sorted({mixture.layer for mixture in places} - {0})
    if not layers:
        return {}
    with model.capture(*(f"blocks.{layer - 1}.resid_post" for layer in layers)) as seen:
        model(tokens, mask, last_only=True)
    return {layer: (layer, seen[f"blocks.{layer - 1}.resid_post"]) for layer in layers}


def _read(mixture: Mixture, values: Mapping[str, Tensor]) -> Readings | None:
    """Of one prompt, its values (T, ...) by full name of the site; None where they are not finite."""
    if not all(bool(torch.isfinite(value).all()) for value in values.values()):
        return None
    of = mixture.of
    u = values[f"blocks.{mixture.layer}.mixer_in"]
    at = {name: values[mixture.name(name)] for name in (*of.gates, *of.read_outs, of.mixed, *of.factors)}
    found: Readings = []
    weights = values[mixture.name(of.gate_weights)].double()
    parts = [weight * at[gate].double() for weight, gate in zip(weights, of.gates, strict=True)]
    opened = [openings(at[gate], u) for gate in of.gates]
    for gate, weight, share, opening in zip(of.gates, weights, shares(parts), opened, strict=True):
        mean = opening[torch.isfinite(opening)].mean()
        found += [("weight", gate, None, float(weight)), ("share", gate, None, share)]
        found.append(("opening", gate, None, float(mean) if bool(torch.isfinite(mean)) else None))
    for k, gate in enumerate(of.gates):
        for other in range(k + 1, len(of.gates)):
            both = redundancy(opened[k], opened[other])
            found += [(field, gate, of.gates[other], getattr(both, field)) for field in Redundancy._fields]
    found += _timescales(mixture, values, at)
    for factor in of.factors:
        value = at[factor].double()
        found += [("mean", factor, None, float(value.mean())), ("varies", factor, None, float(value.std(correction=0)))]
        found += [("smallest", factor, None, float(value.min())), ("largest", factor, None, float(value.max()))]
    if of.attention is not None:
        gate = float(values[mixture.name(of.memory_gate)])
        added, y = gate * values[mixture.name(of.attention)].double(), at[of.mixed].double()
        found.append(("memory_gate", of.attention, None, gate))
        found.append(("attention_share", of.attention, None, shares([added, y])[0]))
        found.append(("attention_ratio", of.attention, None, ratio_of_sizes(added, y)))
    return found


def _timescales(mixture: Mixture, values: Mapping[str, Tensor], at: Mapping[str, Tensor]) -> Readings:
    of, found = mixture.of, Readings()
    count = len(of.timescales)
    weights = values[mixture.name(of.timescale_weights)].double()
    scan = mixture.scan.rebuild({name: values[name][None] for name in mixture.scan.inputs})
    skips = scan.skip[0].double().chunk(count, -1)
    parts = [weight * at[site].double() for weight, site in zip(weights, of.read_outs, strict=True)]
    remembered = [part - weight * skip for part, weight, skip in zip(parts, weights, skips, strict=True)]
    of_states = shares([*remembered, sum((w * s for w, s in zip(weights, skips, strict=True)), torch.zeros(()))])
    steps, states = scan.delta[0].chunk(count, -1), values["states"].chunk(count, 1)
    for j, (name, share) in enumerate(zip(of.timescales, shares(parts), strict=True)):
        numbers: dict[str, float | None] = {"weight": float(weights[j]), "share": share, "memory_share": of_states[j]}
        of_heads, few = decays(steps[j]), held(states[j])
        numbers |= {f"decay_{field}": value for field, value in of_heads._asdict().items()}
        numbers |= {} if few is None else {f"held_{field}": value for field, value in few._asdict().items()}
        found += [(measure, name, None, value) for measure, value in numbers.items()]
    return found


def _rows(id_: str, mixture: Mixture, readings: Readings | None) -> Rows:
    place = {"id": id_, "layer": mixture.layer, "site": mixture.site}
    if readings is None:
        return [place | {"measure": NONFINITE}]
    return [
        place | {"measure": measure, "of": of, "other": other, "value": value}
        for measure, of, other, value in readings
        if value is not None
    ]


# -- what an answer loses without them --------------------------------------------------------------------------------


@torch.no_grad()
def batch_ablations(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """For each part, what the answer's log-probability is without it less what it is with it (`change`), and how far
    what is said without it is from what is said with it (`kl`, nats a token of the answer). arguments: layers, ids."""
    batch = _chosen(batch, arguments)
    if not batch.items:
        return BATCH_SCHEMA.empty_table()
    answered = batch.answered()
    places = all_mixtures(model, arguments["layers"])
    entries = _entries(model, answered.tokens, answered.mask, places)
    rows: Rows = []
    for mixture in places:
        where = {"enter": entries.get(mixture.layer), "only": answered.columns}
        factors = [mixture.name(factor) for factor in mixture.of.factors]
        with model.capture(*factors, mixture.name(mixture.of.gate_weights)) as seen:
            plain = model(answered.tokens, answered.mask, **where)
        base = score_answers(plain, _as_columns(answered))
        for what, edit in _ablations(mixture, seen, answered.mask):
            with model.edit(edit):
                logits = model(answered.tokens, answered.mask, **where)
            scores = score_answers(logits, _as_columns(answered))
            moved = torch.where(answered.counts, _divergence(plain, logits), 0.0).sum(1) / answered.counts.sum(1)
            finite = base.finite & scores.finite
            for i, item in enumerate(batch.items):
                change = float(scores.logprob[i].double() - base.logprob[i].double())
                readings: Readings = [("change", what, None, change), ("kl", what, None, float(moved[i]))]
                rows += _rows(item.id, mixture, readings if bool(finite[i]) else None)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


def _divergence(plain: Tensor, logits: Tensor) -> Tensor:
    """KL(plain || other) (B, A) in nats of the distributions of logits (B, A, V)."""
    wanted, found = (torch.log_softmax(each.double(), -1) for each in (plain, logits))
    return torch.nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).clamp(min=0.0)


def ablated(of: GatedTimescales) -> list[str]:
    """What is taken away, in order."""
    gates = of.gates if len(of.gates) > 1 else ()
    return [*gates, *of.timescales, *([] if of.attention is None else [of.attention]), *of.factors]


def _ablations(mixture: Mixture, seen: Mapping[str, Tensor], mask: Tensor) -> Iterator[tuple[str, Edit]]:
    """A gate's weight is given to the others; a read-out and attention are zero; a factor stays at its text's mean."""
    of = mixture.of
    weights = seen[mixture.name(of.gate_weights)]
    edits: dict[str, Edit] = {}
    for k, gate in enumerate(of.gates):
        others = weights.double().clone()
        others[k] = 0.0
        edits[gate] = Replace(mixture.name(of.gate_weights), others / others.sum())
    for name, site in zip(of.timescales, of.read_outs, strict=True):
        edits[name] = Scale(mixture.name(site), 0.0)
    if of.attention is not None:
        edits[of.attention] = Scale(mixture.name(of.attention), 0.0)
    for factor in of.factors:
        finite = torch.nan_to_num(seen[mixture.name(factor)].double(), 0.0, 0.0, 0.0)  # else no edit is made of it
        value = torch.where(mask[..., None], finite, 0.0)
        edits[factor] = Replace(mixture.name(factor), value.sum(1, keepdim=True) / mask.sum(1)[:, None, None])
    yield from ((what, edits[what]) for what in ablated(of))


def _as_columns(answered: AnsweredBatch) -> AnsweredBatch:
    """For logits of the answers' columns alone."""
    columns = torch.arange(answered.columns.shape[1], device=answered.columns.device)
    return answered._replace(columns=columns.expand_as(answered.columns))


# -- what their parameters contribute ---------------------------------------------------------------------------------


@torch.enable_grad()
def batch_parameters(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """Sum of value times derivative of the answer's log-probability over each parameter (`attribution`), and of the
    absolute products (`magnitude`). `of`: the parameter's name in its mixer. arguments: layers, ids."""
    places = all_mixtures(model, arguments["layers"])
    named = [
        (mixture, name, parameter)
        for mixture in places
        for name, parameter in model.blocks[mixture.layer].mixer.named_parameters()
        if mixture.of.part_of(name) is not None
    ]
    rows: Rows = []
    with _differentiable([parameter for _, _, parameter in named]):
        for item in _chosen(batch, arguments).items:
            answered = Batch([item], batch.device).answered()
            logits = model(answered.tokens, answered.mask, only=answered.columns)
            scores = score_answers(logits, _as_columns(answered))
            slopes = torch.autograd.grad(scores.logprob.sum(), [parameter for _, _, parameter in named])
            of_place: dict[Mixture, Readings] = {mixture: [] for mixture in places}
            for (mixture, name, parameter), slope in zip(named, slopes, strict=True):
                products = parameter.detach().double() * slope.double()
                of_place[mixture] += [
                    ("attribution", name, None, float(products.sum())),
                    ("magnitude", name, None, float(products.abs().sum())),
                ]
            for mixture, readings in of_place.items():
                known = [value for _, _, _, value in readings if value is not None and isfinite(value)]
                whole = bool(scores.finite.all()) and len(known) == len(readings)
                rows += _rows(item.id, mixture, readings if whole else None)
    return pa.Table.from_pylist(rows, schema=BATCH_SCHEMA)


@contextmanager
def _differentiable(parameters: list[nn.Parameter]) -> Generator[None]:
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
