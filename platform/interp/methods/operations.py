"""What one token costs a model forwards, counted from its parts: floating-point operations and bytes of state.

An operation is one multiplication, addition, exponential or the like; a product with a matrix of n numbers is 2 n.
Counted are products with parameters (projections, convolutions, experts that are chosen, the head), recurrences as
their definition has them step by step, and what a mixer reads of the context (`context_operations`: attention, long
convolutions). Left out is what is small beside these: norms, gates, activation functions, biases, softmax; and what is
done once for a pass, such as the network behind an implicit filter. A kernel may do more or less: a scan in chunks, or
a convolution by transforms, has other counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from ...models.parts.past import PAST

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.block import Block
    from ...models.linear_recurrence import Recurrence

_STACKED = frozenset({"fc1", "fc2"})  # matrices of all experts of a mixture, one after the other
_ONCE = "implicit_filter"  # its network is evaluated once for a pass


class Part(NamedTuple):
    """A part of a model. layer: None outside of the blocks. products, scan: operations of a token, None where blocks
    borrow parameters, so that these do not tell how often each is used."""

    layer: int | None
    name: str
    parameters: int
    active_parameters: int
    products: int | None
    scan: int | None


def parts_of(model: LanguageModel) -> list[Part]:
    """The parts in the order of a forward pass; parameters that stand in two parts are counted in the first."""
    shared = any(block.borrows for block in model.blocks)
    seen: set[int] = set()

    def part(layer: int | None, name: str, module: nn.Module | None, inside: set[int], scan: int = 0) -> Part:
        """inside: ids of the parameters that are the part's, of those in the module."""
        own = {key: p for key, p in (module.named_parameters() if module is not None else ()) if id(p) in inside}
        new = sum(p.numel() for p in own.values() if id(p) not in seen)
        seen.update(map(id, own.values()))
        idle = int(getattr(module, "n_idle_parameters", 0)) if new else 0
        products = 2 * (sum(p.numel() for key, p in own.items() if _multiplied(key, p)) - idle)
        return Part(layer, name, new, new - idle, *((None, None) if shared else (products, scan)))

    table = model.embedding.weight
    found = [Part(None, "embedding", table.numel(), table.numel(), 0, 0)]
    seen.add(id(table))
    for layer, block in enumerate(model.blocks):
        every = {id(p) for p in block.parameters()}
        mixer, forward = ({id(p) for p in m.parameters()} if m is not None else set[int]()
                          for m in (block.mixer, block.feed_forward))  # fmt: skip
        scan = scan_operations(block)
        found.append(part(layer, "mixer", block.mixer, mixer, scan))
        if block.feed_forward is not None:
            found.append(part(layer, "feed_forward", block.feed_forward, forward - mixer))
        found.append(part(layer, "rest", block, every - mixer - forward))
    left = model.n_parameters - sum(one.parameters for one in found)  # the final norm, and a head of its own
    head = 2 * model.config.vocab_size * model.config.d_model
    return [*found, Part(None, "head", left, left, None if shared else head, None if shared else 0)]


def _multiplied(name: str, parameter: nn.Parameter) -> bool:
    """Whether every token is multiplied by a parameter."""
    *above, last = name.split(".")
    return _ONCE not in above and ((last == "weight" and parameter.ndim >= 2) or last in _STACKED)


def scan_operations(block: Block) -> int:
    """Operations of one step of all recurrences of a block, as their definition has them."""
    widths = {info.name: info.shape[0] for info in block.site_table()}
    total = 0
    for of in block.recurrences():
        channels = widths[f"mixer.{of.within}{of.x}"]
        of_B = widths[f"mixer.{of.within}{of.B}"] // of.groups if isinstance(of.B, str) else 1
        total += _step_operations(of, channels, max(of.A.shape[1], of_B))
    return total


def _step_operations(of: Recurrence, E: int, N: int) -> int:
    """Of E channels with N coordinates. A product of complex numbers is 6 operations, of one and a real number 2."""
    skip = 0 if of.D is None else 2 * E
    if of.A.is_complex():  # decay times state, the input added to its real part, and the real part of C times state
        return E * (6 * N + N + 3 * N + N - 1) + skip
    decays = 0 if of.delta is None else 2 * of.A.numel()  # Delta A, and its exponential
    share = len(of.A) if of.averaging else 0  # 1 - decay
    entering = 0 if of.delta is None else E  # its factor times x
    write = 0 if of.B is None else E * N
    read = 0 if of.C is None else E * N + E * (N - 1)
    return decays + share + entering + write + 2 * E * N + read + skip


def context_operations(model: LanguageModel, context: int) -> int:
    """Operations of a token, the last of `context` ones, that depend on these."""
    found = (getattr(module, "context_operations", None) for block in model.blocks for module in block.modules())
    return sum(count(context) for count in found if count is not None)


def state_bytes(model: LanguageModel, context: int) -> int:
    """Bytes that one text of so many tokens leaves behind: all of a recurrence, and records that grow."""
    total = 0
    for block in model.blocks:
        for name, value in block.zero_state(1, model.dtype, model.device).items():
            numbers = value.shape[1] * kept_tokens(block, context) if name.startswith(PAST) else value.numel()
            total += numbers * value.element_size()
    return total


def kept_tokens(block: Block, context: int) -> int:
    """How many of the last tokens a record of the block holds."""
    limit = getattr(block.mixer, "record_length", None)
    return context if limit is None else min(context, limit)


class Transformer(NamedTuple):
    """A decoder of like size: 12 d^2 parameters a block beside the same embeddings, keys and values of width d."""

    layers: int
    width: int

    def cache_bytes(self, context: int, bytes_per_number: int) -> int:
        """Of keys and values of one text."""
        return 2 * self.layers * self.width * context * bytes_per_number


def like_transformer(model: LanguageModel) -> Transformer:
    """The one of the model's width whose number of parameters is nearest, with one block at least."""
    d = model.config.d_model
    blocks = (model.n_parameters - model.embedding.weight.numel()) / (12 * d * d)
    return Transformer(max(1, round(blocks)), d)
