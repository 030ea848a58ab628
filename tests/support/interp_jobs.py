"""Small models and questions for the analysis steps, and a step run without cache or workers; not a test file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from model_zoo import nano
from mplat.datasets import facts
from mplat.datasets.records import Question
from mplat.interp.engine.batches import Batch, Item
from mplat.interp.engine.graph import all_steps
from mplat.interp.engine.step import StepOutput, Tables, Tensors
from mplat.models import LanguageModel

TOKENIZER = Path(__file__).resolve().parents[2] / "platform" / "models" / "tiny" / "tokenizer"


def reader(arch: str = "mamba", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A nano model with the shipped tokenizer, so that it can be asked questions."""
    from transformers import PreTrainedTokenizerFast

    model = nano(arch, seed=seed, dtype=dtype, vocab_size=1024)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(TOKENIZER), local_files_only=True)
    return model


def asked(per_level: int = 1, seed: int = 0) -> list[Question]:
    return facts.prompts(per_level=per_level, seed=seed)


def token_items(count: int, *, vocab: int = 40, seed: int = 0) -> list[Item]:
    """Items of random token ids, prompts of 5 to 14 and answers of 1 to 3 tokens; token 7 occurs in none."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        n = int(torch.randint(low, high, (), generator=generator))
        drawn = torch.randint(0, vocab - 1, (n,), generator=generator).tolist()
        return tuple(vocab - 1 if token == 7 else token for token in drawn)

    return [Item(f"q{i}", ids(5, 15), ids(1, 4)) for i in range(count)]


def run_step(
    name: str,
    model: LanguageModel,
    items: Sequence[Item],
    *,
    batch_size: int = 3,
    layers: Sequence[int] | None = None,
    upstream: Mapping[str, Tables] | None = None,
    tensors: Mapping[str, Mapping[str, Tensors]] | None = None,
    others: Sequence[LanguageModel] = (),
    seed: int = 0,
    **settings: Any,
) -> Tables:
    """What the step finds on `items`, in batches of consecutive ones; its settings are checked first. others: further
    models, which read the same tokens."""
    from mplat.interp.engine.step import Asked, Job

    step = all_steps()[name]

    models = (model, *others)

    def map_batches(
        function: Any, schema: pa.Schema, arguments: Mapping[str, Any], *, model: int = 0, name: str | None = None
    ) -> pa.Table:
        cuts = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
        reader = models[model]
        return pa.concat_tables([function(reader, Batch(cut, reader.device), arguments).cast(schema) for cut in cuts])

    job = Job(
        model=model,
        items=items,
        excluded=(),
        layers=tuple(range(model.n_layers)) if layers is None else layers,
        settings=step.settings.model_validate(settings),
        seed=seed,
        upstream=upstream or {},
        map=map_batches,
        others=others,
        other_items=[items for _ in others],
        upstream_tensors=tensors or {},
    )
    if step.check is not None:
        step.check(Asked(model, job.layers, job.settings, {}, others))
    output = step.function(job)
    return output.tables if isinstance(output, StepOutput) else output
