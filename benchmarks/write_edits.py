"""How well the closed form of a write's effect on a logit predicts the measured one (`steering.write_effects`).

Usage: python benchmarks/write_edits.py [--prompts 4] [--models tiny-mamba2 tiny-mamba]

Every token's write of every layer is edited by itself, in prompts of the facts world, and the logit of the answer's
first token is compared with what the closed form says: with the adjoint of the unedited run (0 points), and along the
way. R^2 is 1 - sum (measured - predicted)^2 / sum (measured - mean)^2 over all these edits, without any fit. Float64.
Writes results/write_edits.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from mplat.datasets.factual.facts_world import facts_world_prompts
from mplat.models import load
from mplat.steering.write_effects import WriteEffect, write_effects

RESULT = Path(__file__).resolve().parent / "results" / "write_edits.json"
#: what writes are multiplied by, and at how many points of the way the adjoint is taken
ASKED = ((0.99, 0), (0.9, 0), (0.5, 0), (0.0, 0), (0.0, 5))
SEED, FACTS = 3, 2


def r_squared(effects: list[WriteEffect]) -> float:
    """Of the predictions as they are."""
    predicted, measured = (np.array([getattr(e, name) for e in effects]) for name in ("predicted", "measured"))
    return float(1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


def of_model(name: str, n: int) -> list[dict[str, object]]:
    """A row for each factor and number of points."""
    model = load(name).double()
    assert model.tokenizer is not None
    found: dict[tuple[float, int], list[WriteEffect]] = {asked: [] for asked in ASKED}
    for prompt in facts_world_prompts(n, SEED, n_facts=FACTS):
        tokens = torch.tensor([model.tokenizer(prompt.prompt).input_ids])
        answer = model.tokenizer(f" {prompt.answer}").input_ids[0]
        for layer in range(model.n_layers):
            for factor, points in ASKED:
                found[factor, points] += write_effects(model, tokens, answer, layer=layer, factor=factor, points=points)
    rows: list[dict[str, object]] = []
    for (factor, points), effects in found.items():
        layers = sorted({effect.site for effect in effects})
        rows.append(
            {
                "model": name,
                "factor": factor,
                "points": points,
                "edits": len(effects),
                "r_squared": round(r_squared(effects), 4),
                "by_site": {site: round(r_squared([e for e in effects if e.site == site]), 4) for site in layers},
                "measured_std": float(f"{np.std([e.measured for e in effects]):.3g}"),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=["tiny-mamba2", "tiny-mamba"])
    options = parser.parse_args()
    rows = [row for name in options.models for row in of_model(name, options.prompts)]
    for row in rows:
        print(row)
    result = {
        "about": f"{options.prompts} facts prompts of {FACTS} facts, seed {SEED}; one write of one layer at a time",
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
