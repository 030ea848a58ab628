"""What every registered architecture promises, besides the equalities of test_sequence_equalities.

A new mixer is tested by being registered: nothing here is to be edited for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, Interpolate, LanguageModel, ModelConfig, Scale, build, load
from mplat.models import mixer as mixers
from mplat.train.sizes import model_config
from mplat.train.train_config import ModelSection


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


@torch.no_grad()
def test_every_site_can_be_read_and_has_the_shape_it_declares(model: LanguageModel) -> None:
    text = tokens(2, 9)
    plain = model(text)
    sites = model.sites()
    assert len({s.name for s in sites}) == len(sites)
    with model.capture(*(s.name for s in sites)) as acts:
        assert torch.equal(model(text), plain)  # watching changes nothing
    for site in sites:
        expected = (*(() if site.constant else (2, 9)), *((2,) if site.initial else ()), *site.axes)
        assert tuple(acts[site.name].shape) == tuple(expected), site
        assert str(acts[site.name].dtype) == f"torch.{site.dtype}", site
        assert site.meaning and site.readable


def test_no_rows_have_no_logits(model: LanguageModel) -> None:
    """Nothing is an answer, in reading and in writing, not an error of some architectures."""
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            logits, state = model(tokens(2, 5)[:0], return_state=True)
            step, _ = model(tokens(2, 1)[:0], state=state, return_state=True)
        assert logits.shape == (0, 5, logits.shape[2]) and step.shape == (0, 1, logits.shape[2])


@torch.no_grad()
def test_every_site_of_a_bfloat16_model_has_the_dtype_it_declares(model: LanguageModel) -> None:
    model = model.to(torch.bfloat16)
    with model.capture(*(s.name for s in model.sites())) as acts:
        model(tokens(2, 5))
    assert {s.name: str(acts[s.name].dtype) for s in model.sites()} == {
        s.name: f"torch.{s.dtype}" for s in model.sites()
    }


@pytest.mark.parametrize(
    ("model", "dtype"),
    [(arch, (torch.float32, torch.bfloat16)[i % 2]) for i, arch in enumerate(ARCHITECTURES)],
    indirect=["model"],
)  # one or the other in turn
@torch.no_grad()
def test_identity_edits_are_bit_identical_at_every_site(model: LanguageModel, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    text = tokens(2, 9)
    plain = model(text)
    for site in (s for s in model.sites() if s.editable):
        positions = None if site.constant else [2, -1]
        edits = (
            Scale(site.name, 1.0),
            Add(site.name, 0.0, positions=positions),
            Interpolate(site.name, 3.0, weight=0.0, channels=[0, int(site.channels) - 1]),
        )
        with model.edit(*edits):  # one after the other in one pass: none may change a bit
            assert torch.equal(model(text), plain), edits


@torch.no_grad()
def test_an_edit_is_felt_from_its_position_on(model: LanguageModel) -> None:
    text = tokens(2, 9)
    plain = model(text)
    with model.capture(*(s.name for s in model.sites())) as acts:
        model(text)
    for site in model.sites():
        if not site.editable:
            with pytest.raises(UsageError, match="edit"), model.edit(Scale(site.name, 1.5)):
                pass
            continue
        if site.constant:  # what a text begins with is zero
            edit, expected = Scale(site.name, 1.5), 1.5 * acts[site.name]
            if site.initial:
                edit, expected = Add(site.name, 0.5), acts[site.name] + 0.5
            with model.edit(edit), model.capture(site.name) as edited:
                changed = model(text)
            assert torch.equal(edited[site.name], expected), site.name
            assert not torch.equal(changed, plain), site.name
            continue
        # a little more or less may change nothing where only a sign or a rank counts, or where little is read: then
        # one of the others must be felt
        felt = False
        for edit in (
            Scale(site.name, 1.5, positions=[3]),
            *(Add(site.name, shift, positions=[3], channels=[0]) for shift in (1.0, 10.0, -10.0)),
            Scale(site.name, -1.0, positions=[3]),
        ):
            with model.edit(edit), model.capture(site.name) as edited:
                changed = model(text)
            felt = felt or not torch.equal(changed[:, 3:], plain[:, 3:])
            assert torch.equal(changed[:, :3], plain[:, :3]), site.name
            if isinstance(edit, Scale) and isinstance(edit.factor, float):
                expected = acts[site.name][:, :4].clone()
                expected[:, 3] *= edit.factor
                assert torch.equal(edited[site.name][:, :4], expected), site.name  # a state changes later ones too
            elif felt:
                break
        assert felt, site.name


@torch.no_grad()
def test_edits_act_the_same_in_a_whole_text_and_token_by_token(model: LanguageModel) -> None:
    """At every kind of site, in the last block that has it."""
    text = tokens(2, 5)
    inside = [s for s in model.sites() if s.editable and not s.constant and s.name.startswith("blocks.")]
    for site in {s.name.split(".", 2)[2]: s for s in inside}.values():
        with model.edit(Scale(site.name, 0.5, channels=[0])):
            whole = model(text)
            state, parts = None, []
            for t in range(5):
                logits, state = model(text[:, t : t + 1], state=state, return_state=True)
                parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-11, msg=site.name)


@torch.no_grad()
def test_generation_equals_rerunning_the_whole_text(model: LanguageModel) -> None:
    model.config = ModelConfig(**{**vars(model.config), "eos_token_id": None})
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (7, 1, 12)]
    expected = []
    for prompt in prompts:
        new: list[int] = []
        for _ in range(5):
            new.append(int(model(torch.tensor([prompt + new]))[0, -1].argmax()))
        expected.append(new)
    assert model.generate(prompts, max_new_tokens=5) == expected


@torch.no_grad()
def test_states_can_be_forked_and_stacked(model: LanguageModel) -> None:
    first, second, onward = tokens(1, 9), tokens(1, 4, seed=2), tokens(3, 2, seed=3)
    _, a = model(first, return_state=True)
    _, b = model(second, return_state=True)
    both = type(a).concat([a, b]).rows([1, 0, 1])
    logits = model(onward, state=both)
    for row, before in enumerate((second, first, second)):
        whole = model(torch.cat([before, onward[row : row + 1]], 1))
        torch.testing.assert_close(logits[row : row + 1], whole[:, -2:], rtol=0, atol=1e-11)


@torch.no_grad()
def test_saving_and_loading_keeps_every_bit(model: LanguageModel, tmp_path: Path) -> None:
    model = model.to(torch.float32)
    again = load(model.save(tmp_path / "m"))
    assert again.config == model.config and again.digest == model.digest
    assert torch.equal(again(tokens(2, 9)), model(tokens(2, 9)))


def test_the_seed_decides_the_weights(model: LanguageModel) -> None:
    a, b, c = (build(model.config, seed=s) for s in (1, 1, 2))
    assert a.digest == b.digest != c.digest
    for name, value in a.state_dict().items():
        assert bool(value.isfinite().all()), name


def test_training_mode_gives_finite_gradients_everywhere(model: LanguageModel) -> None:
    model.train()
    loss = model(tokens(4, 16))[:, :-1].log_softmax(-1).mean()
    auxiliary = model.auxiliary_loss
    (loss if auxiliary is None else loss + auxiliary).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    groups = model.param_groups(0.1)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_named_sizes_can_be_built(arch: str) -> None:
    for size in ("nano", "tiny"):
        config = model_config(ModelSection(arch=arch, size=size), 1000, tokenizer_name="t", eos_id=0)
        assert build(config, device="meta").n_parameters > 0
    assert mixers.get(arch).__doc__


def test_nothing_that_is_kept_outlives_an_optimizer_step(model: LanguageModel) -> None:
    """Fused optimizers write into parameters without raising their version."""
    text = tokens(2, 9)
    with torch.no_grad():
        before, digest = model(text), model.digest
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    model(text).log_softmax(-1)[..., 0].mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = model(text)
    assert not torch.equal(after, before) and model.digest != digest
    fresh = build(model.config, dtype=torch.float64).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(text), after)
