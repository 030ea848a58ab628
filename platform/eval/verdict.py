"""The sentence at the end: does steering beat the unsteered model and its controls on questions it was not tuned on?

"Supported" needs all of: exact match above the unsteered model and above every control, each with an interval that
excludes zero and a p-value below alpha (all must hold, so no correction is due; interval and p-value are of one test);
above every single draw of every control; and, among at least 19 draws of other channels (or directions) that change
activations as much, first by a rank test over the draws (at another alpha than .05: 1 / alpha - 1 draws). A run without
such a control cannot support a claim about channels.

"Harmful": significantly below the unsteered model. "At the floor": the model answers so little, steered or not, that
nothing can be told. "Too few questions": better, but by no more than so few questions can bear; said with how many it
would take. Anything else is "no evidence", with the reason. Where nothing is steered the sentence says how many answers
are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from ..scoring.statistics import Difference, Estimate, groups_needed, rank_p
from .conditions import CONTROL, STEERED, UNSTEERED
from .detectable import ICC

Kind = Literal["supported", "harmful", "at_floor", "too_few_questions", "no_evidence", "left_alone", "not_steered"]

#: controls whose draws are sets of equal size: among them the recipe has to be first
RANKED = ("control_random", "control_random_direction")
LEAST_DRAWS = 19  # of which being first has a chance of 1 in 20
FLOOR = 0.02  # exact match up to which nothing can be told


@dataclass(frozen=True)
class Verdict:
    """kind: in one word. supported: whether steering beats its controls and the unsteered model on the test questions.
    reasons: why it is not supported. needed: groups of questions with which a gain like this one is found in 4 of 5
    runs; None where that is not the question."""

    supported: bool
    sentence: str
    kind: Kind = "no_evidence"
    reasons: tuple[str, ...] = ()
    needed: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What is judged. conditions: family -> exact match; differences: "a-b" -> paired difference; draws: control
    family -> exact match of each draw; changed: share of test questions whose score steering changes; missing: control
    -> why it does not exist; price: nats per token, on price_on; left_alone: the search chose the model as it is."""

    conditions: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    draws: Mapping[str, Sequence[float | None]]
    price: Difference | None = None
    changed: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    left_alone: bool = False
    price_on: str = "held-out text"


def judge(evidence: Evidence, *, alpha: float) -> Verdict:
    """The verdict on exact match over all test questions."""
    conditions, differences = evidence.conditions, evidence.differences
    percent = f"{100 * (1 - alpha):g} %"
    if STEERED not in conditions:
        right = conditions[UNSTEERED]
        sentence = f"Not steered: exact match {_share(right)}{_interval(right, percent)} on {right.n} questions."
        return Verdict(False, sentence, "not_steered")
    gain = differences[f"{STEERED}-{UNSTEERED}"]
    if evidence.left_alone:
        return Verdict(
            False,
            "No evidence that steering helps: on the development questions the search found nothing better than the "
            f"model as it is, and left it so; exact match {_share(conditions[UNSTEERED])} on {gain.n} test questions.",
            "left_alone",
            ("the search left the model as it is",),
        )  # fmt: skip
    if gain.n < 2 or gain.mean is None:
        why = f"only {gain.n} test questions were answered both steered and unsteered"
        return Verdict(False, f"No evidence: {why}.", "too_few_questions", (why,))
    facts = _facts(evidence, gain, percent)
    reasons = _reasons(evidence, alpha)
    if not reasons:
        return Verdict(True, f"Supported: steering beats the unsteered model and its controls: {facts}", "supported")
    if _worse(gain, alpha):
        return Verdict(False, f"Harmful: steering makes the model worse: {facts}", "harmful", tuple(reasons))
    highest = max((e.mean or 0.0 for name, e in conditions.items() if name in (STEERED, UNSTEERED)), default=0.0)
    if highest <= FLOOR:
        floor = f"the model is at the floor, exact match {highest:.3f} at most, where nothing can be told"
        return Verdict(False, f"No evidence: {floor}; {facts}", "at_floor", (floor,))
    needed = _needed(evidence, gain, alpha)
    if needed is not None:
        few = f"too few questions: a gain like this one needs about {needed} groups of them, here are {gain.n_groups}"
        return Verdict(
            False, f"No evidence that steering helps ({few}): {' and '.join(reasons)}; {facts}", "too_few_questions",
            tuple(reasons), needed,
        )  # fmt: skip
    return Verdict(
        False, f"No evidence that steering helps: {' and '.join(reasons)}; {facts}", "no_evidence", tuple(reasons)
    )


