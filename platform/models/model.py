"""`LanguageModel`: embeddings, blocks of norm and mixer, final norm, head; with captures, edits and a carried state.

    residual = embed(tokens);  per block: residual += mixer(RMSNorm(residual));  logits = head(RMSNorm(residual))

The residual stream is float32 (float64 in a float64 model). Module and parameter names are those of transformers'
Mamba classes. Files are read and written in `files`, text is generated in `decoding`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import InputError, UsageError
from .access.capture import STATE_SITES, Activations, Recorder
from .access.edits import Edit
from .access.fitting import fitted
from .access.run import Applied, Phase, Run, pack, take
from .access.sites import Site
from .block import Backbone, Block
from .changes import Change, digest_with
from .decoding import ends
from .entering import Entry, as_entry
from .files.identity import KnownDigest, digest_of
from .inputs import Readable, as_columns, as_rows, checked
from .mixer import LayerState, SiteInfo
from .model_config import ModelConfig
from .parameter_groups import parameter_groups
from .parts.norms import wide
from .recompute import step_through
from .state import ModelState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .files.training_record import TrainingRecord


class LanguageModel(nn.Module):
    """A state-space language model whose every internal quantity can be read and edited.

    `model(tokens)` -> logits (B, T, V); see `forward`. `model.tokenizer` is None for a model without one; only text
    functions need it. `model.name` is what it was loaded as, `model.generation_settings` the content of its
    generation_config.json, None without one. `model.training_record` is what the folder says of its training.
    `model.changes` are edits that belong to the model (`changes`): they are in force in every forward pass.
    """

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerFast | None = None, name: str = "") -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.name = name or config.arch
        self.tokenizer_name: str | None = None  # what was named to take the tokenizer from, where it is not the model's
        self.generation_settings: Mapping[str, Any] | None = None
        self.training_record: TrainingRecord | None = None
        self.recompute_blocks = False  # in training: less memory for a second forward pass, see `recompute`
        self.changes: tuple[Change, ...] = ()
        self._edits: list[Applied] = []
        self._recorders: list[Recorder] = []
        self._digest: KnownDigest | None = None
        self._make_parts(config)

    # -- the forward pass ---------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Readable,
        mask: Tensor | None = None,
        *,
        state: ModelState | None = None,
        return_state: bool = False,
        reset: Tensor | None = None,
        phase: Phase | None = None,
        anchor: Tensor | None = None,
        last_only: bool = False,
        only: Tensor | None = None,
        overwrite_state: bool = False,
        rows: Tensor | Sequence[int] | None = None,
        enter: Entry | None = None,
        unscored: bool = False,
    ) -> Any:
        """Logits (B, T, V) of tokens (B, T); with `return_state` also the state after each row's last real token.

        tokens: or texts, lists of ids, a tokenizer's output (`inputs`); lists of different lengths end in padding.
        mask (B, T) bool: False at padding, on either side (any layout is right); logits at padding mean nothing.
        state: continue from it. reset (B, T) bool: True where a new packed document starts.
        phase: which edits act; default "decode" for one token after a state, else "prefill".
        anchor (B,): length from which negative positions count; default the length after this call.
        last_only: logits (B, 1, V) of each row's last real token; the head is then not computed for the others.
        only (B, A): columns of tokens whose logits are wanted, (B, A, V); the head is computed for them alone.
        overwrite_state: `state` is not needed any more, its memory may be used for the new one.
        rows (B,): which rows of the batch at its beginning these are, where some have left it (`state.rows`); captures
        and edits with an entry for each row go by them.
        enter: (block, what was at site resid_post of the block below (B, T, d)): the pass begins there (`entering`),
        also behind a `state`; edits and captures below do not act.
        unscored: what the head would read, the normed residual (B, T, d), in place of logits; see `head_matrix`.

        Raises UsageError for wrong shapes and InputError for token ids outside the vocabulary.
        """
        tokens, mask, reset = checked(self, tokens, mask, reset, state)
        if phase not in (None, "prefill", "decode"):
            raise UsageError(f'phase is "prefill" or "decode", not {phase!r}')
        n, width = tokens.shape
        order, keep, lengths = pack(mask, width, n, tokens.device)
        offset = state.position if state is not None else torch.zeros(n, dtype=torch.long, device=tokens.device)
        run = Run(
            phase=phase or ("decode" if state is not None and width == 1 else "prefill"),
            offset=offset,
            lengths=lengths,
            anchor=offset + lengths if anchor is None else anchor,
            width=width,
            continues=state is not None,
            order=order,
            keep=keep,
            edits=self._edits,
            captures=self._recorders,
            overwrite=overwrite_state,
            rows=as_rows(rows, len(tokens), tokens.device),
        )
        run.reset = None if reset is None else run.to_packed(reset)
        for watched in (*(a.coverage for a in self._edits), *self._recorders):
            watched.follow(run)
        wanted = run.wanted(last_only, as_columns(only, tokens, last_only))
        begun = as_entry(self, enter, tokens, return_state)
        entry = None if begun is None else (begun[0], run.to_packed(begun[1]))
        logits, layers = self._run(run.to_packed(tokens), run, state, return_state, wanted, entry, unscored)
        if wanted is None:
            logits = run.to_caller(logits)
        if not return_state:
            return logits
        return logits, ModelState(tuple(cast(list[LayerState], layers)), offset + lengths)

    def _run(
        self,
        tokens: Tensor,
        run: Run,
        state: ModelState | None,
        need_state: bool,
        wanted: Tensor | None,
        entry: Entry | None,
        unscored: bool = False,
    ) -> tuple[Tensor, list[LayerState | None]]:
        first, x = entry or (0, run.site("embed", self._embed(tokens, run, state)))
        if self.config.residual_in_fp32:
            x = x.to(wide(x.dtype))
        new_layers: list[LayerState | None] = []
        for i, block in enumerate(self.blocks[first:], first):
            layer_state = None if state is None else state.layers[i]
            step = step_through(block, run, self.recompute_blocks)
            x, new = step(x, run, f"blocks.{i}.", layer_state, need_state)
            new_layers.append(new)
        whole = run.active("final_norm") or run.active("logits")  # edits and captures there see every token
        if wanted is not None and not whole:
            x = take(x, wanted)
        logits = self.normed(x, run) if unscored else self.head(x, run)
        return logits if wanted is None or not whole else take(logits, wanted), new_layers

    def head(self, residual: Tensor, run: Run) -> Tensor:
        """Logits (B, T, V), float32 or wider, of the residual stream (B, T, d) after the last block."""
        logits = self._scores(self.normed(residual, run))
        return run.site("logits", logits.to(wide(logits.dtype)))

    def normed(self, residual: Tensor, run: Run) -> Tensor:
        """What the head reads (B, T, d) of the residual stream (B, T, d) after the last block."""
        return run.site("final_norm", self._final_norm(residual))

    # An adapter over another program's model (`adapters`) answers these in its own way.

    def _make_parts(self, config: ModelConfig) -> None:
        self.backbone = Backbone(config)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.backbone.layers))

    @property
    def embedding(self) -> nn.Embedding:
        """The table of token embeddings; its dtype and device are those of the model."""
        return self.backbone.embeddings

    @property
    def embedding_scale(self) -> float:
        """Factor between a row of that table and what it adds to site `embed`; 1 but for a few adapted models."""
        return 1.0

    def _embed(self, tokens: Tensor, run: Run, state: ModelState | None) -> Tensor:
        """What enters the first block, (B, T, d)."""
        return self.embedding(tokens)

    def _final_norm(self, residual: Tensor) -> Tensor:
        """The normed residual (B, T, d) after the last block."""
        return self.backbone.norm_f(residual)

    def _scores(self, normed: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return F.linear(normed, self.embedding.weight if self.lm_head is None else self.lm_head.weight)

    @property
    def head_matrix(self) -> tuple[Tensor, float] | None:
        """W (V, d) and c with logits = c W normed; None for a model whose head is more than that."""
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight, 1.0

    def unembed(self, residual: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of a residual stream (B, T, d), as if the last block had left it so.

        The final norm and the head alone: no edit acts, no capture sees it. Raises UsageError for another shape.
        """
        d = self.config.d_model
        if not isinstance(residual, Tensor) or residual.ndim != 3 or residual.shape[-1] != d:
            found = tuple(residual.shape) if isinstance(residual, Tensor) else type(residual).__name__
            raise UsageError(f"a residual stream is a tensor (batch, time, {d}), not {found}")
        logits = self._scores(self._final_norm(residual))
        return logits.to(wide(logits.dtype))

    def zero_state(self, rows: int) -> ModelState:
        """The state before the first token, for `rows` sequences."""
        layers = tuple(b.zero_state(rows, self.dtype, self.device) for b in self.blocks)
        return ModelState(layers, torch.zeros(rows, dtype=torch.long, device=self.device))

    @property
    def edits(self) -> Sequence[Applied]:
        """The edits in force, in their order: those of `changes` before those of the blocks one is in."""
        return tuple(self._edits)

    @property
    def captures(self) -> Sequence[Recorder]:
        """The captures in force."""
        return tuple(self._recorders)

    # -- sites --------------------------------------------------------------------------------------------------

    def sites(self) -> list[Site]:
        """All sites in the order of a forward pass, with shape, dtype and meaning."""
        wide_name = str(wide(self.dtype)).removeprefix("torch.")
        own = str(self.dtype).removeprefix("torch.")

        def site(at: str, info: SiteInfo) -> Site:
            last = info.name.rpartition(".")[2]
            dtype = wide_name if info.wide or (last in STATE_SITES and last != "conv_state") else own
            axes = ("B",) if info.initial else () if info.constant else ("B", "T")
            return Site(at + info.name, (*axes, *info.shape), dtype, True, info.editable, info.meaning)

        d = self.config.d_model
        result = [site("", SiteInfo("embed", (d,), "token embeddings"))]
        for i, block in enumerate(self.blocks):
            result.extend(site(f"blocks.{i}.", info) for info in block.site_table())
        result.append(site("", SiteInfo("final_norm", (d,), "normed residual after the last block")))
        result.append(site("", SiteInfo("logits", (self.config.vocab_size,), "next-token scores", wide=True)))
        return result

    @contextmanager
    def capture(self, *specs: str, gradients: bool = False) -> Iterator[Activations]:
        """Record the named sites of every forward pass inside the block; see `sites` for the form of a name.

        gradients: tensors keep their autograd history; else they are detached.
        Raises UsageError for a name that fits no site, and at the end for one that never fired or whose positions a row
        did not have (`coverage`).
        """
        recorder = Recorder(specs, self.sites(), gradients)
        self._recorders.append(recorder)
        try:
            yield recorder.activations
        finally:
            self._recorders.remove(recorder)
        recorder.check()

    def run_with_cache(
        self, tokens: Readable, *specs: str, mask: Tensor | None = None, gradients: bool = False, **options: Any
    ) -> tuple[Any, Activations]:
        """`model(tokens)`, and what the named sites held in it: logits and activations; without names, all sites.

        gradients: activations keep their autograd history. options: as in `forward`, which then decides what comes
        first. Raises UsageError as `capture` and `forward`.
        """
        unknown = sorted(options.keys() - inspect.signature(self.forward).parameters.keys())
        if unknown:
            raise UsageError(f"run_with_cache has no option {unknown[0]!r}; site names stand behind the tokens")
        begins = options.get("state") is None  # else there is nothing to see at the sites that texts begin with
        every = specs or [site.name for site in self.sites() if begins or not site.initial]
        with self.capture(*every, gradients=gradients) as acts:
            logits = self(tokens, mask, **options)
        return logits, acts

    @contextmanager
    def edit(self, *edits: Edit) -> Iterator[None]:
        """Apply edits, in the order given, to every forward pass inside the block.

        Raises UsageError for an edit that fits no site, and at the end for one that never acted or whose positions a
        row did not have (`coverage`).
        """
        applied = fitted(edits, self.sites())
        before = self._edits
        self._edits = [*before, *applied]
        try:
            yield
        finally:
            self._edits = before
        idle = [str(a.edit) for a in applied if not (a.fired or a.excused)]
        if idle:
            raise UsageError(
                f"edit {', '.join(idle)} never fired: no forward pass ran in its phase, or none had its positions"
            )
        for each in applied:
            each.coverage.close()
            if each.coverage.lacking is not None:
                raise UsageError(each.coverage.lacking)

    def keep(self, change: Change) -> None:
        """Make `change` a part of the model, in force from now on. UsageError for an edit that fits no site."""
        self._edits = [*self._edits, *fitted(change.edits, self.sites())]
        self.changes = (*self.changes, change)

    # -- text ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Readable,
        max_new_tokens: int = 32,
        stop: Sequence[str] = ("\n",),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Any]:
        """Continue each prompt, in a list also where there is one: texts for texts, token ids for token ids.

        See `generation.generate`, and `inputs` for what a prompt may be. Raises InputError where logits are not finite.
        """
        from .decoding.generation import generate

        out = generate(self, prompts, max_new_tokens=max_new_tokens, stop=stop, temperature=temperature, seed=seed)
        bad = [i for i, g in enumerate(out) if g.stop_reason == "nonfinite"]
        if bad:
            raise InputError(f"model {self.name}: logits are not finite for prompt {bad[0]} (and {len(bad) - 1} more)")
        as_text = isinstance(prompts, str) or (
            isinstance(prompts, Sequence) and isinstance(next(iter(prompts), 0), str)
        )
        return [g.text if as_text else list(g.tokens) for g in out]

    # -- facts about the model ----------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        return self.config.n_layers

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def n_parameters(self) -> int:
        """Number of parameters; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def n_active_parameters(self) -> int:
        """Number of parameters that one token uses: all but those of the experts it is not sent to."""
        parts = [part for block in self.blocks for part in (block.mixer, block.feed_forward)]
        return self.n_parameters - sum(getattr(part, "n_idle_parameters", 0) for part in parts)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The ids of the tokens that end a text, ascending; see `ends`."""
        return ends.of_model(self)

    @property
    def digest(self) -> str:
        """sha256 over weights, configuration, tokenizer, end tokens and changes: equal digests mean equal functions of
        text."""
        self._digest = digest_of(self, self._digest)
        return digest_with(self._digest.digest, self.changes)

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW groups of the parameters: see `parameter_groups`."""
        return parameter_groups(self, weight_decay)

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """What the last forward pass in training mode adds to the loss, summed over blocks; None where nothing does."""
        parts = [block.mixer.auxiliary_loss for block in self.blocks]
        return torch.stack(present).sum() if (present := [p for p in parts if p is not None]) else None

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None, layout: str = "hf") -> Path:
        """Write config, weights and tokenizer into `folder`; layout "hf" (transformers) or one of `layouts`."""
        from .files.saving import save

        return save(self, folder, dtype=dtype, layout=layout)
