"""What a trace's pictures and page say about it in words: the same sentence wherever it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .trace_plan import TracePlan

BIN_TITLES = {
    "prefix": "before the subject", "subject_first": "first subject token", "subject_middle": "middle subject tokens",
    "subject_last": "last subject token", "further": "further tokens", "last": "last token",
}  # fmt: skip
#: what is restored at a site
SITE_MEANINGS = {
    "resid_pre": "the residual stream before the block",
    "resid_post": "the residual stream after the block",
    "mixer_out": "what the mixer (or attention) adds to the residual stream",
    "mlp_out": "what the feed-forward part adds to the residual stream",
    "h": "the recurrent state, before it is read at this token: this token and all later ones see it",
    "h_post": "the recurrent state after this token: later tokens see it, this one does not",
    "conv_state": "the inputs that later tokens' convolutions still see",
    "delta": "the step size at this token, by which the state decays and is written",
    "B": "what is written to the state at this token",
    "C": "how the state is read at this token",
    "gate": "the gate at this token",
    "y": "what is read out of the state at this token",
    "state": "all that the layer carries to later tokens",
}
UNITS = {"prob": "probability", "logprob": "log-probability, nats", "logit_diff": "logit difference"}


def corruption_in_words(plan: TracePlan) -> str:
    """Which corruption was used."""
    if plan.noise is None:
        return "subject replaced by another of equal token length"
    return f"noise of standard deviation {plan.noise:.3g} on the subject, {plan.config.samples} samples"


def window_in_words(plan: TracePlan) -> str:
    """How many layers were restored together."""
    width = plan.config.window
    return "one layer restored" if width == 1 else f"{width} layers restored together (the residual stream: one)"


def judged_in_words(plan: TracePlan) -> str:
    """Which answer the metric is about."""
    if plan.many and plan.config.judged == "target":
        return "the fact's target"
    given = plan.items[0].answer is not None and plan.config.judged == "target"
    return "the one given" if given else "what the model finds most probable"


def which_in_words(plan: TracePlan) -> str:
    """Which prompts count."""
    if not plan.many:
        return "one"
    return "answered correctly" if plan.correct_only else "all, whether answered correctly or not"


def used_in_words(plan: TracePlan, traced: int) -> str:
    """How many prompts count, and which."""
    return f"{traced} of {plan.given} ({which_in_words(plan)})" if plan.many else which_in_words(plan)
