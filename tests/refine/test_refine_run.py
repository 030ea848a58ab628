"""A refinement from settings to files: scores by an independent way, what is kept, and the same bytes again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from mplat.core.errors import InputError, UsageError
from mplat.datasets import tokenizer as tiny_tokenizer
from mplat.datasets.readers.pile import read
from mplat.datasets.tokens.reading import BadLines, documents
from mplat.models import LanguageModel, load
from mplat.refine.refine_config import RefineConfig
from mplat.refine.refine_run import prepare, refine
from mplat.runtime import open_session
from planted_models import talking

TEXTS = [
    ("Wikipedia (en)", "Bekdok lives in Kanbak. The boss of Zusnen\u2028is Fulgal. " * 6),
    ("FreeLaw", "A has B. \n"),
    (None, "The home of Bekdok is Kanbak, and nothing else is known of it. Who would know? " * 3),
    ("FreeLaw", "é 漢字 Oslo"),
]
FILES = ("kept.jsonl.zst", "scores.parquet", "manifest.json")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("refine") / "corpus.jsonl"
    records = [{"text": text} | ({"meta": {"pile_set_name": name}} if name else {}) for name, text in TEXTS]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[LanguageModel, LanguageModel]:
    """Two models that differ, each in a folder, so that workers elsewhere can load them."""
    folder = tmp_path_factory.mktemp("models")
    talking("mamba").save(folder / "small")
    talking("mamba2", seed=5).save(folder / "large")
    return load(folder / "small"), load(folder / "large")


def run(corpus, models, out, session=None, **settings):
    plan = prepare(RefineConfig(data=(corpus,), **{"chunk": 24, "batch_size": 4, **settings}), *models)
    return plan, refine(plan, out=out, session=session or open_session("none"))


@pytest.fixture(scope="module")
def done(corpus, models, tmp_path_factory):
    return run(corpus, models, tmp_path_factory.mktemp("done"))


def rows_of(result):
    return pq.read_table(result.out / "scores.parquet").to_pylist()


def kept_of(result):
    data = zstandard.ZstdDecompressor().stream_reader((result.out / "kept.jsonl.zst").read_bytes()).read()
    return [json.loads(line) for line in data.decode().split("\n")[:-1]]


def nll(model, text) -> tuple[float, int]:
    """In one forward pass over the chunk alone, from the token that begins texts."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[model.tokenizer.bos_token_id, *ids[:-1]]]))[0].double()
    return -logits.log_softmax(-1)[range(len(ids)), ids].sum().item(), len(ids)


def test_scores_are_the_difference_of_both_likelihoods_a_token(done, models):
    plan, result = done
    rows = rows_of(result)
    assert plan.per == "token" and len(rows) > 10
    for row in rows:
        text = TEXTS[int(row["document"].split(":")[1]) - 1][1][row["start"] : row["stop"]]
        (small, n), (large, _) = (nll(model, text) for model in models)
        assert row["reference_nll"] == pytest.approx(small, rel=1e-4)
        assert row["teacher_nll"] == pytest.approx(large, rel=1e-4)
        assert row["score"] == pytest.approx((small - large) / n, abs=1e-3)
        assert (row["bytes"], row["teacher_tokens"], row["status"]) == (len(text.encode()), n, "ok")


