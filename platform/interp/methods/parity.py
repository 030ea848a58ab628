"""Whether a model is what it says of itself, measured on one text: every site fires in the shape it declares, decoding
token by token gives what one pass gives, and whatever was done to it is undone without a trace.

Differences are in units of the largest value that they are differences of: max |found - expected| / max |expected|. Of
what must agree bit for bit the bound is 0; what is computed along another way (token by token, beside padding) agrees
up to rounding, see `ROUNDING`.

A check that cannot even be made is a finding with the error as its problem, so that one breakage does not hide others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from ...core.errors import UsageError
from ...models.access.edits import Scale
from ...models.decoding.prefill import pad

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.sites import Site

#: dtype of the model -> how far two ways of computing the same may lie apart
ROUNDING = {"float64": 1e-10, "float32": 3e-4, "bfloat16": 0.1, "float16": 0.02}
_GROUP_BYTES = 2**27  # of the sites that are looked at in one pass, about


class Claim(NamedTuple):
    """What a check claims, in words; rounded: up to rounding only, else bit for bit."""

    words: str
    rounded: bool = False


#: the checks, in the order in which they are told
CHECKS: Mapping[str, Claim] = {
    "fires": Claim("every site fires, with the shape and the dtype it declares"),
    "finite": Claim("the logits are finite"),
    "repeat": Claim("two runs are equal, logits and sites, whatever the global seed"),
    "draws_nothing": Claim("a run draws no random number from the global generator"),
    "watching": Claim("reading every site changes no logit"),
    "decode": Claim("decoding token by token gives the logits and the sites of one pass", rounded=True),
    "padding": Claim("a text beside others, padded on either side, gives the logits it has alone", rounded=True),
    "identity": Claim("an edit of every site that is the identity changes no logit"),
    "edits_gone": Claim("an edit changes the logits, and after it, and after an error inside it, they are as before"),
    "nothing_left": Claim("no edit, capture or hook is in force before and after"),
    "weights": Claim("weights and tokenizer are those from before"),
}


class Measured(NamedTuple):
    """One comparison. site: empty for the logits. difference: None where there is nothing to compare; problem: what is
    wrong whatever the numbers say, in words."""

    check: str
    site: str
    difference: float | None
    problem: str | None = None


def bound_of(check: str, dtype: str) -> float:
    """How large a difference of `check` may be for a model of this dtype."""
    return ROUNDING[dtype] if CHECKS[check].rounded else 0.0


@torch.no_grad()
def measure(model: LanguageModel, tokens: Tensor) -> list[Measured]:
    """All checks of `model` on one text, tokens (1, T). Raises what a plain forward pass raises."""
    left, digest, drawn = in_force(model), model.digest, _generator_state(model)
    plain = model(tokens)
    found = [_finite(plain)]
    moved = None if torch.equal(drawn, _generator_state(model)) else "a forward pass moves torch's global generator"
    found.append(Measured("draws_nothing", "", None, moved))
    found += _tried("fires", lambda: _of_sites(model, tokens, plain))
    found += _tried("padding", lambda: _padding(model, tokens, plain))
    editable = [site.name for site in model.sites() if site.editable]
    if editable:
        found += _tried("identity", lambda: _identity(model, tokens, plain, editable))
        found += _tried("edits_gone", lambda: _edits_gone(model, tokens, plain))
    found += [Measured("nothing_left", "", None, f"before the checks: {text}") for text in left]
    found += [Measured("nothing_left", "", None, f"after the checks: {text}") for text in in_force(model)]
    changed = None if model.digest == digest else "the digest of the model has changed while it was read"
    return [*found, Measured("nothing_left", "", None), Measured("weights", "", None, changed)]


def in_force(model: LanguageModel) -> list[str]:
    """Edits that are no part of the model, captures and hooks of torch modules that act on `model` now, in words."""
    own = sum(len(change.edits) for change in model.changes)
    found = [f"edit {applied.edit} is in force" for applied in model.edits[own:]]
    found += ["a capture is in force"] * len(model.captures)
    for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
        kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
        if hooks := sum(len(getattr(module, kind)) for kind in kinds):
            found.append(f"{name or 'the model'} has {hooks} hook{'s' * (hooks > 1)}")
    return found


def difference(found: Tensor, expected: Tensor) -> tuple[float | None, str | None]:
    """Largest |found - expected| over the largest |expected|, 0 exactly where they are equal bit for bit; or why there
    is none: other shapes, or values that are not finite at other places."""
    if found.shape != expected.shape:
        return None, f"has shape {tuple(found.shape)} and not {tuple(expected.shape)}"
    one, two = found.double(), expected.double()
    same = (one == two) | (one.isnan() & two.isnan())
    if bool(same.all()):
        return 0.0, None
    gap = float(torch.where(same, 0.0, (one - two).abs()).max())
    if not math.isfinite(gap):
        return None, "is not finite where the other is"
    scale = float(torch.where(two.isfinite(), two.abs(), 0.0).max())
    return gap / (scale or 1.0), None


def _compared(check: str, site: str, found: Tensor, expected: Tensor) -> Measured:
    value, problem = difference(found, expected)
    return Measured(check, site, value, None if problem is None else f"{site or 'a row of logits'} {problem}")


def _finite(logits: Tensor) -> Measured:
    bad = int((~logits.isfinite()).sum())
    return Measured("finite", "", None, f"{bad} of {logits.numel()} logits are not finite" if bad else None)


def _tried(check: str, work: Callable[[], list[Measured]]) -> list[Measured]:
    try:
        return work()
    except Exception as error:  # a check that cannot be made is the finding
        lines = str(error).strip().splitlines() or [""]
        return [Measured(check, "", None, f"{type(error).__name__}: {lines[0]}")]


# -- sites --------------------------------------------------------------------------------------------------------


def _of_sites(model: LanguageModel, tokens: Tensor, plain: Tensor) -> list[Measured]:
    found: list[Measured] = []
    for sites in _groups(model.sites(), tokens.shape[1]):
        first, logits = _seen(model, sites, lambda: model(tokens), seed=0)
        again, repeated = _seen(model, sites, lambda: model(tokens), seed=1)
        found += [Measured("fires", s.name, None, _as_declared(s, first, tokens.shape[1])) for s in sites]
        found.append(_compared("watching", "", logits, plain))
        found.append(_compared("repeat", "", repeated, logits))
        found += _all_compared("repeat", again, first, "does not fire in every run")
        found += _tried("decode", partial(_decode, model, tokens, plain, sites, first))
    return found


def _decode(
    model: LanguageModel,
    tokens: Tensor,
    plain: Tensor,
    sites: Sequence[Site],
    first: Mapping[str, Tensor],
) -> list[Measured]:
    decoded, logits = _seen(model, sites, lambda: _token_by_token(model, tokens), seed=0)
    of_sites = _all_compared("decode", decoded, first, "does not fire token by token")
    return [_compared("decode", "", logits, plain), *of_sites]


def _token_by_token(model: LanguageModel, tokens: Tensor) -> Tensor:
    state, parts = None, list[Tensor]()
    for t in range(tokens.shape[1]):
        logits, state = model(tokens[:, t : t + 1], state=state, return_state=True)
        parts.append(logits)
    return torch.cat(parts, 1)


def _all_compared(
    check: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], absent: str
) -> list[Measured]:
    """Every site of `expected`; absent: what is wrong with one that `found` lacks."""
    return [
        _compared(check, name, found[name], value) if name in found else Measured(check, name, None, f"{name} {absent}")
        for name, value in expected.items()
    ]


def _as_declared(site: Site, found: Mapping[str, Tensor], length: int) -> str | None:
    """What is wrong with a site's tensor for one text of so many tokens."""
    if site.name not in found:
        return f"{site.name} never fires"
    rows = () if site.constant and not site.initial else (1,) if site.initial else (1, length)
    shape, dtype = tuple(found[site.name].shape), str(found[site.name].dtype).removeprefix("torch.")
    if shape != (*rows, *site.axes):
        return f"{site.name} has shape {shape}, and declares {(*rows, *site.axes)}"
    return None if dtype == site.dtype else f"{site.name} is {dtype}, and declares {site.dtype}"


