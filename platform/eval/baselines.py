"""What a learned state must beat to be worth anything: other ways to learn from the same examples, of equal budget.

    lora          low-rank changes of the mixers' projections, of at most as many numbers as the state has
    soft_prefix   vectors that are read before the text, of as many numbers

Both are learned in this run, on the questions of the development side that the state was learned from, with the same
number of examples and as many steps. A recipe that is not learned has no such controls, nor has one whose examples are
not among the questions. To a recurrent model a prefix is a state that it can come to by reading, and it is judged as
that state; where a model keeps more of what it read (attention, long filters), there is no such control.

A fifth of the examples decides when learning stops, as `steering.learned` does it. What is learned is a row of its
own, kept like answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch

from ..core.errors import ToleranceError
from ..datasets.prompting.asked_before import question_digest
from ..datasets.prompting.prompts import Prompt
from ..datasets.records import Question
from ..models.lending import open_model
from ..steering import Part, Recipe
from ..steering.learned import Example, learn_lora, learn_prefix, rank_for, rows_of
from .changed_weights import to_plain
from .split import position

if TYPE_CHECKING:
    from ..models import LanguageModel

OPERATOR = "learned_state"
SITES = {"h": "mixer.h_init", "conv": "mixer.conv_init"}  # entry of a layer's state -> the site that begins it
STOPPING = 5  # one in so many examples decides when to stop
LEAST = 5  # examples
STEPS = 120
RATES = {"lora": 0.01, "soft_prefix": 0.03}  # of learning, as benchmarks/learned_state.py finds them
SAME = 1e-3  # scores of a prefix and of the state that it leaves, at most so far apart

SCHEMA = pa.schema([
    pa.field("id", pa.string(), nullable=False),
    pa.field("weights", pa.string()),  # JSON of `changed_weights`
    pa.field("recipe", pa.string()),  # JSON of a recipe
    pa.field("parameters", pa.int64()),
    pa.field("kept", pa.int32()),  # the step that was kept
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
])  # fmt: skip


class Taught(NamedTuple):
    """What a baseline is learned from. examples: (prompt, answer); development: those that decide when to stop;
    numbers: as many parameters; steps, seed: of the descent."""

    examples: tuple[tuple[str, str], ...]
    development: tuple[tuple[str, str], ...]
    numbers: int
    steps: int
    seed: int


def is_learned(recipe: Recipe) -> bool:
    """Whether all that a recipe does is a learned state."""
    return bool(recipe.parts) and all(part.operator == OPERATOR for part in recipe.parts)


def taught_by(recipe: Recipe, questions: Sequence[Question], prompts: Mapping[str, Prompt]) -> Taught | str:
    """The examples that `recipe` was learned from, among `questions` of the development side, or why there are none."""
    if not is_learned(recipe):
        return "only a learned state is compared with other ways to learn from the same examples"
    known = set(recipe.decided_on or ())
    found = [q for q in questions if known & {question_digest(q), question_digest(_as_read(q, prompts[q.id]))}]
    found = [q for q in found if q.answers and q.answers[0].strip() and not q.control]
    if len(found) < LEAST:
        return (
            f"{len(found)} of the examples that the state was learned from are among the development questions, and "
            f"learning from them takes {LEAST}; give them with --questions and the --seed that keeps them there"
        )
    learned = recipe.made_from.get("learning")
    steps = learned.get("steps", STEPS) if isinstance(learned, Mapping) else STEPS
    order = sorted(found, key=lambda q: position(recipe.seed, q.id, "baselines"))
    examples = [_example(q, prompts[q.id].text) for q in order]
    stopping = max(1, len(examples) // STOPPING)
    numbers = sum(part.tensors["state"].numel() for part in recipe.parts)
    return Taught(tuple(examples[stopping:]), tuple(examples[:stopping]), numbers, int(steps), recipe.seed)


def make_worker(
    model: str,
    model_digest: str,
    taught: Mapping[str, Any],
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: str | None = None,
) -> BaselineWorker:
    """A worker from plain JSON, in whatever process it is to live."""
    values = dict(taught)
    for name in ("examples", "development"):
        values[name] = tuple((str(prompt), str(answer)) for prompt, answer in values[name])
    return BaselineWorker(open_model(model, model_digest, device, dtype, tokenizer), Taught(**values))


class BaselineWorker:
    """Learns what is named by an item's `id`."""

    def __init__(self, model: LanguageModel, taught: Taught) -> None:
        self._model, self._taught = model, taught

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """A row for each of `payload["items"]`."""
        return pa.Table.from_pylist([self._learn(item["id"]) for item in payload["items"]], schema=SCHEMA)

    def _learn(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": name, "status": "ok"}
        examples, development = (
            [Example(*pair) for pair in pairs] for pairs in (self._taught.examples, self._taught.development)
        )
        model, how = self._model, self._taught
        shared = {"steps": how.steps, "lr": RATES[name], "seed": how.seed}
        try:
            if name == "lora":
                rank = rank_for(model, how.numbers)
                lora = learn_lora(model, examples, development, rank=rank, **shared)
                return row | {
                    "weights": json.dumps(to_plain(lora.factors)),
                    "parameters": lora.descent.parameters,
                    "kept": lora.descent.kept,
                }
            length = max(1, how.numbers // model.config.d_model)
            prefix = learn_prefix(model, examples, development, length=length, **shared)
        except ToleranceError as error:  # learning that diverges is no answer, and no end of the run
            return row | {"status": "scorer_error", "reason": str(error)}
        recipe = state_of_prefix(model, prefix.vectors)
        rows = rows_of(model, development)
        with torch.no_grad():
            expected = prefix.forward(model)(rows.tokens, rows.mask)[rows.mask]
            with model.edit(*recipe.edits(model)):
                found = model(rows.tokens, rows.mask)[rows.mask]
        if not bool((expected - found).abs().max() <= SAME * expected.abs().max()):
            why = f"what {model.name} keeps of a prefix is more than a state that a text can begin with"
            return row | {"status": "refused", "reason": why}
        return row | {
            "recipe": json.dumps(recipe.to_dict()),
            "parameters": prefix.descent.parameters,
            "kept": prefix.descent.kept,
        }


def state_of_prefix(model: LanguageModel, vectors: torch.Tensor) -> Recipe:
    """The state that `model` is in after reading `vectors` (P, d) in place of embeddings, as a recipe: what can be
    told by sites that begin a text."""
    from ..models import Replace

    shapes = {site.name: tuple(int(size) for size in site.shape if size != "B") for site in model.sites()
              if site.name.endswith(tuple(SITES.values()))}  # fmt: skip
    with torch.no_grad(), model.edit(Replace("embed", vectors, positions=list(range(len(vectors))))):
        read = torch.zeros(1, len(vectors), dtype=torch.long, device=vectors.device)
        _, state = model(read, return_state=True, last_only=True)
    parts = list[Part]()
    for layer, kept in enumerate(state.layers):
        for key, site in SITES.items():
            if key in kept and (shape := shapes.get(f"blocks.{layer}.{site}")) is not None:
                value = kept[key][0].detach().cpu().reshape(shape)  # heads of a state lie one after the other
                parts.append(Part(OPERATOR, site, (layer,), 1.0, "share", tensors={"state": value}))
    return Recipe(tuple(parts), model.digest, "soft_prefix")


def _example(question: Question, prompt: str) -> tuple[str, str]:
    space = "" if prompt[-1:].isspace() else " "
    return prompt, space + question.answers[0].strip()


def _as_read(question: Question, prompt: Prompt) -> Question:
    """The prompt as a question: a state knows what it was learned from by what was read."""
    return Question(question.id, "own", "", "", prompt=prompt.text)
