"""The circuits of one analysis: rankings of edges, what is measured of them, and the rows that say so.

Everything that is to be known of the test questions is asked for first and measured at once; each pattern of cut edges
is run a single time, whatever it is needed for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...runtime.plan import digest_of
from ...scoring.statistics import rank_p
from ..engine.columns import ranks
from ..engine.step import Job
from .circuit_graph import Graph
from .circuit_schema import (
    AREAS_SCHEMA,
    COMPLETENESS_SCHEMA,
    CURVES_SCHEMA,
    FALSE_NEGATIVES_SCHEMA,
    MINIMALITY_SCHEMA,
    TESTS_SCHEMA,
)
from .circuit_tests import Tested, equivalence, independence, minimality
from .contrast_runs import Chosen, Patterns, batch_choices
from .faithfulness import areas, circuit_sizes, faithfulness, ranked, smallest_faithful
from .false_negatives import upper_count

if TYPE_CHECKING:
    from ..steps.circuits import Settings

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]
_REMOVED = (0.25, 0.5, 0.75)  # of the circuit, in the draws of completeness
_ALL_SIZES = 40  # edges up to which every size is tried when the circuit is chosen; else as many, evenly on a log scale


class Found(NamedTuple):
    edges: Rows
    curves: Rows
    areas: Rows
    completeness: Rows
    minimality: Rows
    tests: Rows
    false_negatives: Rows

    def as_tables(self) -> dict[str, pa.Table]:
        schemas = {
            "curves": CURVES_SCHEMA, "areas": AREAS_SCHEMA, "completeness": COMPLETENESS_SCHEMA,
            "minimality": MINIMALITY_SCHEMA, "tests": TESTS_SCHEMA, "false_negatives": FALSE_NEGATIVES_SCHEMA,
        }  # fmt: skip
        return {
            name: pa.Table.from_pylist([row | {"status": "ok"} for row in getattr(self, name)], schema=schema)
            for name, schema in schemas.items()
        }


class CircuitSearch:
    """The circuits of one job: everything that is to be measured is asked for first, then measured at once."""

    def __init__(
        self, job: Job, graph: Graph, chosen: Chosen, scores: Mapping[str, Floats], arguments: Mapping[str, Any]
    ) -> None:
        self.job, self.chosen, self.scores = job, chosen, scores
        self.settings: Settings = job.settings
        self.graph, self.n, self.arguments = graph, len(graph.edges), arguments
        self.sizes = circuit_sizes(self.n, self.settings.fractions)
        self.patterns = Patterns()

    def tables(self) -> Found:
        own = self.settings.rank_by
        order = ranked(self.scores[own].mean(0))
        development, size = self._chosen_size(order)
        circuit: list[int] = order[:size].tolist()
        rest: list[int] = order[size:].tolist()
        rankings = self._rankings()
        for ranking in rankings.values():
            for k in self.sizes:
                self._keep(ranking[:k].tolist())
        random_same: list[list[int]] = [
            self._rng("circuit", i).permutation(self.n)[:size].tolist() for i in range(self.settings.random_circuits)
        ]
        subsets = self._subsets(circuit)
        outside = self._draw("outside", rest, self.settings.outside)
        checked = self._draw("checked", rest, self.settings.checked)
        for kept in [circuit, *random_same, rest, *([*circuit, e] for e in outside)]:
            self._keep(kept)
        for removed in [*subsets, *([e] for e in circuit)]:
            self._keep([e for e in circuit if e not in removed])
            self.patterns.add(removed)
        for edge in {*circuit, *checked}:
            self.patterns.add([edge])
        self.patterns.add([])
        self.patterns.measure(self.job, self.chosen.test, self.arguments)
        exact = {e: self._loss(e) for e in sorted({*circuit, *checked})}
        elements = [self._f(circuit) - self._f([e for e in circuit if e != one]) for one in circuit]
        added = [self._f([*circuit, e]) - self._f(circuit) for e in outside]
        line, p_elements = minimality(elements, added)
        return Found(
            edges=self._edge_rows(exact, set(circuit)),
            curves=development + self._curve_rows(rankings),
            areas=self._area_rows(rankings),
            completeness=[self._completeness_row(circuit, removed, draw) for draw, removed in enumerate(subsets)],
            minimality=[
                {"edge": self.graph.edges[e].name, "element": True, "change": change, "p": p}
                for e, change, p in zip(circuit, elements, p_elements, strict=True)
            ] + [
                {"edge": self.graph.edges[e].name, "element": False, "change": change}
                for e, change in zip(outside, added, strict=True)
            ],
            tests=self._test_rows(circuit, rest, line, [self._f(kept) for kept in random_same]),
            false_negatives=[self._overlooked(own, rest, checked, exact)],
        )  # fmt: skip

    # -- what is drawn ------------------------------------------------------------------------------------------

    def _rng(self, *what: Any) -> np.random.Generator:
        return np.random.default_rng(int(digest_of([self.job.seed, *what])[:16], 16))

    def _draw(self, what: str, pool: Sequence[int], count: int) -> list[int]:
        return self._rng(what).permutation(pool)[:count].tolist() if pool else []

    def _rankings(self) -> dict[tuple[str, int], NDArray[np.int64]]:
        """(method, seed) -> edges in order: of all questions, of draws of them, and of nothing."""
        found = {(method, 0): ranked(scores.mean(0)) for method, scores in self.scores.items()}
        own = self.scores[self.settings.rank_by]
        for seed in range(1, self.settings.seeds):
            drawn = self._rng("questions", seed).integers(0, len(own), len(own))
            found[self.settings.rank_by, seed] = ranked(own[drawn].mean(0))
        for draw in range(self.settings.random_circuits):
            found["random", draw] = self._rng("ranking", draw).permutation(self.n)
        return found

    def _subsets(self, circuit: list[int]) -> list[list[int]]:
        """Random subsets of the circuit, then all of it."""
        found: list[list[int]] = []
        for share in _REMOVED:
            count = round(share * len(circuit))
            if 0 < count < len(circuit):
                for draw in range(self.settings.subsets):
                    found.append(sorted(self._rng("subset", count, draw).permutation(circuit)[:count].tolist()))
        return [*found, sorted(circuit)]

    # -- what is measured ---------------------------------------------------------------------------------------

    def _keep(self, kept: Sequence[int]) -> frozenset[int]:
        """Ask for the circuit of these edges."""
        inside = {int(e) for e in kept}
        return self.patterns.add([e for e in range(self.n) if e not in inside])

    def _metric(self, kept: Sequence[int]) -> Floats:
        return self.patterns[self._keep(kept)]

    def _f(self, kept: Sequence[int]) -> float:
        return self._faithfulness(self._metric(kept))

    def _faithfulness(self, metric: Floats) -> float:
        value = faithfulness(metric, *self.chosen.ends(self.chosen.test))
        assert value is not None, "asked before anything was measured"
        return value

    def _loss(self, edge: int) -> float:
        return float((self.patterns[frozenset()] - self.patterns[frozenset([edge])]).mean())

    def _chosen_size(self, order: NDArray[np.int64]) -> tuple[Rows, int]:
        """The curve on the development questions, and the size of the circuit that is tested."""
        patterns, which = Patterns(), self.chosen.development
        steps = min(self.n, _ALL_SIZES)
        tried = sorted({*self.sizes, *np.geomspace(1, self.n, steps).round().astype(int).tolist()})
        if self.n <= _ALL_SIZES:
            tried = list(range(1, self.n + 1))
        names = [patterns.add(order[k:].tolist()) for k in tried]
        patterns.measure(self.job, which, self.arguments, batch_choices)
        f = [faithfulness(patterns[name], *self.chosen.ends(which)) for name in names]
        rows = [self._curve_row(self.settings.rank_by, "development", 0, k, v) for k, v in zip(tried, f, strict=True)]
        known = [value for value in f if value is not None]
        return rows, smallest_faithful(tried, known, self.settings.enough) if len(known) == len(f) else self.n

    # -- rows ---------------------------------------------------------------------------------------------------

    def _curve_row(self, method: str, half: str, seed: int, size: int, f: float | None) -> dict[str, Any]:
        n = len(self.chosen.test if half == "test" else self.chosen.development)
        return {"method": method, "half": half, "seed": seed, "size": size, "fraction": size / self.n,
                "faithfulness": f, "n_prompts": n}  # fmt: skip

    def _curve_rows(self, rankings: Mapping[tuple[str, int], NDArray[np.int64]]) -> Rows:
        return [
            self._curve_row(method, "test", seed, k, self._f(ranking[:k].tolist()))
            for (method, seed), ranking in rankings.items()
            for k in self.sizes
        ]

    def _area_rows(self, rankings: Mapping[tuple[str, int], NDArray[np.int64]]) -> Rows:
        found = {
            key: areas(self.sizes, [self._f(ranking[:k].tolist()) for k in self.sizes], self.n)
            for key, ranking in rankings.items()
        }
        random = [area for (method, _), area in found.items() if method == "random"]
        cpr, cmd = np.array([area.cpr for area in random]), np.array([area.cmd for area in random])
        about = {"random_cpr": float(cpr.mean()), "random_cmd": float(cmd.mean()), "n_random": len(random),
                 "random_cpr_sd": float(cpr.std(ddof=1)) if len(cpr) > 1 else None}  # fmt: skip
        return [
            {"method": method, "seed": seed, "cpr": area.cpr, "cmd": area.cmd, "p_cpr": rank_p(area.cpr, cpr),
             "p_cmd": rank_p(-area.cmd, -cmd), **about}
            for (method, seed), area in found.items() if method != "random"
        ]  # fmt: skip

    def _completeness_row(self, circuit: list[int], removed: list[int], draw: int) -> dict[str, Any]:
        without = self._f([e for e in circuit if e not in removed])
        model = self._faithfulness(self.patterns[frozenset(removed)])
        number = None if len(removed) == len(circuit) else draw % self.settings.subsets
        return {"removed": len(removed), "draw": number, "circuit_without": without, "model_without": model,
                "incompleteness": abs(without - model)}  # fmt: skip

    def _test_rows(self, circuit: list[int], rest: list[int], line: Tested, random: list[float]) -> Rows:
        (clean, corrupted), own = self.chosen.ends(self.chosen.test), self._metric(circuit)
        left = self._metric(rest) - corrupted
        tests = [
            equivalence(own, clean, tolerance=self.settings.tolerance),
            independence(left, clean, seed=self.job.seed, n_draws=self.settings.permutations),
            line,
            Tested("random", self._f(circuit), rank_p(self._f(circuit), random), len(random)),
        ]
        return [test._asdict() | {"size": len(circuit), "edges": self.n} for test in tests]

    def _edge_rows(self, exact: Mapping[int, float], circuit: set[int]) -> Rows:
        rows: Rows = []
        for method, scores in self.scores.items():
            mean = scores.mean(0)
            error = scores.std(0, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else None
            for i, (edge, rank) in enumerate(zip(self.graph.edges, ranks(np.abs(mean)), strict=True)):
                rows.append({
                    "edge": edge.name, "kind": edge.kind, "sender": edge.name.split(" > ")[0],
                    "receiver": edge.receiver, "layer": edge.layer, "method": method, "score": float(mean[i]),
                    "rank": int(rank),
                    "standard_error": None if error is None else float(error[i]), "exact": exact.get(i),
                    "in_circuit": i in circuit, "status": "ok",
                })  # fmt: skip
        return rows

    def _overlooked(
        self, method: str, rest: list[int], checked: list[int], exact: Mapping[int, float]
    ) -> dict[str, Any]:
        clean, corrupted = self.chosen.ends(self.chosen.test)
        threshold = self.settings.matters * abs(float((clean - corrupted).mean()))
        losses = np.array([abs(exact[e]) for e in checked])
        hits = int((losses >= threshold).sum())
        score = np.abs(self.scores[method].mean(0))[list(exact)]
        return {
            "method": method, "threshold": threshold, "low_ranked": len(rest), "drawn": len(checked), "matter": hits,
            "at_most": upper_count(len(rest), len(checked), hits, self.settings.confidence),
            "largest": float(losses.max()) if len(losses) else None,
            "rank_correlation": _spearman(score, np.abs(np.array(list(exact.values())))),
        }  # fmt: skip


def _spearman(a: Floats, b: Floats) -> float | None:
    """Correlation of ranks, equal values sharing theirs; None where either does not vary."""
    x, y = ((v[:, None] > v[None]).sum(1) + 0.5 * (v[:, None] == v[None]).sum(1) for v in (a, b))
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return None
    return float(np.corrcoef(x, y)[0, 1])
