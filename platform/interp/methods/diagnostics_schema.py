"""The tables of `diagnostics`, column by column."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column

PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, or where the recurrence stands, in the block; null where there is none"),
]
_ENDS = [
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value was not finite"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: see reason"),
    column("reason", pa.string(), "why there is nothing to measure; null otherwise"),
]


def _interval(name: str, meaning: str) -> list[pa.Field]:
    return [
        column(name, pa.float64(), meaning),
        column(f"{name}_low", pa.float64(), "lower bound of its interval over prompts; null where too few bound it"),
        column(f"{name}_high", pa.float64(), "upper bound"),
    ]  # fmt: skip


POSITIONS = pa.schema([
    *PLACE,
    *_interval("position", "share of what varies between probes that is absolute position; unbiased, so it may be "
               "slightly negative"),
    *_interval("content", "share that is the probed token"),
    *_interval("context", "the rest: what stands before, and what it does with the token"),
    column("p", pa.float64(), "one-sided, of so large a share of position with positions dealt anew in each prompt"),
    column("p_holm", pa.float64(), "corrected for all rows of the table"),
    *_ENDS,
])  # fmt: skip
SELECTIVITY = pa.schema([
    *PLACE,
    column("quantity", pa.string(), "delta, B or C"),
    *_interval("variation", "root of its variance over probes, relative to its root mean square: 0 for a constant"),
    *_interval("token", "share of that variance that is the token read"),
    *_interval("context", "share that is neither token nor position: what the tokens before make of it"),
    *_ENDS,
])  # fmt: skip
STATES = pa.schema([
    *PLACE,
    *_interval("rank", "effective rank of the state (channels, coordinates) after a prompt's last token, mean"),
    column("full_rank", pa.int32(), "the largest that it can be"),
    *_interval("growth", "slope of ln |state| over ln of the tokens read, mean: 0 for one of constant size, 0.5 for a "
               "random walk, 1 for a sum of equal terms"),
    *_ENDS,
])  # fmt: skip
GATES = pa.schema([
    *PLACE,
    column("kind", pa.string(), "softplus: Delta; sigmoid: what stands before silu"),
    *_interval("closed", "share of values where the slope is below `flat`: the flat part"),
    *_interval("open", "share where it is above 1 - flat"),
    column("closed_values", pa.int64(), "how many are closed"),
    column("open_values", pa.int64(), "how many are open"),
    column("values", pa.int64(), "of how many"),
    *_ENDS,
])  # fmt: skip
CONSISTENCY = pa.schema([
    *PLACE,
    *_interval("agreement", "distance to other facts in the other wording over that to the same fact: 1 where nothing "
               "of the fact is kept in both wordings"),
    column("p", pa.float64(), "two-sided sign-flip p-value of the two distances being equal"),
    column("p_holm", pa.float64(), "corrected for all rows of the table"),
    column("n_facts", pa.int32(), "facts counted"),
    column("n_relations", pa.int32(), "relations that they are of"),
    *_ENDS[1:],
])  # fmt: skip
SINKS = pa.schema([
    *PLACE,
    *_interval("share", "share of the read weights on the most read token of a prompt's first half, mean"),
    column("uniform", pa.float64(), "the share if all tokens were read alike, mean"),
    *_interval("prompts_with", "share of prompts with a sink, Wilson"),
    column("position", pa.int32(), "where the most read token stands most often"),
    column("token", pa.int32(), "which one it is most often"),
    *_ENDS,
])  # fmt: skip
MASSIVE = pa.schema([
    *PLACE,
    *_interval("ratio", "largest |value| over the median |value| of a prompt, mean"),
    column("largest", pa.float64(), "largest |value| of all prompts"),
    *_interval("prompts_with", "share of prompts with a massive activation, Wilson"),
    column("massive_values", pa.int64(), "how many there are"),
    column("channel", pa.int32(), "channel of the largest value, most often"),
    column("position", pa.int32(), "its token's position, most often"),
    column("token", pa.int32(), "its token, most often"),
    *_ENDS,
])  # fmt: skip
DEAD = pa.schema([
    *PLACE,
    column("dead", pa.int32(), "channels that never move"),
    column("channels", pa.int32(), "of how many"),
    column("which", pa.list_(pa.int32()), "which they are"),
    column("moves_at_most", pa.float64(), "upper bound of the share of prompts in which such a channel may still move, "
           "exact binomial"),
    *_ENDS,
])  # fmt: skip
FIELD = pa.schema([
    column("times", pa.int32(), "length of the texts over the base"),
    column("length", pa.int32(), "tokens of a text"),
    column("base", pa.int32(), "the training length as it was named, or the longest prompt's"),
    column("base_from", pa.string(), "setting, or longest prompt"),
    *_interval("mean_distance", "tokens back from the last one, weighted by the gradient's size, mean over texts"),
    *_interval("d50", "least distance within which half of the gradient lies"),
    *_interval("d90", "within which nine tenths lie"),
    *_interval("beyond", "share of the gradient farther back than the base"),
    *_interval("grown", "d90 less that of the same texts' shortest length, paired"),
    *_ENDS,
])  # fmt: skip
SCHEMAS = {
    "positions": POSITIONS, "selectivity": SELECTIVITY, "states": STATES, "gates": GATES, "consistency": CONSISTENCY,
    "sinks": SINKS, "massive": MASSIVE, "dead": DEAD, "receptive_field": FIELD,
}  # fmt: skip
