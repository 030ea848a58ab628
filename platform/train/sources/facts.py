"""Training on the facts world: rows of generated facts and questions, harder as the run proceeds.

A batch is a pure function of (seed, step, difficulty) and difficulty one of the step, so nothing is stored on disk.
Evaluation asks the held-out questions of every level and counts an answer as right when greedy decoding would write
exactly its tokens and the end of the line; it is computed with teacher forcing, in one forward pass per batch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...datasets.tokens.tokenizer import open_tokenizer
from ..data import Batch, Evaluation, data_source
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from ...datasets.facts import Difficulty
    from ...datasets.records import Question
    from ...models import LanguageModel


TRAIN = "train-evaluation"  # names the draw of the evaluation questions
# Asked of the generator as weights, these tell the kinds of targets apart; it gives 0 to what nothing announces.
_ANSWER, _CONTEXT = 2.0, 1.0


class Prompt(NamedTuple):
    """An evaluation question in tokens."""

    level: int
    context: list[int]
    answer: list[int]


@data_source("facts")
class FactsSource:
    """Generated facts and questions."""

    brings_tokenizer = False

    def __init__(self, config: TrainConfig, out: Path, *, dry_run: bool) -> None:
        from ...datasets import facts

        self._facts = facts
        self._config = config
        self._encoder, self.tokenizer = open_tokenizer(config.data.tokenizer)
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}
        self.description = f"facts world, {config.batch_size} rows of {config.sequence_length} tokens a step"
        # The generator's own bytes at both ends of the curriculum: a changed world is another data set.
        sample = [self.batch(step).tokens.numpy().tobytes() for step in (0, config.total_steps - 1)]
        self.digest = hashlib.sha256(b"".join(sample) + self.tokenizer.digest.encode()).hexdigest()
        self._prompts: list[Prompt] | None = None

    def _difficulty(self, step: int) -> Difficulty:
        ramp = self._config.data.facts.curriculum * self._config.total_steps
        progress = 1.0 if ramp == 0 else min(1.0, step / ramp)
        return self._facts.Difficulty.at(progress * self._config.data.facts.hardest)

    def batch(self, step: int) -> Batch:
        """Rows of step `step`; answers are the targets the generator weights as answers."""
        config, knobs = self._config, self._config.data.facts
        made = self._facts.training_batch(
            config.seed,
            step,
            config.batch_size,
            config.sequence_length,
            self._difficulty(step),
            self.tokenizer.folder,
            answer_weight=_ANSWER,
            context_weight=_CONTEXT,
            shape_noise=knobs.shape_noise,
        )
        kinds = torch.from_numpy(made.weights)
        answers = kinds == _ANSWER
        weights = knobs.answer_weight * answers.float() + knobs.context_weight * (kinds == _CONTEXT).float()
        return Batch(torch.from_numpy(made.tokens), weights, torch.from_numpy(made.reset), answers)

    def prompts(self) -> list[Prompt]:
        """The fixed evaluation questions in tokens, made once."""
        if self._prompts is None:
            encode = self._encoder.encode
            self._prompts = [
                Prompt(
                    int(q.level or 0),
                    encode(q.prompt or "", add_special_tokens=False).ids,
                    encode(f" {q.answers[0]}\n", add_special_tokens=False).ids,
                )
                for q in self.questions()
            ]
        return self._prompts

    def questions(self) -> list[Question]:
        """The fixed evaluation questions, drawn for this purpose: none of them is asked by `mplat eval`."""
        evaluation = self._config.evaluation
        return self._facts.prompts(
            per_level=evaluation.prompts_per_level, seed=evaluation.seed, split="eval", stream=TRAIN
        )

    def evaluate(self, model: LanguageModel) -> Evaluation:
        """Exact match per level and over all levels, and the loss of the answers' tokens."""
        right: dict[int, list[bool]] = {}
        losses: list[float] = []
        # Longest first: rows of a batch have similar lengths, and the first batch needs the most memory.
        order = sorted(self.prompts(), key=lambda p: -(len(p.context) + len(p.answer)))
        for start in range(0, len(order), self._config.evaluation.batch_size):
            for prompt, exact, loss in score_answers(model, order[start : start + self._config.evaluation.batch_size]):
                right.setdefault(prompt.level, []).append(exact)
                losses.append(loss)
        metrics = {f"exact_match_level_{level}": sum(r) / len(r) for level, r in sorted(right.items())}
        mean = sum(sum(r) for r in right.values()) / len(losses)
        # Sorted before summing: the mean then does not depend on the order of batches.
        metrics |= {"exact_match": mean, "answer_loss": sum(sorted(losses)) / len(losses)}
        return Evaluation(metrics, mean, higher_is_better=True)


@torch.no_grad()
def score_answers(model: LanguageModel, prompts: list[Prompt]) -> list[tuple[Prompt, bool, float]]:
    """For each prompt: whether every answer token is the argmax, and the mean loss of the answer tokens.

    Rows are padded on the right, where a causal model's earlier outputs cannot see them.
    """
    rows = [p.context + p.answer for p in prompts]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    device = next(model.parameters()).device
    logits: Tensor = model(tokens[:, :-1].to(device))
    results = []
    for i, prompt in enumerate(prompts):
        end = len(rows[i])
        gold = tokens[i, end - len(prompt.answer) : end].to(device)
        scores = logits[i, end - len(prompt.answer) - 1 : end - 1].float()
        loss = torch.nn.functional.cross_entropy(scores, gold).item()
        results.append((prompt, bool((scores.argmax(-1) == gold).all()), loss))
    return results
