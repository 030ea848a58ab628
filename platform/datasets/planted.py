"""What planted models are asked (`mplat.models.planted`), as the records that analyses and evaluations take.

    run_steps(load(name), planted_questions(name, 120, seed=0))

A prompt is given to the model as it stands; the answer is the one word behind it. `source_fields` of a question has the
task's places, as numbers of words, which are numbers of tokens.
"""

from __future__ import annotations

import hashlib

from ..models.planted import find_planted
from .factual.records import FactualPrompt
from .records import Question, source_fields

DATASET = "planted"


def planted_questions(name: str, n: int, seed: int = 0) -> list[Question]:
    """`n` questions for the planted model `name`. Raises UsageError as `find_planted` and `Task.prompts`."""
    planted = find_planted(name)
    return [
        Question(
            id=f"{planted.task.name}-{seed}-{i:04d}",
            dataset=DATASET,
            split="",
            question="",
            answers=(prompt.answer,),
            metric="squad_v1",
            licence="MIT",
            source_fields=source_fields(places=dict(prompt.places)),
            category=planted.task.name,
            rule_set="generated",
            prompt=prompt.text,
            prompt_digest=hashlib.sha256(prompt.text.encode()).hexdigest(),
        )
        for i, prompt in enumerate(planted.prompts(n, seed))
    ]


def planted_facts(name: str, n: int, seed: int = 0, place: str | None = None) -> list[FactualPrompt]:
    """`n` factual prompts for the planted model `name`, whose subject is the word at `place`, by default the first that
    the task makes pairs by; `other_answer` is that of the pair. Raises UsageError as `Task.pairs`."""
    planted, made = find_planted(name), []
    for i, pair in enumerate(planted.pairs(n, seed, place)):
        prompt, at = pair.clean, pair.clean.at(pair.place)
        start = len(" ".join((*prompt.words[:at], "")))
        made.append(
            FactualPrompt(
                id=f"{planted.task.name}-{seed}-{i:04d}",
                dataset=DATASET,
                prompt=prompt.text,
                subject=prompt.words[at],
                subject_span=(start, start + len(prompt.words[at])),
                answer=prompt.answer,
                relation=planted.task.name,
                other_answer=pair.corrupted.answer,
                licence="MIT",
            )
        )
    return made
