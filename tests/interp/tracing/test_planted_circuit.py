"""A hand-set Mamba copies a name through known state coordinates: every method must name exactly those."""

from __future__ import annotations

import math

import pytest
import torch
from mplat.interp.methods.coordinate_attribution import coordinate_attribution
from mplat.interp.methods.hidden_attention import hidden_attention
from mplat.interp.methods.knockout import knockout
from mplat.interp.methods.logit_lens import logit_lens
from mplat.interp.methods.path_patching import path_patching
from mplat.interp.tracing import attribution_patching, causal_trace
from mplat.models import Replace
from planted_copy import ANSWERS, NAMES, WORDS, PlantedCopy, planted_copy, prompt

NONE = 1e-10
SOME = 1e-3


@pytest.fixture(scope="module")
def planted() -> PlantedCopy:
    return planted_copy()


def logprob(planted: PlantedCopy, text: torch.Tensor, answer: str = "north") -> float:
    return float(torch.log_softmax(planted.model(text[None])[0, -1], -1)[WORDS.index(answer)])


@torch.no_grad()
def test_the_model_copies_every_name_over_any_distance(planted) -> None:
    for name, answer in zip(NAMES, ANSWERS, strict=True):
        for lengths in ((2, 2, 3), (0, 0, 0), (1, 10, 8)):
            text = prompt(name, *lengths)
            assert logprob(planted, text, answer) > math.log(0.6)
    assert planted.texts[planted.name_at] == "anna" and planted.texts[planted.relay_at] == "so"
    assert planted.model.tokenizer.decode(planted.clean) == " ".join(planted.texts)


@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_the_information_is_also_where_nothing_reads_it(planted, layer) -> None:
    """Otherwise naming the planted coordinates would be no more than finding where the two runs differ."""
    name = f"blocks.{layer}.mixer.h"
    with planted.model.capture(name) as clean:
        planted.model(planted.clean[None])
    with planted.model.capture(name) as corrupted:
        planted.model(planted.corrupted[None])
    differs = ((clean[name] - corrupted[name])[0, planted.relay_at].abs() > 1e-3).nonzero().tolist()
    assert len(differs) > 2 * len(planted.coordinates[layer])


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "site"), [(0, "h"), (1, "h_post")])
@torch.no_grad()
def test_restoring_states_coordinate_by_coordinate_names_the_planted_ones(planted, layer, site) -> None:
    model, name = planted.model, f"blocks.{layer}.mixer.{site}"
    t = planted.name_at + 1 if layer == 0 else planted.relay_at + 1
    with model.capture(f"{name}@[{t}]") as clean:
        model(planted.clean[None])
    with model.capture(f"{name}@[{t}]") as corrupted:
        model(planted.corrupted[None])
    before = logprob(planted, planted.corrupted)
    named, effects = set(), []
    for channel, coordinate in torch.cartesian_prod(torch.arange(48), torch.arange(8)).tolist():
        mixed = corrupted[name].clone()
        mixed[0, 0, channel, coordinate] = clean[name][0, 0, channel, coordinate]
        with model.edit(Replace(name, mixed[:, :, [channel]], positions=[t], channels=[channel])):
            effect = logprob(planted, planted.corrupted) - before
        if abs(effect) > SOME:
            named.add((channel, coordinate))
        else:
            effects.append(abs(effect))
    assert named == planted.coordinates[layer]
    assert max(effects) < NONE


@pytest.mark.parametrize("layer", [0, 1])
def test_attribution_names_the_planted_coordinates(planted, layer) -> None:
    t = planted.name_at + 1 if layer == 0 else planted.relay_at + 1
    table = coordinate_attribution(
        planted.model, planted.clean, planted.corrupted, "h_post", t, layers=[layer], metric="logprob"
    )
    effects = {(r["channel"], r["coordinate"]): r["effect"] for r in table.to_pylist()}
    assert len(effects) == 48 * 8
    assert {place for place, effect in effects.items() if effect > SOME} == planted.coordinates[layer]
    assert max(abs(e) for place, e in effects.items() if place not in planted.coordinates[layer]) < NONE
    whole = attribution_patching(
        planted.model, planted.clean, planted.corrupted, ["h_post"], layers=[layer], positions=[t], metric="logprob"
    )
    assert sum(effects.values()) == pytest.approx(whole["effect"][0].as_py(), rel=1e-10)


def test_attribution_shows_the_way_of_the_name_through_the_layers(planted) -> None:
    """Layer 0 holds it from the name to the step before the relay, layer 1 from the relay to the step before "?"."""
    table = attribution_patching(planted.model, planted.clean, planted.corrupted, ["h_post", "h"], metric="logprob")
    width, name, relay = len(planted.clean), planted.name_at, planted.relay_at
    held = {(r["site"], r["layer"], r["position"]) for r in table.to_pylist() if r["effect"] > SOME}
    post = {("h_post", 0, t) for t in range(name, relay)} | {("h_post", 1, t) for t in range(relay, width - 1)}
    pre = {("h", 0, t) for t in range(name, relay + 1)} | {("h", 1, t) for t in range(relay, width)}
    assert held == post | pre
    assert all(abs(r["effect"]) < NONE for r in table.to_pylist() if (r["site"], r["layer"], r["position"]) not in held)


