"""What detectors and measures of layers found on the planted benchmark; written by benchmarks/detectors.py."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "benchmarks/results/detectors.json"


class Figure(NamedTuple):
    """Means over the plants of a kind; see `bottleneck_schema.PLANTED`."""

    detector: str
    kind: str
    plants: int
    chance: float
    precision: float
    recall: float | None
    right_sign: float | None
    undamaged: float | None
    found: int


FIGURES: tuple[Figure, ...] = (
    Figure("attribution_size", "carrier", 2, 0.125, 0.875, 0.906, None, None, 2),
    Figure("attribution_size", "convolution_only", 2, 0.25, 0.172, 0.367, None, None, 0),
    Figure("attribution_size", "damaged", 19, 0.184, 0.523, 0.759, None, None, 10),
    Figure("attribution_size", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("attribution_size", "loud", 3, 0.294, 0.917, 0.969, None, None, 3),
    Figure("attribution_size", "state_only", 2, 0.25, 0.562, 0.719, None, None, 1),
    Figure("attribution_t", "carrier", 2, 0.125, 0.344, 0.406, None, None, 0),
    Figure("attribution_t", "convolution_only", 2, 0.25, 0.344, 0.523, 0.719, None, 0),
    Figure("attribution_t", "damaged", 19, 0.184, 0.537, 0.724, 0.899, None, 11),
    Figure("attribution_t", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("attribution_t", "loud", 3, 0.294, 0.51, 0.635, 0.823, None, 1),
    Figure("attribution_t", "state_only", 2, 0.25, 0.344, 0.688, 0.781, None, 0),
    Figure("cosine", "carrier", 2, 0.125, 0.219, 0.562, None, None, 0),
    Figure("cosine", "convolution_only", 2, 0.25, 0.336, 0.547, 0.711, None, 0),
    Figure("cosine", "damaged", 19, 0.184, 0.638, 0.821, 0.934, None, 14),
    Figure("cosine", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("cosine", "loud", 3, 0.294, 0.51, 0.646, 0.823, None, 1),
    Figure("cosine", "state_only", 2, 0.25, 0.469, 0.719, 0.844, None, 0),
    Figure("gradient_norm", "carrier", 2, 0.125, 0.969, 1.0, None, None, 2),
    Figure("gradient_norm", "convolution_only", 2, 0.25, 0.078, 0.273, None, None, 0),
    Figure("gradient_norm", "damaged", 19, 0.184, 0.867, 0.976, None, None, 17),
    Figure("gradient_norm", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("gradient_norm", "loud", 3, 0.294, 0.5, 0.625, None, None, 1),
    Figure("gradient_norm", "state_only", 2, 0.25, 0.719, 0.906, None, None, 1),
    Figure("mean_ablation", "carrier", 2, 0.125, 0.438, 0.5, None, None, 0),
    Figure("mean_ablation", "convolution_only", 2, 0.25, 0.242, 0.602, None, None, 0),
    Figure("mean_ablation", "damaged", 19, 0.184, 0.58, 0.798, None, None, 11),
    Figure("mean_ablation", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("mean_ablation", "loud", 3, 0.294, 0.385, 0.573, None, None, 0),
    Figure("mean_ablation", "state_only", 2, 0.25, 0.25, 0.5, None, None, 0),
    Figure("quiet_but_heard", "carrier", 2, 0.125, 0.0, 0.0, None, None, 0),
    Figure("quiet_but_heard", "convolution_only", 2, 0.25, 0.062, 0.211, None, None, 0),
    Figure("quiet_but_heard", "damaged", 19, 0.184, 0.754, 0.857, None, None, 15),
    Figure("quiet_but_heard", "decoy", 1, 0.062, 0.0, 0.0, None, None, 0),
    Figure("quiet_but_heard", "loud", 3, 0.294, 0.333, 0.333, None, None, 1),
    Figure("quiet_but_heard", "state_only", 2, 0.25, 0.5, 0.5, None, None, 1),
    Figure("variance", "carrier", 2, 0.125, 1.0, 1.0, None, None, 2),
    Figure("variance", "convolution_only", 2, 0.25, 0.461, 0.719, None, None, 0),
    Figure("variance", "damaged", 19, 0.184, 0.221, 0.345, None, None, 2),
    Figure("variance", "decoy", 1, 0.062, 0.25, 0.5, None, None, 0),
    Figure("variance", "loud", 3, 0.294, 0.792, 1.0, None, None, 2),
    Figure("variance", "state_only", 2, 0.25, 0.5, 0.688, None, None, 1),
    Figure("effective_rank", "carrier", 2, 0.25, 1.0, None, None, 1.0, 0),
    Figure("effective_rank", "convolution_only", 2, 0.25, 0.0, None, None, 0.5, 0),
    Figure("effective_rank", "damaged", 19, 0.259, 0.158, None, None, 0.684, 2),
    Figure("effective_rank", "decoy", 1, 0.25, 1.0, None, None, 1.0, 0),
    Figure("effective_rank", "loud", 3, 0.278, 0.667, None, None, 0.667, 0),
    Figure("effective_rank", "state_only", 2, 0.25, 1.0, None, None, 1.0, 0),
    Figure("entropy", "carrier", 2, 0.25, 1.0, None, None, 1.0, 0),
    Figure("entropy", "convolution_only", 2, 0.25, 0.0, None, None, 0.5, 0),
    Figure("entropy", "damaged", 19, 0.259, 0.158, None, None, 0.789, 0),
    Figure("entropy", "decoy", 1, 0.25, 0.0, None, None, 0.0, 0),
    Figure("entropy", "loud", 3, 0.278, 0.667, None, None, 0.667, 0),
    Figure("entropy", "state_only", 2, 0.25, 1.0, None, None, 0.5, 1),
    Figure("gradient", "carrier", 2, 0.25, 1.0, None, None, 1.0, 0),
    Figure("gradient", "convolution_only", 2, 0.25, 1.0, None, None, 0.0, 2),
    Figure("gradient", "damaged", 19, 0.259, 0.737, None, None, 0.789, 0),
    Figure("gradient", "decoy", 1, 0.25, 0.0, None, None, 0.0, 0),
    Figure("gradient", "loud", 3, 0.278, 0.667, None, None, 0.667, 0),
    Figure("gradient", "state_only", 2, 0.25, 0.5, None, None, 0.5, 0),
)
