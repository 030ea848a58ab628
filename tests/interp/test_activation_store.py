"""The activation store: what is stored is what a capture reads, with the right labels, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from interp_jobs import asked, reader
from mplat.core.errors import InputError, UsageError
from mplat.interp import Cache, config_model, read, run_steps
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.questions import encode
from mplat.interp.methods.activation_store import Store
from mplat.interp.methods.shards import bytes_of, vectors_in
from mplat.interp.steps import collect as module
from mplat.models import LanguageModel
from mplat.models.shuffled import shuffled


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return reader()


def collected(model: LanguageModel, folder: Path, **settings: Any) -> Store:
    config = config_model().model_validate({"steps": ("collect",), "batch_size": 2, "collect": settings})
    found = run_steps(model, asked(), config, cache=Cache(folder))["collect"]
    return Store.read(found.tables, found.tensors)


def test_the_store_holds_what_a_capture_of_each_prompt_alone_reads(model: LanguageModel, tmp_path: Path) -> None:
    store = collected(model, tmp_path, sites=("resid_post", "mixer.h"), shard_tokens=50)
    assert len(store.shards) > 3 and all(len(shard["blocks.0.resid_post"]) <= 50 for shard in store.shards)
    for item in encode(model, asked(), max_tokens=4096).items:
        rows = store.rows(question_id=item.id)
        labels = store.tokens.take(rows)
        assert labels["position"].to_pylist() == list(range(len(item.prompt)))
        assert labels["token"].to_pylist() == list(item.prompt)
        assert labels["next_token"].to_pylist() == [*item.prompt[1:], item.answer[0]]
        tokens = torch.tensor([item.prompt])
        with model.capture("blocks.1.resid_post", "blocks.0.mixer.h") as captured:
            logits = model(tokens)
        for layer, site in ((1, "resid_post"), (0, "mixer.h")):
            place = store.place(layer, site)
            alone = captured[place.name][0].flatten(1)
            assert store.values(place, rows).shape == (len(item.prompt), place.width) == alone.shape
            torch.testing.assert_close(store.values(place, rows), alone, rtol=1e-4, atol=1e-6)
        nll = -torch.log_softmax(logits[0].double(), -1)[range(len(item.prompt)), [*item.prompt[1:], item.answer[0]]]
        np.testing.assert_allclose(labels["nll"].to_numpy(), nll.detach().numpy(), rtol=1e-4, atol=1e-5)
        if item.fact is not None:
            where = labels.filter(labels["in_fact"])["position"].to_pylist()
            assert where == list(range(*item.fact))
            assert labels["since_fact"].to_pylist()[item.fact[1] - 1] == 0
            assert labels["since_fact"].to_pylist()[-1] == item.distance


def test_rows_are_read_in_the_order_asked_and_batches_are_all_of_them(model: LanguageModel, tmp_path: Path) -> None:
    store = collected(model, tmp_path, shard_tokens=64)
    place = store.place(0, "mixer_out")
    whole = store.values(place)
    chosen = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))[:40]
    assert torch.equal(store.values(place, chosen), whole[chosen])
    parts = list(store.batches(place, 37))
    assert [start for start, _ in parts] == list(range(0, len(store), 37))
    assert torch.equal(torch.cat([x for _, x in parts]), whole)
    np.testing.assert_allclose(store.mean(place).numpy(), whole.double().mean(0).numpy(), atol=1e-9)
    np.testing.assert_allclose(store.std(place).numpy(), whole.double().std(0, correction=0).numpy(), atol=1e-9)
    with pytest.raises(UsageError, match=r"rows 0 to \d+: the activation store has \d+ tokens"):
        store.values(place, [0, len(store)])
    with pytest.raises(UsageError, match="'mixer.delta' of block 0 is not in the activation store"):
        store.place(0, "mixer.delta")


def test_shards_batches_and_interruptions_change_no_number(model: LanguageModel, tmp_path: Path) -> None:
    one, many = collected(model, tmp_path / "a"), collected(model, tmp_path / "b", shard_tokens=7)
    for place in one.places:
        assert torch.equal(one.values(place), many.values(place))
    assert one.tokens.equals(many.tokens)


def test_the_baseline_is_of_shuffled_weights_at_the_same_tokens(model: LanguageModel, tmp_path: Path) -> None:
    config = config_model().model_validate({"steps": ("collect",), "seed": 3})
    found = run_steps(model, asked(), config, cache=Cache(tmp_path))["collect"]
    store = Store.read(found.tables, found.tensors, "shuffled")
    item = encode(model, asked(), max_tokens=4096).items[0]
    with shuffled(model, 3).capture("blocks.1.mixer_out") as captured:
        shuffled(model, 3)(torch.tensor([item.prompt]))
    values = store.values(store.place(1, "mixer_out"), store.rows(question_id=item.id))
    torch.testing.assert_close(values, captured["blocks.1.mixer_out"][0], rtol=1e-4, atol=1e-6)
    trained = Store.read(found.tables, found.tensors)
    assert not torch.allclose(values, trained.values(trained.place(1, "mixer_out"))[: len(values)], atol=1e-3)
    with pytest.raises(UsageError, match="none of shuffled weights"):
        without = config_model().model_validate({"steps": ("collect",), "collect": {"baseline": False}})
        found = run_steps(model, asked(), without, cache=Cache(tmp_path))["collect"]
        Store.read(found.tables, found.tensors, "shuffled")


def test_shuffled_weights_keep_their_values_and_leave_the_model_alone(model: LanguageModel) -> None:
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    copied = dict(shuffled(model, 1).named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert torch.equal(copied[name].flatten().sort().values, weight.flatten().sort().values)
        assert torch.equal(copied[name], weight) == (weight.ndim < 2 or len(weight.detach().unique()) == 1)
    again = {name: weight.clone() for name, weight in copied.items()}
    shuffled(model, 2)
    assert all(torch.equal(weight, again[name]) for name, weight in shuffled(model, 1).named_parameters())


def test_a_token_whose_values_are_not_finite_is_named_and_not_stored(tmp_path: Path) -> None:
    model = reader()
    token = encode(model, asked(), max_tokens=4096).items[0].prompt[3]
    with torch.no_grad():
        model.backbone.embeddings.weight[token] = float("inf")
    config = config_model().model_validate({"steps": ("collect",), "collect": {"sites": ["resid_post"]}})
    found = run_steps(model, asked(), config, cache=Cache(tmp_path))["collect"]
    store = Store.read(found.tables, found.tensors)
    tokens = found.tables["tokens"]
    lost = tokens.filter(pa.compute.equal(tokens["status"], "model_nonfinite"))
    assert lost.num_rows and lost["row"].null_count == lost.num_rows
    assert len(store) + lost.num_rows == tokens.num_rows
    assert all(bool(torch.isfinite(store.values(place)).all()) for place in store.places)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_survive_the_way_through_arrow(dtype: str) -> None:
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    kept = values.to(torch.float32 if dtype == "float32" else torch.bfloat16)
    column = pa.chunked_array([bytes_of(values, dtype), bytes_of(values[:0], dtype), bytes_of(values, dtype).slice(2)])
    assert torch.equal(vectors_in(column, 5, dtype), torch.cat([kept, kept[2:]]))


def test_a_large_store_is_written_and_read_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 tokens of 512 numbers are 80 MB; what Python and torch hold at a time is a shard and a batch of it."""
    from mplat.interp.methods.shards import ShardWriter

    held: list[int] = []
    whole = ShardWriter._close

    def close(self: ShardWriter) -> None:
        held.append(sum(t.numel() for parts in self._held.values() for t in parts))
        whole(self)

    monkeypatch.setattr(ShardWriter, "_close", close)
    writer = ShardWriter({"x": 512}, "float32", 2048, tmp_path)
    for start in range(0, 40_000, 1000):
        writer.add({"x": torch.arange(start, start + 1000).float()[:, None].expand(-1, 512)})
    shards = writer.finish()
    assert max(held) == 2048 * 512 and len(shards) == 20
    assert [float(shards[name]["x"][0, 0]) for name in sorted(shards)] == [2048.0 * i for i in range(20)]


