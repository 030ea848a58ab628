"""Every adapted model keeps the promises of every LanguageModel: however a text is fed, the numbers are the same; every
site can be read and edited; files keep every bit."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import CASES, adapted
from model_zoo import tokens
from mplat.models import Add, Interpolate, LanguageModel, Scale, Site, load
from mplat.models.state import ModelState

close: dict[str, Any] = {"rtol": 0.0, "atol": 1e-11}


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return adapted(request.param, tmp_path_factory.mktemp("adapted"))


@pytest.fixture
def model(made: LanguageModel) -> LanguageModel:
    return copy.deepcopy(made)


def places(model: LanguageModel) -> list[Site]:
    """The editable sites, of each kind the last: blocks of one kind run the same code."""
    kinds = {re.sub(r"blocks\.\d+", "blocks", s.name): s for s in model.sites() if s.editable}
    return list(kinds.values())


def same_state(a: ModelState, b: ModelState) -> None:
    assert a.position.tolist() == b.position.tolist()
    for left, right in zip(a.layers, b.layers, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], **close)


# -- however a text is fed ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prefill_equals_decode_equals_chunked_prefill(model: LanguageModel) -> None:
    text = tokens(3, 23)
    whole, end = model(text, return_state=True)
    for cuts in ([1] * 23, [5, 1, 17], [2, 2, 19]):
        state, parts, at = model.zero_state(3), [], 0
        for n in cuts:
            logits, state = model(text[:, at : at + n], state=state, return_state=True)
            parts.append(logits)
            at += n
        torch.testing.assert_close(torch.cat(parts, 1), whole, **close)
        same_state(state, end)


@torch.no_grad()
def test_padding_changes_neither_logits_nor_state(model: LanguageModel) -> None:
    """Left, right and between the tokens, all in one batch."""
    width = 11
    lengths = [n for n in (4, 11, 1, 7) for _ in range(3)]
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for i, n in enumerate(lengths):
        shuffled = torch.randperm(width, generator=torch.Generator().manual_seed(i))[:n]
        mask[i, (slice(width - n, width), slice(0, n), shuffled)[i % 3]] = True
    padded, next_tokens = tokens(len(lengths), width, seed=9), tokens(len(lengths), 2, seed=3)
    logits, state = model(padded, mask, return_state=True)
    onward, later = model(next_tokens, state=state, return_state=True)
    for i in range(len(lengths)):
        expected, end = model(padded[i][mask[i]][None], return_state=True)
        torch.testing.assert_close(logits[i][mask[i]][None], expected, **close)
        expected, end = model(next_tokens[i : i + 1], state=end, return_state=True)
        torch.testing.assert_close(onward[i : i + 1], expected, **close)
        assert later.rows([i]).position.tolist() == end.position.tolist() == [lengths[i] + 2]


@torch.no_grad()
def test_packed_documents_with_reset_equal_separate_documents(model: LanguageModel) -> None:
    lengths = [5, 1, 2, 9, 3]
    text, starts = tokens(2, sum(lengths)), [sum(lengths[:i]) for i in range(5)]
    reset = torch.zeros_like(text, dtype=torch.bool)
    reset[:, starts] = True
    packed, end = model(text, reset=reset, return_state=True)
    for start, n in zip(starts, lengths, strict=True):
        separate, last = model(text[:, start : start + n], return_state=True)
        torch.testing.assert_close(packed[:, start : start + n], separate, **close)
    for layer, expected in zip(end.layers, last.layers, strict=True):
        for name in expected:
            torch.testing.assert_close(layer[name], expected[name], **close)
    assert not torch.allclose(model(text), packed, **close)
    # in two calls, cut inside of a document, and onward after it
    first, state = model(text[:, :7], reset=reset[:, :7], return_state=True)
    second = model(text[:, 7:], reset=reset[:, 7:], state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), packed, **close)
    torch.testing.assert_close(model(text[:, :2], state=end), model(text[:, :2], state=last), **close)


@torch.no_grad()
def test_states_can_be_forked_and_stacked(model: LanguageModel) -> None:
    first, second, onward = tokens(1, 9), tokens(1, 4, seed=2), tokens(3, 2, seed=3)
    _, a = model(first, return_state=True)
    _, b = model(second, return_state=True)
    logits = model(onward, state=ModelState.concat([a, b]).rows([1, 0, 1]))
    for row, before in enumerate((second, first, second)):
        whole = model(torch.cat([before, onward[row : row + 1]], 1))
        torch.testing.assert_close(logits[row : row + 1], whole[:, -2:], **close)


@torch.no_grad()
def test_generation_equals_rerunning_the_whole_text(model: LanguageModel) -> None:
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (7, 1, 12)]
    expected = []
    for prompt in prompts:
        new: list[int] = []
        while len(new) < 5 and (not new or new[-1] != model.config.eos_token_id):
            new.append(int(model(torch.tensor([prompt + new]))[0, -1].argmax()))
        expected.append([t for t in new if t != model.config.eos_token_id])
    assert model.generate(prompts, max_new_tokens=5) == expected


def test_gradient_to_the_future_is_exactly_zero(model: LanguageModel) -> None:
    text = tokens(1, 12)
    for t in (0, 5, 10):
        with model.capture("embed", gradients=True) as acts:
            logits = model(text)
        (gradient,) = torch.autograd.grad(logits[0, t].sum(), acts["embed"])
        assert torch.count_nonzero(gradient[0, t + 1 :]) == 0
        assert torch.count_nonzero(gradient[0, : t + 1]) > 0


@torch.no_grad()
def test_float64_is_float64_everywhere(model: LanguageModel) -> None:
    logits, state = model(tokens(1, 8), return_state=True)
    assert all(t.dtype == torch.float64 for layer in state.layers for t in layer.values())
    rough = model.to(torch.float32)(tokens(1, 8))
    assert (logits.dtype, rough.dtype) == (torch.float64, torch.float32)
    assert 1e-9 < float((rough - logits).abs().max()) < 1e-2


# -- sites ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_every_site_can_be_read_and_is_what_it_declares(model: LanguageModel, dtype: torch.dtype) -> None:
    model, text = model.to(dtype), tokens(2, 9)
    plain, sites = model(text), model.sites()
    assert len({s.name for s in sites}) == len(sites)
    with model.capture(*(s.name for s in sites)) as acts:
        assert torch.equal(model(text), plain)
    for site in sites:
        assert tuple(acts[site.name].shape) == (
            *(() if site.constant else (2, 9)),
            *((2,) if site.initial else ()),
            *site.axes,
        ), site
        assert str(acts[site.name].dtype) == f"torch.{site.dtype}", site


@pytest.mark.parametrize(
    ("made", "dtype"),
    [(case, (torch.float32, torch.bfloat16)[i % 2]) for i, case in enumerate(CASES)],
    indirect=["made"],
)  # one or the other in turn
@torch.no_grad()
def test_identity_edits_are_bit_identical_at_every_site(model: LanguageModel, dtype: torch.dtype) -> None:
    model, text = model.to(dtype), tokens(2, 9)
    plain = model(text)
    for site in places(model):
        edits = (
            Scale(site.name, 1.0),
            Add(site.name, 0.0, positions=None if site.constant else [2, -1]),
            Interpolate(site.name, 3.0, weight=0.0, channels=[0, int(site.channels) - 1]),
        )
        with model.edit(*edits):  # one after the other in one pass: none may change a bit
            assert torch.equal(model(text), plain), edits


@pytest.mark.parametrize("made", [case for case in CASES if ":" not in case], indirect=True)  # options have no site
@torch.no_grad()
def test_an_edit_is_felt_from_its_position_on_and_in_every_way_of_feeding(model: LanguageModel) -> None:
    text = tokens(2, 6)
    plain = model(text)
    for site in places(model):
        felt = False
        if site.constant:
            with model.edit(Add(site.name, -1.0)):
                assert not torch.equal(model(text), plain), site.name
            continue
        for edit in (Scale(site.name, 1.5, positions=[3]), Add(site.name, 1.0, positions=[3], channels=[0])):
            with model.edit(edit), model.capture(site.name) as edited:
                changed = model(text)
            felt = felt or not torch.equal(changed[:, 3:], plain[:, 3:])
            assert torch.equal(changed[:, :3], plain[:, :3]), site.name
            assert edited[site.name].isfinite().all()
            if felt:
                break
        assert felt, site.name
        with model.edit(Scale(site.name, 0.5, channels=[0])):
            whole, state, parts = model(text), None, []
            for piece in text.split([4, 1, 1], 1):
                logits, state = model(piece, state=state, return_state=True)
                parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, **close, msg=site.name)


def test_the_names_of_sites_are_those_of_every_architecture(model: LanguageModel) -> None:
    names = [s.name for s in model.sites()]
    for i in range(model.n_layers):
        own = [n.removeprefix(f"blocks.{i}.") for n in names if n.startswith(f"blocks.{i}.")]
        assert {"resid_pre", "mixer_in", "mixer_out", "resid_post"} <= set(own)
        recurrent = {"x_in", "x", "gate", "delta", "B", "C", "h", "h_post", "conv_state", "y", "gated"}
        recurrent |= {"h_init", "conv_init", "write", "A"}
        inside = {n.removeprefix("mixer.") for n in own if n.startswith("mixer.")}
        assert recurrent <= inside or inside.isdisjoint(recurrent)
        assert inside & (recurrent | {"q", "hidden", "expert_out"})
    assert names[0] == "embed" and names[-2:] == ["final_norm", "logits"]


# -- files and training -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saving_and_loading_keeps_every_bit(model: LanguageModel, tmp_path: Path) -> None:
    model = model.to(torch.float32)
    again = load(model.save(tmp_path / "m"))
    assert again.config == model.config and again.digest == model.digest
    assert torch.equal(again(tokens(2, 9)), model(tokens(2, 9)))


def test_gradients_are_finite_everywhere_and_norms_do_not_decay(model: LanguageModel) -> None:
    model.train()
    model(tokens(4, 30))[:, :-1].log_softmax(-1).mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:  # a copy of additions that only another copy's layer uses, as transformers has it
            assert "adapter_list" in name and model.config.arch == "zamba2" and not model.config.tie_embeddings, name
        else:
            assert bool(parameter.grad.isfinite().all()), name
    decaying, exempt = model.param_groups(0.1)
    assert len(decaying["params"]) + len(exempt["params"]) == len(list(model.parameters()))
    weights = {id(p) for p in decaying["params"]}
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or name.endswith(("A_log", ".D", "dt_bias"))
        assert (id(parameter) in weights) != spared, name
