"""The price in a summary: what steering costs on held-out text, by the rows of `side_effects`.

The unit is the document: windows of one are averaged first. `bits_per_byte` is over all bytes of the texts that were
read in every condition, as it is defined (sum of bits over sum of bytes); its paired differences are those of the
texts' own ratios. A function of a table; reads and writes no file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..scoring.statistics import Estimate, Resampling, bootstrap_ratio

if TYPE_CHECKING:
    from .summary import Measure

Row = Mapping[str, Any]
#: rows, the column that says what counts as one, and the column of the values -> estimates and paired differences
MeasureOf = Callable[[Sequence[Row], str, str], "Measure"]
_METRICS = ("nll", "bits_per_byte", "kl", "top1_agreement", "edit_norm")


@dataclass(frozen=True)
class Price:
    """What steering costs on held-out text; positive differences of nll, bits per byte and kl are a cost.

    texts: how many; documents: of so many, which are the units. source: what the texts are. nll: mean negative
    log-likelihood of a token, nats. text_bits_per_byte: mean over documents of bits per byte. kl: KL(unsteered ||
    condition) of a token, nats. top1_agreement: share of tokens with the likeliest token of the unsteered model.
    edit_norm: the dose, ||edit|| / ||site|| of a token. bits_per_byte: family -> sum of bits over sum of bytes.
    failed: rows without a value.
    """

    texts: int
    documents: int
    source: str
    nll: Measure
    text_bits_per_byte: Measure
    kl: Measure
    top1_agreement: Measure
    edit_norm: Measure
    bits_per_byte: dict[str, Estimate]
    failed: int


def summarise_price(rows: Sequence[Row], families: Sequence[str], how: Resampling, measure: MeasureOf) -> Price:
    """The price that `rows` of PRICE_SCHEMA say."""
    of_text = {metric: measure(rows, "document", metric) for metric in _METRICS}
    return Price(
        texts=len({row["text_id"] for row in rows}),
        documents=len({row["document"] for row in rows}),
        source="; ".join(sorted({row["text_source"] for row in rows})),
        nll=of_text["nll"],
        text_bits_per_byte=of_text["bits_per_byte"],
        kl=of_text["kl"],
        top1_agreement=of_text["top1_agreement"],
        edit_norm=of_text["edit_norm"],
        bits_per_byte=pooled_bits_per_byte(rows, families, how),
        failed=sum(row["status"] != "ok" for row in rows),
    )


def pooled_bits_per_byte(rows: Sequence[Row], families: Sequence[str], how: Resampling) -> dict[str, Estimate]:
    """Family -> bits over bytes of the texts that have a value under every condition; draws of a control are averaged
    per text first, documents are resampled whole."""
    bad = {row["text_id"] for row in rows if row["status"] != "ok" or row["bits_per_byte"] is None}
    bits: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    size: dict[str, int] = {}
    for row in rows:
        if row["text_id"] not in bad:
            size[row["text_id"]] = row["n_bytes"]
            bits[row["family"]][row["document"]][row["text_id"]].append(row["bits_per_byte"] * row["n_bytes"])
    found = {}
    for family in families:
        documents = [texts for _, texts in sorted(bits[family].items())]
        numerators = [sum(sum(draws) / len(draws) for draws in texts.values()) for texts in documents]
        denominators = [float(sum(size[text] for text in texts)) for texts in documents]
        found[family] = bootstrap_ratio(
            numerators, denominators, seed=how.seed, confidence=how.confidence, n_resamples=how.resamples
        )
    return found