@pytest.mark.parametrize("layer", [0, 1])
def test_knock_out_names_the_planted_coordinates(planted, layer) -> None:
    source, target = (planted.name_at, planted.relay_at) if layer == 0 else (planted.relay_at, -1)
    groups = {}
    for channel, coordinate in torch.cartesian_prod(torch.arange(48), torch.arange(8)).tolist():
        groups[f"{channel},{coordinate}"] = mask = torch.zeros(48, 8, dtype=torch.bool)
        mask[channel, coordinate] = True
    table = knockout(planted.model, planted.clean, target, source, [layer], channels=groups).to_pylist()
    named = {tuple(map(int, r["group"].split(","))) for r in table if abs(r["effect"]) > SOME}
    assert named == planted.coordinates[layer]
    assert max(abs(r["effect"]) for r in table if abs(r["effect"]) <= SOME) < NONE


def test_knock_out_names_the_planted_channels_and_decay_group(planted) -> None:
    channels = {str(c): [c] for c in range(48)}
    for layer, (source, target) in enumerate([(planted.name_at, planted.relay_at), (planted.relay_at, -1)]):
        table = knockout(planted.model, planted.clean, target, source, [layer], channels=channels).to_pylist()
        named = {int(r["group"]) for r in table if abs(r["effect"]) > SOME}
        assert named == {channel for channel, _ in planted.coordinates[layer]}
        by_decay = knockout(planted.model, planted.clean, target, source, [layer], decay=(10.0,)).to_pylist()
        assert [r["group"] for r in by_decay] == ["0 to 10 tokens", "10 to inf tokens"]
        assert abs(by_decay[0]["effect"]) < NONE and by_decay[1]["effect"] < -0.5


def test_knock_out_names_the_positions(planted) -> None:
    """What matters is the name for the relay in layer 0, and the relay for "?" in layer 1."""
    width = len(planted.clean)
    found = {
        (layer, target, source)
        for layer in (0, 1)
        for target in range(width)
        for source in range(target)
        if abs(knockout(planted.model, planted.clean, target, source, [layer])["effect"][0].as_py()) > SOME
    }
    assert found == {(0, planted.relay_at, planted.name_at), (1, width - 1, planted.relay_at)}


def test_hidden_attention_and_path_patching_show_the_same_way(planted) -> None:
    channel = min(planted.coordinates[0])[0]
    weights = hidden_attention(planted.model, planted.clean, 0, channels=[channel], form="mixer").weights[0]
    assert (planted.relay_at, planted.name_at) == divmod(int(weights.abs().argmax()), weights.shape[1])
    paths = path_patching(
        planted.model, planted.clean, planted.corrupted, "blocks.0.mixer.h_post@[3]",
        [f"blocks.1.mixer.x@[{planted.relay_at}]", "blocks.1.mixer.x@[-1]", "logits"],
    ).to_pylist()  # fmt: skip
    assert paths[0]["effect"] > 0.5 and abs(paths[1]["effect"]) < NONE and abs(paths[2]["effect"]) < NONE


def test_the_lens_sees_the_answer_after_the_second_layer(planted) -> None:
    rows = logit_lens(planted.model, planted.clean, positions=[-1], top=1).to_pylist()
    assert [r["top_tokens"] == ["north"] for r in rows] == [False, True]
    assert rows[1]["answer_rank"] == 1 and rows[1]["kl"] < 1e-12 < rows[0]["kl"]


def test_tracing_shows_the_way_of_the_name_through_the_layers(planted) -> None:
    table = causal_trace(planted.model, planted.clean, planted.corrupted, sites=["h_post", "conv_state", "resid_post"])
    rows = {(r["site"], r["layer"], r["position"]): r["effect"] for r in table.to_pylist()}
    width, name, relay = len(planted.clean), planted.name_at, planted.relay_at
    whole = float(table.schema.metadata[b"p_clean"]) - float(table.schema.metadata[b"p_corrupted"])
    states = {("h_post", 0, t) for t in range(name, relay)} | {("h_post", 1, t) for t in range(relay, width - 1)}
    stream = {("resid_post", 0, relay), ("resid_post", 1, width - 1)}
    assert {key for key, effect in rows.items() if effect > SOME} == states | stream
    assert [rows[key] for key in sorted(states | stream)] == pytest.approx([whole] * len(states | stream), abs=NONE)
    assert all(abs(effect) < NONE for key, effect in rows.items() if key not in states | stream)
