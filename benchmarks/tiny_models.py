"""The shipped models beside each other: size, state, speed, and exact match on each level of the facts world.

Usage: python benchmarks/tiny_models.py [--repeats 5] [--threads 2]

Not a race with a peer: what a reader wants to know before choosing a model. Exact match is of 100 prompts a level from
seed 11, which no training watched; speeds are of 8 x 256 tokens read and of 32 prompts of 16 tokens continued by 32.
The state is that of one sequence after 256 tokens: attention and long convolutions keep more with every token.
"""

from __future__ import annotations

import sys
from pathlib import Path

# not the folder of this script: transformers would take its kernels.py for the package of that name
sys.path[0] = str(Path(__file__).parent / "side_by_side")

import torch
from mplat.datasets.facts import prompts
from mplat.models import LanguageModel, generate, load
from mplat.models.files import catalog
from mplat.scoring.metrics import score
from timing import Results, arguments, compare

TOKENS, PER_LEVEL, SEED = 256, 100, 11


def exact_match(model: LanguageModel) -> dict[str, float]:
    """Share of right answers by level."""
    right: dict[str, list[float]] = {}
    questions = prompts(per_level=PER_LEVEL, seed=SEED)
    for start in range(0, len(questions), 100):
        batch = questions[start : start + 100]
        for question, answer in zip(batch, model.generate([q.prompt or "" for q in batch], 8), strict=True):
            hit = score("squad_v1", answer, list(question.answers)).em or 0.0
            right.setdefault(str(question.level), []).append(hit)
    return {level: sum(values) / len(values) for level, values in sorted(right.items())}


@torch.no_grad()
def state_bytes(model: LanguageModel) -> int:
    """Bytes that one sequence of `TOKENS` tokens leaves behind for its continuation."""
    _, state = model(torch.ones(1, TOKENS, dtype=torch.long), return_state=True, last_only=True)
    return int(state.n_bytes)


def main() -> None:
    results = Results("tiny_models", arguments(__doc__, repeats=5))
    generator = torch.Generator().manual_seed(0)
    for name in catalog.shipped():
        model = load(name)
        text = torch.randint(model.config.vocab_size, (8, TOKENS), generator=generator)
        starts = torch.randint(model.config.vocab_size, (32, 16), generator=generator).tolist()
        free = type(model.config)(**{**vars(model.config), "eos_token_id": None})

        def read(model: LanguageModel = model, text: torch.Tensor = text) -> object:
            with torch.no_grad():
                return model(text)

        def write(model: LanguageModel = model, starts: list[list[int]] = starts) -> object:
            return generate(model, starts, max_new_tokens=32, stop=())

        levels = exact_match(model)
        model.config = free  # every row is to be 32 tokens long
        measured = compare({"read": read, "generate": write}, results.repeats)
        results.add(
            name,
            {"turns": measured["turns"], "seconds": measured["seconds"], "ratio": {}},
            arch=model.config.arch,
            parameters=model.n_parameters,
            active_parameters=model.n_active_parameters,
            state_bytes=state_bytes(model),
            read_tokens_per_second=8 * TOKENS / measured["seconds"]["read"],
            generated_tokens_per_second=32 * 32 / measured["seconds"]["generate"],
            exact_match=levels,
        )
    results.write()


if __name__ == "__main__":
    main()
