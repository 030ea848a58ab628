"""A search finds what was planted, leaves alone what was not, keeps its budget, and says what it was not told."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.datasets import facts
from mplat.models import Scale
from mplat.steering.answered import FLOOR, Asked, ask, batches, bounded, score_all, tokens_of
from mplat.steering.channel_sets import LOUDER, ChannelSet
from mplat.steering.cross_fitting import compare, folds
from mplat.steering.detectors import find_detector, observe
from mplat.steering.effort import Effort, rungs, screened
from mplat.steering.gains import Gains, Place, frozen, places
from mplat.steering.halving import Ladder, Log
from mplat.steering.search import EFFORTS, SEARCH_SCHEMA, SearchPlan, discover, plan_search
from mplat.steering.variants import find_variant

SITE, WIDTH = "mixer_out", 24
clean = cache(lambda: nano("mamba2"))


@cache
def learned(n=72, seed=0, noise=0):
    """Questions that the clean model answers, by greedy decoding; the last `noise` have random answers instead."""
    read = tokens(n, 12, seed=seed)
    with torch.no_grad():
        for _ in range(2):
            read = torch.cat([read, clean()(read)[:, -1:].argmax(-1)], 1)
    answers = read[:, 12:].clone()
    if noise:
        answers[-noise:] = tokens(noise, 2, seed=seed + 1)
    rows = zip(read[:, :12].tolist(), answers.tolist(), strict=True)
    return tuple(Asked(str(i), str(i // 2), tuple(p), tuple(a)) for i, (p, a) in enumerate(rows))


@cache
def loud(layer=0, k=4):
    name = f"blocks.{layer}.{SITE}"
    seen = observe(clean(), batches(learned()), [name])[name]
    return tuple(sorted(find_detector("variance").order(seen)[:k]))


def plan(items, effort=EFFORTS[1], layers=(0, 1), parts=1, seed=0):
    where = tuple(places(clean(), [SITE], layers))
    return SearchPlan(items, (), where, effort, parts, seed, 0.025, tuple(rungs(items, len(where), effort)))


def exact(items, *edits):
    return float(score_all(clean(), batches(items), edits).exact.double().mean())


def test_a_planted_damage_is_found_and_undone_on_fresh_questions():
    damage, fresh = Scale(f"blocks.0.{SITE}", 0.05, channels=loud()), learned(n=200, seed=7)
    damaged = exact(fresh, damage)
    assert exact(fresh) == 1.0 and damaged < 0.6, "it hurts"
    with clean().edit(damage):
        found = discover(clean(), plan(learned()))
    (part,) = found.recipe.parts
    assert part.layers == (0,) and set(loud()) <= set(part.channels or ())
    restored = exact(fresh, damage, *found.recipe.edits(clean()))
    assert restored - damaged >= 0.95 * (1 - damaged)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        others = [c for c in torch.randperm(WIDTH, generator=generator).tolist() if c not in part.channels]
        straw = dataclasses.replace(part, channels=tuple(others[: len(part.channels)]))
        assert exact(fresh, damage, *straw.edits(clean())) - damaged < 0.2 * (1 - damaged)
    assert found.cross_fitted.convinces(0.025) and found.naive is not None
    assert 0.8 * (1 - damaged) < found.cross_fitted.exact


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_an_undamaged_model_is_left_alone_although_noise_can_be_fitted(seed):
    items = learned(seed=seed + 20, noise=36)
    found = discover(clean(), plan(items, seed=seed))
    assert found.recipe.parts == () and found.recipe.is_identity and found.naive is None
    everything = [row["logprob_gain"] for row in found.table.to_pylist() if row["rung"] == "fitted"]
    assert min(everything) > 0.1 > found.cross_fitted.exact, "on its own questions a fit gains, on others it does not"


@pytest.mark.slow
def test_channels_that_go_up_and_down_are_found_with_their_signs():
    up, down = loud()[:2], loud()[2:]
    damage = [Scale(f"blocks.0.{SITE}", f, channels=c) for f, c in ((0.1, up), (10.0, down))]
    with clean().edit(*damage), frozen(clean()):
        found = Ladder(clean(), learned(), Effort(), Log()).climb(places(clean(), [SITE], [0]))
    gains, signs = found["common"].log_gains, dict.fromkeys(up, 1) | dict.fromkeys(down, -1)
    assert set(found["common"].channels) == set(signs) and all(signs[c] * gains[c] > 2 for c in signs)
    assert all(signs[c] * found["fitted"].log_gains[c] > 1 for c in signs)


def set_of(channels, factor):
    (place,) = places(clean(), [SITE], [0])
    others = tuple(c for c in range(WIDTH) if c not in channels)
    signs, share = torch.ones(WIDTH), len(channels) / WIDTH
    return ChannelSet(place, LOUDER, (*channels, *others), signs, share, math.log(factor), 0.0)


def test_a_member_that_all_questions_want_otherwise_goes_and_too_large_a_factor_drops_none():
    damage = Scale(f"blocks.0.{SITE}", 0.05, channels=loud())
    (wrong,) = set(loud(k=5)) - set(loud())  # lively, and not damaged
    with clean().edit(damage), frozen(clean()):
        ladder = Ladder(clean(), learned(), EFFORTS[1], Log())
        kept = ladder._without_unwanted(set_of((*loud(), wrong), 20.0))
        assert set(kept.order[: kept.count]) == set(loud()) and wrong in kept.order
        assert ladder._finalist(set_of((*loud(), wrong), 8.0)).gains.channels == loud()
        for factor in (20.0, 60.0):
            right = set_of(loud(), factor)
            assert ladder._without_unwanted(right) is right


def test_gains_on_all_questions_are_of_the_channels_on_whose_direction_fits_agree():
    damage, (place,) = Scale(f"blocks.0.{SITE}", 0.05, channels=loud()), places(clean(), [SITE], [0])
    others = [c for c in range(WIDTH) if c not in loud()]
    fits = [torch.zeros(WIDTH, dtype=torch.float64) for _ in range(2)]
    for gains, sign in zip(fits, (1, -1), strict=True):
        gains[list(loud())], gains[others] = 2.0, 0.5 * sign  # on the others they contradict each other
    with clean().edit(damage), frozen(clean()):
        ladder = Ladder(clean(), learned(), EFFORTS[1], Log())
        found = ladder.from_parts([Gains(place, gains) for gains in fits])
        base = ladder._base["all"][0]
        after = float(score_all(clean(), ladder._asked["all"][0], found.edits()).logprob.mean())
    assert set(loud()) <= set(found.channels) and all(found.log_gains[list(loud())] > 1)
    assert after > base + 1
    tried = [row["n_channels"] for row in ladder.log.rows if row["rung"] == "fitted"]
    assert len(loud()) in tried, "the agreed channels alone are one of the two that are compared"


def test_a_bounded_score_is_log_p_where_it_is_likely_and_ends_where_it_is_hopeless():
    log_p = torch.tensor([0.0, -0.1, -3.0, -50.0, -math.inf], dtype=torch.float64)
    found = bounded(log_p)
    assert found[0] == 0.0 and abs(float(found[1]) + 0.1) < 0.01
    assert float(found[3]) == pytest.approx(math.log(FLOOR / (1 + FLOOR))) == pytest.approx(float(found[4]))
    assert bool((found.diff() < 0)[:3].all())


def test_places_that_promise_nothing_to_first_order_are_not_tried_in_a_deep_model():
    where = places(clean(), [SITE, "mixer.x_in", "mixer.y", "mixer.B"])
    effort = dataclasses.replace(EFFORTS[2], foreseen=5)
    with clean().edit(Scale(f"blocks.0.{SITE}", 0.05, channels=loud())), frozen(clean()):
        log = Log()
        found = Ladder(clean(), learned(), effort, log).climb(where)
    tried = {(row["site"], row["layer"]) for row in log.rows if row["rung"] == "places"}
    assert len(where) == 8 and len(tried) == 5 and (SITE, 0) in tried
    assert found["common"].place.name == f"blocks.0.{SITE}" and set(loud()) <= set(found["common"].channels)
    assert sum(r.tokens for r in rungs(learned(), 8, effort)) < sum(r.tokens for r in rungs(learned(), 8, EFFORTS[2]))


@pytest.mark.slow
def test_two_parts_are_found_where_two_layers_are_damaged():
    damage = [Scale(f"blocks.{layer}.{SITE}", 0.05, channels=loud(layer, 6)) for layer in (0, 1)]
    with clean().edit(*damage):
        one = discover(clean(), plan(learned(), EFFORTS[2]))
        two = discover(clean(), plan(learned(), EFFORTS[2], parts=2))
    assert two.recipe.parts[0] == one.recipe.parts[0]
    assert sorted(part.layers for part in two.recipe.parts) == [(0,), (1,)]
    fresh = learned(n=200, seed=8)
    assert exact(fresh, *damage, *two.recipe.edits(clean())) > exact(fresh, *damage, *one.recipe.edits(clean())) + 0.05


@pytest.mark.slow
def test_the_same_search_gives_the_same_bytes_and_reads_no_more_than_planned():
    damage = Scale(f"blocks.0.{SITE}", 0.05, channels=loud())
    planned = plan(learned(), EFFORTS[2], layers=(0,))
    with clean().edit(damage):
        one, two = (discover(clean(), planned) for _ in range(2))
    assert one.table.equals(two.table) and one.recipe == two.recipe and one.cross_fitted == two.cross_fitted
    assert one.table.schema == SEARCH_SCHEMA
    rows = one.table.to_pylist()
    assert {row["fold"] for row in rows} == {0, 1, None} and {row["rung"] for row in rows} >= {"places", "ladder"}
    for fold in (0, 1, None):
        assert sum(row["tokens"] for row in rows if row["fold"] == fold) <= sum(r.tokens for r in planned.rungs)


@pytest.mark.slow
def test_a_plan_is_made_of_the_questions_alone_and_holds_its_budget():
    from mplat import load

    model, questions = load("tiny-mamba2"), facts.prompts(2, seed=1, stream="search-test")
    whole = plan_search(model, questions, seed=0)
    assert {place.site for place in whole.where} == set(find_variant("mamba2").scaled_sites) > {"mixer_out"}
    assert len(whole.where) == 6 * model.n_layers and whole.effort == EFFORTS[0] and len(whole.questions) == 12
    least = sum(r.tokens for r in plan_search(model, questions, seed=0, budget=whole.tokens // 2).rungs)
    assert least <= whole.tokens // 2
    small = plan_search(model, questions, seed=0, budget=least, sites=["mixer_out"], layers=[0])
    assert discover(model, small).tokens <= small.tokens < least
    with pytest.raises(UsageError, match="the smallest search at 24 places with 12 questions reads"):
        plan_search(model, questions, seed=0, budget=1000)
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        plan_search(model, questions, seed=0, layers=[9])
    with pytest.raises(UsageError, match="has channels at mixer.filter"):
        plan_search(model, questions, seed=0, sites=["mixer.filter"])
    with pytest.raises(UsageError, match="parts >= 1"):
        plan_search(model, questions, seed=0, parts=0)
    with pytest.raises(InputError, match="none of the 12 development questions"):
        plan_search(model, [dataclasses.replace(q, answers=()) for q in questions], seed=0)


def test_teacher_forcing_says_what_greedy_generation_would():
    from mplat import load
    from mplat.models import generate
    from mplat.scoring.metrics import score

    model, questions = load("tiny-mamba2"), facts.prompts(4, seed=2, stream="search-test")
    items = ask(model, questions)
    said = generate(model, [q.prompt for q in questions], max_new_tokens=12)
    generated = [score(q.metric, a.text.strip(), q.gold()).em == 1 for q, a in zip(questions, said, strict=True)]
    assert score_all(model, batches(items, 5)).exact.tolist() == generated and 0 < sum(generated) < 24
    assert [i.prompt + i.answer for i in items] == [
        tuple(model.tokenizer(f"{q.prompt} {q.answers[0]}\n")["input_ids"]) for q in questions
    ]


def test_folds_keep_origins_together_and_are_even():
    items = learned()
    for count in (2, 3, 5):
        cut = folds(items, count, seed=1)
        assert sorted(i for fold in cut for i in fold) == list(range(len(items)))
        of = {items[i].origin: f for f, fold in enumerate(cut) for i in fold}
        assert all(of[items[i].origin] == f for f, fold in enumerate(cut) for i in fold)
        assert max(map(len, cut)) - min(map(len, cut)) <= 2
    assert folds(items, 3, seed=1) == folds(items, 3, seed=1) != folds(items, 3, seed=2)
    with pytest.raises(UsageError, match="as many groups of questions, not 2"):
        folds(items[:4], 3, seed=0)


def test_the_difference_and_its_standard_error_are_those_of_the_origins():
    items = learned()
    base = score_all(clean(), batches(items), [Scale(f"blocks.0.{SITE}", 0.3)])
    better = score_all(clean(), batches(items))
    made = compare(items, base, better, seed=0)
    d = better.exact.double() - base.exact.double()
    pairs = d.view(-1, 2).mean(1)
    assert made.exact == pytest.approx(float(d.mean()))
    assert made.exact_se == pytest.approx(float(pairs.std() / len(pairs) ** 0.5))
    assert made.convinces(0.025) and not compare(items, better, base, seed=0).convinces(0.5)
    assert not compare(items, base, base, seed=0).convinces(0.6)


def test_gains_are_what_their_part_does_and_nothing_at_strength_0():
    theta = torch.zeros(WIDTH, dtype=torch.float64)
    theta[[2, 5]] = torch.tensor([3.0, -1.0], dtype=torch.float64)
    gains = Gains(Place(SITE, 1, WIDTH), theta)
    part = gains.part()
    with clean().edit(*gains.edits()):
        direct = clean()(tokens(2, 6))
    with clean().edit(*part.edits(clean())):
        assert torch.allclose(clean()(tokens(2, 6)), direct, atol=1e-12)
    assert gains.channels == (2, 5) and part.at(0.0).edits(clean()) == []
    with pytest.raises(UsageError, match="no channel of blocks.1.mixer_out is changed"):
        Gains(Place(SITE, 1, WIDTH), 0 * theta).part()


def test_the_early_rungs_see_all_lengths_and_the_weights_come_back_as_they_were():
    items = [Asked(str(i), str(i), tuple(range(1, i + 2)), (1,)) for i in range(20)]
    assert [item.length for item in screened(items, 5)] == [18, 14, 10, 6, 2]
    assert tokens_of(screened(items, 50)) == tokens_of(items)
    before = [p.requires_grad for p in clean().parameters()]
    with frozen(clean()):
        assert not any(p.requires_grad for p in clean().parameters())
    assert [p.requires_grad for p in clean().parameters()] == before
