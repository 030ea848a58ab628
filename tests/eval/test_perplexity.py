"""Log-likelihoods of whole documents: one long forward pass in pieces, and the harness's windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.eval.summary import Resampling
from mplat.models.decoding.likelihoods import log_likelihoods, rolling_windows
from mplat.perplexity.bits_per_byte import bits_per_byte, count_words, perplexity
from mplat.perplexity.perplexity_summary import summarise
from mplat.perplexity.perplexity_worker import DOCUMENT_SCHEMA, DocumentWorker, about
from mplat.scoring.statistics import Estimate, bootstrap_ratio
from planted_models import talking

FIRST = 1
DOCUMENTS = [[(7 * i + n) % 40 for i in range(length)] for n, length in enumerate((1, 33, 9, 10, 50, 20))]


def one_forward(model, document) -> float:
    """The definition: every token of the document given all before it, in a single forward pass."""
    logits = model(torch.tensor([[FIRST, *document[:-1]]]))[0].double()
    return logits.log_softmax(-1)[range(len(document)), document].sum().item()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_carrying_the_state_equals_one_long_forward(arch):
    model = nano(arch)
    expected = [one_forward(model, d) for d in DOCUMENTS]
    for window in (7, 10, 64):
        found = log_likelihoods(model, DOCUMENTS, FIRST, method="carried", window=window)
        assert found == pytest.approx(expected, rel=1e-9), window


def test_a_window_may_be_a_single_token():
    model = nano("mamba")
    found = log_likelihoods(model, DOCUMENTS, FIRST, method="carried", window=1)
    assert found == pytest.approx([one_forward(model, d) for d in DOCUMENTS], rel=1e-9)


def test_it_is_the_state_that_is_carried():
    model = nano("mamba")
    whole = log_likelihoods(model, DOCUMENTS[4:5], FIRST, method="carried", window=10)
    pieces = sum(
        log_likelihoods(model, [DOCUMENTS[4][at : at + 10]], DOCUMENTS[4][at - 1] if at else FIRST, method="carried",
                        window=10)[0]
        for at in range(0, 50, 10)
    )  # fmt: skip
    assert abs(whole[0] - pieces) > 1e-3


def reference_windows(tokens, prefix, size):
    """lm-evaluation-harness's rolling windows with one token of context, as (inputs, targets), said by positions.

    The sequence with the prefix in front is s. Target t (0-based) is s[t + 1]. A window of n targets that ends with
    target e - 1 has the inputs s[e - n .. e - 1]; the last, shorter window of several is given `size` inputs.
    """
    s = [prefix, *tokens]
    found = []
    done = 0
    while done < len(tokens):
        n = min(size, len(tokens) - done)
        end = done + n
        start = end - size if done else 0
        found.append((s[start:end], s[done + 1 : end + 1]))
        done = end
    return found


@given(st.integers(1, 60), st.integers(1, 20))
def test_rolling_windows_are_those_of_the_harness(length, size):
    tokens = list(range(100, 100 + length))
    found = list(rolling_windows(tokens, 7, size))
    assert [(w.inputs, w.targets) for w in found] == reference_windows(tokens, 7, size)
    assert [t for w in found for t in w.targets] == tokens, "every token once, in order"
    assert all(len(w.inputs) <= size for w in found)
    assert [len(w.inputs) for w in found[1:]] == [size] * (len(found) - 1)


@pytest.mark.parametrize("arch", ["mamba2", "hyena"])
@pytest.mark.parametrize("window", [6, 10, 64])
def test_the_harness_method_sums_over_its_windows(arch, window):
    model = nano(arch)
    expected = []
    for document in DOCUMENTS:
        total = 0.0
        for inputs, targets in reference_windows(document, FIRST, window):
            log_p = model(torch.tensor([inputs]))[0].double().log_softmax(-1)[-len(targets) :]
            total += log_p[range(len(targets)), targets].sum().item()
        expected.append(total)
    found = log_likelihoods(model, DOCUMENTS, FIRST, method="harness", window=window)
    assert found == pytest.approx(expected, rel=1e-9)


def test_both_methods_agree_where_a_document_fits_into_one_window():
    model = nano("mamba")
    carried = log_likelihoods(model, DOCUMENTS, FIRST, method="carried", window=64)
    assert carried == pytest.approx(log_likelihoods(model, DOCUMENTS, FIRST, method="harness", window=64), rel=1e-9)
    shorter = log_likelihoods(model, DOCUMENTS, FIRST, method="harness", window=10)
    assert shorter[:1] + shorter[2:4] == pytest.approx(carried[:1] + carried[2:4], rel=1e-9)
    assert shorter[4] != pytest.approx(carried[4], rel=1e-4)


def test_no_documents_have_no_values():
    assert log_likelihoods(nano("mamba"), [], FIRST, method="carried", window=8) == []
    assert log_likelihoods(nano("mamba"), [], FIRST, method="harness", window=8) == []


# -- definitions ----------------------------------------------------------------------------------------------------


def test_definitions():
    assert bits_per_byte(-8 * math.log(2), 4) == pytest.approx(2.0)
    assert perplexity(-10 * math.log(3), 10) == pytest.approx(3.0)
    assert perplexity(-1e6, 1) is None, "beyond every float"
    assert [count_words(t) for t in ("a b", "a  b\n", " a", "")] == [2, 3, 2, 1]


def row(name, set_name, log_likelihood, n_bytes, n_words, status="ok"):
    return {
        "document_id": name, "set_name": set_name, "model": "m", "method": "carried", "window": 8, "n_bytes": n_bytes,
        "n_words": n_words, "n_tokens": 5, "status": status,
        "log_likelihood": log_likelihood if status == "ok" else None,
    }  # fmt: skip


def test_a_set_is_summed_over_its_documents_and_failures_are_counted_not_summed():
    import pyarrow as pa

    rows = [row("a", "X", -20.0, 10, 3), row("b", "X", -60.0, 20, 5), row("c", "Y", -1.0, 4, 1),
            row("d", "X", 0.0, 999, 99, "model_nonfinite")]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
    x, y, everything = summarise(table, "carried", Resampling(0, 0.95, 200))
    assert (x.name, x.documents, x.scored, x.bytes, x.words) == ("X", 3, 2, 30, 8)
    assert x.estimates["bits_per_byte"].mean == pytest.approx(80 / (30 * math.log(2)))
    assert x.estimates["byte_perplexity"].mean == pytest.approx(math.exp(80 / 30))
    assert x.estimates["word_perplexity"].mean == pytest.approx(math.exp(80 / 8))
    for estimate in x.estimates.values():
        assert estimate.mean is not None and estimate.low is not None and estimate.high is not None
        assert estimate.low <= estimate.mean <= estimate.high
    # the two documents alone are the most extreme resamples
    assert x.estimates["bits_per_byte"].low == pytest.approx(2 / math.log(2))
    assert x.estimates["bits_per_byte"].high == pytest.approx(3 / math.log(2))
    assert y.estimates["bits_per_byte"] == Estimate(1, pytest.approx(0.25 / math.log(2)), None, None)
    assert everything.name == "all"
    assert everything.estimates["bits_per_byte"].mean == pytest.approx(81 / 34 / math.log(2))
    assert set(summarise(table, "harness", Resampling(0, 0.95, 200))[0].estimates) == {
        "pile_bits_per_byte", "pile_byte_perplexity", "pile_word_perplexity",
    }  # fmt: skip


def test_a_set_without_a_value_has_none():
    import pyarrow as pa

    table = pa.Table.from_pylist([row("a", "X", 0.0, 9, 1, "bad_input")], schema=DOCUMENT_SCHEMA)
    assert summarise(table, "carried", Resampling(0, 0.95, 200))[0].estimates["bits_per_byte"].mean is None


def test_the_interval_of_a_ratio_resamples_both_together():
    rng = np.random.default_rng(1)
    b = rng.uniform(1, 100, 60)
    a = 2.5 * b
    exact = bootstrap_ratio(a, b, seed=0)
    assert (exact.mean, exact.low, exact.high) == pytest.approx((2.5, 2.5, 2.5))
    noisy = a + rng.normal(0, 10, 60)
    found = bootstrap_ratio(noisy, b, seed=0, n_resamples=4000)
    # the delta method: variance of sum(a - r b) / sum(b)
    r = noisy.sum() / b.sum()
    half = 1.96 * math.sqrt(60) * np.std(noisy - r * b) / b.sum()
    assert found.mean == pytest.approx(r)
    assert (found.low, found.high) == pytest.approx((r - half, r + half), rel=0.02)
    assert found == bootstrap_ratio(noisy, b, seed=0, n_resamples=4000)
    assert bootstrap_ratio([3.0], [2.0], seed=0) == Estimate(1, 1.5, None, None)
    assert bootstrap_ratio([], [], seed=0) == Estimate(0, None, None, None)
    with pytest.raises(UsageError, match="greater than 0"):
        bootstrap_ratio([1.0], [0.0], seed=0)


# -- the worker -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return talking("mamba2")


def item(name, text):
    return {"document_id": name, "set_name": "S", "text": text, "model": "m"}


def test_a_row_says_what_was_read(model):
    texts = {"a": "Bekdok lives in Kanbak.", "b": "\u00e9 \u2028x", "c": "The boss of Bekdok is Zusnen. " * 9}
    rows = DocumentWorker(model, "carried", 16).run({"items": [item(*pair) for pair in texts.items()]}).to_pylist()
    for found, (name, text) in zip(rows, texts.items(), strict=True):
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([[model.tokenizer.bos_token_id, *ids[:-1]]]))[0].double()
        expected = logits.log_softmax(-1)[range(len(ids)), ids].sum().item()
        assert found["log_likelihood"] == pytest.approx(expected, rel=1e-4)
        assert (found["document_id"], found["n_bytes"], found["n_tokens"]) == (name, len(text.encode()), len(ids))
        assert found["n_words"] == count_words(text)
        assert found["status"] == "ok"


def test_what_goes_wrong_with_one_document_is_its_status(model, monkeypatch):
    def sometimes(model, documents, first, *, method, window):
        if any(len(d) > 20 for d in documents):
            raise RuntimeError("too much")
        return [float("nan") if len(d) == 1 else -1.0 for d in documents]

    monkeypatch.setattr("mplat.models.decoding.scored_texts.log_likelihoods", sometimes)
    rows = (
        DocumentWorker(model, "carried", 16)
        .run({"items": [item("a", "The boss"), item("b", "a " * 40), item("c", "a"), item("d", "")]})
        .to_pylist()
    )
    assert [r["status"] for r in rows] == ["ok", "scorer_error", "model_nonfinite", "bad_input"]
    assert [r["log_likelihood"] for r in rows] == [-1.0, None, None, None]
    assert all(bool(r["reason"]) == (r["status"] != "ok") for r in rows)


def test_what_is_known_before_reading():
    known = about(item("a", "\u00e9 b"), "carried", 4)
    assert (known["n_bytes"], known["n_words"]) == (4, 2) and set(known) <= set(DOCUMENT_SCHEMA.names)
