"""Detectors: each one's definition by an independent way, what cancels in it, and what it finds in a damaged model."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import Add, Scale
from mplat.steering.answered import Asked, batches, score_all
from mplat.steering.detectors import Observed, detector_names, find_detector, observe

SITE = "blocks.0.mixer_out"


def asked(rows=6, width=9, answer=2, seed=0):
    ids = tokens(rows, width + answer, seed=seed).tolist()
    return [Asked(str(i), str(i), tuple(r[i % 3 : width]), tuple(r[width:])) for i, r in enumerate(ids)]


def seen(model, items, site=SITE):
    return observe(model, batches(items, 4), [site])[site]


def random_observed(n=12, channels=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, grad = (torch.randn(n, 7, channels, generator=g, dtype=torch.float64) for _ in range(2))
    return x, grad + 0.3 * x * torch.linspace(-1, 1, channels, dtype=torch.float64)


def observed(x, g):
    flat = x.flatten(0, 1)
    return Observed("s", (x * g).sum(1), g.sum(1), (x * x).sum(1), (g * g).sum(1), flat.mean(0), flat.var(0, False))


def test_the_attribution_is_the_derivative_by_a_factor_and_the_slope_that_by_a_shift():
    model, items, step = nano("mamba2"), asked(), 1e-5
    made = seen(model, items)
    assert made.attribution.shape == (6, 24) and made.channels == 24
    for channel in (0, 7):
        for edit, expected in ((Scale, made.attribution), (Add, made.slope)):
            neutral = 1.0 if edit is Scale else 0.0
            up, down = (
                score_all(model, batches(items), [edit(SITE, neutral + s, channels=[channel])]).logprob
                for s in (step, -step)
            )
            total = (up - down) / (2 * step)
            assert torch.allclose(total, expected[_order(items), channel], atol=1e-7)


def _order(items):
    """Where each item stands among the rows of `observe`, which come batch by batch."""
    index = torch.cat([b.rows for b in batches(items, 4)])
    return index.argsort()


def test_activity_is_that_of_the_real_tokens_and_nothing_is_changed_by_looking():
    model, items = nano("mamba"), asked()
    before = score_all(model, batches(items)).logprob
    made = seen(model, items)
    rows = []
    for item in items:
        with model.capture(SITE) as acts:
            model(torch.tensor([item.prompt + item.answer[:-1]]))
        rows.append(acts[SITE][0])
    x = torch.cat(rows)
    assert torch.allclose(made.mean, x.mean(0)) and torch.allclose(made.variance, x.var(0, unbiased=False))
    assert torch.allclose(made.energy.sum(0), (x * x).sum(0))
    assert torch.equal(score_all(model, batches(items)).logprob, before)


@pytest.mark.parametrize("name", ["attribution_t", "cosine"])
def test_signed_detectors_know_the_direction_and_not_the_size(name):
    x, g = random_observed(n=200)
    found = find_detector(name)(observed(x, g))
    assert find_detector(name).signed and found[0] < found[1] < 0 < found[3] < found[4], "planted from -1 to 1"
    louder = torch.tensor([0.05, 20.0, 1.0, 0.3, 7.0], dtype=torch.float64)
    assert torch.allclose(find_detector(name)(observed(x * louder, g)), found)
    assert torch.allclose(find_detector(name)(observed(-x, g)), -found)


def test_the_size_of_attribution_shrinks_with_the_channel_and_has_no_direction():
    x, g = random_observed()
    size = find_detector("attribution_size")
    assert torch.allclose(size(observed(0.05 * x, g)), 0.05 * size(observed(x, g)))
    assert torch.equal(size(observed(-x, g)), size(observed(x, g))) and not size.signed


def test_the_t_statistic_is_the_textbook_one():
    x, g = random_observed()
    a = (x * g).sum(1)
    expected = a.mean(0) / (a.var(0) / len(a)).sqrt()
    assert torch.allclose(find_detector("attribution_t")(observed(x, g)), expected)
    assert find_detector("attribution_t")(observed(x[:1], g[:1])).tolist() == [0.0] * 5


def test_mean_ablation_counts_no_constant_and_is_exact_where_the_answer_is_linear():
    x, g = random_observed()
    mean = x.flatten(0, 1).mean(0)
    expected = ((x - mean) * g).sum(1).mean(0)
    assert torch.allclose(find_detector("mean_ablation")(observed(x, g)), expected)
    assert torch.allclose(find_detector("mean_ablation")(observed(x + 40, g)), expected)


def test_quiet_but_heard_rises_by_the_logarithm_of_what_a_channel_was_turned_down_by():
    x, g = random_observed()
    quiet = find_detector("quiet_but_heard")
    rise = quiet(observed(0.1 * x, g)) - quiet(observed(x, g))
    assert torch.allclose(rise, torch.full_like(rise, math.log(10)))
    silent = x.clone()
    silent[..., 2] = 0
    assert quiet(observed(silent, g))[2] == -torch.inf and quiet.order(observed(silent, g))[-1] == 2


def test_order_is_by_size_for_signed_ones_and_by_value_for_others():
    x, g = random_observed()
    made = observed(x, g)
    for name in detector_names():
        found = find_detector(name)
        scores = found(made)
        key = scores.abs() if found.signed else scores
        assert found.order(made) == sorted(range(5), key=lambda c: -float(key[c])) and found.meaning


def test_silent_and_unheard_channels_give_numbers():
    x, g = random_observed()
    x[..., 0], g[..., 1] = 0, 0
    for name in detector_names():
        assert not find_detector(name)(observed(x, g)).isnan().any(), name


def test_what_cannot_be_observed_is_refused():
    model = nano("mamba")
    with pytest.raises(UsageError, match="mixer.h has one value per token"):
        observe(model, batches(asked()), ["blocks.0.mixer.h"])
    with pytest.raises(UsageError, match="no site has"):
        observe(model, batches(asked()), [])
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="no development question has finite"):
        seen(model, asked())


def test_a_question_without_finite_scores_is_left_out_alone():
    model, items = nano("mamba"), asked()
    odd = items[1]._replace(prompt=(39, *items[1].prompt[1:]))
    others = [i._replace(prompt=tuple(t % 39 for t in i.prompt), answer=tuple(t % 39 for t in i.answer)) for i in items]
    with torch.no_grad():
        model.embedding.weight[39] = torch.nan
        model.lm_head = torch.nn.Linear(24, 40, bias=False, dtype=torch.float64)
    assert len(seen(model, [odd, *others[2:]]).attribution) == 4
