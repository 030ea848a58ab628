"""Cut edges: nothing, everything, and single ones, held against edits of the same forward pass made by hand."""

from __future__ import annotations

import pytest
import torch
from interp_jobs import reader
from model_zoo import ARCHITECTURES, nano, tokens
from mplat.core.errors import ToleranceError
from mplat.interp.methods.circuit_graph import Convolution, Graph, graph_of
from mplat.interp.methods.circuit_runs import cut_logits, past_of, source_of
from mplat.interp.methods.contrasts import Contrast, contrasts, pairs_of
from mplat.interp.methods.recurrences import scans_of
from mplat.models import LanguageModel, Replace, Scale
from torch import Tensor

CLEAN, CORRUPTED = tokens(3, 9, seed=1), tokens(3, 9, seed=2)
MASK = torch.ones(3, 9, dtype=torch.bool)
MASK[1, 6:] = False


def run(model: LanguageModel, graph: Graph, *cut: list[int]) -> Tensor:
    patterns = torch.zeros(len(cut), len(graph.edges), dtype=torch.bool)
    for row, edges in enumerate(cut):
        patterns[row, edges] = True
    return cut_logits(model, graph, CLEAN, MASK, patterns, source_of(model, graph, CORRUPTED, MASK), rows=6)


@torch.no_grad()
def ends(model: LanguageModel, ids: Tensor) -> Tensor:
    return model(ids, MASK, last_only=True)[:, 0]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_edge_cut_is_the_clean_run_to_the_bit_and_all_of_them_cut_the_corrupted_one(arch: str) -> None:
    model = nano(arch)
    graph = graph_of(model, range(2), 3)
    (none,) = run(model, graph, [])
    every, one = run(model, graph, list(range(len(graph.edges))), [0])
    assert torch.equal(none, ends(model, CLEAN))
    torch.testing.assert_close(every, ends(model, CORRUPTED), rtol=0, atol=1e-9)
    assert (one - none).abs().max() > 1e-4 and (one - every).abs().max() > 1e-4


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "moe_mamba"])
@torch.no_grad()
def test_a_cut_residual_edge_changes_what_one_part_reads_and_nothing_else(arch: str) -> None:
    """By hand: the stream with the other output in it goes through the receiver's norm, and only there."""
    model = nano(arch)
    graph = graph_of(model, range(2), 1)
    names = ["embed", "blocks.0.mixer_out", "blocks.1.resid_pre", "blocks.1.resid_post"]
    with model.capture(*names) as clean:
        model(CLEAN, MASK)
    with model.capture(*names) as corrupted:
        model(CORRUPTED, MASK)
    number = {edge.name: i for i, edge in enumerate(graph.edges)}
    for sender in names[:2]:
        moved = corrupted[sender] - clean[sender]
        u = model.blocks[1].norm(clean["blocks.1.resid_pre"] + moved)
        with model.edit(Replace("blocks.1.mixer_in", u)):
            expected = ends(model, CLEAN)
        (found,) = run(model, graph, [number[f"{sender} > blocks.1.mixer_in"]])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        (found,) = run(model, graph, [number[f"{sender} > head"]])
        last = (clean["blocks.1.resid_post"] + moved)[range(3), MASK.sum(1) - 1]
        torch.testing.assert_close(found, model.unembed(last[:, None])[:, 0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "dense_mamba"])