def _seen(
    model: LanguageModel, sites: Sequence[Site], work: Callable[[], Tensor], *, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """What the sites held and what `work` gave, under this global seed; a site that never fired is not there."""
    seen: dict[str, Tensor] = {}
    done: Tensor | None = None
    try:
        with _seeded(model, seed), model.capture(*(site.name for site in sites)) as captured:
            done = work()
            seen = dict(captured)
    except UsageError:  # of the capture, that a site never fired; or of the work
        if done is None:
            raise
    assert done is not None
    return seen, done


def _groups(sites: Sequence[Site], length: int) -> Iterator[list[Site]]:
    """The sites in their order, as many at once as may be held."""
    group: list[Site] = []
    held = 0
    for site in sites:
        size = math.prod(int(axis) for axis in site.axes) * (1 if site.constant else length) * 8
        if group and held + size > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(site)
        held += size
    yield group


@contextmanager
def _seeded(model: LanguageModel, seed: int) -> Generator[None]:
    """A global seed of torch, for the block alone."""
    before = [(generator, generator.get_state()) for generator in _generators(model)]
    for generator, _ in before:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


def _generators(model: LanguageModel) -> list[torch.Generator]:
    """Torch's own: of the processor, and of the GPU that the model is on."""
    on_gpu = model.device.type == "cuda"
    return [torch.default_generator, *([torch.cuda.default_generators[model.device.index or 0]] if on_gpu else [])]


def _generator_state(model: LanguageModel) -> Tensor:
    return torch.cat([generator.get_state() for generator in _generators(model)])


# -- padding and edits ----------------------------------------------------------------------------------------------


def _padding(model: LanguageModel, tokens: Tensor, plain: Tensor) -> list[Measured]:
    """The text beside its own beginnings, with the padding behind them and before them."""
    length = tokens.shape[1]
    lengths = sorted({length, (length + 1) // 2, 1}, reverse=True)
    if len(lengths) == 1:
        return []
    alone = [plain, *(model(tokens[:, :n]) for n in lengths[1:])]
    ids = [int(token) for token in tokens[0]]
    right, mask = (t.to(tokens.device) for t in pad([ids[:n] for n in lengths]))
    left = torch.stack([row.roll(length - n) for row, n in zip(right, lengths, strict=True)])
    found: list[Measured] = []
    for padded, real in ((right, mask), (left, mask.flip(1))):
        logits = model(padded, real)
        for row, expected in enumerate(alone):
            found.append(_compared("padding", "", logits[row][real[row]], expected[0]))
    return found


def _identity(model: LanguageModel, tokens: Tensor, plain: Tensor, sites: Sequence[str]) -> list[Measured]:
    with model.edit(*(Scale(name, 1.0) for name in sites)):
        together = _compared("identity", "", model(tokens), plain)
    if together.difference == 0.0:
        return [together]
    found = [together]
    for name in sites:  # which of them is it
        with model.edit(Scale(name, 1.0)):
            found.append(_compared("identity", name, model(tokens), plain))
    return found


class _InsideError(Exception):
    """Something goes wrong inside of an edit."""


def _edits_gone(model: LanguageModel, tokens: Tensor, plain: Tensor) -> list[Measured]:
    edits = [Scale(site.name, 0.5) for site in model.sites() if site.editable and not site.constant]
    with model.edit(*edits):
        edited = model(tokens)
    found = [_compared("edits_gone", "", model(tokens), plain)]
    with suppress(_InsideError), model.edit(*edits), model.capture("logits"):
        model(tokens)
        raise _InsideError
    found.append(_compared("edits_gone", "", model(tokens), plain))
    if torch.equal(edited, plain):
        found.append(Measured("edits_gone", "", None, "halving every site changes no logit"))
    return found
