"""The reference initialisation, the optimiser's groups, and the states at the start."""

from __future__ import annotations

import math

import pytest
import torch
from model_zoo import ARCHITECTURES, STATE_SPACE, nano
from mplat.core.errors import UsageError
from mplat.models import ModelConfig, build
from mplat.models.mixer import get
from mplat.models.parts.past import PAST


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_reference_initialisation(arch: str) -> None:
    config = ModelConfig(arch, vocab_size=512, d_model=256, n_layers=4, state_size=16, head_dim=32)
    model = build(config, seed=3).requires_grad_(False)
    mixer = model.backbone.layers[1].mixer
    E = config.inner_size
    assert model.backbone.embeddings.weight.std() == pytest.approx(0.02, rel=0.02)
    bound = 1 / math.sqrt(256)
    assert mixer.in_proj.weight.abs().max() <= bound and mixer.in_proj.weight.std() == pytest.approx(
        bound / 3**0.5, rel=0.02
    )
    assert mixer.out_proj.weight.std() == pytest.approx(1 / math.sqrt(3 * E * 4), rel=0.02)
    assert mixer.conv1d.bias.std() == pytest.approx(1 / math.sqrt(3 * 4), rel=0.1)  # kept, unlike transformers
    assert torch.equal(mixer.D, torch.ones_like(mixer.D))
    bias = mixer.dt_proj.bias if arch == "mamba" else mixer.dt_bias
    dt = torch.nn.functional.softplus(bias)
    assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 0.1 * 1.001
    A = torch.exp(mixer.A_log)
    if arch == "mamba":
        torch.testing.assert_close(A, torch.arange(1.0, 17.0).expand(E, -1))
        assert dt.log().std() == pytest.approx(math.log(100) / 12**0.5, rel=0.1)  # log-uniform
    else:
        assert A.min() >= 1 and A.max() <= 16 and A.std() > 2
    # the first loss is that of a uniform guess, which transformers' initialisation misses by far
    tokens = torch.randint(0, 512, (2, 64), generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(512), abs=0.2)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_seed_decides_the_weights(arch: str) -> None:
    config = ModelConfig(arch, vocab_size=32, d_model=16, n_layers=1, head_dim=8)
    assert build(config, 1).digest == build(config, 1).digest != build(config, 2).digest
    wide = build(config, 1, dtype=torch.float64)
    assert all(
        torch.equal(a.double(), b) for a, b in zip(build(config, 1).parameters(), wide.parameters(), strict=True)
    )


def test_groups_without_decay() -> None:
    for arch, free in (
        ("mamba", {"A_log", "D", "dt_proj.bias", "conv1d.bias", "norm.weight", "norm_f.weight"}),
        ("mamba2", {"A_log", "D", "dt_bias", "conv1d.bias", "norm.weight", "norm_f.weight"}),
    ):
        model = build(ModelConfig(arch, vocab_size=32, d_model=16, n_layers=1, head_dim=8), 0)
        decay, plain = model.param_groups(0.1)
        assert decay["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0
        exempt = {id(p) for p in plain["params"]}
        for name, parameter in model.named_parameters():
            assert (id(parameter) in exempt) == any(name.endswith(f) for f in free), name
        assert len(decay["params"]) + len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("arch", STATE_SPACE)
def test_state_space_mixers_have_the_common_sites(arch: str) -> None:
    common = {"h", "h_post", "conv_state", "delta", "B", "C", "gate", "x", "x_in", "y", "gated"}
    config = ModelConfig(arch, vocab_size=32, d_model=16, n_layers=1, state_size=3, head_dim=8)
    assert common <= {s.name for s in get(arch)(config).site_table()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_states_start_at_zero_and_keep_their_shapes(arch: str) -> None:
    model = nano(arch)
    state = model.zero_state(2)
    assert all(not t.any() for layer in state.layers for t in layer.values())
    _, after = model(torch.ones(2, 3, dtype=torch.long), return_state=True)
    for before, then in zip(state.layers, after.layers, strict=True):
        fixed = {k: v.shape for k, v in then.items() if not k.startswith(PAST)}
        assert fixed == {k: v.shape for k, v in before.items() if not k.startswith(PAST)}
        assert before.keys() == then.keys()
    assert after.rows([1, 0, 1]).position.tolist() == [3, 3, 3] and after.n_bytes > 0


def test_wrong_shapes_are_refused() -> None:
    for changes, text in [
        ({"arch": "mamba3"}, "did you mean 'mamba"),
        ({"d_model": 0}, "d_model must be a whole number from 1 to 65536, not 0"),
        ({"dt_rank": "automatic"}, "dt_rank"),
        ({"arch": "mamba2", "head_dim": 7}, "not a multiple"),
        ({"arch": "mamba2", "head_dim": 8, "n_groups": 3}, "groups"),
        ({"conv_kernel": 0}, "conv_kernel"),
    ]:
        with pytest.raises(UsageError, match=text):
            ModelConfig(**({"arch": "mamba", "vocab_size": 8, "d_model": 16, "n_layers": 1} | changes))
    with pytest.raises(UsageError, match="did you mean 'd_model'"):
        ModelConfig.from_dict({"arch": "mamba", "vocab_size": 8, "d_modle": 16, "n_layers": 1})
