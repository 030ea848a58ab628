"""Small run folders for the report's tests: written by hand in the stages' own formats. Not a test file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mplat.datasets import facts
from mplat.datasets.records import Question
from mplat.eval.eval_config import EvalConfig
from mplat.eval.schema import ITEM_SCHEMA, PRICE_SCHEMA, question_fields
from mplat.eval.summary import Resampling, summarise
from mplat.interp.steps.bottlenecks import SCHEMAS
from mplat.runtime.record import RunRecord
from mplat.steering.search import SEARCH_SCHEMA

CONDITIONS = [
    ("unsteered", "unsteered", None),
    ("steered", "steered", None),
    ("control_random_0", "control_random", 0),
    ("control_random_1", "control_random", 1),
]
DOSES = [(f"dose_{share!r}", "dose", None) for share in (-0.5, 0.25, 0.5, 1.5)]
RECIPE = {
    "format": "mplat-recipe-1", "variant": "mamba", "operator": "scale_mixer_out", "site": "mixer_out", "layer": 3,
    "channels": [4, 38], "strength": 5.0, "seed": 0, "model_digest": "ab" * 32,
}  # fmt: skip
PER_LEVEL = 4


def questions() -> list[Question]:
    return facts.prompts(per_level=PER_LEVEL, seed=0)


def record(command: str, model: str, **sections: Any) -> dict[str, Any]:
    """A run.json."""
    about = {"name": model, "digest": "ab" * 32, "arch": "mamba", "parameters": 12, "dtype": "float32"}
    session = {"kind": "in-process", "address": "none", "actors": 1}
    backend = {"device": "cpu", "dtype": "float32", "kernels": {"scan": "numba"}, "threads": 1, "session": session}
    values = {"command": command, "status": "done", "config": {}, "model": about, "backend": backend}
    values |= {"versions": {"mplat": "0.1.0"}} | sections
    return RunRecord.model_validate(values).model_dump(mode="json")


def write_eval_run(
    folder: Path, *, model: str = "toy", predictions: dict[str, str] | None = None, whole: bool = False
) -> dict[str, Any]:
    """A finished evaluation below `folder`; returns its summary. predictions: question id -> text when steered. whole:
    with doses, evidence at distances and likelihoods too."""
    folder.mkdir(parents=True)
    rows = []
    conditions = [*CONDITIONS, *DOSES] if whole else CONDITIONS
    for number, question in enumerate(questions()):
        for place, (name, family, draw) in enumerate(conditions):
            # a fixed pattern of right and wrong answers, another one under every condition
            right = (number * 7 + place * 3 + number // 4) % 5 > 1
            answer = question.answers[0] if right else "somebody else"
            if name == "steered" and predictions and question.id in predictions:
                answer, right = predictions[question.id], False
            failed = name == "steered" and number == 5
            rows.append(
                question_fields(question)
                | {
                    "split": "test",
                    "model": model,
                    "variant": "mamba",
                    "condition": name,
                    "family": family,
                    "draw": draw,
                }
                | {"prediction": None if failed else answer, "status": "model_nonfinite" if failed else "ok"}
                | {"em": None if failed else float(right), "f1": None if failed else float(right)}
                | {"n_cut_tokens": 5 * (number % 3 == 0), "evidence_kept": number % 6 != 0}
                | {"prompt_digest": question.prompt_digest}
                | (_measured(number, place) if whole else {})
            )
    items = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
    prices = pa.Table.from_pylist(
        [
            {"text_id": f"t{t}", "document": f"t{t}", "text_source": "made up", "model": model, "variant": "mamba",
             "condition": name, "family": family, "draw": draw, "n_tokens": 9, "nll": 2.0 + 0.1 * t + 0.05 * place,
             "status": "ok"}
            | ({"n_bytes": 20, "bits_per_byte": 1.0 + 0.1 * place, "kl": 0.01 * place} if whole else {})
            for t in range(4) for place, (name, family, draw) in enumerate(conditions)
        ],
        schema=PRICE_SCHEMA,
    )  # fmt: skip
    config = EvalConfig.model_validate({"model": model, "per_level": PER_LEVEL, "draws": 2}).model_dump(mode="json")
    gain = {
        "n": 10,
        "exact": 0.2,
        "exact_se": 0.05,
        "exact_p": 0.01,
        "logprob": 0.5,
        "logprob_se": 0.1,
        "logprob_p": 0.01,
    }
    search = {"naive": gain | {"exact": 0.3}, "cross_fitted": gain, "families": {"common": gain}, "tokens": 999}
    summary = {"recipe": RECIPE, "search": search, **summarise(items, prices, Resampling(0, 0.95, 200)).to_dict()}
    run = record("eval", model, config=config, plan={"variant": "mamba"}, details={"recipe": RECIPE})
    candidates = [
        {"part": 0, "fold": fold, "rung": "screening", "site": "mixer_out", "layer": 3, "detector": "cosine",
         "n_channels": 2, "factor": 5.0, "n": 10, "logprob_gain": gain, "exact_gain": 0.1, "tokens": 99}
        for fold, gain in [(None, 0.25), (None, None), (None, 0.75), (0, 9.0)]
    ]  # fmt: skip
    prompts = [{"prompt_digest": q.prompt_digest, "text": q.prompt} for q in questions()]
    pq.write_table(pa.Table.from_pylist(prompts), folder / "prompts.parquet")
    pq.write_table(items, folder / "items.parquet")
    pq.write_table(prices, folder / "price.parquet")
    pq.write_table(pa.Table.from_pylist(candidates, schema=SEARCH_SCHEMA), folder / "search.parquet")
    for name, value in (("run.json", run), ("summary.json", summary), ("recipe.json", RECIPE)):
        (folder / name).write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
    return summary


def _measured(number: int, place: int) -> dict[str, Any]:
    """What a row says beside its score: how far the evidence was, and how likely the answer is."""
    if number == 7:
        return {"distance_target": 0, "likelihood_status": "model_nonfinite"}
    answer, best = -1.0 - 0.1 * number + 0.2 * place, -1.5 - 0.05 * number
    return {
        "distance_target": 64 * (number % 3), "answer_logprob": answer, "answer_logprob_per_byte": answer / 8,
        "distractor_logprob": best, "n_distractors": 4, "beats_distractors": float(answer > best),
        "likelihood_status": "ok",
    }  # fmt: skip


def write_interp_run(folder: Path, *, model: str = "toy") -> None:
    """Sensitivities and ablations of two layers with three channels."""
    folder.mkdir(parents=True)
    places = [(layer, channel) for layer in (0, 1) for channel in range(3)]
    sensitivity = [
        {"layer": layer, "site": "mixer.delta", "channel": channel, "variance": 0.0 if channel == 0 else 10.0**-channel}
        for layer, channel in places
    ]
    ablations = [
        {"layer": 0, "site": "mixer_out", "n_channels": 2, "kind": "group", "n_prompts": 6, "group": group,
         "draw": draw, "effect_logprob": effect, "effect_low": effect - 0.1, "effect_high": effect + 0.1,
         "accuracy_change": effect / 2, "accuracy_low": None, "accuracy_high": None}
        | ({"difference": -0.4375, "difference_low": -0.5, "difference_high": -0.25, "p_holm": 0.0312,
            "verdict": "stronger than random"} if group == "top" else
           dict.fromkeys(("difference", "difference_low", "difference_high", "p_holm", "verdict")))
        for group, draw, effect in [("top", None, -0.5), ("random", 0, -0.25), ("random", 1, 0.125)]
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(sensitivity), folder / "delta_sensitivity.parquet")
    pq.write_table(pa.Table.from_pylist(ablations), folder / "bottlenecks.parquet")
    parts = {"": "bottlenecks.parquet"}
    for name, schema in SCHEMAS.items():
        if name:  # nothing was found there
            parts[name] = f"bottlenecks-{name}.parquet"
            pq.write_table(schema.empty_table(), folder / parts[name])
    steps = {
        "bottlenecks": {"rows": 3, "parts": parts},
        "delta_sensitivity": {"rows": 3, "file": "delta_sensitivity.parquet"},
    }
    run = record("interp", model, details={"steps": steps})
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def write_trace_run(folder: Path, *, model: str = "toy") -> list[dict[str, Any]]:
    """A trace of two layers and two sites over three prompts, a fourth without effects; the rows of its averages."""
    folder.mkdir(parents=True)
    bins = ("prefix", "subject_first", "subject_last", "further", "last")
    averages = [
        {"site": site, "layer": layer, "bin": name, "effect": effect, "low": effect - 0.25, "high": effect + 0.25,
         "prompts": 3, "ate": 0.75, "ate_low": 0.5, "ate_high": 1.0}
        for s, site in enumerate(("resid_post", "h_post+conv_state"))
        for layer in (0, 1)
        for b, name in enumerate(bins)
        for effect in [0.0 if name == "prefix" else 0.125 * (b + layer) - 0.5 * s]
    ]  # fmt: skip
    averages[-1] |= {"low": None, "high": None, "prompts": 1}
    traces = [{"id": f"p{i}", "effect": 0.5, "status": "ok", "reason": None} for i in range(3)]
    traces += [{"id": "<b>p3</b>", "effect": None, "status": "model_wrong", "reason": "the model says ' a', not ' b'"}]
    pq.write_table(pa.Table.from_pylist(averages), folder / "averages.parquet")
    pq.write_table(pa.Table.from_pylist(traces), folder / "traces.parquet")
    in_words = {
        "corruption": "noise of standard deviation 0.5 on the subject, 10 samples", "restored": "one layer restored",
        "metric": "probability", "answer": "the fact's target", "prompts": "answered correctly",
    }  # fmt: skip
    run = record(
        "trace", model, config={"facts": "known_1000"}, details={"in_words": in_words},
        plan={"sites": ["resid_post", "h_post+conv_state"], "layers": [0, 1]}, counts={"model_wrong": 1, "ok": 3},
        files={"traces.parquet": "cd" * 32, "averages.parquet": "ef" * 32},
    )  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return averages


def write_classification(folder: Path) -> Path:
    """What `mplat classify` leaves beside its table."""
    folder.mkdir(parents=True, exist_ok=True)
    account = {"records": 3, "questions": 2, "bad": {"no_answer": 1}, "categories": {"two_hop": 2}}
    summary = {
        "rule_set": "evidence", "datasets": {"hotpotqa": account},
        "categories": {"two_hop": {"level": 2, "available": 2, "ambiguous": 1, "taken": 2}},
        "shortfalls": [{"category": "two_hop", "wanted": 5, "taken": 2, "why": "there are only 2"}],
    }  # fmt: skip
    path = folder / "questions.summary.json"
    path.write_text(json.dumps(summary), encoding="utf-8")
    return path
