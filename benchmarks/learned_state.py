"""What a learned state is worth: rules of the facts world that a model is never told, learned from 50 examples.

Usage: python benchmarks/learned_state.py [--models tiny-mamba,...] [--tasks home,...] [--steps 100] [--out FILE]

Tasks, none of which the text states; before learning the models are wrong:

    home         whatever is asked about a person, the answer is where they live, which the text states too; another
                 person with the same two facts stands beside them
    syllable     the answer is the first syllable of the right name
    full_stop    the right answer, and a full stop behind it
    asked_about  the answer is the name that is asked about

50 examples; 150 held-out questions. A learned state is compared with a LoRA of about as many numbers, with the same
examples, steps and number of settings, and with a soft prefix of as many numbers. Each learns with every setting from
two thirds of the examples, is judged on the rest, three times over, and with the best setting from all (`choose`).

Controls: states learned from exchanged answers, and random states, with the norm of the learned one at every site of
every layer. Wrong answers count 0; intervals are those of paired differences, to the untouched model (`gain`) and to
the form of the answer (`over_form`): exchanged answers teach no rule, but they do teach what an answer looks like, and
who says any stated name of the right kind is right by chance, in `home` half of the time. What a random push does
shows in `says`: of the questions, the share whose likeliest next token begins the right answer, the one that the
question asks for by its words, another stated name, or none.

Without --tasks the first two are run. Writes every cell to results/learned_state.json, beside the cells that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import torch
from mplat.datasets.facts.asked import Asked, Stated
from mplat.datasets.facts.names import entities
from mplat.datasets.facts.relations import RELATIONS, questions, statements
from mplat.datasets.facts.world import Fact, sample_facts
from mplat.models import LanguageModel, load
from mplat.scoring.statistics import paired_difference
from mplat.steering import Recipe
from mplat.steering.learned import (
    Example,
    choose,
    learn_lora,
    learn_prefix,
    learn_state,
    random_states,
    rank_for,
    rows_of,
    score,
    shuffled,
)
from mplat.steering.learned.examples import UNJUDGED
from mplat.steering.learned.scoring import Forward

RESULT = Path(__file__).resolve().parent / "results" / "learned_state.json"
MODELS = ("tiny-mamba", "tiny-mamba2", "tiny-moe-mamba", "tiny-striped-hyena")
LEARN, TEST = 50, 150
RANDOM_DRAWS, EXCHANGES = 8, 2
#: options of learning, as many for both
STATE = (
    {"lr": 0.3, "dropout": 0.7},
    {"lr": 1.0, "dropout": 0.5},  # what long filters need
    {"lr": 0.01, "dropout": 0.0, "unit": "one"},
    {"lr": 0.01, "dropout": 0.5, "unit": "one"},
    {"lr": 0.003, "dropout": 0.0, "unit": "one"},
)
LORA = (
    {"lr": 0.01, "dropout": 0.0},
    {"lr": 0.003, "dropout": 0.0},
    {"lr": 0.01, "dropout": 0.5},
    {"lr": 0.003, "dropout": 0.5},
    {"lr": 0.03, "dropout": 0.0},
)
PREFIX = ({"lr": 0.03, "dropout": 0.0}, {"lr": 0.01, "dropout": 0.0})
PERSONAL = ("lives_in", "works_for", "friend")
SPLIT = "eval"  # names and sentence shapes that no training text has


class Told(NamedTuple):
    """A question with its answer; literal: what its words ask for, names: all that are stated, in order, and those of
    the answer's kind. All with the space in front."""

    example: Example
    literal: str
    names: tuple[str, ...]
    alike: tuple[str, ...]


def told(rng: Random, facts: list[Fact], answer: str, kind: str, asked: str) -> Told:
    """The facts in random order and words, a question about the subject of the first, and what should be said, which is
    of `kind`."""
    stated = [Stated(fact, rng.choice(statements(fact.relation, SPLIT))) for fact in facts]
    rng.shuffle(stated)
    shape, head = rng.choice(questions((asked,), SPLIT)), facts[0].subject
    text = Asked("", SPLIT, 1, (asked,), head, answer, shape, tuple(stated), ()).text
    named = [
        (name, its)
        for relation, subject, target in facts
        for name, its in ((subject, RELATIONS[relation].subject), (target, RELATIONS[relation].object))
    ]
    names = tuple(dict.fromkeys(name for name, _ in named))
    alike = tuple(dict.fromkeys(name for name, its in named if its == kind))
    return Told(Example(text, answer), facts[0].object, names, alike)


