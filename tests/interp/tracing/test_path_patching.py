"""Path patching: what is direct comes through, what is frozen does not, and all direct paths are one restoration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.interp.methods.corruption import corrupt
from mplat.interp.methods.path_patching import frozen_sites, path_patching
from mplat.models import LanguageModel, Replace

T = 8
close = {"abs": 1e-10}


@pytest.fixture(params=["mamba", "mamba2", "striped_hyena", "hyena", "stable_mamba"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param, n_layers=3)


@pytest.fixture
def prompts():
    clean = tokens(1, T)[0]
    corrupted = clean.clone()
    corrupted[2] = (corrupted[2] + 7) % 40
    return clean, corrupted


def watch(model, text, *names):
    with model.capture(*names) as acts:
        logits = model(text[None])
    return acts, logits[0, -1]


def probabilities(table) -> list[float]:
    return [effect + float(table.schema.metadata[b"p_corrupted"]) for effect in table["effect"].to_pylist()]


@torch.no_grad()
def test_the_direct_path_to_a_mixer_is_a_change_of_the_residual_stream_before_it(model, prompts) -> None:
    """What block 0 writes reaches block 2's mixer directly as an addition to the residual stream there, and no more."""
    clean, corrupted = prompts
    sender, receiver = "blocks.0.mixer_out", "blocks.2.mixer_in"
    a, said = watch(model, clean, sender)
    b, plain = watch(model, corrupted, sender, "blocks.2.resid_pre")
    moved = b["blocks.2.resid_pre"] + a[sender] - b[sender]
    with model.edit(Replace("blocks.2.resid_pre", moved)), model.capture(receiver) as told:
        model(corrupted[None])
    with model.edit(Replace(receiver, told[receiver])):
        expected = torch.log_softmax(model(corrupted[None])[0, -1], -1)[int(said.argmax())]
    table = path_patching(model, clean, corrupted, sender, receiver, metric="logprob")
    effect = float(expected - torch.log_softmax(plain, -1)[int(said.argmax())])
    assert table["effect"].to_pylist() == pytest.approx([effect], **close)
    assert abs(effect) > 1e-6


@torch.no_grad()
def test_the_path_to_the_logits_leaves_everything_between_as_it_was(model, prompts) -> None:
    clean, corrupted = prompts
    a, said = watch(model, clean, "blocks.0.mixer_out")
    b, _ = watch(model, corrupted, "blocks.0.mixer_out", "blocks.2.resid_post")
    residual = b["blocks.2.resid_post"] + a["blocks.0.mixer_out"] - b["blocks.0.mixer_out"]
    expected = torch.softmax(model.unembed(residual)[0, -1], -1)[int(said.argmax())]
    table = path_patching(model, clean, corrupted, "blocks.0.mixer_out", "logits")
    assert probabilities(table) == pytest.approx([float(expected)], **close)


@torch.no_grad()
def test_a_last_part_that_hears_everything_restores_the_sender_whole(model, prompts) -> None:
    """With one block only there is nothing to freeze: the path is the restoration itself."""
    clean, corrupted = prompts
    last = model.n_layers - 1
    for sender in (f"blocks.{last}.mixer_in@[2,5]", f"blocks.{last}.mixer_out@[-1]"):
        a, said = watch(model, clean, sender)
        with model.edit(Replace(sender, a[sender])):
            expected = torch.softmax(model(corrupted[None])[0, -1], -1)[int(said.argmax())]
        receiver = f"blocks.{last}.mixer_out" if "mixer_in" in sender else f"blocks.{last}.resid_post"
        if "mlp_out" in {s.name.rpartition(".")[2] for s in model.sites()} and "mixer_out@" in sender:
            receiver = f"blocks.{last}.resid_mid"
        table = path_patching(model, clean, corrupted, sender, receiver)
        assert probabilities(table) == pytest.approx([float(expected)], **close)


@torch.no_grad()
def test_positions_and_channels_of_both_ends_count(prompts) -> None:
    model, (clean, corrupted) = nano("mamba", n_layers=3), prompts
    senders = ["blocks.0.mixer.h_post@[2]", "blocks.0.mixer.h_post[0,1]@[2]", "blocks.0.mixer.h_post@[1]"]
    receivers = ["blocks.1.mixer.x@[3]", "blocks.1.mixer.x@[2]", "blocks.1.mixer.x[7]"]
    table = path_patching(model, clean, corrupted, senders, receivers, metric="logprob", answer=5).to_pylist()
    effect = {(r["sender"], r["receiver"]): r["effect"] for r in table}
    assert len(effect) == 9
    assert abs(effect[senders[0], receivers[0]]) > 1e-6
    rounding = 1e-12  # of float64: a row's matrix products may depend on how many rows there are
    assert abs(effect[senders[0], receivers[1]]) < rounding  # a state after step 2 is not read at step 2
    assert all(abs(effect[senders[2], r]) < rounding for r in receivers)  # before the corruption both runs are one
    assert len({effect[s, r] for s in senders[:2] for r in (receivers[0], receivers[2])}) == 4


