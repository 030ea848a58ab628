"""Greedy decoding ahead: several tokens for a whole batch by one compiled loop, where a model is small enough.

`ahead(model, state)` gives a decoder for models that `kernels.greedy_loops` can run as they are (a Mamba on the CPU
with nobody watching or editing), else None, and generation goes token by token. The tokens are those that the model
itself would choose, up to rounding in a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.mamba.mamba import MambaMixer
from ..kernels import resolve
from ..kernels.compiled.threads import run_tasks

if TYPE_CHECKING:
    from ..block import Block
    from ..model import LanguageModel
    from ..state import ModelState

# Above this the products themselves take the time, and torch's are faster than ours.
LARGEST_WEIGHTS = 32 << 20  # bytes
# Prompts are read in the loops where at most this many times their tokens are computed, padding and empty lanes with
# them: a forward pass of the tiny Mamba takes that many times the loops' time for a token.
WORTH_LANES = 1.4


class GreedyDecoder:
    """The tokens after a state, a few steps at a time. Sequences lie in groups as wide as a vector; see the loops."""

    def __init__(self, model: LanguageModel, state: ModelState) -> None:
        from ..kernels.compiled.greedy_loops import PARTS

        c = model.config
        self.lanes = _lanes(model)
        self._dims = (c.n_layers, c.d_model, c.inner_size, c.state_size, int(c.dt_rank), c.conv_kernel, c.vocab_size)
        self._eps = c.norm_eps
        pieces: list[Tensor] = []
        at = torch.zeros(c.n_layers + 1, len(PARTS), dtype=torch.long)
        offset = 0
        for i, block in enumerate(_blocks(model)):
            for j, piece in enumerate(_parts(block)):
                at[i, j] = offset
                pieces.append(piece.reshape(-1))
                offset += piece.numel()
        at[-1, 0] = offset
        pieces.append(model.backbone.norm_f.weight)
        self._weights, self._at = torch.cat(pieces).detach().numpy(), at.numpy()
        embeddings = model.backbone.embeddings.weight.detach()
        head = embeddings if model.lm_head is None else model.lm_head.weight.detach()
        self._embeddings = embeddings.contiguous().numpy().reshape(-1)
        self._head = _padded(head).contiguous().numpy().reshape(-1)
        self._conv = self._grouped(torch.stack([layer["conv"].flatten(1) for layer in state.layers], 1))
        self._h = self._grouped(torch.stack([layer["h"].flatten(1) for layer in state.layers], 1))
        self._place = list(range(len(state.position)))  # where each row lies, group * lanes + lane

    def _grouped(self, rows: Tensor) -> Tensor:
        """(B, ...) as (groups, ..., lanes), with zeros for the sequences that the last group lacks."""
        missing = -len(rows) % self.lanes
        whole = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
        return whole.unflatten(0, (-1, self.lanes)).movedim(1, -1).contiguous()

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only, numbered anew from 0. A row left out is computed on until a group is free."""
        self._place = [self._place[row] for row in rows]
        if -(-len(rows) // self.lanes) < len(self._h):
            self._conv = self._grouped(self._conv.movedim(-1, 1).flatten(0, 1)[self._place])
            self._h = self._grouped(self._h.movedim(-1, 1).flatten(0, 1)[self._place])
            self._place = list(range(len(rows)))

    def read(self, rows: Sequence[Sequence[int]]) -> None:
        """Go on behind these tokens of each row, some of which may be none at all."""
        from ..kernels.compiled.greedy_loops import read

        groups, steps = len(self._h), max(map(len, rows), default=0)
        if steps == 0:
            return
        tokens = torch.zeros(groups * self.lanes, steps, dtype=torch.long)
        starts = torch.zeros(groups * self.lanes, dtype=torch.long)
        for place, row in zip(self._place, rows, strict=True):  # all end at the same step
            tokens[place, steps - len(row) :] = torch.tensor(row, dtype=torch.long)
            starts[place] = steps - len(row)
        conv, h = self._conv.numpy().reshape(-1), self._h.numpy().reshape(-1)
        same = not starts.any()
        before = (conv, h) if same else (conv.copy(), h.copy())
        run_tasks(
            read, groups, (self.lanes, steps, *self._dims), self._eps, self._weights, self._at, self._embeddings,
            tokens.unflatten(0, (groups, self.lanes)).movedim(1, 2).contiguous().numpy().reshape(-1), starts.numpy(),
            *before, conv, h,
        )  # fmt: skip

    def tokens(self, last: list[int], steps: int) -> list[list[int | None]]:
        """The next `steps` tokens of each row, one list a step, after the rows' `last` tokens; None where a row's
        scores are not finite."""
        from ..kernels.compiled.greedy_loops import decode

        groups = len(self._h)
        start = torch.zeros(groups * self.lanes, dtype=torch.long)
        start[self._place] = torch.tensor(last)
        chosen = torch.empty(groups, steps, self.lanes, dtype=torch.long)
        run_tasks(
            decode, groups, (self.lanes, steps, *self._dims), self._eps, self._weights, self._at, self._embeddings,
            self._head, start.numpy(), self._conv.numpy().reshape(-1), self._h.numpy().reshape(-1),
            chosen.numpy().reshape(-1),
        )  # fmt: skip
        by_step = chosen.movedim(1, 0).flatten(1)[:, self._place].tolist()
        return [[token if token >= 0 else None for token in row] for row in by_step]


def ahead(model: LanguageModel, state: ModelState) -> GreedyDecoder | None:
    """A decoder that continues `state`, or None where the model, its place or an edit asks for the usual way."""
    if model.captures or not all(applied.over_after(state.position) for applied in model.edits):
        return None
    return GreedyDecoder(model, state) if _fits(model) else None


def faster_in_loops(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether a decoder may and should read these prompts itself, from whatever state.

    A step of the loops takes the same time for one sequence as for all lanes, and as many steps as the longest prompt
    has tokens; a forward pass takes time for each token and some for each prompt, where padding is cut off.
    """
    if model.captures or model.edits or not _fits(model):
        return False
    if not all(0 <= token < model.config.vocab_size for prompt in prompts for token in prompt):
        return False  # a forward pass says what is wrong with them
    longest, n = max(map(len, prompts)), len(prompts)
    groups = -(-n // _lanes(model))
    return groups * _lanes(model) * longest <= WORTH_LANES * sum(map(len, prompts))


def _lanes(model: LanguageModel) -> int:
    from ..kernels.compiled.simd import VECTOR_BYTES

    return VECTOR_BYTES // model.dtype.itemsize


def _fits(model: LanguageModel) -> bool:
    """Whether the loops compute what this model computes, where it is, and are fast for its size."""
    c = model.config
    if c.arch != "mamba" or model.device.type != "cpu" or model.dtype not in (torch.float32, torch.float64):
        return False
    plain = all(type(b.mixer) is MambaMixer and b.feed_forward is None for b in _blocks(model)) and not c.use_bias
    if not plain or not c.residual_in_fp32 or c.d_model % 16 or c.inner_size % 16 or c.conv_kernel < 2:
        return False
    small = model.n_parameters * model.dtype.itemsize <= LARGEST_WEIGHTS
    return small and resolve("scan", model.backbone.embeddings.weight) == "numba"


def _blocks(model: LanguageModel) -> list[Block]:
    return cast("list[Block]", list(model.backbone.layers))


def _padded(matrix: Tensor) -> Tensor:
    """`matrix` (outputs, inputs) with rows of zeros to a multiple of 16."""
    return F.pad(matrix, (0, 0, 0, -len(matrix) % 16))


def _parts(block: Block) -> list[Tensor]:
    """What the loops need of a layer, in the order of `greedy_loops.PARTS`."""
    m = cast(MambaMixer, block.mixer)
    conv_bias = m.conv1d.bias
    return [
        block.norm.weight, m.in_proj.weight, m.conv1d.weight,
        m.conv1d.weight.new_zeros(len(m.D)) if conv_bias is None else conv_bias,
        _padded(m.x_proj.weight), m.dt_proj.weight, m.dt_proj.bias, -torch.exp(m.A_log), m.D, m.out_proj.weight,
    ]  # fmt: skip
