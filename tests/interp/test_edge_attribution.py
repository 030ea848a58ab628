"""Attributions of edges and units: exact where a model is linear, slopes where it is not, planted edges first."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from model_zoo import nano, tokens
from mplat.interp.methods.circuit_graph import Graph, graph_of
from mplat.interp.methods.circuit_runs import cut_logits, source_of
from mplat.interp.methods.contrasts import Contrast, Pairs, pairs_of
from mplat.interp.methods.edge_attribution import Method, edge_attributions
from mplat.interp.methods.faithfulness import auc
from mplat.interp.methods.recurrences import scans_of
from mplat.interp.methods.unit_attribution import unit_attributions
from mplat.models import LanguageModel
from mplat.models.mixer import MIXERS
from planted_circuits import contrasts_of, grown, planted_edges
from torch import Tensor, nn
from toy_mixers import toys

CPU = torch.device("cpu")


def random_pairs(rows: int = 3, width: int = 8) -> Pairs:
    clean, corrupted = tokens(rows, width, seed=3), tokens(rows, width, seed=4)
    return pairs_of(
        [Contrast(str(i), tuple(a), tuple(b), 1, 2)
         for i, (a, b) in enumerate(zip(clean.tolist(), corrupted.tolist(), strict=True))], CPU
    )  # fmt: skip


def losses(model: LanguageModel, graph: Graph, pairs: Pairs) -> Tensor:
    """By how much m falls when each edge is cut alone, (B, n_edges)."""
    source = source_of(model, graph, pairs.corrupted, pairs.mask)
    n = len(graph.edges)
    cut = torch.cat([torch.zeros(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)])
    metric = torch.stack(
        [pairs.judge(logits, "logit_diff") for logits in cut_logits(model, graph, pairs.clean, pairs.mask, cut, source)]
    )
    return (metric[0] - metric[1:]).T


class Linear(nn.Module):
    """In the place of a norm or a nonlinear projection: one matrix, or nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@torch.no_grad()
def linear_model(n_layers: int = 3) -> LanguageModel:
    """A recurrence with fixed rates between linear maps, without norms: its logits are linear in the embeddings, and
    what an edge carries enters them linearly."""
    model = nano("leaky_linear", n_layers=n_layers, tie_embeddings=False)
    for block in model.blocks:
        block.norm = Linear()
    model.backbone.norm_f = Linear()
    model.backbone.embeddings.weight.mul_(0.3)
    return model


@pytest.fixture(scope="module", autouse=True)
def _linear_mixer():
    """h_t = exp(A) h_{t-1} + x_t, y = h + D x, x = in_proj(u): a mixer without a nonlinearity."""
    from mplat.models.kernels import selective_scan
    from mplat.models.linear_recurrence import Recurrence
    from mplat.models.mixer import Mixer, SiteInfo
    from mplat.models.parts.recurrence import reset_linear

    class LeakyLinear(Mixer):
        def __init__(self, config, layer=0):
            super().__init__(config, layer)
            d = config.d_model
            self.in_proj, self.out_proj = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
            self.rate, self.skip = nn.Parameter(torch.empty(d, 1)), nn.Parameter(torch.empty(d))

        def reset_parameters(self, generator):
            for layer in (self.in_proj, self.out_proj):
                reset_linear(layer.weight, None, self.config.d_model, generator)
            nn.init.uniform_(self.rate, -2.0, 0.0, generator=generator)
            nn.init.ones_(self.skip)

        def recurrences(self, dtype=torch.float64):
            A, D = -self.rate.detach().to(dtype).exp(), self.skip.detach().to(dtype)
            return (Recurrence(A, D, delta=None, B=None, C=None),)

        def zero_state(self, batch, dtype, device):
            return {"h": torch.zeros(batch, self.config.d_model, 1, dtype=dtype, device=device)}

        def site_table(self):
            d = (self.config.d_model,)
            return [SiteInfo("x", d, "input"), SiteInfo("y", d, "leaky sum")]

        def forward(self, u, run, prefix, state, need_state):
            x = run.site(prefix + "x", self.in_proj(u))
            one = torch.ones_like(x[..., :1])
            y = selective_scan(x, torch.ones_like(x), -self.rate.exp(), one, one, self.skip)
            return self.out_proj(run.site(prefix + "y", y)), None

    MIXERS.add("leaky_linear", LeakyLinear, __name__)
    yield
    MIXERS._entries.pop("leaky_linear", None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["eap", "eap_ig"])
