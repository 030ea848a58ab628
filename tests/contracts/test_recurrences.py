"""What mixers say of their recurrences is true: states and outputs follow from it, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_zoo import adapted
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import LanguageModel
from recurrence_loops import recur
from toy_mixers import TOYS, toys

ADAPTED = ("bamba", "jamba", "falcon_h1", "zamba2", "nemotron_h", "gpt2")
close = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with toys():
        yield


@pytest.fixture(params=[*ARCHITECTURES, *TOYS, *ADAPTED])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    return adapted(request.param, tmp_path).double() if request.param in ADAPTED else nano(request.param)


@torch.no_grad()
def test_states_and_outputs_follow_from_what_is_declared(model: LanguageModel) -> None:
    text = tokens(1, 9)
    sites = {site.name: site for site in model.sites()}
    for layer, block in enumerate(model.blocks):
        for of in block.recurrences():
            prefix = f"blocks.{layer}.mixer.{of.within}"
            assert all(prefix + name in sites for name in (of.x, of.delta, of.B, of.C) if isinstance(name, str))
            if not of.outputs:
                continue  # what is read is more than this recurrence
            with model.capture(*(name for name in sites if name.startswith(prefix))) as acts:
                model(text)
            found = recur(of, acts, prefix)
            y = torch.cat([acts[prefix + name][0] for name in of.outputs], -1)
            torch.testing.assert_close(found.read + found.skip, y, **close)
            for name in ("h", "h_post"):
                if prefix + name in sites:
                    torch.testing.assert_close(found.states, acts[prefix + name][0], **close)
            if of.around is not None:
                around, x_in = of.around, acts[prefix + of.around.x_in][0]
                reach = around.taps.shape[1]
                before = torch.cat([torch.zeros(reach - 1, x_in.shape[1]), x_in])
                windows = torch.stack([before[t : t + reach].T for t in range(len(x_in))])
                convolved = (windows * around.taps).sum(-1) + around.bias
                torch.testing.assert_close(torch.nn.functional.silu(convolved), acts[prefix + of.x][0], **close)
                assert acts[prefix + around.gate].shape == acts[prefix + of.x].shape


def test_constants_have_the_dtype_asked_for_and_no_graph(model: LanguageModel) -> None:
    for dtype in (torch.float32, torch.float64):
        for of in (of for block in model.blocks for of in block.recurrences(dtype)):
            constants = [v for v in (of.A, of.D, of.B, of.C) if isinstance(v, torch.Tensor)]
            assert {v.real.dtype for v in constants} == {dtype} and not any(v.requires_grad for v in constants)


@torch.no_grad()
def test_layers_without_a_recurrence_declare_none_and_those_with_two_name_both(tmp_path: Path) -> None:
    models = {kind: nano(kind) for kind in ("hyena", "striped_hyena", "moe_mamba", "stable_mamba_attached")}
    models["gpt2"] = adapted("gpt2", tmp_path)
    declared = {kind: [len(block.recurrences()) for block in model.blocks] for kind, model in models.items()}
    assert declared["hyena"] == [0, 0] and set(declared["gpt2"]) == {0}
    assert declared["striped_hyena"] == [1, 0] == declared["moe_mamba"]  # then attention, and experts
    assert declared["stable_mamba_attached"] == [2, 1]
    own, added = nano("stable_mamba_attached").blocks[0].recurrences()
    assert (own.within, own.kind, added.within, added.kind) == ("", "selective", "stable.", "averaging")
    assert own.around is None and nano("mamba").blocks[0].recurrences()[0].around is not None