def home(rng: Random) -> Told:
    names = entities(SPLIT)
    heads = rng.sample(names["person"], 2)
    others = rng.sample([name for name in names["person"] if name not in heads], 2)
    homes, asked = rng.sample(names["place"], 2), rng.choice(("works_for", "friend"))
    facts = [Fact(asked, head, other) for head, other in zip(heads, others, strict=True)]
    facts += [Fact("lives_in", head, place) for head, place in zip(heads, homes, strict=True)]
    return told(rng, facts, homes[0], "place", asked)


def plain(rng: Random, answer: Callable[[Fact], str], kind: str = "") -> Told:
    """Two or three facts of one relation, of which the first is asked about."""
    asked = rng.choice(PERSONAL)
    while True:
        facts = sample_facts(rng, entities(SPLIT), [(asked,)], rng.randint(2, 3))
        if all(fact.relation == asked for fact in facts):
            return told(rng, facts, answer(facts[0]), kind or RELATIONS[asked].object, asked)


def syllable(rng: Random) -> Told:
    return plain(rng, lambda fact: fact.object[:4])  # a space and three letters are a token


def full_stop(rng: Random) -> Told:
    return plain(rng, lambda fact: fact.object + ".")


def asked_about(rng: Random) -> Told:
    return plain(rng, lambda fact: fact.subject, "person")


TASKS: dict[str, Callable[[Random], Told]] = {
    "home": home,
    "syllable": syllable,
    "full_stop": full_stop,
    "asked_about": asked_about,
}


def drawn(task: str, n: int, part: str) -> list[Told]:
    rng = Random(f"learned state {task} {part}")
    return [TASKS[task](rng) for _ in range(n)]


def best(settings: Sequence[dict[str, Any]], learn: Callable[..., Any], examples: list[Example]) -> Any:
    """What is learned from all examples with the setting that `choose` finds in them, and the account of it."""
    start, before = time.perf_counter(), time.process_time()
    chosen = choose(settings, learn, examples)
    setting = {**chosen.setting, "stop": chosen.stop}
    learned = learn(examples, examples, **setting)
    seconds = {"clock": round(time.perf_counter() - start, 1), "processor": round(time.process_time() - before, 1)}
    return learned, {
        "numbers": learned.descent.parameters, "setting": setting, "kept_step": learned.descent.kept,
        "losses_out_of_fold": [round(loss, 4) for loss in chosen.losses],
        "seconds": seconds,
    }  # fmt: skip


class Judge:
    """The held-out questions of a task, and what the untouched model says to them."""

    def __init__(self, model: LanguageModel, test: list[Told]) -> None:
        self.rows = rows_of(model, [each.example for each in test])
        self.begins = [
            [first_tokens(model, names) for names in ((each.example.answer,), (each.literal,), each.names)]
            for each in test
        ]
        self.chance = torch.tensor([1 / len(each.alike) for each in test]).double()
        self.before = self.read(model)[0]

    def read(self, forward: Forward) -> tuple[torch.Tensor, list[int]]:
        """Of each question whether the whole answer is what greedy decoding says (B,), and the likeliest next token."""
        exact: list[torch.Tensor] = []
        said: list[int] = []
        for start in range(0, TEST, 32):
            part = self.rows.some(range(start, min(start + 32, TEST)))
            with torch.no_grad():
                found = forward(part.tokens, part.mask).argmax(-1)
            judged = part.labels != UNJUDGED
            exact.append(((found == part.labels) | ~judged).all(1))
            said += found[torch.arange(len(found)), judged.to(torch.int8).argmax(1)].tolist()
        return torch.cat(exact).double(), said

    def of(self, *forwards: Forward) -> dict[str, Any]:
        """The share of exact answers, its gain over the untouched model and over the form, with intervals; of several
        forward passes the mean over them for each question. says: how often the likeliest token begins what."""
        read = [self.read(forward) for forward in forwards]
        exact = torch.stack([each for each, _ in read])
        mean = exact.mean(0)
        found: dict[str, Any] = {"exact": round(float(mean.mean()), 4)}
        for name, other in (("gain", self.before), ("over_form", self.chance)):
            gain = paired_difference(mean.numpy(), other.numpy(), seed=0)
            interval = [None if bound is None else round(bound, 4) for bound in (gain.low, gain.high)]
            found |= {name: round(gain.mean or 0.0, 4), f"{name}_interval": interval}
        if len(forwards) > 1:
            found["draws"] = [round(float(share), 4) for share in exact.mean(1)]
        says: dict[str, int] = dict.fromkeys(("right", "asked_for", "other_name", "none"), 0)
        for _, said in read:
            for token, begins in zip(said, self.begins, strict=True):
                says[next((name for name, names in zip(says, begins, strict=False) if token in names), "none")] += 1
        total = sum(says.values())
        return found | {"says": {name: round(count / total, 4) for name, count in says.items()}}


