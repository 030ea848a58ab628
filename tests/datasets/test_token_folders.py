"""Split, duplicates and order of token folders, each against the definition written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import InputError
from mplat.datasets.tokens.division import divide, without_near
from mplat.datasets.tokens.duplicates import SKETCH, nearest
from mplat.datasets.tokens.folder import TokenFolder
from mplat.datasets.tokens.inspection import inspect
from mplat.datasets.tokens.mixture import Mixture, quotas
from mplat.datasets.tokens.split import held_out
from mplat.datasets.tokens.stream import DocumentStream
from mplat.datasets.tokens.token_corpus import Corpus, Documents, documents_of
from token_folders import write_tokens

#: set, place of the hash between 0 and 2^64 in 64ths, tokens
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 63), st.integers(1, 30)), max_size=40)


def documents(rows: list[tuple[int, int, int]]) -> Documents:
    """Equal hashes stand for equal texts, so they have equal lengths."""
    length = {place: tokens for _, place, tokens in rows}
    columns = [(s, place << 58, length[place]) for s, place, _ in rows]
    sets, hashes, tokens = (np.array([row[i] for row in columns], dtype=np.uint64) for i in range(3))
    lengths = tokens.astype(np.int64)
    offset = np.cumsum(lengths) - lengths
    return Documents(("a", "b", "c"), sets.astype(np.int32), offset, lengths, lengths * 3, hashes)


def by_rule(found: Documents, share: float, most: int) -> set[tuple[int, int]]:
    """(set, hash) of what is held out, taken one by one."""
    out: set[tuple[int, int]] = set()
    for s in range(3):
        mine = {int(h): int(t) for h, t in zip(found.hash[found.set == s], found.tokens[found.set == s], strict=True)}
        taken = 0
        for value in sorted(mine):
            if value < share * 2**64 and taken < most and mine[value] > 1:
                out.add((s, value))
                taken += mine[value]
    return out


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.1, 0.5, 0.9]), st.integers(1, 100), st.randoms(use_true_random=False))
def test_the_split_is_the_rule_whatever_the_order(rows, share, most, random) -> None:
    def chosen(rows: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        found = documents(rows)
        mask = held_out(found, share, most)
        return sorted(zip(found.set[mask].tolist(), found.hash[mask].tolist(), strict=True))

    first = chosen(rows)
    assert set(first) == by_rule(documents(rows), share, most)
    lengths = {place: tokens for _, place, tokens in rows}
    shuffled = [(s, place, lengths[place]) for s, place, _ in rows]
    random.shuffle(shuffled)
    assert chosen(shuffled) == first


def containment(asked: list[list[int]], others: list[list[int]], n: int) -> list[float]:
    def shingles(tokens: list[int]) -> set[tuple[int, ...]]:
        return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}

    found = [shingles(tokens) for tokens in others]
    return [
        max((len(mine & other) / len(mine) for other in found), default=0.0) if (mine := shingles(one)) else 0.0
        for one in asked
    ]


TOKENS = st.lists(st.integers(0, 3), max_size=25)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(TOKENS, min_size=2, max_size=12), st.integers(2, 6), st.integers(1, 4), st.sampled_from([1, 3]))
def test_containment_is_that_of_sets(tmp_path_factory, texts, n, size, cut) -> None:
    size = min(size, len(texts) - 1)
    place = tmp_path_factory.mktemp("near")
    parts = [write_tokens(place / "a", [("", t) for t in texts[:cut]], "uint32")]
    if texts[cut:]:
        parts.append(write_tokens(place / "b", [("", t) for t in texts[cut:]]))
    corpus = Corpus.open(parts)
    asked, others = np.arange(size), np.arange(size, len(texts))
    near = nearest(corpus, asked, others, n, (1, 0))
    assert near.share.tolist() == containment(texts[:size], texts[size:], n)
    for one, share, other in zip(texts[:size], near.share, near.document, strict=True):
        assert (other < 0) == (share == 0)
        assert other < 0 or containment([one], [texts[other]], n) == [share]


def test_planted_near_duplicates_are_found_and_no_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 1000, rng.integers(200, 2000)).tolist() for _ in range(60)]
    boilerplate = rng.integers(1, 1000, 60).tolist()  # that many share is no duplicate
    texts = [text[:100] + boilerplate + text[100:] for text in texts]
    edited = list(texts[0])
    for i in range(50, len(edited), 100):
        edited[i] = 0
    inside = [*texts[7], *texts[1], *texts[8]]
    half = texts[2][: len(texts[2]) // 3]
    corpus = Corpus.open([write_tokens(tmp_path / "f", [("", t) for t in [*texts, edited, inside, half]])])
    near = nearest(corpus, np.arange(6), np.arange(20, 63), 13, (1, 0))
    assert (near.share >= 0.5).tolist() == [True, True, False, False, False, False]
    assert near.document[:3].tolist() == [60, 61, 62] and near.share[1] == 1
    exact = containment(texts[:6], [*texts[20:], edited, inside, half], 13)
    assert len(texts[0]) > SKETCH + 12 and np.abs(near.share - exact).max() < 4 * 0.022
    layout = nearest(corpus, np.array([0]), np.array([60]), len(texts[0]) - 1, (2, 1))
    assert layout.share[0] == 0


def test_copies_are_counted_by_where_they_are(tmp_path: Path) -> None:
    texts = [[i, *range(1, 30)] for i in range(1, 200)]
    corpus = Corpus.open([write_tokens(tmp_path / "plain", [("A", t) for t in texts])])
    held = np.flatnonzero(held_out(corpus.documents, 0.2, 10**9))
    smallest = held[np.argsort(corpus.documents.hash[held])]
    trained = int(np.flatnonzero(~held_out(corpus.documents, 0.2, 10**9))[0])
    # of set A one document more than the bound lets in; set B holds a text that A has in training, one it holds out
    planted = [("A", texts[trained]), ("A", texts[smallest[0]]), ("B", texts[smallest[1]]), ("B", texts[smallest[-1]])]
    path = write_tokens(tmp_path / "planted", [*(("A", t) for t in texts), *planted])
    corpus = Corpus.open([path])
    most = 31 * (len(held) - 1)
    for deduplicate in (False, True):
        found = divide(corpus, share=0.2, most_tokens=most, deduplicate=deduplicate)
        assert found.left_out == {
            "held_out_copies": 2, "held_out_exact": 1, "held_out_near": 0, "training_copies": int(deduplicate)
        }  # fmt: skip
        assert found.training_copies == int(not deduplicate)
        assert len(found.training) == len(texts) - len(held) + 1 + (not deduplicate)
        assert len(found.training) + len(found.held_out) + sum(found.left_out.values()) == len(texts) + 4
    near = np.zeros(len(found.held_out), dtype=bool)
    near[0] = True
    assert without_near(found, near).left_out["held_out_near"] == 1


def test_an_inspection_is_kept_and_refused_where_it_is_damaged(tmp_path: Path, monkeypatch) -> None:
    texts = [[i, *range(1, 30)] for i in range(1, 50)]
    corpus = Corpus.open([write_tokens(tmp_path / "f", [("", t) for t in texts])])
    division = divide(corpus, share=0.2, most_tokens=10**6, deduplicate=False)
    first = inspect(corpus, division, 1024, 13, (1, 0), tmp_path / "kept")
    assert first.min() >= 16 / 18  # all share but their first token
    monkeypatch.setattr("mplat.datasets.tokens.inspection.nearest", None)
    assert (inspect(corpus, division, 1024, 13, (1, 0), tmp_path / "kept") == first).all()
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_text('{"held_out": []}')
    with pytest.raises(InputError, match="damaged; delete it"):
        inspect(corpus, division, 1024, 13, (1, 0), tmp_path / "kept")


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.integers(0, 300), st.integers(1, 40))
def test_shares_are_exact_at_every_moment(weights, first, count) -> None:
    quota = np.array(weights, dtype=np.int64)
    total = int(quota.sum())
    sets, numbers = Mixture(quota).draws(0, 3 * total)
    drawn = np.zeros(len(quota), dtype=np.int64)
    for position, (s, number) in enumerate(zip(sets, numbers, strict=True), start=1):
        assert number == drawn[s]
        drawn[s] += 1
        for w, n in zip(weights, drawn, strict=True):
            assert w * position // total <= n <= -(-w * position // total)
    assert (drawn == 3 * quota).all()
    first, count = first % total, min(count, 2 * total)
    anywhere = Mixture(quota)
    for _ in range(2):  # once from the start, once where it stands already
        again = anywhere.draws(first, count)
        assert (again[0] == sets[first : first + count]).all() and (again[1] == numbers[first : first + count]).all()


def test_quotas_are_whole_numbers_in_the_ratio_of_weights_and_rows() -> None:
    assert quotas([10, 20, 7], [1, 1.5, 0]).tolist() == [1, 3, 0]
    assert quotas([3, 1, 1], [0.1, 0.2, 0.3]).tolist() == [3, 2, 3]
    large = [10**11, 3, 7 * 10**10]
    found = quotas(large, [1, 1, 2.5])
    assert found.min() >= 1 and found.sum() <= 2**31
    assert np.allclose(found / found.sum(), np.array(large) * [1, 1, 2.5] / 275_000_000_003, atol=2e-9, rtol=0)
    sets, _ = Mixture(found).draws(0, 1000)
    assert abs((sets == 0).sum() - 1000 * 10 / 27.5) < 1


def test_a_position_far_on_is_the_same_as_on_the_way() -> None:
    mixture = Mixture(np.array([123_457, 7, 54_321]))
    sets, numbers = mixture.draws(1_000_000, 10)
    walked = Mixture(np.array([123_457, 7, 54_321]))
    for first in range(0, 1_000_000, 50_000):
        walked.draws(first, 50_000)
    again = walked.draws(1_000_000, 10)
    assert (again[0] == sets).all() and (again[1] == numbers).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30), st.data())
def test_a_stream_is_the_concatenation(tmp_path_factory, layout, data) -> None:
    rng = np.random.default_rng(0)
    texts = [("", rng.integers(1, 1000, n).tolist()) for n, _ in layout]
    place, cut = tmp_path_factory.mktemp("stream"), len(texts) // 2
    parts = [write_tokens(place / "a", texts[: cut + 1])]
    parts += [write_tokens(place / "b", texts[cut + 1 :], "uint32")] if texts[cut + 1 :] else []
    corpus = Corpus.open(parts)
    chosen = np.array([i for i, (_, yes) in enumerate(layout) if yes], dtype=np.int64)
    whole = [token for i in chosen for token in (0, *texts[i][1])]
    stream = DocumentStream(corpus, chosen)
    assert len(stream) == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    assert stream.read(start, np.empty(length, dtype=np.int64)).tolist() == whole[start : start + length]


def test_opening_needs_a_document_and_checks_on_demand(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path / "f", [("A", [5, 6]), ("", [7])])
    opened = TokenFolder.open(folder)
    documents = documents_of(opened)
    assert documents.sets == ("A", "") and documents.set.tolist() == [0, 1]
    assert opened.tokens.tolist() == [0, 5, 6, 0, 7] and math.isclose(documents.tokens.sum(), 5)
    opened.verify()
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[2] ^= 1
    (folder / "tokens.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"tokens\.bin: damaged"):
        TokenFolder.open(folder).verify()
