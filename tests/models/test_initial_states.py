"""What a text begins with can be edited: as if the model had been given that state, once, and in those rows alone."""

from __future__ import annotations

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, LanguageModel, ModelState, Replace, Scale
from mplat.models.decoding.generation import generate
from torch import Tensor

#: name of the site -> key of a layer's state; of the first block that has it
KEYS = {"h_init": "h", "conv_init": "conv"}


def initial_sites(model: LanguageModel) -> list[str]:
    return [s.name for s in model.sites() if s.initial and ".stable." not in s.name]


WITH_STATE = tuple(arch for arch in ARCHITECTURES if initial_sites(nano(arch)))


def value_of(model: LanguageModel, site: str, rows: int = 1, seed: int = 0) -> Tensor:
    shape = next(s.axes for s in model.sites() if s.name == site)
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *(int(n) for n in shape), generator=drawn, dtype=torch.float64)


def given(model: LanguageModel, site: str, value: Tensor) -> ModelState:
    """The state before the first token, with `value` where the site says."""
    state = model.zero_state(len(value))
    _, layer, _, name = site.split(".")
    held = state.layers[int(layer)]
    held[KEYS[name]] = value.view_as(held[KEYS[name]])
    return state


@pytest.mark.parametrize("arch", WITH_STATE)
@torch.no_grad()
def test_adding_to_the_beginning_is_being_given_that_state(arch: str) -> None:
    model, lengths = nano(arch), (7, 4)
    texts = [tokens(1, n, seed=n) for n in lengths]
    for site in initial_sites(model):
        value = value_of(model, site, rows=2)
        expected = [model(text, state=given(model, site, value[i : i + 1])) for i, text in enumerate(texts)]
        for left in (True, False):
            batch, mask = torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 7, dtype=torch.bool)
            for i, n in enumerate(lengths):
                part = slice(7 - n, None) if left else slice(0, n)
                batch[i, part], mask[i, part] = texts[i][0], True
            onward = tokens(2, 3, seed=9)
            with model.edit(Add(site, value)):
                with model.capture(site) as seen:
                    logits, state = model(batch, mask, return_state=True)
                again = model(onward, state=state)  # the text goes on: nothing begins
            assert torch.equal(seen[site], value) and torch.equal(again, model(onward, state=state))
            for i in range(2):
                torch.testing.assert_close(logits[i][mask[i]], expected[i][0], rtol=0, atol=1e-11, msg=site)


@pytest.mark.parametrize("arch", WITH_STATE)
@torch.no_grad()
def test_pieces_generation_and_shared_beginnings_begin_once(arch: str) -> None:
    model = nano(arch)
    model.config = type(model.config)(**{**vars(model.config), "eos_token_id": None})
    begin = tokens(1, 70, seed=3)[0].tolist()
    prompts = [[*begin, *tokens(1, n, seed=n)[0].tolist()] for n in (3, 5)] + [tokens(1, 1, seed=6)[0].tolist()]
    for site in initial_sites(model):
        edit = Add(site, 3 * value_of(model, site)[0])
        with model.edit(edit):
            expected = []
            for prompt in prompts:
                new: list[int] = []
                for _ in range(4):
                    new.append(int(model(torch.tensor([prompt + new]))[0, -1].argmax()))
                expected.append(new)
            for share in (True, False):
                found = generate(model, prompts, max_new_tokens=4, stop=(), share_prefix=share)
                assert [list(g.tokens) for g in found] == expected, (site, share)
            text, state, parts = tokens(2, 5), None, []
            whole = model(text)
            for t in range(5):
                logits, state = model(text[:, t : t + 1], state=state, return_state=True)
                parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("arch", WITH_STATE)
