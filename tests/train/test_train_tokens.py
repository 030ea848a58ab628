"""Training on token folders: what is read when, what is held out, and metrics that are those of single documents."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mplat.commands import main
from mplat.core.config import load_config
from mplat.core.errors import InputError, MplatError
from mplat.datasets.tokens.folder import TokenFolder
from mplat.datasets.tokens.token_corpus import documents_of
from mplat.datasets.tokens.tokenizer import SHIPPED
from mplat.train import train
from mplat.train.data import open_source
from mplat.train.data_sections import _data
from mplat.train.train_config import TrainConfig
from token_folders import write_texts, write_tokens
from train_runs import config, files, small_model

SETS = {"FreeLaw": 40, "Wikipedia (en)": 90, "": 20}
T = 16


def texts() -> list[tuple[str, str]]:
    rng = np.random.default_rng(7)
    words = ["river", "Bekdok", "snow", "1931", "was", "the", "of", "born", "in", "a"]
    names = [name for name, n in SETS.items() for _ in range(n)]
    rng.shuffle(names)
    return [(name, f"{i}: " + " ".join(rng.choice(words, rng.integers(3, 60)))) for i, name in enumerate(names)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("tokens") / "folder", texts())


def run(*folders: Path, tokens: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    section = {"paths": tuple(map(str, folders)), "holdout_share": 0.2, **(tokens or {})}
    values: dict[str, Any] = {"sequence_length": T, "batch_size": 4, "data": {"source": "tokens", "tokens": section}}
    return config(**{**values, **changes})


def rows_of(source: Any, n: int) -> np.ndarray:
    return np.concatenate([source.batch(step).tokens.numpy() for step in range(-(-n // 4))])[:n]


def by_documents(folder: Path, held_out: bool) -> dict[str, list[np.ndarray]]:
    """The documents of each set on one side of the split, found from the rule alone."""
    opened = TokenFolder.open(folder)
    sides: dict[str, list[np.ndarray]] = {}
    d = documents_of(opened)
    for code, offset, length, value in zip(d.set, d.offset, d.tokens, d.hash, strict=True):
        if (int(value) < 0.2 * 2**64) == held_out:
            name = d.sets[code] or "own"
            sides.setdefault(name, []).append(np.array(opened.tokens[offset : offset + length]))
    return sides


def test_every_token_of_every_set_is_seen_once_an_epoch_and_nothing_held_out(folder: Path, tmp_path: Path) -> None:
    source: Any = open_source(run(folder), tmp_path)
    streams = {name: np.concatenate(parts) for name, parts in by_documents(folder, held_out=False).items()}
    expected = Counter(
        tuple(stream[i * T : i * T + T + 1]) for stream in streams.values() for i in range((len(stream) - 1) // T)
    )
    n = expected.total()
    first, second = rows_of(source, n), rows_of(source, 2 * n)[n:]
    assert Counter(map(tuple, first)) == Counter(map(tuple, second)) == expected
    assert (first != second).any()
    batch = source.batch(0)
    assert torch.equal(batch.reset, batch.tokens == 0) and batch.weights.eq(1).all()


def test_a_weight_says_how_often_a_set_is_read(folder: Path, tmp_path: Path) -> None:
    weights = {"FreeLaw": 1.5, "own": 0}
    source: Any = open_source(run(folder, tokens={"weights": weights}), tmp_path)
    streams = {name: np.concatenate(parts) for name, parts in by_documents(folder, held_out=False).items()}
    rows = {n: [tuple(s[i * T : i * T + T + 1]) for i in range((len(s) - 1) // T)] for n, s in streams.items()}
    period = 3 * len(rows["FreeLaw"]) + 2 * len(rows["Wikipedia (en)"])
    seen = Counter(map(tuple, rows_of(source, period)))
    assert seen == Counter(rows["FreeLaw"] * 3 + rows["Wikipedia (en)"] * 2)
    assert "not read: own" in source.description


def test_a_batch_depends_on_configuration_and_step_alone(folder: Path, tmp_path: Path) -> None:
    one, other = (open_source(run(folder), tmp_path) for _ in range(2))
    forwards = [one.batch(step).tokens for step in range(400)]
    for step in (399, 5, 200, 201, 0):
        assert torch.equal(other.batch(step).tokens, forwards[step])
    assert not torch.equal(open_source(run(folder, seed=4), tmp_path).batch(0).tokens, forwards[0])


def test_metrics_are_those_of_every_document_alone(folder: Path, tmp_path: Path) -> None:
    source = open_source(run(folder, sequence_length=1000, evaluation={"batch_size": 2}), tmp_path)  # a row a set
    model = small_model(vocab_size=1024)
    found = source.evaluate(model)
    nats, targets, text_nats, n_bytes = Counter(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    d = documents_of(TokenFolder.open(folder))
    held = d.hash < np.uint64(int(0.2 * 2**64))
    for code, size in zip(d.set[held], d.bytes[held], strict=True):
        n_bytes[d.sets[code] or "own"] += int(size)
    for s, name in enumerate(d.sets):
        numbers = [int(np.flatnonzero(d.hash == value)[0]) for value in sorted(d.hash[held & (d.set == s)])]
        tokens = TokenFolder.open(folder).tokens
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            here = torch.from_numpy(np.array(tokens[d.offset[number] :][: d.tokens[number]], dtype=np.int64))
            scores = torch.log_softmax(model(here[None])[0], -1)
            text = -scores[:-1].gather(1, here[1:, None]).sum().item()
            end = 0.0 if following is None else -scores[-1, 0].item()  # the next document's opening token
            nats[name or "own"] += text + end  # type: ignore[assignment]
            text_nats[name or "own"] += text  # type: ignore[assignment]
            targets[name or "own"] += len(here) - (following is None)
    for part, names in {"": list(nats), **{f"/{name}": [name] for name in nats}}.items():
        loss = sum(nats[name] for name in names) / sum(targets[name] for name in names)
        bits = sum(text_nats[name] for name in names) / math.log(2) / sum(n_bytes[name] for name in names)
        assert found.metrics[f"loss{part}"] == pytest.approx(loss, rel=1e-9)
        assert found.metrics[f"perplexity{part}"] == pytest.approx(math.exp(loss), rel=1e-9)
        assert found.metrics[f"bits_per_byte{part}"] == pytest.approx(bits, rel=1e-9)
    assert len(found.metrics) == 3 * 4 and found.score == found.metrics["loss"]


def test_what_is_held_out_and_measured_depends_on_no_order(folder: Path, tmp_path: Path) -> None:
    shuffled = texts()
    np.random.default_rng(0).shuffle(shuffled)  # type: ignore[arg-type]
    parts = [write_texts(tmp_path / f"part{i}", [*map(tuple, shuffled[i::3])]) for i in range(3)]
    model = small_model(vocab_size=1024)
    whole = open_source(run(folder, tokens={"holdout_tokens": 300}), tmp_path / "a").evaluate(model)
    assert open_source(run(*parts, tokens={"holdout_tokens": 300}), tmp_path / "b").evaluate(model) == whole


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole = run(folder, steps=4, schedule={"warmup_steps": 1})
    straight = train(whole, tmp_path / "straight")
    train(run(folder, steps=2, schedule={"warmup_steps": 1, "shape": "wsd", "decay_fraction": 0}), tmp_path / "half")
    resumed = tmp_path / "resumed"
    halves = run(folder, steps=4, schedule={"warmup_steps": 1, "shape": "wsd", "decay_fraction": 0})
    one = train(halves, tmp_path / "one")
    two = train(halves, resumed, resume=str(tmp_path / "half"))
    assert one.model_digest == two.model_digest != straight.model_digest
    assert one.metrics == two.metrics and one.metrics["bits_per_byte/own"] is not None


def test_duplicates_are_left_out_and_said_in_the_record(tmp_path: Path) -> None:
    documents = texts()
    # of everything held out, one has a copy beside it, one stands in training with a word changed
    sides = by_documents(write_texts(tmp_path / "plain", documents), held_out=True)
    held = {tuple(tokens) for part in sides.values() for tokens in part}
    from mplat.datasets.tokens.tokenizer import open_tokenizer

    encoder, facts = open_tokenizer(None)
    out = [pair for pair in documents if tuple(facts.document(encoder.encode(pair[1]).ids)) in held]
    longest = max(out, key=lambda pair: len(pair[1]))
    changed = next(
        text
        for i in range(100)
        if _trained(text := f"Note {i}. {longest[1]} Bekdok {i}.")  # whole inside another
    )
    other = next(pair for pair in out if pair != longest)
    path = write_texts(tmp_path / "planted", [*documents, ("FreeLaw", changed), other, documents[0], documents[0]])
    shown = run(path, steps=2, tokens={"shingle": 5})
    train(shown, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    first_is_held = documents[0] in out
    assert record["left_out"] == {
        "held_out_copies": 1 + 2 * first_is_held, "held_out_exact": 0, "held_out_near": 1, "training_copies": 0
    }  # fmt: skip
    assert record["counts"]["held_out_documents"] == len(out) - 1
    assert record["counts"]["training_copies"] == (0 if first_is_held else 2)
    once = open_source(run(path, tokens={"deduplicate": True}), tmp_path)
    assert once.left_out["training_copies"] == (0 if first_is_held else 2)


def _trained(text: str) -> bool:
    from mplat.datasets.tokens.folder import document_hash

    return document_hash(text.encode()) >= 0.2 * 2**64


def test_the_command_recognises_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _data(str(folder)) == {"data.source": "tokens", "data.tokens.paths": [str(folder)]}
    assert _data(str(SHIPPED)) == {"data.source": "text", "data.text.paths": [str(SHIPPED)]}
    words = ["--set", "steps=2", "--set", "batch_size=2", "--set", "sequence_length=16", "--size", "nano",
             "--set", "data.tokens.holdout_share=0.2", "--set", "data.tokens.weights={Wikipedia (en): 2}"]  # fmt: skip
    code = main(["train", "--data", str(folder), *words, "--out", str(tmp_path / "run"), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert {"bits_per_byte", "bits_per_byte/FreeLaw", "bits_per_byte/own"} <= json.loads(captured.out)["metrics"].keys()
    assert "bits per byte" in captured.err and "byte/FreeLaw" not in captured.err
    assert load_config(TrainConfig, tmp_path / "run" / "config.yaml", []).data.tokens.weights == {"Wikipedia (en)": 2}
    assert "model" in "".join(files(tmp_path / "run"))


def _cut(path: Path) -> None:
    (path / "tokens.bin").write_bytes((path / "tokens.bin").read_bytes()[:-3])


def _no_json(path: Path) -> None:
    (path / "manifest.json").write_text("{")


def _no_files(path: Path) -> None:
    (path / "manifest.json").write_text('{"format": 1, "dtype": "uint16"}')


def _flipped(path: Path) -> None:
    content = bytearray((path / "documents.parquet").read_bytes())
    content[40] ^= 1
    (path / "documents.parquet").write_bytes(content)


def _newer(path: Path) -> None:
    (path / "manifest.json").write_text('{"format": 2}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, r"tokens\.bin has 1\d+ bytes .* where manifest\.json says 1\d+"),
        (_no_json, r"manifest\.json: not valid JSON"),
        (_no_files, r"manifest\.json: is damaged"),
        (_flipped, r"documents\.parquet: .*damaged"),
        (_newer, "format 2, this mplat reads 1"),
        (lambda path: (path / "tokens.bin").unlink(), r"is not whole .*tokens\.bin"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = write_tokens(tmp_path / "folder", [("A", range(1, 51))] * 10)
    damage(path)
    with pytest.raises(InputError, match=message):
        open_source(run(path), tmp_path / "out", dry_run=True)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"paths": ()}, r"data\.tokens\.paths is empty"),
        ({"weights": {"Free Law": 1.0}}, r"no document is of the set 'Free Law'; did you mean 'FreeLaw'\?"),
        ({"weights": {"FreeLaw": 0.0, "Wikipedia (en)": 0.0, "own": 0.0}}, "no set with a weight fills one row"),
        ({"holdout_share": 1e-9}, r"raise data\.tokens\.holdout_share above 1e-09"),
        ({"holdout_share": 0.999999, "weights": {"own": 1.0}}, "of the set 'own' do not fill one row"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder: Path, tmp_path: Path, tokens: Any, message: str) -> None:
    with pytest.raises(MplatError, match=message):
        open_source(run(folder, tokens=tokens), tmp_path, dry_run=True)


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    documents = [("A", [i, *range(1, 40)]) for i in range(1, 30)]
    documents[17][1][25] = 1024
    path = write_tokens(tmp_path / "folder", documents)
    with pytest.raises(InputError, match="token 26 of document 17 is 1024, beyond the tokenizer's 1,024"):
        open_source(run(path), tmp_path / "out")


def test_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    for path in SHIPPED.iterdir():
        (other / path.name).write_bytes(path.read_bytes() + b" ")
    named = {"source": "tokens", "tokenizer": str(other), "tokens": {"paths": (str(folder),)}}
    with pytest.raises(InputError, match="made with another tokenizer"):
        open_source(config(data=named), tmp_path)
    second = write_texts(tmp_path / "second", texts()[:9], other)
    with pytest.raises(InputError, match="made with another tokenizer"):
        open_source(run(folder, second), tmp_path)
