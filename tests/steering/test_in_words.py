"""What a recipe does is said in words that hold every field of it."""

from __future__ import annotations

import torch
from mplat.steering import Part, Recipe
from mplat.steering.in_words import describe
from recipes import scaled


def test_every_field_is_said():
    gains = {"gains": torch.tensor([3.0, 0.5])}
    part = Part("scale_channels", "mixer_out", (1, 2), 1.0, "share", (4, 17), gains, {}, "evidence", "prefill")
    said = describe(Recipe((part, *scaled("d" * 64, range(20), 2.5).parts), "d" * 64))
    assert said[0] == (
        "scale_channels at mixer_out of layers 1, 2, 2 channels (4, 17), gains 2: factors 0.5 to 3, median 0.5; "
        "strength 1 (part of the whole change, which 1 makes), at evidence, in prefill alone"
    )
    assert "20 channels (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... 8 more): strength 2.5" in said[1]


def test_what_does_nothing_says_so():
    assert describe(Recipe((), "d" * 64)) == ["nothing: the model is left as it is"]
    assert describe(scaled("d" * 64).scaled(0))[0].endswith("strength that changes nothing")
    positions = Part("scale_channels", "final_norm", (), 2.0, positions=(0, -1))
    assert describe(Recipe((positions,), "d" * 64))[0].startswith("scale_channels at final_norm: strength 2")
    assert describe(Recipe((positions,), "d" * 64))[0].endswith("at positions 0, -1")
