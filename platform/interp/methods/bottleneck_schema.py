"""The tables of `bottlenecks`, column by column."""

from __future__ import annotations

import pyarrow as pa

from ..engine.columns import column

ABLATIONS = pa.schema([
    column("kind", pa.string(), "channel: attribution of one channel; group: ablation of a set of channels"),
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("channel", pa.int32(), "the channel; null for groups"),
    column("channels", pa.list_(pa.int32()), "the group's channels, ascending; null for single channels"),
    column("n_channels", pa.int32(), "how many"),
    column("group", pa.string(), "all, top (largest |attribution|) or random; null for single channels"),
    column("draw", pa.int32(), "number of the random draw; null otherwise"),
    column("control", pa.bool_(), "whether the row is a control: a random set"),
    column("attribution", pa.float64(), "nats; of a group: the sum over its channels"),
    column("clean_logprob", pa.float64(), "groups: mean log-probability of the answer without ablation, nats"),
    column("clean_accuracy", pa.float64(), "groups: teacher-forced accuracy without ablation"),
    column("effect_logprob", pa.float64(), "groups: mean change of the answer's log-probability by the ablation, nats"),
    column("effect_low", pa.float64(), "lower bound of its paired bootstrap interval; null for fewer than two prompts"),
    column("effect_high", pa.float64(), "upper bound"),
    column("accuracy_change", pa.float64(), "groups: mean change of teacher-forced accuracy"),
    column("accuracy_low", pa.float64(), "lower bound of its paired bootstrap interval"),
    column("accuracy_high", pa.float64(), "upper bound"),
    column("difference", pa.float64(), "top groups: effect less the mean of the random sets', each prompt with the "
           "channels chosen on the other half of the prompts; below 0: they cost more"),
    column("difference_low", pa.float64(), "lower bound of its bootstrap interval over prompts, for these draws"),
    column("difference_high", pa.float64(), "upper bound"),
    column("p_prompts", pa.float64(), "two-sided sign-flip p-value of the difference over prompts"),
    column("p_draws", pa.float64(), "two-sided p-value of the top group being one more random set: t against "
           "the draws; null for a single draw"),
    column("p_holm", pa.float64(), "the larger of the two, corrected for all top groups of the table"),
    column("verdict", pa.string(), "by p_holm: stronger than random, weaker than random, or no difference shown; null "
           "where it could not be tested"),
    column("is_bottleneck", pa.bool_(), "the source work's convention, not a test: accuracy falls by more than 0.02"),
    column("rank", pa.int32(), "channels: by |attribution| at this layer and site; groups: by loss of log-probability "
           "among the layers, for the same site, group and size; null for controls"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_nonfinite", pa.int32(), "prompts left out because the model's scores were not finite"),
    column("status", pa.string(), "ok, or model_nonfinite where nothing could be measured"),
])  # fmt: skip

_PLACE = [
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
]
_TEXTS = [
    column("n_prompts", pa.int32(), "prompts counted"),
    column("n_groups", pa.int32(), "groups of prompts that are resampled whole: what several have in common"),
    column("n_nonfinite", pa.int32(), "prompts left out because a value or a derivative was not finite"),
]
_LOST = column("status", pa.string(), "ok, or model_nonfinite where no prompt was left")

DETECTORS_FOUND = pa.schema([
    *_PLACE,
    column("detector", pa.string(), "of mplat.steering.detectors"),
    column("signed", pa.bool_(), "whether the score's sign is a direction; such are ordered by |score|"),
    column("channel", pa.int32(), "channel, one of the detector's first share of the site's (`detector_share`)"),
    column("rank", pa.int32(), "1 for the channel most worth changing; ties by channel"),
    column("score", pa.float64(), "the detector's number; null where it is minus infinity"),
    column("low", pa.float64(), "lower bound of its interval over groups of prompts; null for fewer than two"),
    column("high", pa.float64(), "upper bound"),
    column("in_top", pa.float64(), "share of resamples in which the channel is among the first share"),
    column("p", pa.float64(), "of so large a score, or |score|, among channels that are shuffled in every group, "
           "corrected for all channels of the site: a small one is a channel that stands out in text after text"),
    column("n_found", pa.int32(), "channels of the site with p <= 1 - confidence"),
    *_TEXTS, _LOST,
])  # fmt: skip

AGREEMENT = pa.schema([
    *_PLACE,
    column("first", pa.string(), "a detector"),
    column("second", pa.string(), "another one"),
    column("rho", pa.float64(), "Spearman's correlation of their orders over all channels; null where one has none"),
    column("low", pa.float64(), "lower bound of its interval over groups of prompts; null for fewer than two"),
    column("high", pa.float64(), "upper bound"),
    column("top", pa.int32(), "channels that each puts first"),
    column("overlap", pa.int32(), "of them in common"),
    column("expected", pa.float64(), "in common by chance"),
    column("p", pa.float64(), "one-sided hypergeometric p-value of so many in common"),
    *_TEXTS, _LOST,
])  # fmt: skip

LAYERS = pa.schema([
    column("site", pa.string(), "site, relative to the block"),
    column("layer", pa.int32(), "block"),
    column("measure", pa.string(), "effective_rank: of one token's vectors of each prompt; entropy: of the channels' "
           "shares of the energy, over its maximum; gradient: ln of the size of the answers' gradient"),
    column("value", pa.float64(), "the measure of this layer"),
    column("low", pa.float64(), "lower bound of its bootstrap interval over groups of prompts, shifted to the value"),
    column("high", pa.float64(), "upper bound"),
    column("spike", pa.float64(), "value less the mean of the neighbouring layers'"),
    column("spike_low", pa.float64(), "lower bound of its interval"),
    column("spike_high", pa.float64(), "upper bound"),
    column("p", pa.float64(), "two-sided, of so large a spike with every channel's values dealt anew to the layers"),
    column("p_holm", pa.float64(), "corrected for the layers of this site and measure"),
    column("n_prompts", pa.int32(), "prompts counted"),
    column("status", pa.string(), "ok; model_nonfinite; not_applicable: no other layer has the site, fewer than two "
           "prompts, or nothing depends on it"),
])  # fmt: skip

PLANTED = pa.schema([
    column("detector", pa.string(), "detector, or measure of a layer"),
    column("kind", pa.string(), "kind of damage that was planted"),
    column("plants", pa.int32(), "planted models at whose site it sees something"),
    column("chance", pa.float64(), "precision of a guess, mean over them"),
    column("precision", pa.float64(), "share of planted channels among as many as are planted, mean; of a measure of "
           "layers: share of plants whose block has the largest spike"),
    column("recall", pa.float64(), "share of the planted channels among its first twice as many, mean"),
    column("right_sign", pa.float64(), "of a signed detector: share of planted channels whose sign undoes the damage"),
    column("undamaged", pa.float64(), "of a measure of layers: the same share in the models before the damage"),
    column("found", pa.int32(), "plants that it finds: half-way or more from chance to 1; of a measure of layers: "
           "those whose block has the largest spike only once it is damaged"),
    column("source", pa.string(), "where the figures come from; they are not of this model"),
    column("status", pa.string(), "ok"),
])  # fmt: skip