@torch.no_grad()
def test_what_a_read_out_finds_of_earlier_tokens_is_its_state_without_its_own_write(arch: str) -> None:
    """past_t = sum over n of C_t[n] (h_t - write_t)[n], from the sites of the states themselves."""
    model = nano(arch)
    scans = [scan for layer in range(2) for scan in scans_of(model, layer)]
    for scan in scans:
        states = [scan.prefix + name for name in ("h", "write")]
        with model.capture(*scan.inputs, *scan.outputs, *states) as acts:
            model(CLEAN)
        values = scan.rebuild(acts)
        group = values.group_of(torch.arange(values.x.shape[2]) // values.unit_width)
        expected = ((acts[states[0]] - acts[states[1]]) * values.C[:, :, group]).sum(-1)
        torch.testing.assert_close(past_of(scan, acts), expected, rtol=0, atol=1e-10)
        assert expected[:, 0].abs().max() < 1e-12 < expected[:, 1:].abs().max()
    assert scans or arch == "dense_mamba"


@torch.no_grad()
def test_a_cut_state_edge_replaces_the_read_out_of_its_channels_alone() -> None:
    model = nano("mamba2")
    graph = graph_of(model, range(2), 3)
    (number,) = (i for i, e in enumerate(graph.edges) if e.kind == "state" and e.layer == 1 and e.channels == (16, 32))
    (scan,) = scans_of(model, 1)
    pasts = []
    for ids in (CLEAN, CORRUPTED):
        with model.capture(*scan.inputs, *scan.outputs) as acts:
            model(ids, MASK)
        pasts.append(past_of(scan, acts))
    with model.capture("blocks.1.mixer.y") as acts:
        model(CLEAN, MASK)
    y = acts["blocks.1.mixer.y"].clone()
    y[..., 16:32] += (pasts[1] - pasts[0])[..., 16:32]
    with model.edit(Replace("blocks.1.mixer.y", y)):
        expected = ends(model, CLEAN)
    torch.testing.assert_close(run(model, graph, [number])[0], expected, rtol=0, atol=1e-10)


def test_a_cut_convolution_gives_the_same_by_its_formula_and_by_replacing_its_window() -> None:
    model = nano("mamba")
    graph = graph_of(model, range(2), 1)
    assert all(convolution.scan is not None for convolution in graph.convolutions)
    slow = graph._replace(convolutions=tuple(Convolution(c.site, None) for c in graph.convolutions))
    edges = [i for i, e in enumerate(graph.edges) if e.kind == "conv"]
    for cut in (edges, edges[1:]):
        torch.testing.assert_close(run(model, graph, cut), run(model, slow, cut), rtol=0, atol=1e-10)
    assert (run(model, graph, edges)[0] - ends(model, CLEAN)).abs().max() > 1e-4


def test_patterns_do_not_meet_in_a_batch() -> None:
    model = nano("mamba")
    graph = graph_of(model, range(2), 2)
    cuts = [[0], [3, 5], list(range(len(graph.edges))), []]
    together = run(model, graph, *cuts)
    for cut, found in zip(cuts, together, strict=True):
        torch.testing.assert_close(found, run(model, graph, cut)[0], rtol=0, atol=1e-12)


def test_a_model_whose_stream_is_no_sum_has_no_edges() -> None:
    model = nano("mamba")
    with model.edit(Scale("blocks.0.resid_post", 2.0)), pytest.raises(ToleranceError, match="not the sum"):
        source_of(model, graph_of(model, range(2), 1), CLEAN, MASK)


# -- contrasts --------------------------------------------------------------------------------------------------------


def test_a_contrast_states_the_partners_answer_wherever_the_own_one_stood() -> None:
    from mplat.interp.engine.batches import Item

    items = [
        Item("a", (1, 7, 8, 2, 7, 8, 3), (7, 8), (4, 6), "x"),
        Item("b", (1, 7, 9, 3), (7, 9), (1, 3), "x"),
        Item("c", (1, 5, 3), (5,), (1, 2), "x"),
        Item("d", (1, 2), (4,), None, "x"),
    ]
    found = contrasts(items, 0)
    assert found["a"] == Contrast("a", (1, 7, 8, 2, 7, 8, 3, 7), (1, 7, 9, 2, 7, 9, 3, 7), 8, 9, "x", 1)
    assert found["c"] == "no other question states another answer of as many tokens"
    assert found["d"] == "the prompt does not state the answer"
    partner = found["b"]
    assert isinstance(partner, Contrast) and (partner.answer, partner.foil) == (9, 8)
    pairs = pairs_of([partner], torch.device("cpu"))
    logits = torch.zeros(1, 12, dtype=torch.float64)
    logits[0, 9], logits[0, 8] = 3.0, 1.0
    assert pairs.judge(logits, "logit_diff").item() == 2.0
    assert pairs.judge(logits, "logprob").item() == pytest.approx(logits.log_softmax(-1)[0, 9].item())


def test_generated_questions_have_contrasts() -> None:
    from interp_jobs import asked
    from mplat.interp.engine.questions import encode

    items = encode(reader(), asked(3), max_tokens=500).items
    found = [c for c in contrasts(items, 0).values() if isinstance(c, Contrast)]
    assert len(found) >= 0.9 * len(items)
    for contrast in found:
        assert len(contrast.clean) == len(contrast.corrupted) and contrast.answer != contrast.foil
        assert contrast.clean != contrast.corrupted