def unbeaten(evidence: Evidence, *, alpha: float) -> list[str]:
    """What steering does not beat, as reasons: the unsteered model, a control, a single draw of one; none where it
    beats all that there is, which may be no control at all. Without the rank test, which needs many draws."""
    gain, reasons = evidence.differences[f"{STEERED}-{UNSTEERED}"], list[str]()
    if not _better(gain, alpha):
        worse = _worse(gain, alpha)
        reasons.append(f"it is {'worse' if worse else 'not better'} than the unsteered model")
    steered = evidence.conditions[STEERED].mean
    for control in _controls(evidence):
        draws = evidence.draws.get(control, ())
        if not _better(evidence.differences[f"{STEERED}-{control}"], alpha):
            reasons.append(f"it is not better than {control_name(control)}")
        elif any(em is None or steered is None or em >= steered for em in draws):
            reasons.append(f"a single draw of {control_name(control)} does as well")
    return reasons


def _reasons(evidence: Evidence, alpha: float) -> list[str]:
    """Why it is not supported; none where it is."""
    reasons, controls = unbeaten(evidence, alpha=alpha), _controls(evidence)
    if not controls:
        reasons.append("no control was run")
    steered = evidence.conditions[STEERED].mean
    ranked = {family: [em for em in evidence.draws.get(family, ()) if em is not None] for family in RANKED}
    least = max(LEAST_DRAWS, ceil(1 / alpha - 1 - 1e-9))  # fewer cannot have a rank of alpha
    enough = {family: draws for family, draws in ranked.items() if len(draws) >= least}
    if controls and not enough:
        most = max(map(len, ranked.values()), default=0)
        reasons.append(f"a claim about channels needs {least} draws of others, and there are {most}")
    for family, draws in enough.items():
        if steered is None or rank_p(steered, draws) > alpha + 1e-12:
            reasons.append(f"it is not first among {len(draws)} draws of {control_name(family)}")
    return list(dict.fromkeys(reasons))


def _controls(evidence: Evidence) -> list[str]:
    return [family for family in evidence.conditions if family.startswith(CONTROL)]


def _needed(evidence: Evidence, gain: Difference, alpha: float) -> int | None:
    """How many groups it takes to find a gain like this one, by the same assumption on groups as in a plan; None where
    there is none or enough of them."""
    assert gain.mean is not None
    if gain.mean <= 0 or not evidence.changed or not gain.n_groups or _better(gain, alpha):
        return None
    size = gain.n / gain.n_groups
    share = max(evidence.changed, gain.mean)
    needed = groups_needed(gain.mean, discordance=share, icc=ICC, group_size=size, alpha=alpha)
    return needed if needed is not None and needed > gain.n_groups else None


def _facts(evidence: Evidence, gain: Difference, percent: str) -> str:
    compared = [f"against the unsteered model {_words(gain, percent)}"]
    for control in evidence.conditions:
        if control.startswith(CONTROL):
            compared.append(
                f"against {control_name(control)} {_words(evidence.differences[f'{STEERED}-{control}'], percent)}"
            )
    absent = "".join(f" No control {name.replace('_', ' ')}: {why}." for name, why in evidence.missing.items())
    price = evidence.price
    cost = (
        ""
        if price is None or price.mean is None
        else f" Price on {evidence.price_on}: {price.mean:+.3f} nats per token{_interval(price, percent)}."
    )
    steered = _share(evidence.conditions[STEERED])
    return f"exact match {steered} on {gain.n} test questions: {'; '.join(compared)}.{absent}{cost}"


def control_name(family: str) -> str:
    """A family of conditions in words."""
    name = family.removeprefix(CONTROL).replace("_", " ")
    return f"{name} channels" if name in ("random", "variance matched", "high variance") else f"the control {name!r}"


def _better(d: Difference, alpha: float) -> bool:
    return d.low is not None and d.p is not None and d.low > 0 and d.p < alpha


def _worse(d: Difference, alpha: float) -> bool:
    return d.high is not None and d.p is not None and d.high < 0 and d.p < alpha


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
