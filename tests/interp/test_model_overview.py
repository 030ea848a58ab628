"""Models side by side: their numbers are those of each alone, on the questions that all can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import adapted
from equal_models import answered_by, untied
from interp_jobs import token_items
from mplat.interp import Cache, config_model, plan_steps, run_plan
from mplat.interp.engine.batches import Item
from mplat.interp.engine.encoded import Encoded
from mplat.interp.engine.inputs import Given
from mplat.models import LanguageModel
from mplat.scoring.statistics import paired_difference, wilson


def rows_of(models: Sequence[LanguageModel], items: Sequence[Item], folder: Path) -> list[dict[str, Any]]:
    config: Any = config_model().model_validate({"steps": ("model_overview",), "model_overview": {"resamples": 200}})
    given = Given(encoded={"questions": Encoded(tuple(items))})
    plan = plan_steps(models[0], config=config, given=given, others=models[1:])
    return run_plan(plan, cache=Cache(folder))["model_overview"].table.to_pylist()


def test_answers_are_counted_in_pairs_and_by_groups(tmp_path: Path) -> None:
    model, other = untied(), untied(seed=4)
    items = answered_by(model, token_items(24, seed=6))
    its = answered_by(other, items)
    # every third question is one that the other model answers like itself
    items = [its[i] if i % 3 == 0 else item for i, item in enumerate(items)]
    items = [dataclasses.replace(item, group=f"document {i // 2}") for i, item in enumerate(items)]
    right: list[list[float]] = []
    likely: list[list[float]] = []
    for one in (model, other):
        with torch.no_grad():
            scores = [one(torch.tensor([item.prompt]))[0, -1].log_softmax(-1) for item in items]
        right.append([float(int(s.argmax()) == item.answer[0]) for s, item in zip(scores, items, strict=True)])
        likely.append([float(s[item.answer[0]]) for s, item in zip(scores, items, strict=True)])
    groups = [item.group for item in items]
    first, second = rows_of((model, other), items, tmp_path)
    for row, of, logprobs in ((first, right[0], likely[0]), (second, right[1], likely[1])):
        interval = wilson(of, groups=groups)
        assert (row["accuracy"], row["n_questions"]) == (sum(of) / 24, 24)
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((interval.low, interval.high))
        assert row["logprob"] == pytest.approx(sum(logprobs) / 24) and row["logprob_low"] < row["logprob"]
    paired = paired_difference(right[1], right[0], seed=0, n_resamples=200, groups=groups, shares=True)
    assert (second["difference"], second["p"]) == (paired.mean, paired.p)
    assert first["difference"] is None and first["p"] is None


def test_a_question_counts_that_every_model_reads_with_finite_scores(tmp_path: Path) -> None:
    model, broken = untied(), untied(seed=1)
    with torch.no_grad():
        broken.backbone.embeddings.weight[5] = torch.inf
    items = answered_by(model, token_items(12, seed=6))
    without = [item for item in items if 5 not in item.prompt]
    rows = rows_of((model, broken), items, tmp_path)
    assert 0 < len(without) < 12 and [row["n_questions"] for row in rows] == [len(without)] * 2
    every = [dataclasses.replace(item, prompt=(5, *item.prompt)) for item in items]
    assert {row["status"] for row in rows_of((model, broken), every, tmp_path)} == {"model_nonfinite"}


def test_sizes_of_adapted_models_are_known(tmp_path: Path) -> None:
    """What one token uses is less than all where a model asks few of its experts."""
    plain = adapted("gpt2", tmp_path / "gpt2", vocab_size=40)
    mixed = adapted("jamba", tmp_path / "jamba", vocab_size=40)
    assert plain.n_active_parameters == plain.n_parameters
    experts: Any = next(b.feed_forward for b in mixed.blocks if getattr(b.feed_forward, "experts", None) is not None)
    assert 0 < mixed.n_active_parameters < mixed.n_parameters and len(experts.experts) > experts.top_k
    rows = rows_of((plain, mixed), token_items(6), tmp_path / "cache")
    longest = max(len(item.prompt) for item in token_items(6))
    assert [row["longest"] for row in rows] == [longest, longest] and rows[0]["state_bytes"] < 100
    assert rows[0]["state_bytes_longest"] > rows[1]["state_bytes_longest"] - rows[1]["state_bytes"] > 0
