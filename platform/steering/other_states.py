"""States that a model has after other prompts, as parts of a recipe that move a state there (`blend_state`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..core.errors import UsageError
from .operators.state_sites import STATES, WINDOWS
from .part import Part

if TYPE_CHECKING:
    from ..models import LanguageModel

_SITES = ("mixer.h", "mixer.conv_state")


@torch.no_grad()
def states_of(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = _SITES,
    strength: float = 1.0,
    positions: str = "last",
) -> tuple[Part, ...]:
    """Parts that blend a layer's state with its mean after the last token of `prompts`, one for each layer and site.

    layers: None for all that have one of the sites. The parts' states are float64. Raises UsageError without prompts,
    for a site that holds no state at a token, and for layers without any of them.
    """
    if not prompts:
        raise UsageError("states of other prompts: give at least one prompt")
    allowed = [site for site in (*STATES, *WINDOWS) if not site.endswith("_init")]
    wrong = next((site for site in sites if site not in allowed), None)
    if wrong is not None:
        raise UsageError(f"states of other prompts: {wrong!r} holds no state after a token; {', '.join(allowed)} do")
    known = {site.name for site in model.sites()}
    wanted = range(model.n_layers) if layers is None else layers
    places = [(layer, site) for layer in wanted for site in sites if f"blocks.{layer}.{site}" in known]
    without = [layer for layer in wanted if layer not in {at for at, _ in places}]
    if not places or (layers is not None and without):
        which = f"layer {without[0]} of {model.name}" if without else model.name
        raise UsageError(f"states of other prompts: {which} has none of {', '.join(sites)}")
    sums = {place: torch.zeros(()) for place in places}
    for prompt in prompts:
        with model.capture(*(f"blocks.{layer}.{site}@-1" for layer, site in places)) as acts:
            model(prompt)
        for layer, site in places:
            sums[layer, site] = sums[layer, site] + acts[f"blocks.{layer}.{site}"][0, 0].double().cpu()
    return tuple(
        Part("blend_state", site, (layer,), strength, tensors={"state": total / len(prompts)}, positions=positions)
        for (layer, site), total in sums.items()
    )
