"""Causal tracing of several models side by side: the same texts, the same corruption, the same metric, one table.

    table = compare({"mamba": a, "gpt2": b}, prompts)         # residual stream, mixer or attention, MLP

Models differ in tokenizer and depth, so nothing is compared by position or layer number: a subject is a span of
characters, positions go by their token bin (`bins`), layers by their relative depth. "mixer" is whatever moves
information between tokens in a block, a recurrence, attention, a long convolution or two of them, which the column
`mixer` names; "mlp" is the feed-forward part, wherever it stands: in models whose layers are one or the other
(Nemotron-H, MoE-Mamba) it is the output of the layers that do not mix tokens.

The answer is judged by its first token, and noise is a multiple of the standard deviation of the subjects'
embeddings, in each model its own. By default only prompts count that every model answers correctly, so that all
numbers are about the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import torch

from ...core.errors import InputError, UsageError, suggest
from ...datasets.factual import locate
from ..engine.columns import column
from ..engine.statuses import NOT_APPLICABLE
from .averages import average_traces
from .bins import BINS
from .corruption import NOISE_STDS, prompt_seed, subject_noise
from .prompts import FactItem
from .restoration import restorations
from .trace import causal_trace

if TYPE_CHECKING:
    from ...datasets.factual import FactualPrompt
    from ...models import LanguageModel

#: kind -> the site that shows it; `mlp` is also `mixer_out` of blocks that mix no tokens
KINDS = {"residual": "resid_post", "mixer": "mixer_out", "mlp": "mlp_out"}
Counted = Literal["common", "correct", "all"]
_COUNTED = ("common", "correct", "all")

SCHEMA = pa.schema([
    column("model", pa.string(), "name of the model"),
    column("kind", pa.string(), "residual, mixer, mlp, or the site asked for"),
    column("site", pa.string(), "what was restored; null where the model has no such thing"),
    column("mixer", pa.string(), "what mixes tokens in the block: recurrence, attention, long_convolution, several "
           "joined by +; or feed_forward, where nothing does"),
    column("layer", pa.int32(), "block, or the centre of the window of blocks"),
    column("depth", pa.float64(), "middle of the block over the model's blocks, 0 to 1"),
    column("bin", pa.string(), f"tokens, one of {', '.join(BINS)}"),
    column("effect", pa.float64(), "indirect effect of restoring, mean over prompts (AIE)"),
    column("low", pa.float64(), "lower end of its percentile bootstrap interval; null for fewer than two prompts"),
    column("high", pa.float64(), "upper end"),
    column("total_effect", pa.float64(), "metric of clean minus corrupted runs, mean over the model's prompts (ATE)"),
    column("prompts", pa.int32(), "prompts that have this cell"),
    column("status", pa.string(), "ok; not_applicable: the model has nothing of this kind, or no prompt of it counts; "
           "model_nonfinite: its scores are not finite for any prompt"),
])  # fmt: skip


class ModelAndPrompts(NamedTuple):
    """A model with the prompts that it can read, by id. right: those it answers correctly. broken: those without finite
    scores."""

    name: str
    model: LanguageModel
    items: Mapping[str, FactItem]
    right: set[str]
    broken: set[str]


def compare(
    models: Mapping[str, LanguageModel] | Sequence[LanguageModel],
    prompts: Sequence[FactualPrompt],
    *,
    sites: Sequence[str] = tuple(KINDS),
    metric: str = "prob",
    counted: Counted = "common",
    noise_stds: float = NOISE_STDS,
    samples: int = 10,
    seed: int = 1,
    window: int = 1,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    max_tokens: int = 512,
) -> pa.Table:
    """Mean indirect effects of all models on the same prompts, by model, kind of site, layer and token bin.

    models: by the name they shall have in the table; from a sequence, by their own. prompts: of
    `mplat.datasets.factual`, with ids that occur once. sites: "residual", "mixer", "mlp",
    or names that `causal_trace` knows, such as "h_post". counted: "common", prompts that every model answers correctly;
    "correct", for each model those that it does; "all" that every model can read. noise_stds: noise in standard
    deviations of the subjects' embeddings. Other arguments as in `causal_trace` and `average_traces`.
    Metadata: prompts (which count), metric, samples, seed, noise_stds, window, confidence, n_resamples, given (how many
    prompts), and as JSON by model: used (their ids), answered (how many it answers correctly), left_out (id -> why).

    Raises UsageError for no or equally named models and unknown sites; InputError for a model without tokenizer, for
    prompts that no model can read, and where none counts for any model.
    """
    named = _named(models)
    kinds = kinds_of(named, sites)
    if counted not in _COUNTED:
        raise UsageError(f"counted={counted!r}; {suggest(str(counted), _COUNTED)}")
    if not noise_stds > 0:
        raise UsageError(f"noise_stds is a number of standard deviations above 0, not {noise_stds!r}")
    _check_prompts(prompts)
    left_out: dict[str, dict[str, str]] = {name: {} for name in named}
    entries = [_entry(name, model, prompts, max_tokens, left_out[name]) for name, model in named.items()]
    chosen = _chosen(entries, prompts, counted, left_out)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        ids = chosen[entry.name]
        if not ids:
            rows += rows_of_model(entry, kinds, [], {})
            continue
        items = [entry.items[id_] for id_ in ids]
        tokens = [torch.tensor(item.tokens) for item in items]
        noise = subject_noise(entry.model, tokens, [item.subject for item in items]) * noise_stds / NOISE_STDS
        traced = traced_sites(entry.model, kinds)
        traces = [
            causal_trace(
                entry.model, row, subject=item.subject, noise=noise, samples=samples, seed=prompt_seed(seed, id_),
                sites=traced, window=window, answer=item.answer, metric=metric,
            )
            for id_, row, item in zip(ids, tokens, items, strict=True)
        ] if traced else []  # fmt: skip
        rows += rows_of_model(
            entry, kinds, traces, {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
        )
    about = {
        "prompts": counted, "metric": metric, "samples": str(samples), "seed": str(seed), "window": str(window),
        "noise_stds": repr(float(noise_stds)), "confidence": repr(confidence), "n_resamples": str(n_resamples),
        "given": str(len(prompts)), "used": json.dumps(chosen), "left_out": json.dumps(left_out),
        "answered": json.dumps({entry.name: len(entry.right) for entry in entries}),
    }  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(about))


def mixer_kind(model: LanguageModel, layer: int) -> str:
    """What moves information between tokens in block `layer`; "feed_forward" where nothing does."""
    prefix = f"blocks.{layer}.mixer."
    held = {site.name.rpartition(".")[2] for site in model.sites() if site.name.startswith(prefix)}
    kinds: list[str] = []
    if "h" in held:
        kinds.append("recurrence")
    elif "long_conv_out" in held:
        kinds.append("long_convolution")
    if {"q", "k"} <= held or "sparse_attn" in held:
        kinds.append("attention")
    return "+".join(kinds) or "feed_forward"


def _named(models: Mapping[str, LanguageModel] | Sequence[LanguageModel]) -> dict[str, LanguageModel]:
    pairs = list(models.items()) if isinstance(models, Mapping) else [(model.name, model) for model in models]
    if not pairs:
        raise UsageError("compare: name at least one model")
    twice = next((name for i, (name, _) in enumerate(pairs) if name in [other for other, _ in pairs[:i]]), None)
    if twice is not None:
        raise UsageError(f"compare: two models are called {twice!r}; give them names, {{name: model}}")
    return dict(pairs)


def kinds_of(models: Mapping[str, LanguageModel], sites: Sequence[str]) -> dict[str, str]:
    """Kind -> site. UsageError for a site that no model has."""
    if isinstance(sites, str):
        raise UsageError(f"sites is a list of names; write [{sites!r}]")
    if not sites or len(set(sites)) < len(sites):
        raise UsageError(f"sites {list(sites)}: name at least one site, and each of them once")
    kinds = {site: KINDS.get(site, site) for site in sites}
    for kind, site in kinds.items():
        if kind not in KINDS and not any(_has(model, site) for model in models.values()):
            known = [*KINDS, *dict.fromkeys(info.name for m in models.values() for info in m.blocks[0].site_table())]
            raise UsageError(f"compare: no model has a site {site!r}; {suggest(site, known)}")
    return kinds


def _has(model: LanguageModel, site: str) -> bool:
    try:
        restorations(model, [site], None)
    except UsageError:
        return False
    return True


def traced_sites(model: LanguageModel, kinds: Mapping[str, str]) -> list[str]:
    """What has to be restored for these kinds in this model, each once."""
    wanted = list(dict.fromkeys(kinds.values()))
    if KINDS["mlp"] in wanted and any(mixer_kind(model, i) == "feed_forward" for i in range(model.n_layers)):
        wanted.append(KINDS["mixer"])
    return [site for site in dict.fromkeys(wanted) if _has(model, site)]


def _check_prompts(prompts: Sequence[FactualPrompt]) -> None:
    if not prompts:
        raise InputError("compare: there are no prompts")
    ids = [prompt.id for prompt in prompts]
    if len(set(ids)) < len(ids):
        raise InputError("compare: a prompt id occurs more than once; ids must be unique")


@torch.no_grad()
def _entry(
    name: str, model: LanguageModel, prompts: Sequence[FactualPrompt], max_tokens: int, left_out: dict[str, str]
) -> ModelAndPrompts:
    if model.tokenizer is None:
        raise InputError(f"compare: model {name} has no tokenizer for the prompts; load it with tokenizer=...")
    items: dict[str, FactItem] = {}
    right: set[str] = set()
    broken: set[str] = set()
    for prompt in prompts:
        try:
            found = locate(prompt, model.tokenizer)
        except InputError as error:
            left_out[prompt.id] = f"bad_input: {error}"
            continue
        if len(found.tokens) > max_tokens:
            left_out[prompt.id] = f"too_long: {len(found.tokens)} tokens, more than max_tokens {max_tokens}"
            continue
        items[prompt.id] = FactItem(prompt.id, found.tokens, found.subject, found.answer[0])
        logits = model(torch.tensor([found.tokens], device=model.device), last_only=True)[0, -1]
        if not bool(torch.isfinite(logits).all()):
            broken.add(prompt.id)
            left_out[prompt.id] = "model_nonfinite: the scores of the clean run are not finite"
        elif int(logits.argmax()) == found.answer[0]:
            right.add(prompt.id)
    return ModelAndPrompts(name, model, items, right, broken)


def allowed_ids(entries: Sequence[ModelAndPrompts], counted: str) -> dict[str, set[str]]:
    """The ids of the prompts that may count, by model; none for a model whose scores are never finite."""
    readable = _readable(entries)
    shared = {id_ for e in readable[:1] for id_ in e.items if all(id_ in o.items.keys() - o.broken for o in readable)}
    common = shared.intersection(*(e.right for e in readable))
    return {
        e.name: {"common": common, "all": shared, "correct": e.right}[counted] if e in readable else set[str]()
        for e in entries
    }


def _readable(entries: Sequence[ModelAndPrompts]) -> list[ModelAndPrompts]:
    return [e for e in entries if e.items.keys() - e.broken]


def _chosen(
    entries: Sequence[ModelAndPrompts],
    prompts: Sequence[FactualPrompt],
    counted: str,
    left_out: Mapping[str, dict[str, str]],
) -> dict[str, list[str]]:
    """The ids of the prompts that count, by model; none for a model whose scores are never finite."""
    readable = _readable(entries)
    if not readable:
        first = next(why for entry in entries for why in left_out[entry.name].values())
        raise InputError(f"compare: no model can use any of the prompts; the first one: {first}")
    allowed = allowed_ids(entries, counted)
    chosen = {name: [prompt.id for prompt in prompts if prompt.id in ids] for name, ids in allowed.items()}
    if not any(chosen.values()):
        counts = ", ".join(f"{e.name} {len(e.right)} of {len(e.items)}" for e in readable)
        what = {"common": "is answered correctly by every model", "all": "can be read by every model",
                "correct": "is answered correctly"}[counted]  # fmt: skip
        raise InputError(f"compare: no prompt {what} (correct: {counts}); counted='correct' or 'all' takes more")
    return chosen


def rows_of_model(
    entry: ModelAndPrompts, kinds: Mapping[str, str], traces: Sequence[pa.Table], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """One model's part of the table: kinds in the order asked for, then layers, then bins. traces: of the prompts that
    count. options: of `average_traces`."""
    model = entry.model
    cells: list[dict[str, Any]] = []
    total: float | None = None
    if traces:
        averages = average_traces(traces, correct_only=False, **options)
        cells = averages.to_pylist()
        total = float(averages.schema.metadata[b"total_effect"])
    mixers = [mixer_kind(model, layer) for layer in range(model.n_layers)]
    result: list[dict[str, Any]] = []
    for kind, site in kinds.items():
        own = [cell for cell in cells if _belongs(cell, kind, site, mixers)]
        if not own:
            broken = entry.items and entry.broken >= entry.items.keys()
            status = "model_nonfinite" if broken else NOT_APPLICABLE
            result.append({"model": entry.name, "kind": kind, "prompts": 0, "status": status})
        for cell in sorted(own, key=lambda c: (c["layer"], BINS.index(c["bin"]))):
            result.append(cell | {
                "model": entry.name, "kind": kind, "mixer": mixers[cell["layer"]], "total_effect": total,
                "depth": (cell["layer"] + 0.5) / model.n_layers, "status": "ok",
            })  # fmt: skip
    return result


def _belongs(cell: Mapping[str, Any], kind: str, site: str, mixers: Sequence[str]) -> bool:
    mixes = mixers[cell["layer"]] != "feed_forward"
    if kind == "mixer":
        return cell["site"] == site and mixes
    if kind == "mlp":
        return cell["site"] == site or (cell["site"] == KINDS["mixer"] and not mixes)
    return cell["site"] == site
