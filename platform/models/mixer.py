"""What a mixer must provide, and the registry that finds them.

The class registered under an architecture's name also says what else a model of it is made of: norms, feed-forward
parts, which mixer stands in which block, options of its own, and what the named sizes mean for it. The defaults are
those of Mamba: RMSNorms, no feed-forward part, the same mixer in every block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.registry import Registry
from .parts.float32_kept import Float32Kept
from .parts.norms import LayerNorm, RMSNorm

if TYPE_CHECKING:
    from .access.run import Run
    from .gated_timescales import GatedTimescales
    from .linear_recurrence import Recurrence
    from .model_config import ModelConfig

LayerState = dict[str, Tensor]


class SiteInfo(NamedTuple):
    """A site as its mixer declares it: the shape after (batch, time), and what it means.

    wide: its values are float32 in a bfloat16 model. constant: it has no batch and time axes (a filter, mixing
    weights); the mixer passes it through `run.constant` and `shape` is the whole shape. initial: it has no time axis
    and is what a text begins with (`parts.recurrence.begun`); then constant as well. editable: whether edits act.
    """

    name: str
    shape: tuple[int, ...]
    meaning: str
    wide: bool = False
    constant: bool = False
    editable: bool = True
    initial: bool = False


#: of an option that came later, see `Options`
LATER: Mapping[str, Any] = {"written": "unless default"}


@dataclass(frozen=True)
class Options:
    """Base of an architecture's own options; subclasses are frozen dataclasses whose values JSON can hold.

    `__post_init__` of a subclass may raise UsageError; what concerns the whole shape is checked in `Mixer.check`. A
    field that came later has `metadata=LATER`: it is written only where it is not its default, so that config.json and
    the digest of a model from before it stay what they are.
    """

    def written(self) -> dict[str, Any]:
        """The options as config.json holds them."""
        left_out = {f.name for f in fields(self) if f.metadata == LATER and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


class FeedForward(Float32Kept):
    """Base of what may stand after the mixer in a block: residual += feed_forward(norm_2(residual)).

    `forward(u, run, prefix)` maps (B, T, d) to (B, T, d), token by token. Sites as in `Mixer`.
    """

    no_decay: ClassVar[frozenset[str]] = frozenset()

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation, drawn from `generator`."""
        raise UsageError(f"{type(self).__name__} defines no initialisation")

    def site_table(self) -> list[SiteInfo]:
        """The part's sites, in the order in which a forward pass meets them."""
        return []

    def forward(self, u: Tensor, run: Run, prefix: str) -> Tensor:
        raise UsageError(f"{type(self).__name__} defines no forward pass")


