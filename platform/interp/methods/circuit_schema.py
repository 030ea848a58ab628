"""The tables of the step `circuits`, and how a report shows them."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column
from ..engine.view import Column, LinePart, TablePart, View

_STATUS = column("status", pa.string(), "ok; not_applicable: the model has no such edge, no questions are left on one "
                 "of the sides, or clean and corrupted prompts end alike")  # fmt: skip

EDGES_SCHEMA = pa.schema([
    column("edge", pa.string(), "sender > receiver; null where a block has no edge of this kind"),
    column("kind", pa.string(), "residual: what a part adds, as one later part reads it; conv: earlier inputs in the "
           "convolution's window; state: what earlier tokens wrote, as the read-out finds it"),
    column("sender", pa.string(), "site of the sender; with the state's channels where it is in groups"),
    column("receiver", pa.string(), "the part that reads it; head: the final norm"),
    column("layer", pa.int32(), "block of the receiver; null for the head"),
    column("method", pa.string(), "eap, eap_ig or eap_drop, see `edge_attribution`"),
    column("score", pa.float64(), "estimated loss of the metric when the edge alone carries the corrupted run's "
           "values, mean over development questions; above 0: it supports the answer (eap_drop: never below 0)"),
    column("standard_error", pa.float64(), "of that mean, over questions; null for fewer than two"),
    column("rank", pa.int32(), "1 is the largest |score| of the method"),
    column("exact", pa.float64(), "measured loss on test questions when it is cut alone; null where it was not cut"),
    column("in_circuit", pa.bool_(), "whether it belongs to the circuit that is tested"),
    _STATUS,
])  # fmt: skip
CURVES_SCHEMA = pa.schema([
    column("method", pa.string(), "what ranked the edges; random: nothing did"),
    column("half", pa.string(), "questions on which it was measured"),
    column("seed", pa.int32(), "0: all development questions; others: draws from them with replacement, or at random"),
    column("size", pa.int32(), "edges of the circuit"),
    column("fraction", pa.float64(), "of all edges"),
    column("faithfulness", pa.float64(), "(m(circuit) - m(empty)) / (m(full) - m(empty)), metrics being means"),
    column("n_prompts", pa.int32(), "questions counted"),
    _STATUS,
])  # fmt: skip
AREAS_SCHEMA = pa.schema([
    column("method", pa.string(), "what ranked the edges"),
    column("seed", pa.int32(), "see `curves`"),
    column("cpr", pa.float64(), "circuit performance ratio: area below faithfulness over the fraction of edges"),
    column("cmd", pa.float64(), "circuit-model distance: area between the curve and 1"),
    column("random_cpr", pa.float64(), "mean cpr of random rankings"),
    column("random_cpr_sd", pa.float64(), "its standard deviation over them"),
    column("random_cmd", pa.float64(), "mean cmd of random rankings"),
    column("p_cpr", pa.float64(), "one-sided: (1 + random rankings of at least this cpr) / (1 + all)"),
    column("p_cmd", pa.float64(), "of at most this cmd"),
    column("n_random", pa.int32(), "random rankings"),
    _STATUS,
])  # fmt: skip
COMPLETENESS_SCHEMA = pa.schema([
    column("removed", pa.int32(), "edges of the circuit that are taken out"),
    column("draw", pa.int32(), "number of the random choice; null where all are taken out"),
    column("circuit_without", pa.float64(), "faithfulness of the circuit without them"),
    column("model_without", pa.float64(), "of the whole model without them"),
    column("incompleteness", pa.float64(), "|difference|; where all are removed: how much the rest still does"),
    _STATUS,
])  # fmt: skip
MINIMALITY_SCHEMA = pa.schema([
    column("edge", pa.string(), "the edge taken out"),
    column("element", pa.bool_(), "of the circuit; false: a random edge that was added to it first"),
    column("change", pa.float64(), "loss of faithfulness without it"),
    column("p", pa.float64(), "elements: (1 + outside edges that change |f| at least as much) / (1 + all)"),
    _STATUS,
])  # fmt: skip
TESTS_SCHEMA = pa.schema([
    column("test", pa.string(), "equivalence, independence, minimality of the circuit, see `circuit_tests`; random: "
           "its faithfulness among random circuits of equal size"),
    column("statistic", pa.float64(), "equivalence: share of questions on which the circuit's metric is higher; "
           "independence: HSIC of complement and model; minimality: smallest loss of faithfulness; random: "
           "faithfulness"),
    column("p", pa.float64(), "equivalence, independence: small speaks against it; minimality, random: for it"),
    column("n", pa.int32(), "questions; minimality: elements; random: circuits drawn"),
    column("size", pa.int32(), "edges of the circuit"),
    column("edges", pa.int32(), "of the model"),
    _STATUS,
])  # fmt: skip
FALSE_NEGATIVES_SCHEMA = pa.schema([
    column("method", pa.string(), "whose low-ranked edges these are"),
    column("threshold", pa.float64(), "loss of the metric from which on an edge matters"),
    column("low_ranked", pa.int32(), "edges outside of the circuit"),
    column("drawn", pa.int32(), "of them cut one by one"),
    column("matter", pa.int32(), "of those whose |loss| reaches the threshold"),
    column("at_most", pa.int32(), "upper confidence bound on how many of the low-ranked edges matter"),
    column("largest", pa.float64(), "largest |loss| among those cut; null where none was"),
    column("rank_correlation", pa.float64(), "Spearman's, of |score| and |loss| over all edges that were cut; null "
           "where either does not vary"),
    _STATUS,
])  # fmt: skip
CANDIDATES_SCHEMA = pa.schema([
    column("candidate", pa.string(), "what it is"),
    column("kind", pa.string(), "channels, coordinates, state, window, parameter delta, B or C, cluster; together: of "
           "all blocks; latent or latents of an autoencoder; probe: the direction of one; edge through the stream"),
    column("layer", pa.int32(), "block; null for several"),
    column("size", pa.int32(), "numbers per token"),
    column("score", pa.float64(), "estimated loss of the metric when it has the corrupted run's values, to first "
           "order, mean over development questions"),
    column("rank", pa.int32(), "1 is the largest |score|"),
    column("parts", pa.string(), "as JSON"),
    _STATUS,
])  # fmt: skip

_METHODS = {"eap": "edge attribution", "eap_ig": "with integrated gradients", "eap_drop": "with dropped gradients"}
VIEW = View(
    "Circuits: which edges carry the answer, and whether they are enough",
    "An edge that is cut carries the values of a prompt that states another answer. Edges are ranked on one half of "
    "the questions by first-order estimates; everything shown is measured on the other half. A faithfulness of 1 does "
    "what the model does, 0 what it does with the other prompt; beside each method the area of random rankings.",
    (
        LinePart(part="curves", x="fraction", y="faithfulness", group="method", log_x=True,
                 only={"half": "test", "seed": 0, "status": "ok"}, title="Faithfulness of circuits of growing size",
                 x_label="fraction of the edges", label="faithfulness", words=_METHODS),
        TablePart(
            part="areas",
            title="Areas, and those of random rankings",
            only={"status": "ok"},
            columns=(
                Column("method"), Column("seed"), Column("cpr", "CPR"), Column("random_cpr", "CPR at random"),
                Column("p_cpr", "p", form="p"), Column("cmd", "CMD"), Column("random_cmd", "CMD at random"),
                Column("p_cmd", "p", form="p"),
            ),
            words=_METHODS,
        ),
        TablePart(
            part="tests",
            title="What the circuit claims",
            explains="An ideal circuit has large p-values for equivalence and independence, small ones for minimality "
            "and against random circuits of equal size.",
            columns=(Column("test"), Column("statistic", absent="–"), Column("p", form="p", absent="–"), Column("n"),
                     Column("size", "edges"), Column("edges", "of")),
        ),
        TablePart(
            part="edges",
            title="The edges ranked first",
            only={"status": "ok"},
            sort=("rank", "method"),
            top=24,
            columns=(
                Column("method"), Column("rank"), Column("edge"), Column("score", "estimate", form="signed"),
                Column("exact", "measured", form="signed", absent="–"), Column("in_circuit", "in the circuit"),
            ),
            words=_METHODS,
        ),
        TablePart(
            part="false_negatives",
            title="What the ranking may have missed",
            columns=(
                Column("method"), Column("low_ranked", "low-ranked edges"), Column("drawn", "cut"),
                Column("matter", "of them matter"), Column("at_most", "at most"), Column("threshold"),
                Column("rank_correlation", "rank correlation", absent="–"),
            ),
            words=_METHODS,
        ),
        TablePart(
            part="completeness",
            title="Completeness: circuit and model without the same edges",
            columns=(Column("removed"), Column("draw", absent="all"), Column("circuit_without", "circuit"),
                     Column("model_without", "model"), Column("incompleteness")),
            top=24,
        ),
        TablePart(
            part="minimality",
            title="Minimality: the circuit without one of its edges",
            only={"element": True},
            sort=("-change",),
            top=24,
            columns=(Column("edge"), Column("change", "loss of faithfulness", form="signed"),
                     Column("p", form="p", absent="–")),
        ),
        TablePart(
            part="candidates",
            title="Candidates, ranked",
            explains="First-order estimates on the development questions; `patching` measures them.",
            only={"status": "ok"},
            sort=("rank",),
            top=24,
            columns=(Column("rank"), Column("candidate"), Column("kind"), Column("size"),
                     Column("score", "estimate", form="signed")),
        ),
    ),
)  # fmt: skip
