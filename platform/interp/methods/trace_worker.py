"""What a worker does with a prompt: is it answered correctly, and what comes back by restoring what.

A prompt is traced by itself, with the same arguments wherever and beside whatever others it is done, so that its rows
depend on nothing else. What goes wrong with one prompt becomes a row that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ...core.errors import InputError, UsageError
from ...models.lending import open_model
from .bins import token_bins
from .corruption import prompt_seed
from .table import about, token_labels
from .trace import causal_trace
from .trace_schema import MODEL_WRONG, TRACE_SCHEMA

if TYPE_CHECKING:
    from ...models import LanguageModel


class TraceWorker:
    """Traces prompts with one model. arguments: those of `causal_trace` that all prompts share, `correct_only` (prompts
    that the model answers otherwise are not traced) and `judged` ("target" or "predicted")."""

    def __init__(self, model: LanguageModel, arguments: Mapping[str, Any]) -> None:
        self._model = model
        own = ("correct_only", "judged")
        self._arguments = {key: value for key, value in arguments.items() if key not in own}
        self._correct_only, self._judged = (arguments[key] for key in own)

    def run(self, payload: dict[str, Any]) -> pa.Table:
        """The rows of the prompts of one shard."""
        return pa.concat_tables([self._trace(item) for item in payload["items"]])

    @torch.no_grad()
    def _trace(self, item: Mapping[str, Any]) -> pa.Table:
        model = self._model
        tokens = torch.tensor(item["tokens"])
        logits = model(tokens[None].to(model.device))[0, -1]
        row = {"id": item["id"]}
        if not bool(torch.isfinite(logits).all()):
            return _without(row, "model_nonfinite", "the clean run's logits are not finite")
        predicted = int(logits.argmax())
        target = predicted if item["answer"] is None else int(item["answer"])
        answer = target if self._judged == "target" else predicted
        said, expected, judged = token_labels(model, [predicted, target, answer])
        row |= {"answer": answer, "answer_token": judged, "predicted": predicted, "predicted_token": said}
        row |= {"correct": None if item["answer"] is None else predicted == target}
        if self._correct_only and row["correct"] is False:
            row["p_clean"] = float(torch.softmax(logits.double(), -1)[answer])
            return _without(row, MODEL_WRONG, f"the model says {said!r}, not {expected!r}")
        start, stop = item["subject"]
        how: dict[str, Any] = {"subject": (start, stop), "seed": prompt_seed(self._arguments["seed"], item["id"])}
        if item["corrupted"] is not None:
            how["corrupted"] = torch.tensor(item["corrupted"])
            how["noise"] = None
        try:
            traced = causal_trace(model, tokens, answer=answer, **(self._arguments | how))
        except InputError as error:  # the tokens were checked before: nothing but scores that are not finite is left
            return _without(row, "model_nonfinite", str(error))
        except UsageError as error:  # of this prompt; settings that suit no prompt are refused before anything runs
            return _without(row, "bad_input", str(error))
        facts = about(traced)
        measured = ("p_clean", "p_corrupted", "metric_clean", "metric_corrupted")
        row |= {name: float(facts[name]) for name in measured} | {"status": "ok"}
        bins = token_bins(len(item["tokens"]), (start, stop))
        return _with(traced, row, [bins[position] for position in traced["position"].to_pylist()])


def build_worker(
    model: str, digest: str, device: str, dtype: str, arguments: dict[str, Any], tokenizer: str | None = None
) -> TraceWorker:
    """What a `WorkerFactory` calls, in this process or an actor's."""
    return TraceWorker(open_model(model, digest, device, dtype, tokenizer), arguments)


def _with(traced: pa.Table, row: Mapping[str, Any], bins: list[str]) -> pa.Table:
    """The rows of a trace with what they have in common."""
    columns = []
    for field in TRACE_SCHEMA:
        if field.name == "bin":
            columns.append(pa.array(bins, field.type))
        elif field.name in traced.column_names:
            columns.append(traced[field.name].combine_chunks())
        else:
            columns.append(pa.array([row.get(field.name)] * len(bins), field.type))
    return pa.table(columns, schema=TRACE_SCHEMA)


def _without(row: Mapping[str, Any], status: str, reason: str) -> pa.Table:
    """The one row of a prompt without effects."""
    return pa.Table.from_pylist([{**row, "status": status, "reason": reason}], schema=TRACE_SCHEMA)
