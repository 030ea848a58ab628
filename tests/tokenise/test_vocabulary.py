"""A trained tokenizer: the library's own on the documents of the sample, whatever the order of the files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from mplat.commands import main
from mplat.core.errors import InputError, UsageError
from mplat.datasets.tokenizer import ENGLISH
from mplat.datasets.tokens.tokenizer import SHIPPED, digest, open_tokenizer
from mplat.tokenise.vocabulary import prepare, sample, train_vocabulary
from mplat.tokenise.vocabulary_config import VocabularyConfig, parse_amount
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = [s.strip() + "." for s in ENGLISH.replace("\n", " ").split(".") if s.strip()]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The sentences in two files."""
    for name, texts in (("a.jsonl", SENTENCES[::2]), ("b.jsonl", SENTENCES[1::2])):
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def test_the_sample_is_that_of_the_smallest_keyed_hashes(files: list[str]) -> None:
    for seed in (0, 5):
        key = seed.to_bytes(8, "little")
        ordered = sorted(
            SENTENCES,
            key=lambda t: int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8, key=key).digest(), "little"),
        )
        for wanted in (1, 700, 10**9):
            expected, size = [], 0
            for text in ordered:
                if size >= wanted:
                    break
                expected.append(text)
                size += len(text.encode())
            for order in (files, files[::-1]):
                plan = prepare(VocabularyConfig(files=tuple(order), sample=wanted, seed=seed))
                found = sample(plan)
                assert (found.texts, found.bytes, found.documents) == (expected, size, len(SENTENCES))


def test_it_is_the_librarys_and_every_program_reads_it(files: list[str], tmp_path: Path) -> None:
    trained = train_vocabulary(prepare(VocabularyConfig(files=tuple(files), vocab=400)), tmp_path / "T")
    again = train_vocabulary(prepare(VocabularyConfig(files=tuple(files[::-1]), vocab=400)), tmp_path / "U")
    assert trained.digest == again.digest == digest(tmp_path / "T") and trained.vocabulary == 400

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = decoders.ByteLevel()
    reference.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    ))  # fmt: skip
    ours, facts = open_tokenizer(tmp_path / "T")
    assert ours.get_vocab() == reference.get_vocab()
    assert (facts.size, facts.eos_id, facts.begin, facts.digest) == (400, 0, (), trained.digest)

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "T"))
    for text in (*SENTENCES[:20], "  Zürich 🐍\u2028\r\n\t12345 don't", ""):
        ids = reference.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False).ids == theirs(text)["input_ids"] == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
    assert theirs.eos_token == "<|endoftext|>" and theirs.eos_token_id == 0 and len(theirs) == 400
    record = json.loads((tmp_path / "T" / "run.json").read_text())
    assert record["details"]["digest"] == trained.digest and record["status"] == "done"
    assert record["details"]["sources"] == {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files}


def test_the_command_trains_shows_and_warns(
    files: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["tokenizer", "train", *files, "--vocab", "4k", "--sample", "1MB", "--out", str(tmp_path / "T"), "--json"]
    assert main(words, prog="mplat") == 0
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert said["vocabulary"] < 4000 and "the sample has no more pairs to merge" in err
    assert main(["tokenizer", "show", str(tmp_path / "T"), "--text", files[0], "--json"], prog="mplat") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["vocabulary"] == said["vocabulary"] and shown["digest"] == said["digest"]
    size = sum(len(text.encode()) for text in SENTENCES[::2])
    assert shown["bytes"] == size and shown["bytes_per_token"] == size / shown["tokens"] > 4
    assert main([*words, "--seed", "1"], prog="mplat") == 2


def test_wrong_inputs_are_refused(files: list[str], tmp_path: Path) -> None:
    assert [parse_amount(text, "--x") for text in ("8k", "50MB", "1.5m", "300", "1G")] == [
        8000, 50_000_000, 1_500_000, 300, 10**9
    ]  # fmt: skip
    for text in ("", "k", "-1", "0", "1.2345k", "8 tokens"):
        with pytest.raises(UsageError, match="is not an amount"):
            parse_amount(text, "--x")
    assert main(["tokenizer", "train", files[0], "--vocab", "100", "--out", str(tmp_path / "T")], prog="mplat") == 2
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n{"text": 1}\n')
    with pytest.raises(InputError, match="line 2 is broken"):
        sample(prepare(VocabularyConfig(files=(str(tmp_path / "c.jsonl"),))))
    with pytest.raises(InputError, match="no text to train on"):
        sample(prepare(VocabularyConfig(files=(str(tmp_path / "c.jsonl"),), bad_limit=1)))


def test_the_shipped_tokenizer_has_a_name_that_a_folder_of_ones_own_may_have_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = open_tokenizer(None)[1]
    assert open_tokenizer("tiny")[1] == open_tokenizer(Path("tiny"))[1] == shipped
    with pytest.raises(InputError, match=r"^other/tokenizer.json"):
        open_tokenizer("other")
    shutil.copytree(SHIPPED, tmp_path / "tiny")
    token = open_tokenizer(None)[0].id_to_token(20)
    (tmp_path / "tiny" / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert open_tokenizer("tiny")[1].eos_id == 20 != shipped.eos_id
