"""Learning the state that texts begin with, all weights frozen (after S0 tuning, arXiv 2604.01168).

What is learned is what the operator `learned_state` adds: of every layer that has one the recurrent state h before the
first token, and the inputs that the convolution sees before it. So what is learned is what is applied, bit for bit.

Units: a step of Adam moves every number by about the learning rate, and the states of one model differ in size by a
factor of ten from layer to layer. So the learning rate is in multiples of what each number of the state is at the end
of the examples (root mean square); unit="one" takes it as it is. In tiny-striped-hyena the same number of steps of
equal absolute size left 58 % of the examples themselves unlearned (rule `syllable`), and 72 % of held-out answers
wrong; in multiples of the state's size, 13 % (rate 0.5).

Dropout: in every step a random half of the state is zero and the rest doubled. With a few dozen examples the state
otherwise learns them by heart: in tiny-mamba, told to say the name that is asked about, 79 % of held-out answers were
right without it and 99 % with it (docs/vectors.md has more).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from ..part import Part
from ..recipe import Recipe
from .descent import Budget, Descent, descend
from .examples import Example, Rows, asked, digest_of, rows_of
from .scoring import Forward

if TYPE_CHECKING:
    from ...models import LanguageModel

OPERATOR = "learned_state"
SITES = ("mixer.h_init", "mixer.conv_init")
#: where the same state is seen after each token
LATER = {"h_init": "h", "conv_init": "conv_state"}
DROPOUT = 0.5
UNITS = ("rms", "one")
_ROWS = 32  # read together


@dataclass(frozen=True)
class LearnedState:
    """recipe: of one part for each layer and site, strength 1. descent: how it was learned."""

    recipe: Recipe
    descent: Descent


def learn_state(
    model: LanguageModel,
    examples: Sequence[Example],
    development: Sequence[Example],
    *,
    steps: int = 120,
    lr: float = 0.3,
    unit: str = "rms",
    seed: int = 0,
    dropout: float = DROPOUT,
    batch_size: int = 16,
    layers: Sequence[int] | None = None,
    stop: int | None = None,
) -> LearnedState:
    """The state with which `model` answers `examples`, chosen among the steps by `development`.

    lr: the highest learning rate, in `unit` (rms or one). layers: whose state is learned; None for all that have one.
    stop: the step that is kept (`choose` finds one); None: `development` says which.
    Raises UsageError for a model or layer without a recurrent state, and for values that cannot be; InputError for
    examples that cannot be read; ToleranceError where the loss is not finite.
    """
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is a share from 0 to below 1, not {dropout}")
    if unit not in UNITS:
        raise UsageError(f"there is no unit {unit!r} of learning rates; {suggest(unit, UNITS)}")
    budget = Budget(steps, lr, batch_size, seed=seed, stop=stop)
    shapes = _shapes(model, layers)
    rows, held_out = rows_of(model, examples), rows_of(model, development)
    scales = sizes(model, list(shapes), rows) if unit == "rms" else dict.fromkeys(shapes, torch.ones(()))
    shares = {
        name: torch.zeros(shape, dtype=torch.float32, device=model.device).requires_grad_()
        for name, shape in shapes.items()
    }

    def states() -> dict[str, Tensor]:
        return {name: share * scales[name].to(share) for name, share in shares.items()}

    with frozen(model):
        descent = descend(
            list(shares.values()),
            lambda generator: _beginning(model, lambda: _dropped(states(), dropout, generator)),
            _beginning(model, states),
            rows,
            held_out,
            budget,
        )
    made_from = {
        "examples": digest_of(examples),
        "development": digest_of(development),
        "questions": list(asked([*examples, *development])),
        "learning": {
            "steps": steps,
            "lr": lr,
            "unit": unit,
            "dropout": dropout,
            "batch_size": batch_size,
            "kept": descent.kept,
        },
    }
    parts = tuple(_part(name, value.detach().cpu()) for name, value in states().items())
    return LearnedState(Recipe(parts, model.digest, OPERATOR, seed, made_from), descent)


def random_states(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with a random state of equal norm in place of each learned one: does the direction matter at all?

    Raises UsageError for a recipe with other parts.
    """
    if any(part.operator != OPERATOR for part in recipe.parts):
        raise UsageError(f"only a recipe of {OPERATOR} alone has random states of equal norm")
    return dataclasses.replace(recipe, parts=tuple(_random(part, seed) for part in recipe.parts), name="random_states")


