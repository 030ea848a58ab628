"""Generation beside transformers' `generate` with the same weights: a batch of prompts, and many behind one prefix.

Usage: python benchmarks/decode.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

from typing import Any, cast

import torch
from mplat.models import generate
from peers import pair, tokens_of
from timing import Results, Run, arguments, compare
from torch import Tensor

NEW = 32


def measure(results: Results, shape: str) -> None:
    ours, theirs = pair(shape)
    ours.config = type(ours.config)(**{**vars(ours.config), "eos_token_id": None})
    hub = cast(Any, theirs)
    hub.generation_config.eos_token_id = None

    def their_generate(tokens: Tensor, new: int) -> Any:
        mask = torch.ones_like(tokens)
        return hub.generate(tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)

    def our_generate(tokens: Tensor, new: int, **more: Any) -> list[Any]:
        return generate(ours, tokens.tolist(), max_new_tokens=new, stop=(), **more)

    short = tokens_of(shape, 32, 16)
    together = torch.cat([tokens_of(shape, 1, 400).expand(64, -1), tokens_of(shape, 64, 16, seed=1)], 1)
    for tokens, new in ((short, NEW), (together, 8)):
        expected = their_generate(tokens, new)[:, tokens.shape[1] :].tolist()
        same = sum(a == list(b.tokens) for a, b in zip(expected, our_generate(tokens, new), strict=True))
        assert same >= 0.9 * len(expected), f"{shape}: only {same} of {len(expected)} continuations agree"

    calls: dict[str, Run] = {
        "mplat": lambda: our_generate(short, NEW),
        "transformers": lambda: their_generate(short, NEW),
    }
    measured = compare(calls, results.repeats)
    rate = 32 * NEW / measured["seconds"]["mplat"]
    results.add(f"decode {shape}, 32 prompts of 16 tokens, {NEW} new", measured, tokens_per_second=rate)
    calls = {"mplat": lambda: our_generate(together, 8), "transformers": lambda: their_generate(together, 8)}
    calls["mplat, nothing shared"] = lambda: our_generate(together, 8, share_prefix=False)
    results.add(f"decode {shape}, 64 questions behind 400 tokens, 8 new", compare(calls, results.repeats))


def main() -> None:
    results = Results("decode", arguments(__doc__, repeats=5))
    for shape in ("tiny mamba", "tiny mamba2"):
        measure(results, shape)
    results.write()


if __name__ == "__main__":
    main()
