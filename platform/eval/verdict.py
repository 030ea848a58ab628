"""The sentence at the end: does steering beat the unsteered model and its controls on questions it was not tuned on?

"Yes" needs all of: exact match above the unsteered model and above every control, each with an interval that
excludes zero and a p-value below alpha (all must hold, so no correction is due), and above every single draw of every
control. Anything less is "no evidence", with the reason. A run without controls cannot say yes. Where nothing is
steered the sentence says how many answers are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..scoring.statistics import Difference, Estimate
from .conditions import STEERED, UNSTEERED


@dataclass(frozen=True)
class Verdict:
    """supported: whether steering beats its controls and the unsteered model on the test questions."""

    supported: bool
    sentence: str


def judge(
    conditions: Mapping[str, Estimate],
    differences: Mapping[str, Difference],
    draws: Mapping[str, Sequence[float | None]],
    price: Difference | None,
    *,
    alpha: float,
    price_on: str = "ordinary text",
) -> Verdict:
    """The verdict on exact match over all test questions. draws: control family -> EM of each draw. price_on: what the
    price was measured on."""
    if STEERED not in conditions:
        right, percent = conditions[UNSTEERED], f"{100 * (1 - alpha):g} %"
        between = _interval(right, percent)
        return Verdict(False, f"Not steered: exact match {_share(right)}{between} on {right.n} questions.")
    controls = [family for family in conditions if family not in (UNSTEERED, STEERED)]
    gain = differences[f"{STEERED}-{UNSTEERED}"]
    percent = f"{100 * (1 - alpha):g} %"
    if gain.n < 2 or gain.mean is None:
        return Verdict(False, f"No evidence: only {gain.n} test questions were answered both steered and unsteered.")
    comparisons = [f"against the unsteered model {_words(gain, percent)}"]
    comparisons += [f"against {_name(c)} {_words(differences[f'{STEERED}-{c}'], percent)}" for c in controls]
    facts = f"exact match {_share(conditions[STEERED])} on {gain.n} test questions: " + "; ".join(comparisons)
    cost = (
        ""
        if price is None or price.mean is None
        else (f" Price on {price_on}: {price.mean:+.3f} nats per token{_interval(price, percent)}.")
    )
    reasons = []
    if not _better(gain, alpha):
        reasons.append("it is worse than the unsteered model" if _worse(gain, alpha) else
                       "it is not better than the unsteered model")  # fmt: skip
    if not controls:
        reasons.append("no control was run")
    steered = conditions[STEERED].mean
    for control in controls:
        if not _better(differences[f"{STEERED}-{control}"], alpha):
            reasons.append(f"it is not better than {_name(control)}")
        elif any(em is None or steered is None or em >= steered for em in draws.get(control, ())):
            reasons.append(f"a single draw of {_name(control)} does as well")
    if reasons:
        return Verdict(False, f"No evidence that steering helps: {' and '.join(reasons)}; {facts}.{cost}")
    return Verdict(True, f"Steering beats the unsteered model and its controls: {facts}.{cost}")


def _better(d: Difference, alpha: float) -> bool:
    return d.low is not None and d.p is not None and d.low > 0 and d.p < alpha


def _worse(d: Difference, alpha: float) -> bool:
    return d.high is not None and d.p is not None and d.high < 0 and d.p < alpha


def _name(family: str) -> str:
    name = family.removeprefix("control_").replace("_", " ")
    return f"{name} channels" if name == "random" else f"the control {name!r}"


def _share(estimate: Estimate) -> str:
    return "unknown" if estimate.mean is None else f"{estimate.mean:.3f}"


def _words(d: Difference, percent: str) -> str:
    if d.mean is None:
        return "unknown"
    p = "" if d.p is None else f", p = {d.p:.2g}"
    return f"{d.mean:+.3f}{_interval(d, percent)}{p}"


def _interval(value: Difference | Estimate, percent: str) -> str:
    if value.low is None or value.high is None:
        return ""
    sign = "+" if isinstance(value, Difference) else ""
    return f" ({percent} interval {value.low:{sign}.3f} to {value.high:{sign}.3f})"