@contextmanager
def frozen(model: LanguageModel) -> Generator[None]:
    """No weight of `model` collects a gradient inside the block."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


def _shapes(model: LanguageModel, layers: Sequence[int] | None) -> dict[str, tuple[int, ...]]:
    """Full site -> shape of all states that texts begin with, in the order of a forward pass."""
    found: dict[str, tuple[int, ...]] = {}
    having: dict[int, bool] = {}
    for site in model.sites():
        parts = site.name.split(".", 2)
        if parts[0] == "blocks" and parts[2] in SITES:
            layer = int(parts[1])
            having[layer] = having.get(layer, False) or parts[2] == SITES[0]
            if layers is None or layer in layers:
                found[site.name] = tuple(int(size) for size in site.shape if size != "B")
    recurrent = [layer for layer, recurs in having.items() if recurs]
    if not recurrent:
        raise UsageError(f"{model.name} has no recurrent state that could be learned; architectures with one have the "
                         f"site {SITES[0]}")  # fmt: skip
    for layer in layers or ():
        if layer not in recurrent:
            raise UsageError(f"layer {layer} of {model.name} has no recurrent state; layers with one: {recurrent}")
    return found


def sizes(model: LanguageModel, sites: Sequence[str], rows: Rows) -> dict[str, Tensor]:
    """Of each site that texts begin with, what its state is after the texts: root mean square over them of each number.

    A number that is 0 in all of them has size 0, and stays out of what is learned in units of it."""
    after = {site: ".".join([*site.split(".")[:-1], LATER[site.split(".")[-1]]]) for site in sites}
    total = {site: torch.zeros(()) for site in sites}
    with torch.no_grad():
        for start in range(0, len(rows.tokens), _ROWS):
            part = rows.some(range(start, min(start + _ROWS, len(rows.tokens))))
            with model.capture(*(f"{site}@-1" for site in after.values())) as acts:
                model(part.tokens, part.mask)
            for site, later in after.items():
                total[site] = total[site] + acts[later][:, 0].double().square().sum(0).cpu()
    return {site: (value / len(rows.tokens)).sqrt().float() for site, value in total.items()}


def _beginning(model: LanguageModel, states: Callable[[], dict[str, Tensor]]) -> Forward:
    """The forward pass of texts that begin with what `states` gives."""
    from ...models import Add

    def forward(tokens: Tensor, mask: Tensor) -> Tensor:
        with model.edit(*(Add(site, value) for site, value in states().items())):
            return model(tokens, mask)

    return forward


def _dropped(states: dict[str, Tensor], dropout: float, generator: torch.Generator) -> dict[str, Tensor]:
    if not dropout:
        return states
    kept = {name: torch.rand(value.shape, generator=generator) >= dropout for name, value in states.items()}
    return {name: value * (kept[name].to(value) / (1 - dropout)) for name, value in states.items()}


def _part(site: str, state: Tensor) -> Part:
    _, layer, name = site.split(".", 2)
    return Part(OPERATOR, name, (int(layer),), 1.0, "share", tensors={"state": state})


def _random(part: Part, seed: int) -> Part:
    name = hashlib.sha256(f"random state {seed} {part.full_sites()}".encode()).digest()
    state = part.tensors["state"]
    drawn = torch.randn(state.shape, generator=torch.Generator().manual_seed(int.from_bytes(name[:7], "big")))
    length = state.double().square().sum().sqrt()
    scaled = drawn.double() * (length / drawn.double().square().sum().sqrt())
    return dataclasses.replace(part, tensors={"state": scaled.to(state.dtype)})
