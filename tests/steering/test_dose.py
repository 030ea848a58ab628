"""Doses: what an edit changes, against captures of the same runs and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.models import Add, ModelConfig, ProjectOut, Replace, Scale, build
from mplat.steering.divergence import read_logits, token_divergence
from mplat.steering.dose import Dose, DoseMeter, EditWatch
from mplat.steering.matched_strength import matched_strength

ROWS = [[5, 9, 2, 7, 7, 3], [4, 4, 8], [1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 1]]
OUT = "blocks.1.mixer_out"


@pytest.fixture(scope="module")
def model():
    return build(ModelConfig("mamba", 40, 16, 3, 4), 3).double().eval()


@pytest.fixture(scope="module")
def meter(model):
    return DoseMeter(model, ROWS)


def captured(model, site, *edits):
    """The values (tokens, features) of a site on every text alone."""
    found = []
    for row in ROWS:
        with model.edit(*edits), model.capture(site) as acts:
            model(torch.tensor([row]))
        found.append(acts[site][0].flatten(1))
    return torch.cat(found)


def ratios(before, after):
    return ((after - before).norm(dim=1) / before.norm(dim=1)).double()


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(0, 20))
def test_the_dose_of_a_factor_on_a_whole_site_is_its_distance_from_one(model, factor):
    (site,) = DoseMeter(model, ROWS).of([Scale(OUT, factor)], kl=False).sites
    assert (site.mean, site.max) == pytest.approx((abs(factor - 1), abs(factor - 1)), rel=1e-9, abs=1e-12)
    assert site.tokens == sum(map(len, ROWS))


def test_of_some_channels_it_is_their_part_of_the_whole_site(model, meter):
    x = captured(model, OUT)
    edited = x.clone()
    edited[:, [2, 5]] *= 4.0
    expected = ratios(x, edited)
    (site,) = meter.of([Scale(OUT, 4.0, channels=[2, 5])]).sites
    assert (site.mean, site.max) == pytest.approx((expected.mean().item(), expected.max().item()), rel=1e-9)


def test_of_a_vector_it_is_its_norm_over_that_of_the_site(model, meter):
    vector = torch.linspace(-1, 1, 16, dtype=torch.float64)
    expected = (vector.norm() / captured(model, OUT).norm(dim=1)).mean().item()
    assert meter.of([Add(OUT, vector)]).norm == pytest.approx(expected, rel=1e-9)


def test_a_later_site_is_compared_with_what_the_earlier_edit_made_of_it(model, meter):
    first, second = Scale("blocks.0.mixer_out", 3.0), Replace("blocks.2.mixer_out", 0.5, channels=[0])
    before = captured(model, "blocks.2.mixer_out", first)
    after = before.clone()
    after[:, 0] = 0.5
    found = {site.site: site for site in meter.of([first, second]).sites}
    assert found["blocks.2.mixer_out"].mean == pytest.approx(ratios(before, after).mean().item(), rel=1e-9)
    assert found["blocks.0.mixer_out"].mean == pytest.approx(2.0, rel=1e-9)
    assert meter.of([first, second]).norm == pytest.approx(sum(site.mean for site in found.values()) / 2)


def test_edits_of_one_site_count_together(meter):
    (site,) = meter.of([Scale(OUT, 2.0), Scale(OUT, 0.5)]).sites
    assert site.mean == 0.0 and site.changed == 0 and site.mean_changed is None
    (site,) = meter.of([Scale(OUT, 2.0), Scale(OUT, 3.0)]).sites
    assert site.mean == pytest.approx(5.0, rel=1e-9)


def test_tokens_without_an_edit_have_no_change(meter):
    (site,) = meter.of([Scale(OUT, 3.0, positions=[-1])]).sites
    assert (site.changed, site.tokens) == (len(ROWS), sum(map(len, ROWS)))
    assert site.mean_changed == pytest.approx(2.0) and site.mean == pytest.approx(2.0 * len(ROWS) / site.tokens)


def test_a_state_is_compared_at_the_steps_at_which_it_is_edited(model, meter):
    h = "blocks.1.mixer.h"
    (site,) = meter.of([Scale(h, 3.0, positions=[1])]).sites
    assert site.changed == len(ROWS) and site.mean_changed == pytest.approx(2.0, rel=1e-9)
    assert site.mean == pytest.approx(2.0 * len(ROWS) / sum(map(len, ROWS)), rel=1e-9)
    before = captured(model, h)
    ends = [sum(map(len, ROWS[: i + 1])) - 1 for i in range(len(ROWS))]
    (site,) = meter.of([Add(h, 0.25, positions=[-1])]).sites
    expected = 0.25 * math.sqrt(before.shape[1]) / before[ends].norm(dim=1)
    assert site.mean_changed == pytest.approx(expected.mean().item(), rel=1e-9)


def test_a_filter_is_one_thing():
    hyena = build(ModelConfig("hyena", 40, 16, 2, 4), 3).eval()
    site = next(s.name for s in hyena.sites() if s.name.endswith("filter"))
    (dose,) = DoseMeter(hyena, ROWS).of([Scale(site, 1.5)]).sites
    assert (dose.tokens, dose.mean) == (1, pytest.approx(0.5, rel=1e-6))


def test_what_one_token_writes_is_a_site_as_any_other(meter):
    write = "blocks.1.mixer.write"
    (site,) = meter.of([Scale(write, 3.0, positions=[1])]).sites
    assert site.changed == len(ROWS) and site.mean_changed == pytest.approx(2.0, rel=1e-9)


def test_a_state_that_begins_as_nothing_has_no_relative_change(meter):
    dose = meter.of([Add("blocks.1.mixer.h_init", 0.5)])
    (site,) = dose.sites
    assert (site.tokens, site.undefined, site.mean, dose.norm) == (len(ROWS), len(ROWS), None, None)
    assert dose.kl > 0 and dose.value("kl") == dose.kl
    with pytest.raises(UsageError, match="h_init: zero before the edit.*by kl"):
        dose.value("norm")
    assert meter.of([Add("blocks.1.mixer.h_init", 0.5), Scale(OUT, 3.0)]).norm == pytest.approx(2.0)


def test_each_row_of_a_pass_has_the_dose_of_its_text_alone(model):
    edits = [Scale(OUT, 4.0, channels=[2, 5]), Add("blocks.2.mixer.h", 0.25, positions=[-1])]
    watch = EditWatch(model, edits)
    with model.edit(*edits):
        expected = read_logits(model, ROWS)
    with model.edit(*watch.edits):
        watched = read_logits(model, ROWS)
    assert all(torch.equal(a, b) for a, b in zip(expected, watched, strict=True))
    alone = [DoseMeter(model, [row]).of(edits).norm for row in ROWS]
    assert watch.row_norms([len(row) for row in ROWS]) == pytest.approx(alone, rel=1e-9)
    assert EditWatch(model, []).row_norms([3, 4]) == [0.0, 0.0]


def test_the_divergence_is_that_of_the_next_tokens_and_the_base_is_read_once(model, monkeypatch):
    edits = [Scale(OUT, 6.0)]
    base = read_logits(model, ROWS)
    with model.edit(*edits):
        expected = torch.cat([token_divergence(b, s) for b, s in zip(base, read_logits(model, ROWS), strict=True)])
    meter = DoseMeter(model, ROWS)
    found = meter.of(edits)
    assert (found.kl, found.kl_max) == pytest.approx((expected.mean().item(), expected.max().item()), rel=1e-9)
    monkeypatch.setattr(meter, "_unsteered", lambda start, rows: meter._base[start])
    assert meter.of(edits) == found


def test_the_identity_has_no_dose(meter):
    assert meter.of([Scale(OUT, 1.0)]) == Dose(meter.of([Scale(OUT, 1.0)]).sites, 0.0, 0.0)
    assert meter.of([Scale(OUT, 1.0)]).norm == 0.0 and meter.of([]) == Dose((), 0.0, 0.0)


def test_what_is_not_finite_and_texts_of_one_token_are_refused(model, meter):
    with pytest.raises(InputError, match="not finite; lower the strength"):
        meter.of([Scale(OUT, 1e308), Scale(OUT, 1e308)])
    with pytest.raises(UsageError, match="at least two tokens"):
        DoseMeter(model, [[1]])
    with pytest.raises(UsageError, match="was not measured"):
        meter.of([Scale(OUT, 2.0)], kl=False).value("kl")


@settings(max_examples=10, deadline=None)
@given(target=st.floats(0.01, 3.0), toward=st.sampled_from([1.0, 8.0]))
def test_a_norm_is_matched_at_the_strength_that_has_it(model, target, toward):
    """A whole site by a factor: the dose is known in closed form on either side of 1."""
    meter = DoseMeter(model, ROWS)
    bounds = (1.0, 1.0 + toward * target)
    found = matched_strength(meter, lambda s: [Scale(OUT, s)], target, bounds=bounds, tolerance=1e-6)
    assert found.strength == pytest.approx(1 + target, rel=1e-5)
    if target < 1:
        down = matched_strength(meter, lambda s: [Scale(OUT, s)], target, bounds=(1.0, 0.0), tolerance=1e-6)
        assert down.strength == pytest.approx(1 - target, abs=1e-5)


@pytest.mark.parametrize("measure", ["norm", "kl"])
def test_another_edit_is_made_as_strong_as_the_first(model, meter, measure):
    wanted = meter.of([Scale(OUT, 5.0, channels=[1, 2])]).value(measure)
    vector = torch.ones(16, dtype=torch.float64)
    found = matched_strength(
        meter, lambda s: [Add(OUT, s * vector)], wanted, measure=measure, bounds=(0.0, 100.0), tolerance=0.001
    )
    assert meter.of([Add(OUT, found.strength * vector)]).value(measure) == pytest.approx(wanted, rel=0.001)
    assert found.evaluations < 40


def test_a_dose_that_cannot_be_had_is_refused_with_what_can(meter):
    with pytest.raises(InputError, match=r"3 \(norm\) is not reached between strengths 1 and 2; the largest is 1 at 2"):
        matched_strength(meter, lambda s: [Scale(OUT, s)], 3.0, bounds=(1.0, 2.0))
    with pytest.raises(InputError, match="begin at the identity"):
        matched_strength(meter, lambda s: [Scale(OUT, s)], 0.1, bounds=(2.0, 3.0))
    direction = torch.ones(16, dtype=torch.float64)
    with pytest.raises(InputError, match="jumps over"):
        matched_strength(
            meter, lambda s: [ProjectOut(OUT, direction)] if s > 0.3 else [Scale(OUT, 1.0)], 1e-4, bounds=(0.0, 1.0)
        )
    with pytest.raises(UsageError, match="positive number"):
        matched_strength(meter, lambda s: [Scale(OUT, s)], 0.0, bounds=(1.0, 2.0))
    with pytest.raises(UsageError, match="two different numbers"):
        matched_strength(meter, lambda s: [Scale(OUT, s)], 1.0, bounds=(1.0, 1.0))


def test_a_strength_that_breaks_the_model_is_too_much_and_not_the_end(meter):
    def edits(strength):
        return [Scale(OUT, strength), *([Scale(OUT, 1e308), Scale(OUT, 1e308)] if strength > 3 else [])]

    found = matched_strength(meter, edits, 1.5, measure="norm", bounds=(1.0, 1025.0))
    assert found.strength == pytest.approx(2.5, rel=0.02)
