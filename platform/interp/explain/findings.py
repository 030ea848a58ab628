"""What an explanation found, a sentence or two for each section, made of the numbers in its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..methods.restoration import STATE
from .explanation import Explanation
from .reading_rows import EVIDENCE

MINUS = "\u2212"
_SITE_WORDS = {
    "resid_post": "the residual stream after the block", "mixer_out": "the output of the mixer",
    "mlp_out": "the output of the feed-forward part", STATE: "all that the block hands on", "h_post": "the state",
    "conv_state": "the window of the convolution",
}  # fmt: skip
Row = Mapping[str, Any]


def findings(found: Explanation) -> dict[str, str]:
    """Section -> its finding, or why there is none: answer, written, held, read, lens, trace, features."""
    sections = {
        "answer": _answer, "written": _written, "held": _held, "read": _read, "lens": _lens, "trace": _trace,
        "features": _features,
    }  # fmt: skip
    return {name: sentence(found) for name, sentence in sections.items()}


def percent(value: float) -> str:
    """A share in percent: two digits of it, and none behind the point from 10 % on."""
    size = abs(100 * value)
    text = f"{size:.0f}" if size >= 9.95 else f"{size:.1f}"
    return f"{MINUS if value < 0 and float(text) else ''}{text} %"


def number(value: float) -> str:
    """Three significant digits, a real minus sign."""
    return f"{value:.3g}".replace("-", MINUS)


def quoted(token: str) -> str:
    """A token in a sentence."""
    return f"\u201c{token.strip() or token}\u201d"


def rows_of(found: Explanation, table: str, **only: Any) -> list[dict[str, Any]]:
    """The rows of a table that are ok and have these values; none where there is no such table."""
    if table not in found.tables:
        return []
    rows = found.tables[table].to_pylist()
    return [r for r in rows if r.get("status", "ok") == "ok" and all(r[name] == value for name, value in only.items())]


def reason_of(found: Explanation, table: str, otherwise: str) -> str:
    """Why a table has no row that is ok, as a sentence."""
    if table in found.absent:
        return sentence(found.absent[table])
    reasons = [row["reason"] for row in found.tables[table].to_pylist() if row.get("reason")]
    return sentence(reasons[0] if reasons else otherwise)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def block(row: Row, rows: Sequence[Row]) -> str:
    """A block in words, with the recurrence where a block has two."""
    twice = sum(other["layer"] == row["layer"] for other in rows) > 1
    return f"block {row['layer']}" + (f" ({row['site']})" if twice else "")


def _answer(found: Explanation) -> str:
    a, gold = found.answer, found.chosen.gold[0]
    begins = "" if a.token.strip() == gold.strip() else f", as {quoted(gold)} begins,"
    if a.right:
        return f"The model says {quoted(a.said)} (p = {number(a.p)}){begins.rstrip(',')}: right."
    return (
        f"The model says {quoted(a.said)} (p = {number(a.said_p)}), which is wrong: {quoted(a.token)}{begins} has p = "
        f"{number(a.p)} and rank {a.rank}. All effects here are on that token."
    )


def _written(found: Explanation) -> str:
    rows = [row for row in rows_of(found, "states") if row["spans"] and row["write"]]
    if not rows:
        return reason_of(found, "states", "no block writes the evidence into a state, or no tokens stand beside it")
    best = max(rows, key=lambda row: row["write_ratio"] or float("inf"))
    if best["write_ratio"] is None:
        return sentence(f"{block(best, rows)} writes the evidence, and nothing else of the prompt, into its state")
    text = (
        f"Beside other tokens {block(best, rows)} writes the evidence most strongly: {number(best['write_ratio'])} "
        f"times the mean of {best['spans']} other spans of as many tokens, of which {percent(best['write_above'])} are "
        "written more strongly."
    )
    return text if best["write_ratio"] > 1 else f"No block writes the evidence more strongly than other tokens. {text}"


def _held(found: Explanation) -> str:
    if found.chosen.span is None:
        return reason_of(found, "left", "")
    distance = len(found.chosen.tokens) - found.chosen.span[1]
    rows = [row for row in rows_of(found, "states") if row["left_write"] is not None]
    if rows:
        best = max(rows, key=lambda row: row["left_write"])
        text = (
            f"At the last token, {tokens(distance)} after the evidence, {block(best, rows)} has "
            f"{percent(best['left_write'])} of what the evidence wrote left, the most of all blocks."
        )
    else:
        text = reason_of(found, "states", "the evidence writes nothing into any state")
    return f"{text} {_restored(found)}"


def _restored(found: Explanation) -> str:
    """What restoring all that a block hands on brings back on the way to the last token."""
    total = total_effect(found)
    if total is None:
        return reason_of(found, "traces", "nothing was traced")
    if total <= 0:
        return "Noise on the evidence does not make the answer less probable, so that there is nothing to bring back."
    last = len(found.chosen.tokens) - 1
    rows = [r for r in rows_of(found, "traces", site=STATE) if 0 <= r["distance"] and r["position"] < last]
    if not rows:
        return "No block hands anything on that could be restored."
    farthest = max(row["distance"] for row in rows)
    best = max((row for row in rows if row["distance"] == farthest), key=lambda row: row["effect"])
    when = f"{tokens(farthest)} after the evidence" if farthest else "right behind the evidence"
    return (
        f"Given back clean {when}, just before the last token, what block {best['layer']} hands on brings back "
        f"{percent(best['effect'] / total)} of the {metric(found)} that noise on the evidence takes away."
    )


def _read(found: Explanation) -> str:
    rows = [row for row in rows_of(found, "readers") if row["layer"] is not None]
    read = [row for row in rows if row["read"] is not None]
    cut = [row for row in rows if row["cut"] is not None]
    if not read and not cut:
        return reason_of(found, "readers", "no block has a scan")
    parts: list[str] = []
    if cut:
        most = min(cut, key=lambda row: row["cut"])
        fall = f"falls by {percent(-most['cut'])}" if most["cut"] < 0 else f"rises by {percent(most['cut'])}"
        if most["cut"] < 0:
            start = f"Block {most['layer']} reads the evidence for the answer: where it no longer can, the probability"
        else:
            start = f"No block reads the evidence for the answer: where block {most['layer']} no longer can, it"
        beside = "" if most["cut_low"] is None else (
            f" ({most['cut_spans']} other spans of as many tokens: {signed(most['cut_low'])} to "
            f"{signed(most['cut_high'])})"
        )  # fmt: skip
        parts.append(f"{start} {fall}{beside}.")
    if read:
        most = max(read, key=lambda row: row["read"])
        beside = "" if most["read_others"] is None else (
            f" (other spans: {percent(most['read_others'])} on average, at most {percent(most['read_high'])})"
        )  # fmt: skip
        parts.append(
            f"Block {most['layer']} has {percent(most['read'])} of its weights at the last token on it{beside}."
        )
    return " ".join(parts)


def _lens(found: Explanation) -> str:
    rows = rows_of(found, "lens")
    if not rows:
        return reason_of(found, "lens", "the residual stream cannot be read out")
    token, first = quoted(found.answer.token), None
    for row in reversed(rows):  # from the end on, as long as it stays the most probable
        if row["answer_rank"] > 1:
            break
        first = row["layer"]
    if first is not None:
        return f"Read out after every block, {token} is the most probable token from block {first} on."
    best = min(rows, key=lambda row: (row["answer_rank"], -row["layer"]))
    return (
        f"Read out after every block, {token} is not the most probable token at the end; it comes highest after block "
        f"{best['layer']}, with rank {best['answer_rank']} and p = {number(best['answer_prob'])}."
    )


def _trace(found: Explanation) -> str:
    rows, total = rows_of(found, "traces"), total_effect(found)
    if not rows or total is None:
        return reason_of(found, "traces", "nothing was traced")
    clean, noisy = rows[0]["metric_clean"], rows[0]["metric_corrupted"]
    text = f"Noise on the evidence takes the answer's {metric(found)} from {number(clean)} to {number(noisy)}."
    if total <= 0:
        return f"{text} There is nothing to bring back."
    last = len(found.chosen.tokens) - 1
    inner = [r for r in rows if r["position"] != last and r["site"] != "resid_post"] or rows
    best = max(inner, key=lambda row: row["effect"])
    where = f"block {best['layer']}, at {quoted(found.chosen.tokens[best['position']])} (token {best['position']})"
    return (
        f"{text} Of what blocks compute before the last token, most of it comes back with {site_words(best['site'])} "
        f"of {where}: {percent(best['effect'] / total)}."
    ).replace("after the block of block", "after block")


def _features(found: Explanation) -> str:
    rows = rows_of(found, "features")
    if not rows:
        return reason_of(found, "features", "none of its latents is active at these tokens")
    best = {at: max((r for r in rows if r["at"] == at), key=lambda r: r["value"], default=None)
            for at in (EVIDENCE, "last")}  # fmt: skip
    parts = [
        f"latent {row['latent']} of block {row['layer']} at the {'last token' if at == 'last' else 'evidence'}"
        for at, row in best.items() if row is not None
    ]  # fmt: skip
    return sentence(f"the strongest are {' and '.join(parts)}" if len(parts) > 1 else f"the strongest is {parts[0]}")


def total_effect(found: Explanation) -> float | None:
    """What the noise takes from the metric; None where nothing was traced."""
    rows = rows_of(found, "traces")
    return rows[0]["metric_clean"] - rows[0]["metric_corrupted"] if rows else None


def metric(found: Explanation) -> str:
    """What the trace measures, in words."""
    settings: Any = getattr(found.config, "fact_tracing")  # noqa: B009 - a section of a configuration made at run time
    return {"prob": "probability", "logprob": "log-probability"}[settings.metric]


def site_words(site: str) -> str:
    """A restored site in words."""
    return _SITE_WORDS.get(site, site)


def tokens(count: int) -> str:
    """So many tokens."""
    return f"{count} token" if count == 1 else f"{count} tokens"


def signed(value: float) -> str:
    """A relative change in percent with its sign."""
    text = percent(value)
    return f"+{text}" if value > 0 and text != percent(0.0) else text
