"""What the tables of the step `parameter_clusters` hold: schemas with a meaning for each column."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column

NOTHING = "the step spd found no component that is alive"

_STATUS = [
    column("status", pa.string(), f"ok; not_applicable: {NOTHING}; model_nonfinite: on every prompt"),
    column("reason", pa.string(), "in words, where the status is not ok"),
]
CLUSTERS = pa.schema([
    column("cluster", pa.int32(), "from 0, the most important first"),
    column("size", pa.int32(), "components"),
    column("matrices", pa.string(), "how many of them are of which matrix"),
    column("importance", pa.float64(), "sum of the mean importances of its components over tokens"),
    column("cohesion", pa.float64(), "mean co-importance of two of its components; null for a single one"),
    column("top_kind", pa.string(), "kind of question in which it is most important"),
    column("specialisation", pa.float64(), "(a - b) / (a + b) of the mean importance in that kind and in the others; "
           "null where there is one kind"),
    column("p_kinds", pa.float64(), "that its importance does not depend on the kind; permutations"),
    column("p_kinds_holm", pa.float64(), "the same, corrected for all clusters"),
    column("slope", pa.float64(), "change of the loss by a factor of all its components, to first order, nats; below "
           "0: they help"),
    column("flow", pa.float64(), "sum over components of the mean |slope| over prompts: gradients through it"),
    column("flow_share", pa.float64(), "of the flow through all clustered components"),
    column("effect", pa.float64(), "change of the answer's log-probability without the cluster, nats; null where it "
           "was not taken away"),
    column("low", pa.float64(), "lower bound of its bootstrap interval over prompts"),
    column("high", pa.float64(), "upper bound"),
    column("random_effect", pa.float64(), "mean effect of random sets of as many components"),
    column("difference", pa.float64(), "effect less that of the random sets"),
    column("difference_low", pa.float64(), "lower bound of its bootstrap interval"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p_prompts", pa.float64(), "two-sided sign-flip p-value of the difference over prompts"),
    column("p_draws", pa.float64(), "of the cluster being one more random set; null for a single draw"),
    column("p_holm", pa.float64(), "the larger of the two, corrected for all clusters taken away"),
    column("verdict", pa.string(), "stronger than random, weaker than random, or no difference shown"),
    column("bottleneck", pa.bool_(), "whether it is stronger than random"),
    column("n_prompts", pa.int32(), "prompts on which it was taken away"),
    *_STATUS,
])  # fmt: skip
_PLACE = [
    column("layer", pa.int32(), "block; null for the embedding"),
    column("matrix", pa.string(), "path of the matrix's layer in the block, or embedding"),
    column("component", pa.int32(), "its number in the tensors of spd's first run"),
]
COMPONENTS = pa.schema([
    *_PLACE,
    column("cluster", pa.int32(), "its cluster"),
    column("importance", pa.float64(), "mean over tokens"),
    column("top_kind", pa.string(), "kind of question in which it is most important"),
    column("specialisation", pa.float64(), "as of clusters"),
    column("slope", pa.float64(), "of the loss in a factor of it, mean over prompts, nats"),
    column("flow", pa.float64(), "mean |slope| over prompts"),
    *_STATUS,
])  # fmt: skip
INTERACTIONS = pa.schema([
    column("of", pa.string(), "clusters, or components"),
    column("first", pa.string(), "number of the cluster, or matrix/component"),
    column("second", pa.string(), "the same"),
    column("loss_first", pa.float64(), "change of the loss without the first, nats"),
    column("loss_second", pa.float64(), "without the second"),
    column("loss_both", pa.float64(), "without both"),
    column("interaction", pa.float64(), "loss_both - loss_first - loss_second: below 0 they are links of one chain, "
           "above 0 each makes up for the other"),
    column("low", pa.float64(), "lower bound of its bootstrap interval over prompts"),
    column("high", pa.float64(), "upper bound"),
    column("n_prompts", pa.int32(), "prompts counted"),
    *_STATUS,
])  # fmt: skip
PAIRS = pa.schema([
    column("first", pa.string(), "matrix/component, in the order of clusters"),
    column("second", pa.string(), "the same"),
    column("co_importance", pa.float64(), "cosine of their importances over tokens"),
])  # fmt: skip
