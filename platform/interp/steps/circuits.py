"""Circuits: which edges of a model carry the answer, and whether these alone give what the model gives.

The graph has an edge from everything that is added to the residual stream to everything that reads it later, and
inside of a block through the convolution and through the state (`methods.circuit_graph`). Each question is paired with
one that states another answer (`methods.contrasts`). On the development half edges are ranked by first-order estimates
(`methods.edge_attribution`); on the other half the circuits of the edges ranked first are run with all other edges
carrying the corrupted prompt's values (`methods.circuit_runs`), beside circuits of randomly ranked edges.

The circuit that is tested has the smallest size from which on faithfulness on the development half is at least
`enough`. Of it: completeness and minimality, three tests (`methods.circuit_tests`), a bound on what its ranking
overlooked (`methods.false_negatives`). Candidates are ranked here for `patching`: units of the model itself
(`methods.candidate_search`) and, where the setting `candidates` asks for them, latents of the step `sae` and directions
of the step `probes` (`methods.feature_candidates`), and edges through the residual stream by their estimates.

Parts: `edges`, `curves`, `areas`, `completeness`, `minimality`, `tests`, `false_negatives`, `candidates`, `prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from ...core.errors import UsageError
from ...runtime.plan import canonical_json
from ..engine.batches import Batch
from ..engine.effort import mean_length, of_files
from ..engine.places import places
from ..engine.statuses import NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, named_once, step
from ..methods.candidate_search import UNITS, Ranked, batch_units, candidates_of
from ..methods.candidates import Candidate
from ..methods.circuit_graph import Graph, graph_of
from ..methods.circuit_schema import (
    AREAS_SCHEMA,
    CANDIDATES_SCHEMA,
    COMPLETENESS_SCHEMA,
    CURVES_SCHEMA,
    EDGES_SCHEMA,
    FALSE_NEGATIVES_SCHEMA,
    MINIMALITY_SCHEMA,
    TESTS_SCHEMA,
    VIEW,
)
from ..methods.circuit_search import CircuitSearch
from ..methods.contrast_runs import Chosen, chosen_contrasts, of_batch
from ..methods.contrasts import Judged, pairs_of
from ..methods.edge_attribution import Method, edge_attributions
from ..methods.faithfulness import FRACTIONS, circuit_sizes, faithfulness
from ..methods.feature_candidates import batch_features, directions_of, feature_candidates, readable_of
from ..methods.latents import packed_all
from ..methods.stream_edges import StreamEdge

if TYPE_CHECKING:
    from ...models import LanguageModel

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]
Sort = Literal["units", "edges", "latents", "probes"]
_STEPS: Mapping[str, str] = {"latents": "sae", "probes": "probes"}  # steps that sorts of candidates come from
SCORES = pa.schema([("id", pa.string()), ("method", pa.string()), ("scores", pa.list_(pa.float64()))])


class Settings(StepSettings):
    small = {
        "development": 2, "test": 2, "methods": ("eap",), "rank_by": "eap", "state_groups": 1, "fractions": (0.3,),
        "random_circuits": 2, "seeds": 1, "subsets": 1, "outside": 2, "checked": 2, "clusters": 2,
        "answered_only": False, "permutations": 100,
    }  # fmt: skip

    development: int = Field(16, ge=1)
    """questions at most on which edges and candidates are ranked"""
    test: int = Field(24, ge=1)
    """questions at most on which circuits are measured"""
    judged: Judged = "logit_diff"
    """metric: the answer's logit less that of the other answer, or the answer's log-probability"""
    answered_only: bool = True
    """whether only questions count whose answer the model finds more probable than the other one"""
    methods: Annotated[tuple[Method, ...], AfterValidator(named_once)] = ("eap", "eap_ig", "eap_drop")
    """estimates by which edges are ranked"""
    rank_by: Method = "eap_ig"
    """the one whose circuit is tested"""
    integrated_steps: int = Field(5, ge=1)
    """points between the two prompts over which eap_ig averages"""
    state_groups: int = Field(4, ge=1)
    """groups of neighbouring channels (or heads) into which the state of a block is divided, an edge each"""
    fractions: tuple[float, ...] = FRACTIONS
    """circuit sizes, as fractions of all edges"""
    enough: float = Field(0.8, gt=0)
    """faithfulness on the development questions that the tested circuit has"""
    random_circuits: int = Field(19, ge=1)
    """random rankings; fewer than 19 cannot give p <= .05"""
    seeds: int = Field(3, ge=1)
    """rankings by `rank_by`: one on all development questions, the others on draws from them with replacement"""
    subsets: int = Field(3, ge=1)
    """random subsets of the circuit of each of three sizes, for completeness"""
    outside: int = Field(19, ge=1)
    """random edges outside of the circuit with which its elements are compared, for minimality"""
    checked: int = Field(19, ge=0)
    """random low-ranked edges that are cut one by one"""
    matters: float = Field(0.05, gt=0)
    """share of the difference of clean and corrupted prompts from which on an edge matters"""
    candidates: Annotated[tuple[Sort, ...], AfterValidator(named_once)] = ("units",)
    """what is ranked for `patching`: units (channels, states, parameters, windows), edges (through the stream), latents
    (runs `sae` before), probes (runs `probes` before)"""
    share: float = Field(0.02, gt=0, le=1)
    """of channels, state coordinates or latents that form a candidate"""
    clusters: int = Field(4, ge=1, le=50)
    """clusters of channels to try at most; 1: none"""
    tolerance: float = Field(0.1, ge=0, lt=0.5)
    """of the test of equivalence"""
    permutations: int = Field(1000, ge=100)
    """of the test of independence"""
    confidence: float = Field(0.95, gt=0, lt=1)
    """of the bound on overlooked edges"""


def check(asked: Asked) -> None:
    """`Step.check`: the tested circuit's ranking is computed, sizes are fractions, and latents and probes are at sites
    with one value per token and channel."""
    if asked.settings.rank_by not in asked.settings.methods:
        raise UsageError(f"rank_by {asked.settings.rank_by!r} is none of methods {list(asked.settings.methods)}")
    circuit_sizes(10, asked.settings.fractions)
    for name in set(_STEPS.values()) & asked.upstream.keys():
        try:
            places(asked.model, asked.layers, asked.upstream[name].sites)
        except UsageError as error:
            raise UsageError(f"candidates of the step {name!r}: {error}") from error


def also(settings: Settings, upstream: Mapping[str, Any]) -> list[str]:
    """`Step.also`: the steps that candidates come from."""
    return [_STEPS[sort] for sort in settings.candidates if sort in _STEPS]


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """`Step.cost`: pairs of prompts, once for each circuit of every size, its controls and tests."""
    settings: Settings = asked.settings
    pairs = min(settings.development + settings.test, len(lengths)) * mean_length(lengths)
    return Effort(8.0 * (settings.random_circuits + settings.outside) * pairs * len(asked.layers) / 8, of_files(6))


@step("circuits", settings=Settings, seeded=True, check=check, view=VIEW, cost=cost, also=also)
def circuits(job: Job) -> Tables:
    """Which edges carry the answer, and whether circuits of them are faithful, complete and minimal."""
    settings: Settings = job.settings
    graph = graph_of(job.model, job.layers, settings.state_groups)
    chosen = chosen_contrasts(
        job, development=settings.development, test=settings.test, answered_only=settings.answered_only,
        judged=settings.judged,
    )  # fmt: skip
    absent = _absent_edges(job, graph)
    if not chosen.usable or faithfulness(*_full_and_empty(chosen)) is None:
        return _nothing(chosen, absent)
    common = {"judged": settings.judged, "layers": list(job.layers)}
    scores = _scores(job, chosen, common)
    search = CircuitSearch(job, graph, chosen, scores, common | {"state_groups": settings.state_groups})
    found = search.tables()
    candidates = _candidates(job, graph, chosen, scores, common)
    rows: Rows = [
        {"candidate": one.candidate.name, "kind": one.candidate.kind, "layer": one.candidate.layer, "score": one.score,
         "size": one.candidate.size(job.model), "rank": i, "parts": canonical_json(one.candidate.to_json()),
         "status": "ok"}
        for i, one in enumerate(candidates, 1)
    ] or [{"status": NOT_APPLICABLE}]  # fmt: skip
    edges = pa.Table.from_pylist(found.edges + absent, schema=EDGES_SCHEMA)
    return found.as_tables() | {
        "edges": edges, "candidates": pa.Table.from_pylist(rows, schema=CANDIDATES_SCHEMA), "prompts": chosen.prompts,
    }  # fmt: skip


def batch_scores(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """First-order estimates of every edge, for each question of one batch and each method."""
    chosen = of_batch(batch, arguments)
    if not chosen:
        return SCORES.empty_table()
    graph, pairs = graph_of(model, arguments["layers"], arguments["state_groups"]), pairs_of(chosen, batch.device)
    rows: Rows = []
    for method in arguments["methods"]:
        found = edge_attributions(
            model, graph, pairs, method=method, steps=arguments["integrated_steps"], judged=arguments["judged"]
        )
        rows += [{"id": c.id, "method": method, "scores": s} for c, s in zip(chosen, found.tolist(), strict=True)]
    return pa.Table.from_pylist(rows, schema=SCORES)


def _scores(job: Job, chosen: Chosen, common: Mapping[str, Any]) -> dict[str, Floats]:
    """By method (development questions, edges)."""
    names = ("methods", "integrated_steps", "state_groups")
    settings = {name: job.settings.model_dump(mode="json")[name] for name in names}
    contrasts = {c.id: c.to_json() for c in chosen.development}
    rows = job.map(batch_scores, SCORES, {**common, **settings, "contrasts": contrasts}).to_pylist()
    by_method = {m: {r["id"]: r["scores"] for r in rows if r["method"] == m} for m in job.settings.methods}
    return {method: np.array([of[c.id] for c in chosen.development]) for method, of in by_method.items()}


def _candidates(
    job: Job, graph: Graph, chosen: Chosen, scores: Mapping[str, Floats], common: Mapping[str, Any]
) -> list[Ranked]:
    """All that the settings ask for, the largest |score| first."""
    settings: Settings = job.settings
    order = [c.id for c in chosen.development]
    arguments: dict[str, Any] = {**common, "contrasts": {c.id: c.to_json() for c in chosen.development}}
    found: list[Ranked] = []
    if "units" in settings.candidates:
        found += candidates_of(
            job.model, job.layers, job.map(batch_units, UNITS, arguments), order, share=settings.share,
            clusters=settings.clusters, seed=job.seed,
        )  # fmt: skip
    if "edges" in settings.candidates:
        mean: list[float] = scores[settings.rank_by].mean(0).tolist()
        found += [
            Ranked(Candidate(edge.name, "edge", (StreamEdge(edge.sender, edge.receiver),), edge.layer), score)
            for edge, score in zip(graph.edges, mean, strict=True) if edge.kind == "residual"
        ]  # fmt: skip
    readable, directions = readable_of(job), directions_of(job)
    if readable or directions:
        arguments |= {
            "autoencoders": packed_all({name: one.of for name, one in readable.items()}),
            "directions": [one.to_json() for one in directions],
        }
        rows = job.map(batch_features, UNITS, arguments)
        found += feature_candidates(readable, directions, rows, order, settings.share)
    return sorted(found, key=lambda one: -abs(one.score))


def _full_and_empty(chosen: Chosen) -> tuple[Floats, Floats, Floats]:
    clean, corrupted = chosen.ends(chosen.test)
    return clean, clean, corrupted


def _absent_edges(job: Job, graph: Graph) -> Rows:
    """A row for each block that has no edge through a convolution, or a state."""
    having = {(edge.kind, edge.layer) for edge in graph.edges}
    return [
        {"kind": kind, "layer": layer, "status": NOT_APPLICABLE}
        for kind in ("conv", "state")
        for layer in job.layers
        if (kind, layer) not in having
    ]


def _nothing(chosen: Chosen, absent: Rows) -> Tables:
    schemas = {
        "curves": CURVES_SCHEMA, "areas": AREAS_SCHEMA, "completeness": COMPLETENESS_SCHEMA,
        "minimality": MINIMALITY_SCHEMA, "tests": TESTS_SCHEMA, "false_negatives": FALSE_NEGATIVES_SCHEMA,
        "candidates": CANDIDATES_SCHEMA,
    }  # fmt: skip
    none = [{"status": NOT_APPLICABLE}]
    edges = pa.Table.from_pylist(none + absent, schema=EDGES_SCHEMA)
    tables = {name: pa.Table.from_pylist(none, schema=schema) for name, schema in schemas.items()}
    return tables | {"edges": edges, "prompts": chosen.prompts}
