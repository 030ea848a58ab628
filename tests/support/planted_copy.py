"""A hand-set two-layer Mamba that copies a token through known state coordinates; not a test file.

The prompt is filler words, a name, filler words, the relay "so", filler words and "?". The answer depends on the name:

    layer 0, at the name:    writes its code into the states (channel, coordinate) of `coordinates[0]`
    layer 0, at the relay:   reads them and leaves the code in the residual stream
    layer 1, at the relay:   writes that into the states of `coordinates[1]`
    layer 1, at "?":         reads them and says the answer

Every other channel is busy, too: decoys hold the code in the same coordinate, and the planted channels hold it in other
coordinates, but nothing reads those. What a probe would find there is of no consequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from mplat.models import LanguageModel, ModelConfig, build
from mplat.models.families.mamba.mamba import MambaMixer
from torch import Tensor

NAMES = ("anna", "boris", "clara", "denis")
ANSWERS = ("north", "south", "east", "west")
FILLERS = ("the", "and", "of", "then", "with", "was")
RELAY, QUERY = "so", "?"
WORDS = (*NAMES, *ANSWERS, *FILLERS, RELAY, QUERY)
#: two names differ in every sign (0 and 1, 2 and 3) or in half of them
CODES = torch.tensor([[1, -1, 1, -1], [-1, 1, -1, 1], [1, 1, -1, -1], [-1, -1, 1, 1]], dtype=torch.float64)
HIGH, LOW = 1.0, 0.4  # what a sign is written as: never 0, so that every planted channel always holds something
CHANNELS = ((5, 11, 19, 30), (2, 14, 27, 41))
COORDINATE = (3, 6)
DECOYS = ((7, 22), (9, 33))
_KEYS = (46, 47)  # the channels that B and C are made of: "something to write", "something to read"
_WIDTH, _N = 24, 8
_CODE, _RELAYED, _ANSWER = slice(0, 4), slice(4, 8), slice(8, 12)
_IS_NAME, _IS_RELAY, _IS_QUERY, _FILLER = 12, 13, 14, slice(15, 21)
_BUSY = (1, 5)  # coordinates that hold the code and are never read


@dataclass(frozen=True)
class PlantedCopy:
    """model: float64, with a tokenizer of WORDS. coordinates: per layer the planted (channel, coordinate)s.

    clean, corrupted (T): prompts whose names differ in every sign. name_at, relay_at: positions; "?" is the last.
    """

    model: LanguageModel
    clean: Tensor
    corrupted: Tensor
    coordinates: tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int]]]
    name_at: int
    relay_at: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The clean prompt's words."""
        return tuple(WORDS[int(i)] for i in self.clean)


def prompt(name: str, before: int = 2, between: int = 2, behind: int = 3) -> Tensor:
    """Tokens (T) with that many filler words before the name, between it and the relay, and behind the relay."""
    filler = [FILLERS[i % len(FILLERS)] for i in range(before + between + behind)]
    words = [*filler[:before], name, *filler[before : before + between], RELAY, *filler[before + between :], QUERY]
    return torch.tensor([WORDS.index(word) for word in words])


def planted_copy(seed: int = 0) -> PlantedCopy:
    """The model with the prompts of "anna" and "boris"; `seed` draws what the other channels do."""
    config = ModelConfig(
        "mamba", len(WORDS), _WIDTH, 2, _N, tie_embeddings=False, bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    model = build(config, seed, tokenizer=_tokenizer(), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _embed(model)
        _layer(model, 0, _CODE, _IS_NAME, _IS_RELAY, generator)
        _layer(model, 1, _RELAYED, _IS_RELAY, _IS_QUERY, generator)
    planted = tuple(frozenset((c, n) for c in channels) for channels, n in zip(CHANNELS, COORDINATE, strict=True))
    return PlantedCopy(model.eval(), prompt("anna"), prompt("boris"), planted, 2, 5)  # type: ignore[arg-type]


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=None))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def _embed(model: LanguageModel) -> None:
    table = model.backbone.embeddings.weight.zero_()
    table[: len(NAMES), _CODE] = torch.where(CODES > 0, HIGH, LOW)
    table[: len(NAMES), _IS_NAME] = 1.0
    table[WORDS.index(RELAY), _IS_RELAY] = 4.0  # large, so that what is added there hardly changes the norm
    table[WORDS.index(QUERY), _IS_QUERY] = 1.0
    table[WORDS.index(FILLERS[0]) :][: len(FILLERS), _FILLER] = torch.eye(len(FILLERS), dtype=torch.float64)
    assert model.lm_head is not None
    head = model.lm_head.weight.zero_()
    head[len(NAMES) : len(NAMES) + len(ANSWERS), _ANSWER] = 2.0 * torch.eye(4, dtype=torch.float64)


def _layer(
    model: LanguageModel, layer: int, code: slice, write_at: int, read_at: int, generator: torch.Generator
) -> None:
    """Channels read `code` of the residual stream where `write_at` is set, and are read where `read_at` is set."""
    mixer = model.blocks[layer].mixer
    assert isinstance(mixer, MambaMixer)
    channels, n, E = CHANNELS[layer], COORDINATE[layer], 2 * _WIDTH
    random = torch.randn(E, _WIDTH, generator=generator, dtype=torch.float64)
    mixer.in_proj.weight[:E] = 0.3 * random  # x: what the other channels see is anything
    mixer.in_proj.weight[E:] = 0.3 * random.flip(0)
    for part, i in enumerate(channels):
        mixer.in_proj.weight[i] = 0.0
        mixer.in_proj.weight[i, code.start + part] = 1.0
    for decoy, i in zip(DECOYS[layer], channels, strict=False):
        mixer.in_proj.weight[decoy] = mixer.in_proj.weight[i]
    for i in (*channels, *DECOYS[layer]):  # the gate opens where the state is read
        mixer.in_proj.weight[E + i] = 0.0
        mixer.in_proj.weight[E + i, read_at] = 1.0
    for key, at in zip(_KEYS, (write_at, read_at), strict=True):
        mixer.in_proj.weight[key] = 0.0
        mixer.in_proj.weight[key, at] = 1.0
    mixer.conv1d.weight.zero_()
    mixer.conv1d.weight[:, 0, -1] = 1.0
    assert mixer.conv1d.bias is not None
    mixer.conv1d.bias.zero_()
    rank = int(model.config.dt_rank)
    mixer.x_proj.weight.zero_()
    writes, reads = slice(rank, rank + _N), slice(rank + _N, None)
    mixer.x_proj.weight[writes][[n, *_BUSY], _KEYS[0]] = 0.5
    mixer.x_proj.weight[reads][n, _KEYS[1]] = 0.5
    mixer.dt_proj.weight.zero_()
    mixer.dt_proj.bias.fill_(math.log(math.expm1(1.0)))  # Delta = 1
    mixer.A_log.copy_(torch.linspace(0.0, 1.0, _N, dtype=torch.float64).expand(E, -1))
    mixer.A_log[:, [n, *_BUSY]] = math.log(0.02)  # 35 tokens of half-life
    mixer.D.fill_(1.0)
    out = mixer.out_proj.weight.zero_()
    for part, i in enumerate(channels):
        if layer == 0:
            out[_RELAYED.start + part, i] = 0.05
        else:
            out[_ANSWER, i] = 0.02 * CODES[:, part]