def test_in_a_linear_model_attributions_are_what_cutting_an_edge_costs(method: Method) -> None:
    model, pairs = linear_model(), random_pairs()
    graph = graph_of(model, range(3), 4)
    assert {edge.kind for edge in graph.edges} == {"residual", "state"}
    exact = losses(model, graph, pairs)
    found = edge_attributions(model, graph, pairs, method=method)
    assert exact.abs().min(0).values.median() > 1e-3
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_elsewhere_they_are_slopes(arch: str) -> None:
    """Exact only to first order: as the corrupted embeddings come close to the clean ones, estimate / loss -> 1."""
    model = nano(arch)
    with torch.no_grad():  # two words a little apart, of which one stands in the clean and one in the corrupted prompts
        table = model.backbone.embeddings.weight
        direction = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = pairs_of([Contrast("a", (3, 5, 7, 4, 9, 11), (3, 5, 8, 4, 9, 11), 1, 2)], CPU)
    graph = graph_of(model, range(2), 2)
    errors = []
    for size in (1.0, 1e-3):
        with torch.no_grad():
            table[8] = table[7] + size * direction
        exact, found = losses(model, graph, pairs)[0], edge_attributions(model, graph, pairs, method="eap")[0]
        felt = exact.abs() > 1e-3 * exact.abs().max()
        assert felt.sum() > 8
        errors.append(float((found / exact - 1)[felt].abs().max()))
    assert errors[1] < 0.02 < errors[0]


@torch.no_grad()
def test_dropped_gradients_see_what_cancels() -> None:
    """Block 1 takes away whatever block 0 adds: in the derivative nothing of block 0 is left."""
    model, pairs = linear_model(2), random_pairs()
    first, second = (cast(Any, block.mixer) for block in model.blocks)
    model.backbone.embeddings.weight[:, 12:] = 0.0
    first.out_proj.weight[:12] = 0.0
    second.in_proj.weight.copy_(torch.eye(24))
    second.out_proj.weight.copy_(-torch.eye(24))
    second.out_proj.weight[:12] = 0.0
    second.rate.fill_(5.0)  # forgets at once, so that y = x
    second.skip.zero_()
    graph = graph_of(model, range(2), 1)
    (number,) = (i for i, e in enumerate(graph.edges) if e.name == "embed > blocks.0.mixer_in")
    plain, dropped = (edge_attributions(model, graph, pairs, method=m)[:, number] for m in ("eap", "eap_drop"))
    assert plain.abs().max() < 1e-12 and losses(model, graph, pairs)[:, number].abs().max() < 1e-12
    assert dropped.min() > 1e-3


TASKS = ["copy-mamba", "copy-mamba2", "induction-mamba", "associative-recall-mamba2", "indirect-object-mamba",
         "two-hop-mamba"]  # fmt: skip


@pytest.mark.parametrize("method", ["eap", "eap_ig", "eap_drop"])
@pytest.mark.parametrize("task", TASKS)
def test_planted_edges_rank_first(task: str, method: Method) -> None:
    planted, model = grown(f"planted-{task}")
    pairs = pairs_of(contrasts_of(planted, 8), CPU)
    graph = graph_of(model, range(model.n_layers), 8)
    truth = planted_edges(planted, graph)
    scores = edge_attributions(model, graph, pairs, method=method).mean(0)
    found = auc(scores.numpy(), truth)
    assert found is not None and found > 0.95, {e.name: float(s) for e, s in zip(graph.edges, scores, strict=True)}
    shuffled = torch.randperm(len(truth), generator=torch.Generator().manual_seed(1))
    control = auc(scores[shuffled].numpy(), truth)
    assert control is not None and control < 0.9


def test_planted_coordinates_rank_first() -> None:
    planted, model = grown("planted-copy-mamba")
    pairs = pairs_of(contrasts_of(planted, 8), CPU)
    scans = [scan for layer in range(2) for scan in scans_of(model, layer)]
    found = unit_attributions(model, pairs, ["blocks.0.mixer_out"], ["blocks.0.mixer.conv_state"], scans)
    for part in planted.truth.of("state"):
        scores = found.states[f"blocks.{part.layer}.mixer."]
        truth = torch.zeros_like(scores, dtype=torch.bool)
        for cell in part.cells:
            truth[cell] = True
        area = auc(scores.flatten().numpy(), truth.flatten().numpy())
        assert area is not None and area > 0.99
    (output,) = planted.truth.of("output", layer=0)
    truth = [c in output.channels for c in range(model.config.d_model)]
    area = auc(found.channels["blocks.0.mixer_out"].mean(0).numpy(), truth)
    assert area is not None and area > 0.95


def test_toys_have_state_edges_too() -> None:
    """An architecture that no file of the package knows, by what it declares."""
    with toys():
        model = nano("tally")
        graph = graph_of(model, range(2), 2)
        assert sum(e.kind == "state" for e in graph.edges) == 4
