"""`AdaptedModel`: a LanguageModel whose parts come from a class of transformers, and the blocks it is made of.

A subclass names transformers' class and its attributes, and says in `adapt` what one of its layers is as a block. Kept
are the embeddings, the layers, the last norm and the head, under the names that transformers writes into files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import InputError, UsageError
from ..access.run import Run
from ..block import Block
from ..files.base_models import below
from ..mixer import LayerState, SiteInfo
from ..model import LanguageModel
from ..model_config import ModelConfig
from ..parts.norms import LayerNorm, RMSNorm
from .adapter_config import AdaptedConfig
from .stacked import unstacked

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# frequencies of rotary positions, which old files hold: config.json says them
_FREQUENCIES = r"(^|\.)rotary_emb\.inv_freq$"


class Part(NamedTuple):
    """A part of a layer and the attribute, dotted where it is a part of a part, that transformers keeps it under."""

    attribute: str
    module: nn.Module


class AdaptedBlock(Block):
    """A block whose parts have other names: `norm`, `mixer`, `norm_2`, `feed_forward` find what was given for them."""

    def __init__(
        self, width: int, *, norm: Part, mixer: Part, norm_2: Part | None = None, feed_forward: Part | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.width, self.wide_residual = width, False
        given = {"norm": norm, "mixer": mixer, "norm_2": norm_2, "feed_forward": feed_forward}
        for part in given.values():
            if part is not None:
                self._keep(part)
        self.roles = {role: None if part is None else part.attribute for role, part in given.items()}

    def _keep(self, part: Part) -> None:
        *path, last = part.attribute.split(".")
        at: nn.Module = self
        for name in path:
            if name not in at._modules:
                at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        at.add_module(last, part.module)

    def __getattr__(self, name: str) -> Any:
        roles = self.__dict__.get("roles", {})
        if name not in roles:
            return super().__getattr__(name)
        found: Any = None if roles[name] is None else self
        for attribute in (roles[name] or "").split("."):
            found = found and found._modules[attribute]
        return found


class ParallelBlock(AdaptedBlock):
    """residual += mixer(norm(residual)) + feed_forward(norm_2(residual)): both read the same stream.

    So there is no residual stream between the two, and no site `resid_mid`.
    """

    def site_table(self) -> list[SiteInfo]:
        return [info for info in super().site_table() if info.name != "resid_mid"]

    def forward(
        self, residual: Tensor, run: Run, prefix: str, state: LayerState | None, need_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        assert self.feed_forward is not None and self.norm_2 is not None
        residual = run.site(prefix + "resid_pre", residual)
        u = run.site(prefix + "mixer_in", self.norm(residual))
        out, new_state = self.mix(u, run, prefix + "mixer.", state, need_state)
        out = run.site(prefix + "mixer_out", out)
        u = run.site(prefix + "mlp_in", self.norm_2(residual))
        said = run.site(prefix + "mlp_out", self.feed_forward(u, run, prefix + "mlp."))
        return run.site(prefix + "resid_post", said + out + residual), new_state


class AdaptedModel(LanguageModel):
    """Base of all adapters; see the module and `LanguageModel`."""

    #: the name that steering and reports use; None: the model_type
    arch: ClassVar[str | None] = None
    #: transformers' class, and the attributes of it and of its base model
    hf_class: ClassVar[str] = ""
    base_attribute: ClassVar[str] = "model"
    embedding_attribute: ClassVar[str] = "embed_tokens"
    other_embeddings: ClassVar[tuple[str, ...]] = ()
    final_norm_attribute: ClassVar[str] = "final_layernorm"
    layers_attribute: ClassVar[str] = "layers"
    #: what the base model and the head are called in the files that transformers writes
    base_name: ClassVar[str] = "model"
    head_name: ClassVar[str] = "lm_head"
    #: whether transformers' class has its head from the embeddings where config.json says so
    can_tie: ClassVar[bool] = True
    #: regular expressions of names in published files that hold no parameter of this function
    ignored_weights: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def check(cls, hf: PreTrainedConfig) -> None:
        """Raise InputError for a configuration whose function this adapter does not compute."""

    @classmethod
    def adapt(cls, layer: Any, index: int, hf: Any) -> AdaptedBlock:
        """Layer `index` of transformers' model as a block of ours, which takes over its parameters."""
        raise UsageError(f"{cls.__name__} adapts no layers")

    @classmethod
    def adapt_all(cls, layers: list[Any], hf: Any) -> list[AdaptedBlock]:
        """All blocks, where one layer's depends on another's."""
        return [cls.adapt(layer, i, hf) for i, layer in enumerate(layers)]

    @property
    def hf(self) -> Any:
        """transformers' configuration."""
        return cast(AdaptedConfig, self.config).hf

    def _make_parts(self, config: ModelConfig) -> None:
        import transformers

        try:
            whole: Any = getattr(transformers, self.hf_class)(self.hf)
        except Exception as error:  # of the values that fit nothing, those that `check` does not know
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"model {self.name or config.arch}: transformers builds no {self.hf_class} of what config.json says "
                f"({type(error).__name__}: {reason})"
            ) from error
        theirs = getattr(whole, self.base_attribute)
        stem = nn.Module()
        for name in (self.embedding_attribute, *self.other_embeddings):
            stem.add_module(name, getattr(theirs, name))
        blocks = self.adapt_all(list(getattr(theirs, self.layers_attribute)), self.hf)
        stem.add_module(self.layers_attribute, nn.ModuleList(blocks))
        stem.add_module(self.final_norm_attribute, norm(getattr(theirs, self.final_norm_attribute)))
        self.add_module(self.base_name, stem)
        if not config.tie_embeddings:
            self.add_module(self.head_name, whole.lm_head)

    @classmethod
    def rename(cls, weights: Mapping[str, Tensor], config: AdaptedConfig) -> dict[str, Tensor]:
        """The tensors of a file by our names, which are those that transformers writes.

        Accepted as well: the names of transformers' own attributes, a base model's file without the prefix, experts
        in one tensor, and what `ignored_weights` lists.
        """
        ignored = (*cls.ignored_weights, _FREQUENCIES)
        kept = {n: t for n, t in weights.items() if not any(re.search(p, n) for p in ignored)}
        own = {cls.base_attribute: cls.base_name, "lm_head": cls.head_name}
        renamed = unstacked(below(kept, cls.base_name, cls.head_name, own))
        if config.hf.tie_word_embeddings and not cls.can_tie:  # what config.json ties is a parameter of its own here
            for copy, original in cls.ties(config, renamed):
                if copy not in renamed and original in renamed:
                    renamed[copy] = renamed[original].clone()
        return renamed

    @classmethod
    def ties(cls, config: AdaptedConfig, weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
        """Names (copy, original) that are one parameter where config.json ties; weights: a file's, by our names."""
        return [(f"{cls.head_name}.weight", f"{cls.base_name}.{cls.embedding_attribute}.weight")]

    # -- what LanguageModel asks for ----------------------------------------------------------------------------

    @property
    def _stem(self) -> nn.Module:
        return self.get_submodule(self.base_name)

    @property
    def blocks(self) -> list[Block]:
        return cast(list[Block], list(cast(nn.ModuleList, self._stem.get_submodule(self.layers_attribute))))

    @property
    def embedding(self) -> nn.Embedding:
        return cast(nn.Embedding, self._stem.get_submodule(self.embedding_attribute))

    def _final_norm(self, residual: Tensor) -> Tensor:
        return self._stem.get_submodule(self.final_norm_attribute)(residual)

    def _scores(self, normed: Tensor) -> Tensor:
        if self.config.tie_embeddings:
            return F.linear(normed, self.embedding.weight)
        return self.get_submodule(self.head_name)(normed)

    @property
    def head_matrix(self) -> tuple[Tensor, float] | None:
        if self.config.tie_embeddings:
            return self.embedding.weight, 1.0
        head = self.get_submodule(self.head_name)
        return (head.weight, 1.0) if type(head) is nn.Linear and head.bias is None else None

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """None: transformers adds a router's loss only where `output_router_logits` asks for it."""
        return None


def usual_parts(layer: Any, mixer: Part, feed_forward: nn.Module) -> dict[str, Part]:
    """The parts of a layer with two norms, as most hybrids call them."""
    return {
        "norm": Part("input_layernorm", norm(layer.input_layernorm)),
        "mixer": mixer,
        "norm_2": Part("pre_ff_layernorm", norm(layer.pre_ff_layernorm)),
        "feed_forward": Part("feed_forward", feed_forward),
    }


def norm(theirs: nn.Module) -> RMSNorm | LayerNorm:
    """Our norm, which is float64 in a float64 model, with the weights of one of transformers'."""
    if isinstance(theirs, nn.LayerNorm):
        ours: RMSNorm | LayerNorm = LayerNorm(theirs.normalized_shape[-1], theirs.eps)
        ours.bias = theirs.bias
    else:
        ours = RMSNorm(len(cast(Tensor, theirs.weight)), float(cast(float, theirs.variance_epsilon)))
    ours.weight = cast(nn.Parameter, theirs.weight)
    return ours


def require_silu(hf: Any, field: str = "hidden_act") -> None:
    """Raise InputError unless the activation of the SSM branch is silu."""
    if getattr(hf, field) not in ("silu", "swish"):
        raise InputError(f"{field} {getattr(hf, field)!r} is not supported; the SSM branch here is silu")
