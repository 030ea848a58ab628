"""Rotary attention: against a loop over heads and tokens, with documents, records and grouped queries."""

from __future__ import annotations

import pytest
import torch
from mplat.models.access.run import Run
from mplat.models.parts import attention
from mplat.models.parts.attention import Records, attend, document_positions, recorded_attention, rotate

H, G, P = 4, 2, 6
BASE = 100.0
close = {"rtol": 0.0, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(width: int, lengths=None, reset=None, rows: int = 2) -> Run:
    lengths = torch.full((rows,), width) if lengths is None else torch.as_tensor(lengths)
    keep = None if bool((lengths == width).all()) else torch.arange(width) < lengths[:, None]
    zero = torch.zeros(rows, dtype=torch.long)
    return Run("prefill", zero, lengths, lengths, width, False, keep=keep, reset=reset)


def qkv(width: int, rows: int = 2, seed: int = 0):
    return (
        random(rows, width, H * P, seed=seed),
        random(rows, width, G * P, seed=seed + 1),
        random(rows, width, G * P, seed=seed + 2),
    )


def turned(x: torch.Tensor, position: int) -> torch.Tensor:
    """A vector (P,) as P/2 complex numbers, each multiplied by exp(i position base^(-2 i / P))."""
    half = P // 2
    pairs = torch.complex(x[:half], x[half:])
    angle = torch.tensor([position * BASE ** (-2 * i / P) for i in range(half)], dtype=torch.float64)
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag])


def by_loops(q, k, v, starts=(0,)):
    """Attention of one row, T tokens, token by token and head by head; documents begin at `starts`."""
    out = torch.zeros_like(q)
    for t in range(len(q)):
        first = max(s for s in starts if s <= t)
        for head in range(H):
            mine = slice(head * P, (head + 1) * P)
            theirs = slice(head // (H // G) * P, (head // (H // G) + 1) * P)
            query = turned(q[t, mine], t - first)
            scores = [query @ turned(k[s, theirs], s - first) / P**0.5 for s in range(first, t + 1)]
            weights = torch.stack(scores).softmax(0)
            out[t, mine] = (weights[:, None] * v[first : t + 1, theirs]).sum(0)
    return out


def test_equals_loops_over_tokens_and_heads() -> None:
    q, k, v = qkv(9)
    z, _ = recorded_attention(run(9), q, k, v, (H, G), BASE, None, False)
    for b in range(2):
        torch.testing.assert_close(z[b], by_loops(q[b], k[b], v[b]), **close)


def test_documents_see_themselves_only_and_count_from_zero() -> None:
    q, k, v = qkv(9)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, [0, 4, 5]] = True
    reset[1, 7] = True
    z, _ = recorded_attention(run(9, reset=reset), q, k, v, (H, G), BASE, None, False)
    torch.testing.assert_close(z[0], by_loops(q[0], k[0], v[0], (0, 4, 5)), **close)
    torch.testing.assert_close(z[1], by_loops(q[1], k[1], v[1], (0, 7)), **close)
    assert document_positions(run(9, reset=reset), torch.tensor([0.0, 5.0])).tolist() == [
        [0, 1, 2, 3, 0, 0, 1, 2, 3],
        [5, 6, 7, 8, 9, 10, 11, 0, 1],
    ]


