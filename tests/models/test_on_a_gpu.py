"""Models on a pretended GPU: what belongs together is brought together, and the numbers are those of the CPU.

The kernels are PyTorch's on both sides (`auto` would take Numba's on the CPU).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.models import Add, LanguageModel, ProjectOut
from mplat.models.decoding.generation import generate
from mplat.models.kernels import backend
from pretended_gpu import GPU, MixedDevices, OnGpu, pretended_gpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(backend.PREFERENCE, "cpu", ("torch",))
    with pretended_gpu(monkeypatch):
        yield


def test_what_a_gpu_refuses_is_refused(gpu: None) -> None:
    here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
    assert there.device == (there + 1).device == there[0].device == there.to(torch.float64).device == GPU
    assert here.device == there.cpu().device == there.to("cpu").device == torch.device("cpu")
    for mixed in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here @ there.T, lambda: there * here):
        with pytest.raises(MixedDevices, match=r"expected all tensors to be on the same device, but found c.* c"):
            mixed()
    for as_numpy in (lambda: there.numpy(), lambda: np.asarray(there), lambda: here[there[0].long()]):
        with pytest.raises((TypeError, MixedDevices)):
            as_numpy()
    with pytest.raises(RuntimeError, match="for generator"):
        torch.randn(3, generator=torch.Generator(), device="cuda")


def test_what_a_gpu_takes_is_taken(gpu: None) -> None:
    here, there = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3, device="cuda")
    assert there.copy_(here) is there and there.tolist() == here.tolist()
    assert (there * torch.tensor(2.0))[torch.tensor([1])].cpu().equal(2 * here[1:])
    there[0].mul_(3)
    there[torch.tensor([0]), torch.tensor([1])] = torch.tensor(7.0)
    assert there.cpu().tolist() == [[0, 7, 6], [3, 4, 5]]
    weight = torch.ones(3, requires_grad=True)
    (there @ weight.to("cuda")).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [3, 11, 11] and not isinstance(weight.grad, OnGpu)


def answers(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Logits, gradients, a capture, an edit, decoding and generated tokens."""
    ids = tokens(2, 9).to(model.device)
    found = {"logits": model(ids)}
    found["logits"].logsumexp(-1).sum().backward()
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        _, activations = model.run_with_cache(ids)
        given = torch.linspace(-1, 1, model.config.d_model)  # an edit's own tensors are where the user made them
        with model.edit(Add("blocks.0.mixer_out", given), ProjectOut("blocks.1.resid_post", given, positions=[-1])):
            found["edited"] = model(ids)
    found |= {f"site {name}": activations[name] for name in activations}
    prompts = [row[:5].tolist() for row in ids]
    found["generated"] = torch.tensor([one.tokens for one in generate(model, prompts, max_new_tokens=4)])
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_model_computes_on_a_gpu_what_it_computes_on_the_cpu(gpu: None, arch: str) -> None:
    here, there = nano(arch), nano(arch).to("cuda")
    expected, found = answers(here), answers(there)
    assert there.device == GPU and found.keys() == expected.keys()
    for name, value in found.items():
        assert name == "generated" or value.device == GPU, name
        size = max([1.0, *expected[name].abs().flatten().tolist()])  # sums of larger numbers end in their bits
        torch.testing.assert_close(value.cpu(), expected[name], rtol=0, atol=1e-11 * size, msg=name)