def test_the_best_half_is_kept_in_the_order_of_the_corpus(done):
    _, result = done
    rows = rows_of(result)
    assert [row["chunk"] for row in rows] == list(range(len(rows)))
    kept = [row for row in rows if row["kept"]]
    assert len(kept) == -(-len(rows) // 2)
    assert min(row["score"] for row in kept) == result.threshold
    assert all(row["score"] <= result.threshold for row in rows if not row["kept"])
    text = "".join(TEXTS[int(r["document"].split(":")[1]) - 1][1][r["start"] : r["stop"]] for r in kept)
    assert "".join(record["text"] for record in kept_of(result)) == text


def test_what_is_kept_is_a_corpus_that_both_readers_read(done):
    _, result = done
    path = result.out / "kept.jsonl.zst"
    texts = [record["text"] for record in kept_of(result)]
    assert list(documents(path, "text", BadLines(0))) == texts
    assert [(d.set_name, d.text) for d in read(path).documents] == [
        (r["meta"].get("pile_set_name", "own"), r["text"]) for r in kept_of(result)
    ]


def test_everything_kept_is_the_documents_themselves(corpus, models, tmp_path):
    _, result = run(corpus, models, tmp_path, keep=1.0)
    assert [(r["meta"].get("pile_set_name"), r["text"]) for r in kept_of(result)] == TEXTS


def test_the_manifest_says_what_was_done(done, models):
    plan, result = done
    manifest, rows = json.loads((result.out / "manifest.json").read_text()), rows_of(result)
    assert [manifest[role]["digest"] for role in ("reference", "teacher")] == [model.digest for model in models]
    assert (manifest["keep"], manifest["chunk"], manifest["threshold"]) == (0.5, 24, result.threshold)
    assert set(manifest["sets"]) == {"FreeLaw", "Wikipedia (en)", "own", "all"}
    for name, counts in manifest["sets"].items():
        mine = [row for row in rows if name in (row["set"], "all")]
        kept = [row for row in mine if row["kept"]]
        assert (counts["chunks"], counts["kept_chunks"]) == (len(mine), len(kept))
        assert (counts["bytes"], counts["kept_bytes"]) == tuple(sum(r["bytes"] for r in c) for c in (mine, kept))
        assert counts["kept_documents"] == len({row["document"] for row in kept})
        assert counts["kept_tokens"] == sum(row["teacher_tokens"] for row in kept)
    assert manifest["sets"]["all"]["bytes"] == sum(len(text.encode()) for _, text in TEXTS)
    total = sum(row["bytes"] for row in rows)
    assert manifest["nats_per_byte"]["teacher"] == pytest.approx(sum(row["teacher_nll"] for row in rows) / total)


def test_the_same_command_again_reads_nothing_and_writes_the_same(corpus, models, done, monkeypatch):
    _, result = done
    before = {name: (result.out / name).read_bytes() for name in FILES}

    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(LanguageModel, "forward", refuse)
    run(corpus, models, result.out)
    assert {name: (result.out / name).read_bytes() for name in FILES} == before
    with pytest.raises(UsageError, match="differs in keep"):
        run(corpus, models, result.out, keep=0.25)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(corpus, models, done, tmp_path, monkeypatch):
    forward, calls = LanguageModel.forward, []

    def dies(self, *args, **kwargs):
        calls.append(self.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, models, tmp_path / "run")
    first, calls[:] = len(calls) - 1, ["dead"] * 3
    run(corpus, models, tmp_path / "run")
    again = len(calls) - 3
    monkeypatch.undo()
    assert {name: (tmp_path / "run" / name).read_bytes() for name in FILES} == {
        name: (done[1].out / name).read_bytes() for name in FILES
    }
    assert first == 2 and again == 2 * -(-len(rows_of(done[1])) // 4) - 2, "what was there was not made again"


def test_one_model_gives_scores_of_zero_and_the_first_half(corpus, models, tmp_path):
    for role, pair in (("small", (models[0], models[0])), ("loaded twice", (models[0], load(models[0].name)))):
        _, result = run(corpus, pair, tmp_path / role)
        rows = rows_of(result)
        assert {row["score"] for row in rows} == {0.0}
        assert [row["kept"] for row in rows] == [i < -(-len(rows) // 2) for i in range(len(rows))]
        assert result.threshold == 0.0


def test_equal_weights_of_two_computations_cancel_exactly(corpus, models, tmp_path, monkeypatch):
    monkeypatch.setattr("mplat.refine.refine_run.RefinePlan.same_model", False)
    _, result = run(corpus, (models[0], models[0]), tmp_path)
    assert {row["score"] for row in rows_of(result)} == {0.0}


def test_models_with_other_tokens_are_compared_by_bytes(corpus, models, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tiny_tokenizer.save(tiny_tokenizer.train(0), tmp_path / "tokenizer")
    other = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    other["model"]["merges"] = other["model"]["merges"][:40]  # the same ids for shorter pieces
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(other))
    small = talking("mamba")
    small.tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tmp_path / "tokenizer"))
    plan, result = run(corpus, (small, models[1]), tmp_path / "run")
    assert plan.per == "byte"
    assert sum(row["reference_tokens"] - row["teacher_tokens"] for row in rows_of(result)) > 50
    for row in rows_of(result):
        assert row["reference_tokens"] >= row["teacher_tokens"]
        assert row["score"] == pytest.approx((row["reference_nll"] - row["teacher_nll"]) / row["bytes"])


def test_a_chunk_without_a_score_has_a_status_and_is_never_kept(corpus, models, tmp_path, monkeypatch):
    from mplat.models.decoding import scored_texts

    right = scored_texts.log_likelihoods

    def sometimes(model, documents, *args, **kwargs):
        found = right(model, documents, *args, **kwargs)
        return [float("nan") if model is models[1] and len(ids) < 12 else value
                for ids, value in zip(documents, found, strict=True)]  # fmt: skip

    monkeypatch.setattr(scored_texts, "log_likelihoods", sometimes)
    _, result = run(corpus, models, tmp_path, keep=1.0)
    rows = rows_of(result)
    bad = [row for row in rows if row["status"] != "ok"]
    assert 0 < len(bad) < len(rows)
    for row in bad:
        assert (row["status"], row["score"], row["kept"]) == ("model_nonfinite", None, False)
        assert row["reason"].startswith("teacher: ") and row["reference_nll"] is not None
    assert result.status == {"model_nonfinite": len(bad), "ok": len(rows) - len(bad)}
    assert result.bad_share == len(bad) / len(rows)
    assert sum(row["kept"] for row in rows) == len(rows) - len(bad)
    assert np.isfinite(result.nats_per_byte["teacher"])


def test_what_cannot_be_refined_is_one_sentence(corpus, models):
    without = talking("mamba")
    without.tokenizer = None
    with pytest.raises(InputError, match="has no tokenizer for the texts; name one with --reference-tokenizer"):
        prepare(RefineConfig(data=(corpus,)), without, models[1])
    with pytest.raises(InputError, match="name one with --teacher-tokenizer"):
        prepare(RefineConfig(data=(corpus,)), models[0], without)
    with pytest.raises(UsageError, match="no data is named"):
        prepare(RefineConfig(), *models)
    with pytest.raises(UsageError, match="no teacher is named; give --teacher M"):
        prepare(RefineConfig(data=(corpus,)), models[0])


@pytest.mark.ray
@pytest.mark.slow
def test_on_one_and_two_workers_the_same_bytes(corpus, models, done, tmp_path, ray_workers):
    for actors in (1, 2):
        run(corpus, models, tmp_path / str(actors), ray_workers(actors))
        for name in FILES:
            assert (tmp_path / str(actors) / name).read_bytes() == (done[1].out / name).read_bytes(), (name, actors)