def test_grouped_queries_are_full_attention_with_repeated_heads() -> None:
    q, k, v = (x.unflatten(-1, (-1, P)) for x in qkv(7))
    repeated = [x.repeat_interleave(H // G, 2) for x in (k, v)]
    torch.testing.assert_close(attend(q, k, v), attend(q, *repeated), **close)


def test_scores_depend_on_the_distance_of_two_positions_only() -> None:
    q, k = random(1, 1, 1, P), random(1, 1, 1, P, seed=1)

    def score(i: int, j: int) -> float:
        at_i, at_j = torch.tensor([[i]]), torch.tensor([[j]])
        return float((rotate(q, at_i, 1e4) * rotate(k, at_j, 1e4)).sum())

    assert score(3, 1) == pytest.approx(score(30003, 30001), abs=1e-10)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)
    torch.testing.assert_close(rotate(q, torch.tensor([[0]]), 1e4), q, **close)
    torch.testing.assert_close(rotate(q, torch.tensor([[7]]), 1e4).norm(), q.norm(), **close)
    # float32 keeps its accuracy at far positions, because angles are float64
    far = torch.tensor([[30001]])
    torch.testing.assert_close(rotate(q.float(), far, 5e5).double(), rotate(q, far, 5e5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cuts", [[4, 5], [1] * 9, [8, 1], [2, 3, 4]])
def test_records_continue_where_the_last_call_ended(cuts: list[int]) -> None:
    q, k, v = qkv(9)
    whole, end = recorded_attention(run(9), q, k, v, (H, G), BASE, None, True)
    past: Records | None = None
    parts, at = [], 0
    for n in cuts:
        here = slice(at, at + n)
        z, past = recorded_attention(run(n), q[:, here], k[:, here], v[:, here], (H, G), BASE, past, True)
        parts.append(z)
        at += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, **close)
    assert past is not None and end is not None
    for found, expected in zip(past, end, strict=True):
        torch.testing.assert_close(found, expected, **close)


def test_rows_of_different_lengths_share_records() -> None:
    first, second = qkv(6, rows=3), qkv(3, rows=3, seed=9)
    lengths = [6, 2, 0]
    _, past = recorded_attention(run(6, lengths, rows=3), *first, (H, G), BASE, None, True)
    assert past is not None and past.seen.tolist() == [6, 2, 0] and past.keys.shape == (3, G * P, 6)
    onward = [3, 1, 2]
    z, end = recorded_attention(run(3, onward, rows=3), *second, (H, G), BASE, past, True)
    assert end is not None and end.seen.tolist() == [9, 3, 2]
    for b, (n, m) in enumerate(zip(lengths, onward, strict=True)):
        q, k, v = (torch.cat([x[b, :n], y[b, :m]]) for x, y in zip(first, second, strict=True))
        torch.testing.assert_close(z[b, :m], by_loops(q, k, v)[n:], **close)
        assert not end.keys[b, :, : end.keys.shape[2] - n - m].any()  # zeros where a row has seen fewer
    # a document that starts in the second call does not see the record, and the record forgets
    reset = torch.zeros(3, 3, dtype=torch.bool)
    reset[:, 1] = True
    z, end = recorded_attention(run(3, reset=reset, rows=3), *second, (H, G), BASE, past, True)
    q, k, v = (x[0, 1:] for x in second)
    torch.testing.assert_close(z[0, 1:], by_loops(q, k, v), **close)
    assert end is not None and end.seen.tolist() == [2, 2, 2] and end.keys.shape[2] == 2


def test_blocks_of_queries_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(13)
    reset = torch.zeros(2, 13, dtype=torch.bool)
    reset[0, 6] = True
    whole, _ = recorded_attention(run(13, reset=reset), q, k, v, (H, G), BASE, None, False)
    monkeypatch.setattr(attention, "BLOCK", 4)
    blocked, _ = recorded_attention(run(13, reset=reset), q, k, v, (H, G), BASE, None, False)
    torch.testing.assert_close(blocked, whole, **close)


@pytest.mark.parametrize("with_reset", [False, True])
def test_nothing_later_and_no_other_document_has_any_gradient(with_reset: bool) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(9))
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 3] = with_reset
    z, _ = recorded_attention(run(9, reset=reset), q, k, v, (H, G), BASE, None, False)
    for gradient in torch.autograd.grad(z[:, 5].sum(), (k, v)):
        assert not gradient[:, 6:].any() and bool(gradient[:, 3:6].any())
        assert bool(gradient[:, :3].any()) == (not with_reset)


def test_bfloat16_is_near_float64() -> None:
    q, k, v = qkv(9)
    exact, _ = recorded_attention(run(9), q, k, v, (H, G), BASE, None, False)
    rough, _ = recorded_attention(run(9), *(x.bfloat16() for x in (q, k, v)), (H, G), BASE, None, False)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=0.05)
