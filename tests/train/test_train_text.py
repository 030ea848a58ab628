"""Text data: nothing is lost silently, every token is predicted once an epoch, bits per byte are bits per byte."""

import csv
import gzip
import json
import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.datasets.tokens.reading import BadLines, documents
from mplat.datasets.tokens.tokenizer import open_tokenizer
from mplat.datasets.word_order import shuffled_words
from mplat.train import train
from mplat.train.data import open_source
from mplat.train.data_sections import TextSection
from mplat.train.sampler import permuted, rows_of_step
from mplat.train.token_store import open_store, store_key
from mplat.train.train_config import parse_tokens
from train_runs import Recorder, config

TEXTS = [
    "First document.",
    "Second: with\u2028odd\u0085line ends.",
    "Drítte 🐍",
    *(f"Text {i} " * i for i in range(1, 40)),
]


def jsonl(texts):
    return "".join(json.dumps({"text": t, "meta": {}}, ensure_ascii=False) + "\n" for t in texts).encode()


def read(path, limit=0, field="text"):
    return list(documents(path, field, BadLines(limit)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz"])
def test_every_document_is_read(tmp_path, name):
    path = tmp_path / name
    packers = {".zst": zstandard.compress, ".gz": gzip.compress}
    path.write_bytes(packers.get(path.suffix, bytes)(jsonl(TEXTS)))
    assert read(path) == TEXTS


def test_tables_hold_a_document_in_every_row(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "n"], *([text, "1"] for text in TEXTS)])
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.parquet") == read(tmp_path / "a.json") == TEXTS
    with pytest.raises(InputError, match=r"a.csv: line 1 is broken: there is no field 'body', only 'n', 'text'"):
        read(tmp_path / "a.csv", field="body")


def test_frames_in_a_row_and_lines_across_them(tmp_path):
    data = jsonl(TEXTS)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(zstandard.compress(data[i : i + 100]) for i in range(0, len(data), 100)))
    assert read(path) == TEXTS


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfline one\nline two\n")
    assert read(path) == ["line one\nline two\n"]


