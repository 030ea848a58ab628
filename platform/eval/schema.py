"""The tables of an evaluation, written down once: one row per question and condition, one per held-out text and
condition.

A row says for itself where it belongs (question, split, condition) and what was done to the model (operator, site,
layer, channels, strength, draw), so that a table can be read without the run's other files. `status` is `ok` or the
reason why there is no score; scores, and whatever was not reached, are null then, never zero and never NaN.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from ..datasets.records import Question
from ..steering.recipe import Recipe

#: what a row's status may be; `refused` and `timeout` are for models that are asked over a network
STATUSES = (
    "ok", "refused", "too_long", "bad_input", "model_nonfinite", "worker_lost", "timeout", "scorer_error",
)  # fmt: skip

#: what the status of likelihoods may be besides: the question has no accepted answer; its answer has no tokens of its
#: own behind the prompt
LIKELIHOOD_STATUSES = (*STATUSES, "no_answer", "no_tokens")

_CONDITION = [
    pa.field("condition", pa.string(), nullable=False),  # unsteered, candidate_007, steered, control_random_0
    pa.field("family", pa.string(), nullable=False),  # the condition without its number
    pa.field("draw", pa.int32()),  # number of a control's draw
    pa.field("operator", pa.string()),  # of all parts of the recipe, with + between them; so is the site
    pa.field("site", pa.string()),
    pa.field("layer", pa.int32()),  # null where there are several
    pa.field("recipe_digest", pa.string()),  # of everything that was done
    pa.field("strength", pa.float64()),  # null where parts differ
]

ITEM_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("level", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        *_CONDITION,
        pa.field("metric", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string())),
        pa.field("gold", pa.string()),  # what the metric compared with, as JSON; null where there is nothing
        pa.field("prediction", pa.string()),
        pa.field("em", pa.float64()),
        pa.field("f1", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # why the status is not ok
        pa.field("stop_reason", pa.string()),  # stop, eos, length
        pa.field("n_prompt_tokens", pa.int32()),
        pa.field("n_cut_tokens", pa.int32()),  # context tokens that did not fit
        pa.field("n_new_tokens", pa.int32()),
        pa.field("control", pa.string()),  # kind of a question without an answer, whose `answers` are guesses
        pa.field("derived_from", pa.string()),  # the question that this one was made from
        pa.field("group", pa.string()),  # questions that count as one
        pa.field("distance_target", pa.int32()),
        pa.field("distance_tokens", pa.int32()),
        pa.field("prompt_digest", pa.string()),  # sha256 of the text that was read, which is in prompts.parquet
        pa.field("ids_digest", pa.string()),  # sha256 of its token ids, written as a JSON list without spaces
        pa.field("evidence_kept", pa.bool_()),  # nothing of the evidence was cut; null where none is known
        # of the first accepted answer and the end of its line, behind the same prompt (`likelihoods`)
        pa.field("answer_logprob", pa.float64()),  # nats
        pa.field("answer_logprob_per_byte", pa.float64()),  # nats over bytes of what was scored
        pa.field("distractor_logprob", pa.float64()),  # of the likeliest distractor, nats; null where there is none
        pa.field("n_distractors", pa.int32()),
        pa.field("beats_distractors", pa.float64()),  # 1: likelier than every distractor, 0: not
        pa.field("likelihood_status", pa.string()),  # ok, or why these are null; null where they were not asked for
        pa.field("likelihood_reason", pa.string()),  # what failed, beside scorer_error
    ]
)
ITEM_ORDER = ("split", "question_id", "condition")

PRICE_SCHEMA = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),  # texts of one document count as one
        pa.field("text_source", pa.string(), nullable=False),  # what the texts are, such as the training's own
        pa.field("model", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        *_CONDITION,
        pa.field("n_tokens", pa.int32()),  # tokens predicted: all but the first
        pa.field("n_bytes", pa.int32()),  # of the text that is predicted
        pa.field("nll", pa.float64()),  # mean negative log-likelihood of a token, nats
        pa.field("bits_per_byte", pa.float64()),  # of the text; null where no byte is predicted
        pa.field("kl", pa.float64()),  # KL(unsteered || this condition) of the next token, nats, mean over tokens
        pa.field("top1_agreement", pa.float64()),  # share of tokens whose likeliest token is the unsteered model's
        pa.field("edit_norm", pa.float64()),  # ||edit|| / ||site||, mean over tokens and edited sites; null: undefined
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
PRICE_ORDER = ("text_id", "condition")

#: every prompt that was read once, by its digest
PROMPT_SCHEMA = pa.schema(
    [
        pa.field("prompt_digest", pa.string(), nullable=False),
        pa.field("template", pa.string(), nullable=False),  # digest of the template; "" for a ready-made prompt
        pa.field("text", pa.string(), nullable=False),  # what was read: its tokens are those that the model got
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("ids_digest", pa.string(), nullable=False),
    ]
)


def condition_fields(name: str, family: str, draw: int | None, recipe: Recipe | None) -> dict[str, Any]:
    """The columns that say what was done to the model."""
    return {
        "condition": name,
        "family": family,
        "draw": draw,
        "operator": None if recipe is None else "+".join(recipe.operators),
        "site": None if recipe is None else "+".join(dict.fromkeys(part.site for part in recipe.parts)),
        "layer": None if recipe is None else _one({layer for part in recipe.parts for layer in part.layers}),
        "recipe_digest": None if recipe is None else recipe.digest,
        "strength": None if recipe is None else _one({part.strength for part in recipe.parts}),
    }


def _one(values: set[Any]) -> Any:
    """The only value; None where there are several."""
    return next(iter(values)) if len(values) == 1 else None


def question_fields(question: Question) -> dict[str, Any]:
    """The columns that say what was asked."""
    gold = question.gold()
    return {
        "question_id": question.id,
        "dataset": question.dataset,
        "category": question.category or "unclassified",
        "level": question.level,
        "metric": question.metric,
        "answers": list(question.answers),
        "gold": None if gold is None else json.dumps(gold, ensure_ascii=False),
        "control": question.control,
        "derived_from": question.derived_from,
        "group": question.group,
        "distance_target": question.distance_target,
        "distance_tokens": question.distance_tokens,
    }