def test_a_step_streams_batches_and_the_store_takes_them_one_by_one(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mplat.interp.engine.work import BatchRunner

    alive: list[int] = []
    whole = BatchRunner.stream

    def stream(self: BatchRunner, *args: Any, **kwargs: Any) -> Iterator[pa.Table]:
        for table in whole(self, *args, **kwargs):
            alive.append(table.num_rows)
            yield table

    monkeypatch.setattr(BatchRunner, "stream", stream)
    store = collected(model, tmp_path)
    assert len(alive) == 3 and sum(alive) == len(store)  # six prompts, two in a batch


def test_read_gives_the_newest_result_of_a_model_in_one_line(model: LanguageModel, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for settings in ({"sites": ["mixer_out"]}, {"sites": ["resid_post"]}):
        config = config_model().model_validate({"steps": ("collect",), "collect": settings})
        run_steps(model, asked(), config, cache=cache)
    newest = read("collect", part="places", model=model, layer=1, cache=cache)
    assert newest["site"].unique().to_pylist() == ["resid_post"] and set(newest["layer"].to_pylist()) == {1}
    older = read("collect", part="places", where={"settings.sites": ["mixer_out"]}, cache=tmp_path)
    assert older["site"].unique().to_pylist() == ["mixer_out"]
    with pytest.raises(UsageError, match="several tables; name one: part='places' | 'tokens'"):
        read("collect", cache=cache)
    with pytest.raises(UsageError, match="unknown interp step 'colect'"):
        read("colect", cache=cache)
    with pytest.raises(InputError, match="no result of collect of model .*; compute one with `mplat interp"):
        read("collect", model=reader(seed=5), cache=cache)


def test_positions_choose_what_is_stored(model: LanguageModel) -> None:
    items = encode(model, asked(), max_tokens=4096).items
    arguments: Mapping[str, Any] = {"layers": [0], "sites": ["resid_post"], "dtype": "float32", "baseline_seed": None}
    for positions, count in (("last", len(items)), ("fact", sum(i.fact[1] - i.fact[0] for i in items if i.fact))):
        table = module.batch_activations(model, Batch(items, model.device), {**arguments, "positions": positions})
        assert table.num_rows == count