@pytest.mark.parametrize("at_a_line_end", [False, True])
def test_a_cut_off_file_is_refused_with_its_name_and_byte(tmp_path, at_a_line_end):
    path = tmp_path / "a.jsonl.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    data = compressor.compress(jsonl(TEXTS)) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    whole = data + compressor.flush()
    path.write_bytes(data if at_a_line_end else whole[:-40])
    with pytest.raises(InputError, match=rf"a\.jsonl\.zst: cut off at byte {path.stat().st_size}"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b'{"text": "plain"}\n', "byte 0"), (zstandard.compress(b'{"text": "a"}') + b"rest", "byte")],
)
def test_what_is_not_a_compressed_file_is_refused(tmp_path, content, message):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_broken_lines_are_counted_by_reason_and_refused_beyond_the_limit(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n{"text": 3}\n{"no": "x"}\n[1]\n{"text": "cut\n\xff\n\n{"text": " "}\n{"text": "\\ud800"}\n'
        b'{"text": "also good"}'
    )
    bad = BadLines(6)
    assert list(documents(path, "text", bad)) == ["good", "also good"]
    assert bad.reasons == {
        "wrong_type": 1, "missing_field": 1, "not_an_object": 1, "broken_json": 1, "invalid_utf8": 1, "invalid_text": 1
    }  # fmt: skip
    with pytest.raises(InputError, match=r"a\.jsonl: line 2 is broken: field 'text' is not text"):
        read(path)


def test_the_sampler_is_a_permutation_that_depends_on_seed_and_epoch():
    for n in (1, 2, 3, 5, 64, 1000):
        orders = [[permuted(i, n, seed, epoch) for i in range(n)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
        assert all(sorted(order) == list(range(n)) for order in orders)
        assert n < 64 or len(set(map(tuple, orders))) == 3
    order = np.array([permuted(i, 1000, 7, 0) for i in range(1000)])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


def test_the_sampler_does_not_depend_on_the_batch_size():
    small = np.concatenate([rows_of_step(step, 3, 10, seed=4) for step in range(8)])
    large = np.concatenate([rows_of_step(step, 12, 10, seed=4) for step in range(2)])
    assert (small == large).all()
    assert sorted(small[:10]) == sorted(small[10:20]) == list(range(10))


@pytest.fixture
def text_run(tmp_path):
    """A text run's configuration over `TEXTS`."""
    path = tmp_path / "texts.jsonl.zst"
    path.write_bytes(zstandard.compress(jsonl(TEXTS)))
    return config(
        steps=3, batch_size=2, sequence_length=16,
        data={"source": "text", "text": {"paths": (str(path),), "holdout_every": 10}},
    )  # fmt: skip


def test_the_streams_hold_every_document_behind_a_separator(text_run, tmp_path):
    encoder, facts = open_tokenizer(None)
    store = open_store(tmp_path / "data", text_run.data.text, encoder, facts)
    held_out = [t for i, t in enumerate(TEXTS, start=1) if i % 10 == 2]
    for stream, texts in ((store.train, [t for t in TEXTS if t not in held_out]), (store.holdout, held_out)):
        cuts = np.flatnonzero(stream == facts.eos_id)
        assert [encoder.decode(part[1:].tolist()) for part in np.split(stream, cuts[1:])] == texts
    assert store.facts.holdout_bytes == sum(len(t.encode()) for t in held_out)
    made = {p.name for p in (tmp_path / "data").iterdir()}
    open_store(tmp_path / "data", text_run.data.text, encoder, facts)
    assert {p.name for p in (tmp_path / "data").iterdir()} == made == {store.facts.key[:16]}


def test_shuffled_words_are_those_of_their_document_and_another_store(text_run, tmp_path):
    encoder, facts = open_tokenizer(None)
    as_they_are = open_store(tmp_path / "data", text_run.data.text, encoder, facts)
    section = text_run.data.text.model_copy(update={"shuffle_words": True})
    store = open_store(tmp_path / "data", section, encoder, facts)
    assert store.facts.key != as_they_are.facts.key == store_key(text_run.data.text, facts)
    for ours, theirs in ((store.train, as_they_are.train), (store.holdout, as_they_are.holdout)):
        shuffled, real = (
            [encoder.decode(part[1:].tolist()) for part in np.split(stream, np.flatnonzero(stream == facts.eos_id)[1:])]
            for stream in (ours, theirs)
        )
        assert [sorted(text.split()) for text in shuffled] == [sorted(text.split()) for text in real]
        assert sum(a != b for a, b in zip(shuffled, real, strict=True)) > 0.8 * len(real) - 3


@given(st.text(alphabet="ab \n\t.é", max_size=40), st.integers(0, 9))
def test_shuffling_words_leaves_the_white_space_where_it_is(text, seed):
    shuffled = shuffled_words(text, seed)
    assert re.findall(r"\s+", shuffled) == re.findall(r"\s+", text)
    assert sorted(shuffled.split()) == sorted(text.split())
    assert shuffled_words(text, seed) == shuffled


def test_shuffling_makes_every_order_as_often():
    orders = Counter(shuffled_words("a b c", seed) for seed in range(600))
    assert len(orders) == 6 and min(orders.values()) > 60


def test_an_epoch_predicts_every_token_once(text_run, tmp_path):
    source = open_source(text_run, tmp_path)
    n_rows = (source._store.facts.train_tokens - 1) // 16  # type: ignore[attr-defined]
    rows = torch.cat([source.batch(step).tokens for step in range(-(-n_rows // 2))])[:n_rows]
    targets = np.sort(rows[:, 1:].numpy().ravel())
    assert (targets == np.sort(source._store.train[1 : n_rows * 16 + 1])).all()  # type: ignore[attr-defined]
    batch = source.batch(0)
    assert torch.equal(batch.reset, batch.tokens == 0) and batch.weights.eq(1).all()


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary(text_run, tmp_path):
    source = open_source(text_run, tmp_path)

    class Uniform(torch.nn.Linear):
        edits, captures, head_matrix = (), (), None

        def forward(self, tokens, reset):  # type: ignore[override]
            return torch.zeros(*tokens.shape, 1024, dtype=torch.float64)

    metrics = source.evaluate(Uniform(1, 1)).metrics  # type: ignore[arg-type]
    facts = source._store.facts  # type: ignore[attr-defined]
    n_text_tokens = facts.holdout_tokens - facts.holdout_documents
    assert metrics["loss"] == pytest.approx(math.log(1024))
    assert metrics["perplexity"] == pytest.approx(1024)
    assert metrics["bits_per_byte"] == pytest.approx(10 * n_text_tokens / facts.holdout_bytes)


def test_training_on_text(text_run, tmp_path):
    recorder = Recorder()
    result = train(text_run, tmp_path / "run", observer=recorder)
    assert result.metrics.keys() == {"loss", "perplexity", "bits_per_byte"}
    assert [r.answer_loss for r in recorder.reports] == [None] * 3
    assert result.best_score == result.metrics["loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"paths": ()}, "paths is empty"),
        ({"paths": ("nowhere.jsonl",)}, r"nowhere\.jsonl: cannot be read"),
        ({"paths": ("EMPTY",)}, "no documents to train on"),
        ({"paths": ("SHORT",)}, "do not fill one row"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path, text, message):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n\n')
    (tmp_path / "short.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    names = {"EMPTY": str(tmp_path / "empty.jsonl"), "SHORT": str(tmp_path / "short.jsonl")}
    text = {"paths": tuple(names.get(p, p) for p in text["paths"])}
    with pytest.raises(InputError, match=message):
        open_source(config(data={"source": "text", "text": text}), tmp_path / "out")


def test_the_pile_is_read_whole(shared_data):
    path = shared_data / "pile" / "pile_test_permissive.jsonl.zst"
    if not path.is_file():
        pytest.skip("the Pile's test records are not present")
    lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().split(b"\n")
    assert sum(1 for _ in documents(path, "text", BadLines(0))) == sum(1 for line in lines if line)


@pytest.mark.parametrize(
    ("text", "count"), [("10M", 10**7), ("250k", 250_000), ("1.5B", 1_500_000_000), ("1_000", 1000), (7, 7)]
)
def test_counts_of_tokens(text, count):
    assert parse_tokens(text) == count


@pytest.mark.parametrize("text", ["", "10X", "-5", "0", "1.0005k", "nan", "1e6", "ten"])
def test_what_is_no_count_of_tokens(text):
    with pytest.raises(UsageError, match="is not a count of tokens"):
        parse_tokens(text)


def test_a_store_key_names_content_not_place(tmp_path):
    encoder, facts = open_tokenizer(None)
    keys = []
    for name, texts in (("a", TEXTS), ("b", TEXTS), ("c", TEXTS[:-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(jsonl(texts))
        keys.append(open_store(tmp_path / "data", TextSection(paths=(str(path),)), encoder, facts).facts.key)
    assert keys[0] == keys[1] != keys[2]
