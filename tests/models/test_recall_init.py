"""The recall initialisation: every layer but the first reads, untrained, the value that followed a like key."""

import pytest
import torch
from mplat.core.errors import UsageError
from mplat.models import ModelConfig, build
from mplat.models.parts.recall import inverse_softplus, recall_taps

SHAPES = {
    "mamba": ModelConfig("mamba", vocab_size=512, d_model=128, n_layers=3, state_size=16),
    "mamba2": ModelConfig("mamba2", vocab_size=512, d_model=128, n_layers=3, state_size=32, head_dim=32),
}


def hits(arch, init, layer):
    """Share of sequences "k1 k1' v1 ... kn kn' vn, ki ki'" in which C of the last token points at vi's B.

    The position with the greatest C_t . B_s among the values' positions is compared with that of the right value.
    """
    model = build(SHAPES[arch], seed=3, dtype=torch.float64, init=init)
    generator = torch.Generator().manual_seed(0)
    n, found = 8, 0
    for _ in range(40):
        facts = torch.randperm(512, generator=generator)[: 3 * n].view(n, 3)
        asked = int(torch.randint(n, (), generator=generator))
        tokens = torch.cat([facts.flatten(), facts[asked, :2]])[None]
        names = [f"blocks.{layer}.mixer.{name}" for name in ("B", "C")]
        with torch.no_grad(), model.capture(*names) as found_at:
            model(tokens)
        B, C = (found_at[name][0] for name in names)
        scores = B[2 : 3 * n : 3] @ C[-1]
        found += int(scores.argmax()) == asked
    return found / 40


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize("layer", [1, 2])
def test_layers_after_the_first_point_at_the_value_of_the_key(arch, layer):
    assert hits(arch, "recall", layer) > 0.5  # one in eight by chance
    assert hits(arch, "reference", layer) < 0.3


@pytest.mark.parametrize("arch", SHAPES)
def test_the_first_layer_and_the_embeddings_are_those_of_the_reference(arch):
    reference, recall = (build(SHAPES[arch], seed=1, init=init).state_dict() for init in ("reference", "recall"))
    changed = {name for name in recall if not torch.equal(recall[name], reference[name])}
    assert changed and all(name.startswith(("backbone.layers.1.", "backbone.layers.2.")) for name in changed)
    again = build(SHAPES[arch], seed=1, init="recall").state_dict()
    assert all(torch.equal(recall[name], again[name]) for name in recall)


def test_unknown_initialisation_is_named():
    with pytest.raises(UsageError, match="recal"):
        build(SHAPES["mamba"], init="recal")  # pyright: ignore[reportArgumentType]


def test_taps_reach_no_further_than_the_kernel():
    conv = torch.nn.Conv1d(2, 2, 2, groups=2)
    recall_taps(conv, slice(None), shift=1)
    assert conv.weight[:, 0].tolist() == [[1.0, 0.0]] * 2 and conv.bias is not None and not conv.bias.any()


def test_inverse_softplus():
    assert torch.nn.functional.softplus(torch.tensor(inverse_softplus(0.02))).item() == pytest.approx(0.02)