class Mixer(Float32Kept):
    """Base of all mixers.

    `forward(u, run, prefix, state, need_state)` maps the normed block input u (B, T, d) to the mixer output (B, T, d)
    and the layer's new state. It passes every named quantity through `run.site(prefix + name, tensor)`, so that it can
    be read and edited, and treats `state=None` as a zero state. `layer` is the number of its block. What rounding would
    make it forget or route otherwise it names in `keep_float32` (see `Float32Kept`).
    """

    #: parameters (by any dotted part of their name) that weight decay must not touch, besides biases and norms
    no_decay: ClassVar[frozenset[str]] = frozenset()
    #: factor on the learning rate, by any dotted part of a parameter's name
    learning_rate_scale: ClassVar[Mapping[str, float]] = {}
    #: fields of ModelConfig that only some architectures use and this one does
    config_fields: ClassVar[frozenset[str]] = frozenset()
    #: options that only this architecture has; reachable as `config.own`
    options_class: ClassVar[type[Options]] = Options
    #: transformers' class with the same function and parameter names; None: config.json and names are our own, and the
    #: three below mean nothing
    hf_class: ClassVar[str | None] = None
    #: our field -> its name in that class's config.json; its defaults where they differ from ours
    hf_names: ClassVar[Mapping[str, str]] = {}
    hf_defaults: ClassVar[Mapping[str, Any]] = {}
    #: the name there of E, where E may be other than expand * hidden_size; None: always the product
    hf_inner: ClassVar[str | None] = None
    #: size name ("nano", "tiny", ...) -> fields of ModelConfig and of Options that differ from the common size table
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: constructor of the norms
    norm_class: ClassVar[type[RMSNorm | LayerNorm]] = RMSNorm
    final_norm_class: ClassVar[type[RMSNorm | LayerNorm]] = RMSNorm

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.config = config
        self.layer = layer

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Raise UsageError for a shape that this architecture cannot have."""

    @classmethod
    def check_hf(cls, content: Mapping[str, Any], config: ModelConfig, source: str) -> None:
        """Raise InputError where a config.json of `hf_class` says what `config`, read from it, cannot hold."""

    @classmethod
    def for_layer(cls, config: ModelConfig, layer: int) -> Mixer:
        """The mixer of block `layer`; an architecture may have several kinds."""
        return cls(config, layer)

    @classmethod
    def block_norm(cls, config: ModelConfig) -> RMSNorm | LayerNorm:
        """The norm before the mixer or the feed-forward part of a block."""
        return cls.norm_class(config.d_model, config.norm_eps)

    @classmethod
    def final_norm(cls, config: ModelConfig) -> RMSNorm | LayerNorm:
        """The norm before the head."""
        return cls.final_norm_class(config.d_model, config.norm_eps)

    @classmethod
    def feed_forward(cls, config: ModelConfig, layer: int) -> FeedForward | None:
        """The feed-forward part of block `layer`, if it has one."""
        return None

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """What the last forward pass in training mode adds to the loss (a router's balance); None for most."""
        return None

    @property
    def n_idle_parameters(self) -> int:
        """How many of the parameters one token does not use: those of experts that were not chosen; 0 for most."""
        return 0

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Reference initialisation, drawn from `generator`."""
        raise UsageError(f"{type(self).__name__} defines no initialisation")

    def reset_to_recall(self, generator: torch.Generator) -> None:
        """After `reset_parameters`: change what makes the layer read, at once, what followed an earlier like token.

        Writing by the two tokens before (the key) and reading by the two latest (the question) with one projection is
        associative recall; a slow decay keeps it. After Trockman et al. (arXiv 2410.11135), who tie B and C, keep the
        state and start the convolution as the identity; the shift between B and C is what a key before its value needs.
        """
        raise UsageError(f"{type(self).__name__} has no recall initialisation")

    def zero_state(self, batch: int, dtype: torch.dtype, device: torch.device) -> LayerState:
        """The state before the first token."""
        raise UsageError(f"{type(self).__name__} defines no state")

    def step(self, u: Tensor, state: LayerState, overwrite: bool = False) -> tuple[Tensor, LayerState] | None:
        """One token u (B, 1, d) after `state`, the same bits as `forward` without its sites; None where there is no
        faster way than `forward`. overwrite: nobody else holds `state`, its memory may be used again."""
        return None

    def recurrences(self, dtype: torch.dtype = torch.float64) -> tuple[Recurrence, ...]:
        """The linear recurrences of the mixer in terms of its sites, their constants in `dtype` and outside of any
        graph; () where it has none that could be said so (attention, a filter that is no recurrence, experts).

        What asks for decays, scans or read-outs (eigenvalues, hidden attention, knock-out, ...) knows of no other."""
        return ()

    def gated_timescales(self) -> tuple[GatedTimescales, ...]:
        """The ensembles of gates and timescales of the mixer in terms of its sites; () for most."""
        return ()

    def site_table(self) -> list[SiteInfo]:
        """The mixer's sites, in the order in which a forward pass meets them."""
        raise UsageError(f"{type(self).__name__} declares no sites")

    def forward(
        self, u: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        raise UsageError(f"{type(self).__name__} defines no forward pass")


MIXERS: Registry[type[Mixer]] = Registry("architecture", "mixer", __name__, ".families", aliases=True)
mixer, names, get, full_name = MIXERS.itself, MIXERS.names, MIXERS.get, MIXERS.full_name