@torch.no_grad()
def test_noise_is_a_corruption_too_and_samples_are_averaged(prompts) -> None:
    model, text = nano("mamba2", n_layers=3), prompts[0]
    options = {"subject": (2, 4), "noise": 0.4, "seed": 2, "metric": "logprob"}
    table = path_patching(model, text, None, "blocks.0.mixer.h_post@[3]", "blocks.2.mixer.x@[-1]", samples=2, **options)
    corruption = corrupt(model, text, subject=(2, 4), noise=0.4, samples=2, seed=2)
    assert corruption.noise is not None
    expected = []
    for noise in corruption.noise:
        changed = model.embedding.weight[text].clone()
        changed[2:4] += noise
        a, said = watch(model, text, "blocks.0.mixer.h_post")
        with model.edit(Replace("embed", changed)):
            b, plain = watch(model, text, "blocks.1.mixer_out")
            kept = [
                Replace("blocks.0.mixer.h_post", a["blocks.0.mixer.h_post"][:, 3:4], positions=[3]),
                Replace("blocks.1.mixer_out", b["blocks.1.mixer_out"]),
            ]
            with model.edit(*kept):
                told, _ = watch(model, text, "blocks.2.mixer.x")
            with model.edit(Replace("blocks.2.mixer.x", told["blocks.2.mixer.x"][:, -1:], positions=[-1])):
                _, patched = watch(model, text, "logits")
        answer = int(said.argmax())
        expected.append(float(torch.log_softmax(patched, -1)[answer] - torch.log_softmax(plain, -1)[answer]))
    stacked = torch.tensor(expected, dtype=torch.float64)
    assert table["effect"].to_pylist() == pytest.approx([float(stacked.mean())], **close)
    assert table["effect_std"].to_pylist() == pytest.approx([float(stacked.std())], **close)
    assert table["samples"].to_pylist() == [2]


@torch.no_grad()
def test_what_is_frozen_stands_between_and_outside_of_the_senders_own_part() -> None:
    model = nano("hyena", n_layers=3)
    order = {site.name: i for i, site in enumerate(model.sites())}
    parts = lambda i: [f"blocks.{i}.mixer_out", f"blocks.{i}.mlp_out"]  # noqa: E731
    assert frozen_sites(order, "blocks.0.mixer.x0", "blocks.2.mixer.v") == ["blocks.0.mlp_out", *parts(1)]
    assert frozen_sites(order, "blocks.0.mixer_out", "blocks.2.mlp_in") == [
        "blocks.0.mlp_out", *parts(1), "blocks.2.mixer_out"
    ]  # fmt: skip
    assert frozen_sites(order, "blocks.0.mlp_in", "blocks.1.mixer_in") == []
    assert frozen_sites(order, "embed", "logits") == [*parts(0), *parts(1), *parts(2)]
    assert frozen_sites(order, "blocks.1.resid_post", "blocks.2.mixer_in") == []
    assert frozen_sites(order, "blocks.1.mixer.x0", "blocks.1.mixer.v") == []


@torch.no_grad()
def test_a_star_is_every_block_and_pairs_in_the_wrong_order_are_left_out(prompts) -> None:
    model = nano("mamba", n_layers=3)
    table = path_patching(model, *prompts, "blocks.*.mixer_out", "blocks.*.mixer.B").to_pylist()
    assert [(r["sender"][7], r["receiver"][7]) for r in table] == [("0", "1"), ("0", "2"), ("1", "2")]


@torch.no_grad()
def test_a_transformer_is_patched_with_the_same_call(prompts, tmp_path: Path) -> None:
    model = adapted("gpt2", tmp_path)
    table = path_patching(model, *prompts, "blocks.0.mlp_out", ["blocks.1.mixer.q", "logits"])
    assert table.num_rows == 2 and all(abs(e) > 0 for e in table["effect"].to_pylist())


def test_wrong_arguments_say_what_would_be_right(prompts) -> None:
    model = nano("mamba")
    for sender, receiver, told in [
        ("blocks.1.mixer_out", "blocks.0.mixer_in", "does not come before"),
        ("blocks.0.mixer.h_pots", "logits", "did you mean 'blocks.{i}.mixer.h_post'"),
        ("blocks.5.mixer_out", "logits", "layers 0 to 1"),
        ([], "logits", "at least one"),
        (3, "logits", "the name of a site"),
        ("blocks.0.mixer.h@[9]", "logits", "never fired"),
    ]:
        with pytest.raises(UsageError, match=told):
            path_patching(model, *prompts, sender, receiver)
    with pytest.raises(UsageError, match="equal token length"):
        path_patching(model, prompts[0], prompts[1][1:], "embed", "logits")