def test_a_learned_beginning_has_the_gradient_of_central_differences(arch: str) -> None:
    model, text = nano(arch), tokens(2, 6)
    for site in initial_sites(model):
        value = value_of(model, site)[0].requires_grad_()
        step = 1e-5 * value_of(model, site, seed=4)[0]

        def loss(at: Tensor, site: str = site) -> Tensor:
            with model.edit(Add(site, at)):
                return model(text).log_softmax(-1)[..., 3].sum()

        loss(value).backward()
        assert value.grad is not None
        with torch.no_grad():
            slope = (loss(value + step) - loss(value - step)) / 2
        torch.testing.assert_close((value.grad * step).sum(), slope, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("arch", WITH_STATE)
@torch.no_grad()
def test_packed_documents_begin_from_nothing(arch: str) -> None:
    model, text = nano(arch), tokens(2, 8)
    reset = torch.zeros(2, 8, dtype=torch.bool)
    reset[:, 5] = True
    for site in initial_sites(model):
        edit = Add(site, value_of(model, site)[0])
        plain = model(text, reset=reset)
        with model.edit(edit):
            edited = model(text, reset=reset)
            first = model(text[:, :5])
        torch.testing.assert_close(edited[:, :5], first, rtol=0, atol=1e-11)
        torch.testing.assert_close(edited[:, 5:], plain[:, 5:], rtol=0, atol=1e-11)
        assert not torch.equal(edited[:, :5], plain[:, :5])
        reset_first = reset.clone()
        reset_first[0, 0] = True
        with model.edit(edit):
            one = model(text, reset=reset_first)
        assert not torch.equal(one[1], plain[1])
        assert torch.equal(one[0], model(text, reset=reset_first)[0])


@torch.no_grad()
def test_a_row_of_padding_alone_begins_later_and_a_carried_row_not_at_all() -> None:
    model, text = nano("mamba2"), tokens(2, 6)
    site = "blocks.0.mixer.h_init"
    value = value_of(model, site)[0]
    mask = torch.tensor([[True] * 6, [False] * 6])
    with model.edit(Add(site, value)):
        whole = model(text)
        _, state = model(text, mask, return_state=True)
        with model.capture(site) as seen:
            later = model(text, state=state)
    torch.testing.assert_close(later[1], whole[1], rtol=0, atol=1e-12)
    assert bool(seen[site][0].isnan().all()) and torch.equal(seen[site][1], value)
    torch.testing.assert_close(later[0], _after(model, text, site, value), rtol=0, atol=1e-12)


def _after(model: LanguageModel, text: Tensor, site: str, value: Tensor) -> Tensor:
    both = torch.cat([text[:1], text[:1]], 1)
    return model(both, state=given(model, site, value[None]))[0, 6:]


@torch.no_grad()
def test_what_cannot_begin_is_refused() -> None:
    model, text = nano("mamba"), tokens(2, 4)
    site = "blocks.1.mixer.h_init"
    _, state = model(text, return_state=True)
    with pytest.raises(UsageError, match="never fired"), model.edit(Replace(site, 1.0)):
        model(text, state=state)
    with pytest.raises(UsageError, match="never fired"), model.capture(site):
        model(text, state=state)
    with pytest.raises(UsageError, match="no positions"), model.edit(Scale(site, 2.0, positions=[0])):
        pass
    with (
        pytest.raises(UsageError, match="no positions"),
        model.edit(Scale(site, 2.0, where=torch.ones(1, 4, dtype=torch.bool))),
    ):
        pass
    with pytest.raises(UsageError, match="does not fit"), model.edit(Add(site, torch.ones(3, 1, 1))):
        model(text)
    model.run_with_cache(text, state=state)  # all sites that there are


@torch.no_grad()
def test_chosen_channels_and_the_fast_decoder() -> None:
    model = nano("mamba", d_model=32, dtype=torch.float32)
    site = "blocks.0.mixer.h_init"
    prompt = tokens(1, 6)[0].tolist()
    with model.edit(Replace(site, 2.0, channels=[1, 3])), model.capture(site, f"{site}[3,0]") as seen:
        model(torch.tensor([prompt]))
    assert seen[site].sum() == 2 * 2.0 * seen[site].shape[2]
    assert seen[f"{site}[3,0]"].shape[:2] == (1, 2) and bool((seen[f"{site}[3,0]"][:, 0] == 2.0).all())
    calls: list[int] = []
    hook = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with model.edit(Replace(site, 2.0)):
        found = generate(model, [prompt], max_new_tokens=8, stop=())[0].tokens
        read = len(calls)
        expected = [int(model(torch.tensor([[*prompt, *found[:i]]]))[0, -1].argmax()) for i in range(len(found))]
    hook.remove()
    assert list(found) == expected and read == 1, "the compiled loops go on where the edit has acted"