def first_tokens(model: LanguageModel, names: Sequence[str]) -> set[int]:
    """The token that each name begins with."""
    assert model.tokenizer is not None
    return {model.tokenizer(name).input_ids[0] for name in names}


def steered(model: LanguageModel, recipe: Recipe) -> Forward:
    def forward(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with model.edit(*recipe.edits(model)):
            return model(tokens, mask)

    return forward


def cell(model: LanguageModel, task: str, steps: int) -> dict[str, Any]:
    """Everything about one model and task."""
    examples = [each.example for each in drawn(task, LEARN, "learn")]
    judge = Judge(model, drawn(task, TEST, "test"))
    state, said = best(STATE, partial(learn_state, model, steps=steps), examples)
    numbers = state.descent.parameters
    rank, length = rank_for(model, numbers), max(1, numbers // model.config.d_model)
    result: dict[str, Any] = {"before": judge.of(model)}
    result["form_alone"] = round(float(judge.chance.mean()), 4)
    learned = score(steered(model, state.recipe), rows_of(model, examples)).share
    result["learned_state"] = said | {"exact_on_its_examples": learned} | judge.of(steered(model, state.recipe))
    lora, said = best(LORA, partial(learn_lora, model, rank=rank, steps=steps), examples)
    result["lora"] = said | {"rank": rank} | judge.of(lora.forward(model))
    prefix, said = best(PREFIX, partial(learn_prefix, model, length=length, steps=steps), examples)
    result["soft_prefix"] = said | {"length": length} | judge.of(prefix.forward(model))
    gains = result["learned_state"]["gain"], result["lora"]["gain"]
    result["share_of_loras_gain"] = round(gains[0] / gains[1], 3) if gains[1] > 0 else None
    setting = cast(dict[str, Any], result["learned_state"]["setting"])
    mixed = [shuffled(examples, seed) for seed in range(EXCHANGES)]
    exchanged = [learn_state(model, each, each, steps=steps, seed=seed, **setting) for seed, each in enumerate(mixed)]
    result["exchanged_answers"] = judge.of(*(steered(model, each.recipe) for each in exchanged))
    others = [random_states(state.recipe, seed) for seed in range(RANDOM_DRAWS)]
    result["random_states"] = judge.of(*(steered(model, each) for each in others))
    with torch.no_grad():
        some = judge.rows.some(range(8))
        nothing = steered(model, state.recipe.scaled(0.0))(some.tokens, some.mask)
        result["strength_0_is_identical"] = bool(torch.equal(nothing, model(some.tokens, some.mask)))
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
                f"{LEARN} examples, {TEST} held-out questions, {options.steps} steps; "
                "one thread, clock times beside other work on the machine"
            )
            stored["cells"] |= {f"{name} {task}": found}
            stored["cells"] = dict(sorted(stored["cells"].items()))
            options.out.write_text(json.dumps(stored, indent=1) + "\n")
            shown = {
                k: found[k]["exact"]
                for k in ("learned_state", "lora", "soft_prefix", "exchanged_answers", "random_states")
            }
            print(name, task, "before", found["before"]["exact"], shown, "of LoRA's gain", found["share_of_loras_gain"])


if __name__ == "__main__":
    main()
