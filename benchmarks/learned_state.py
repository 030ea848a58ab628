"""What a learned state is worth: rules of the facts world that a model is never told, learned from 50 examples.

Usage: python benchmarks/learned_state.py [--models tiny-mamba,...] [--tasks home,...] [--steps 100] [--out FILE]

Tasks, none of which the text states; before learning the models are wrong:

    home         whatever is asked about a person, the answer is where they live, which the text states too; another
                 person with the same two facts stands beside them
    syllable     the answer is the first syllable of the right name
    full_stop    the right answer, and a full stop behind it
    asked_about  the answer is the name that is asked about

40 examples to learn from and 10 to stop and to choose the settings by; 150 held-out questions. A learned state is
compared with a LoRA of about as many numbers and a soft prefix of as many, with the same examples and steps, each with
the best of its settings on the 10. Controls: a state learned from exchanged answers, and random states of equal norm.
Exchanged answers are still of the right form (a place, one syllable): what that teaches is no rule, and counts here.
Wrong answers count 0; intervals are those of paired differences to the untouched model. Without --tasks the first two
are run. Writes every cell to results/learned_state.json, beside the cells that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from mplat.datasets.facts.asked import Asked, Stated
from mplat.datasets.facts.names import entities
from mplat.datasets.facts.relations import questions, statements
from mplat.datasets.facts.world import Fact, sample_facts
from mplat.models import LanguageModel, load
from mplat.scoring.statistics import paired_difference
from mplat.steering import Recipe
from mplat.steering.learned import (
    Example,
    Scored,
    learn_lora,
    learn_prefix,
    learn_state,
    random_states,
    rank_for,
    rows_of,
    score,
    shuffled,
)

RESULT = Path(__file__).resolve().parent / "results" / "learned_state.json"
MODELS = ("tiny-mamba", "tiny-mamba2", "tiny-moe-mamba", "tiny-striped-hyena")
LEARN, DEVELOP, TEST = 40, 10, 150
RANDOM_DRAWS = 3
#: learning rate and dropout; the better one on the development part is kept
STATE = ((0.001, 0.0), (0.003, 0.0), (0.01, 0.5), (0.1, 0.0), (0.3, 0.5))
LORA = ((0.003, 0.0), (0.01, 0.0))
PREFIX = ((0.03, 0.0),)
PERSONAL = ("lives_in", "works_for", "friend")
SPLIT = "eval"  # names and sentence shapes that no training text has


def told(rng: Random, facts: list[Fact], head: str, answer: str, asked: str) -> Example:
    """The facts in random order and words, a question about `head`, and what should be said."""
    stated = [Stated(fact, rng.choice(statements(fact.relation, SPLIT))) for fact in facts]
    rng.shuffle(stated)
    shape = rng.choice(questions((asked,), SPLIT))
    return Example(Asked("", SPLIT, 1, (asked,), head, answer, shape, tuple(stated), ()).text, answer)


def home(rng: Random) -> Example:
    names = entities(SPLIT)
    heads = rng.sample(names["person"], 2)
    others = rng.sample([name for name in names["person"] if name not in heads], 2)
    homes, asked = rng.sample(names["place"], 2), rng.choice(("works_for", "friend"))
    facts = [Fact(asked, head, other) for head, other in zip(heads, others, strict=True)]
    facts += [Fact("lives_in", head, place) for head, place in zip(heads, homes, strict=True)]
    return told(rng, facts, heads[0], homes[0], asked)


def plain(rng: Random) -> tuple[list[Fact], str]:
    """Two or three facts of one relation, the first of which is asked about."""
    asked = rng.choice(PERSONAL)
    while True:
        facts = sample_facts(rng, entities(SPLIT), [(asked,)], rng.randint(2, 3))
        if all(fact.relation == asked for fact in facts):
            return facts, asked


def syllable(rng: Random) -> Example:
    facts, asked = plain(rng)
    return told(rng, facts, facts[0].subject, facts[0].object[:4], asked)  # a space and three letters are a token


def full_stop(rng: Random) -> Example:
    facts, asked = plain(rng)
    return told(rng, facts, facts[0].subject, facts[0].object + ".", asked)


def asked_about(rng: Random) -> Example:
    facts, asked = plain(rng)
    return told(rng, facts, facts[0].subject, facts[0].subject, asked)


TASKS: dict[str, Callable[[Random], Example]] = {
    "home": home,
    "syllable": syllable,
    "full_stop": full_stop,
    "asked_about": asked_about,
}


def drawn(task: str, n: int, part: str) -> list[Example]:
    rng = Random(f"learned state {task} {part}")
    return [TASKS[task](rng) for _ in range(n)]


def best(settings: tuple[tuple[float, float], ...], learn: Callable[[float, float], Any]) -> tuple[Any, dict[str, Any]]:
    """What is learned with the setting of lowest development loss, and the account of it."""
    start, before = time.perf_counter(), time.process_time()
    found = [(learn(lr, dropout), lr, dropout) for lr, dropout in settings]
    seconds = {"clock": round(time.perf_counter() - start, 1), "processor": round(time.process_time() - before, 1)}
    chosen, lr, dropout = min(found, key=lambda each: min(nll for _, nll in each[0].descent.development))
    descent = chosen.descent
    return chosen, {
        "numbers": descent.parameters, "lr": lr, "dropout": dropout, "kept_step": descent.kept,
        "development_loss": round(min(nll for _, nll in descent.development), 4), "seconds_all_settings": seconds,
    }  # fmt: skip


def compared(base: Scored, other: torch.Tensor) -> dict[str, Any]:
    """The share of exact answers and its gain over the untouched model, with the interval."""
    gain = paired_difference(other.double().numpy(), base.exact.double().numpy(), seed=0)
    interval = [None if bound is None else round(bound, 4) for bound in (gain.low, gain.high)]
    return {"exact": round(float(other.double().mean()), 4), "gain": round(gain.mean or 0.0, 4), "interval": interval}


def steered(model: LanguageModel, recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def forward(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with model.edit(*recipe.edits(model)):
            return model(tokens, mask)

    return forward


def cell(model: LanguageModel, task: str, steps: int) -> dict[str, Any]:
    """Everything about one model and task."""
    learn, develop = drawn(task, LEARN, "learn"), drawn(task, DEVELOP, "develop")
    test = rows_of(model, drawn(task, TEST, "test"))
    base = score(model, test)
    state, said = best(
        STATE, lambda lr, dropout: learn_state(model, learn, develop, steps=steps, lr=lr, dropout=dropout)
    )
    numbers = state.descent.parameters
    rank, length = rank_for(model, numbers), max(1, numbers // model.config.d_model)
    result: dict[str, Any] = {"before": round(base.share, 4)}
    result["learned_state"] = said | compared(base, score(steered(model, state.recipe), test).exact)
    lora, said = best(LORA, lambda lr, _: learn_lora(model, learn, develop, rank=rank, steps=steps, lr=lr))
    result["lora"] = said | {"rank": rank} | compared(base, score(lora.forward(model), test).exact)
    prefix, said = best(PREFIX, lambda lr, _: learn_prefix(model, learn, develop, length=length, steps=steps, lr=lr))
    result["soft_prefix"] = said | {"length": length} | compared(base, score(prefix.forward(model), test).exact)
    gains = result["learned_state"]["gain"], result["lora"]["gain"]
    result["share_of_loras_gain"] = round(gains[0] / gains[1], 3) if gains[1] > 0 else None
    chosen = result["learned_state"]
    exchanged = learn_state(
        model, shuffled(learn, 0), shuffled(develop, 0), steps=steps, lr=chosen["lr"], dropout=chosen["dropout"]
    )
    result["exchanged_answers"] = compared(base, score(steered(model, exchanged.recipe), test).exact)
    others = [random_states(state.recipe, seed) for seed in range(RANDOM_DRAWS)]
    draws = torch.stack([score(steered(model, other), test).exact.double() for other in others])
    result["random_states"] = compared(base, draws.mean(0)) | {"draws": RANDOM_DRAWS}
    with torch.no_grad():
        nothing = steered(model, state.recipe.scaled(0.0))(test.tokens[:8], test.mask[:8])
        result["strength_0_is_identical"] = bool(torch.equal(nothing, model(test.tokens[:8], test.mask[:8])))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tasks", default="home,syllable")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    for name in options.models.split(","):
        model = load(name)
        for task in options.tasks.split(","):
            found = cell(model, task, options.steps)
            stored: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"cells": {}}
            stored["about"] = (
                f"{LEARN} examples, {DEVELOP} to stop by, {TEST} held-out questions, {options.steps} steps"
            )
            stored["cells"] |= {f"{name} {task}": found}
            stored["cells"] = dict(sorted(stored["cells"].items()))
            options.out.write_text(json.dumps(stored, indent=1) + "\n")
            shown = {k: found[k]["exact"] for k in ("learned_state", "lora", "soft_prefix", "exchanged_answers")}
            print(name, task, "before", found["before"], shown, "of LoRA's gain", found["share_of_loras_gain"])


if __name__ == "__main__":
    main()
