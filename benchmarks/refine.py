"""What difference sampling keeps of a corpus of which half is noise: real text of The Pile among shuffled words.

Usage: python benchmarks/refine.py [--folder DIR] [--out FILE]      needs MPLAT_SHARED_DATA

Prose of The Pile's test split (five sets) is divided by documents: two thirds train a tokenizer and two models with
`mplat train`, a small reference with few steps and a larger teacher with more; the rest is the corpus. In every second
document of the corpus the words are put into random order, so that the noise has the words of real text and their
frequencies. Then `mplat refine` keeps half of it. Written to results/refine.json: how much of what is kept is real, by
chunks and by bytes, for two lengths of chunks, and the rank statistic of the scores (AUROC:
how often a real chunk has the higher score of a pair).

With one model as reference and teacher the first half of the corpus is kept; its share of real text is chance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from mplat.datasets.readers.pile import Document, read
from mplat.datasets.tokenizer import END_OF_TEXT, save
from mplat.refine.refine_config import RefineConfig
from mplat.refine.refine_run import prepare, refine
from mplat.runtime import open_session
from mplat.train import train
from mplat.train.train_config import TrainConfig
from scipy.stats import rankdata
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SETS = ("NIH ExPorter", "PubMed Abstracts", "StackExchange", "USPTO Backgrounds", "Wikipedia (en)")
PER_SET, CORPUS = 300, 3  # documents of each set, every third of them in the corpus
VOCABULARY = 2048
CHUNKS = (64, 256)
REFERENCE = {"steps": 200, "model": {"arch": "mamba", "size": "nano"}}
TEACHER = {"steps": 400, "model": {"arch": "mamba", "size": "tiny"}}
RESULTS = Path(__file__).parent / "results" / "refine.json"


def documents() -> list[Document]:
    """Documents of a middling length of every set, in the order of the file."""
    found = read(Path(os.environ["MPLAT_SHARED_DATA"]) / "pile").documents
    by_set = {name: [d for d in found if d.set_name == name and d.n_bytes < 6000][:PER_SET] for name in SETS}
    return [document for group in zip(*by_set.values(), strict=True) for document in group]


def shuffled_words(text: str, seed: int) -> str:
    """The same words in random order; white space stays where it is."""
    words = re.findall(r"\S+", text)
    random.Random(seed).shuffle(words)
    return re.sub(r"\S+", lambda _: words.pop(), text)


def write(path: Path, texts: Sequence[tuple[str, str]]) -> Path:
    """(set, text) as JSON lines."""
    lines = (json.dumps({"text": text, "meta": {"pile_set_name": name}}) + "\n" for name, text in texts)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_tokenizer(texts: Sequence[str], folder: Path) -> Path:
    """Byte-level BPE of VOCABULARY tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    save(tokenizer, folder)
    return folder


def make_model(out: Path, text: Path, tokenizer: Path, recipe: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """A model trained by `mplat train`, and how it predicts what that held out."""
    config = TrainConfig.model_validate({
        "batch_size": 4, "sequence_length": 256, "threads": 1,
        "data": {"source": "text", "tokenizer": str(tokenizer), "text": {"paths": (str(text),)}},
        "optimizer": {"learning_rate": 0.004},
        "evaluation": {"every": 0}, "checkpoint": {"every": 0}, **recipe,
    })  # fmt: skip
    result = train(config, out)
    about = {**recipe["model"], "steps": recipe["steps"]}
    return out / "model", {**about, "held_out_bits_per_byte": result.metrics.get("bits_per_byte")}


def purity(scores: Path) -> dict[str, float]:
    """Shares of real text among what is kept."""
    rows = pq.read_table(scores).to_pylist()
    kept = [row for row in rows if row["kept"]]
    real = [row for row in kept if row["set"] == "real"]
    ranks = rankdata([row["score"] for row in rows])
    of_real = [rank for rank, row in zip(ranks, rows, strict=True) if row["set"] == "real"]
    n, m = len(of_real), len(rows) - len(of_real)
    return {
        "chunks": len(rows),
        "real_share_of_all_bytes": sum(r["bytes"] for r in rows if r["set"] == "real") / sum(r["bytes"] for r in rows),
        "real_share_of_kept_chunks": len(real) / len(kept),
        "real_share_of_kept_bytes": sum(row["bytes"] for row in real) / sum(row["bytes"] for row in kept),
        "auroc": (sum(of_real) - n * (n + 1) / 2) / (n * m),
    }


def refined(corpus: Path, reference: Path, teacher: Path, chunk: int, out: Path) -> dict[str, Any]:
    """One refinement, measured."""
    config = RefineConfig.model_validate(
        {"data": (corpus,), "reference": str(reference), "teacher": str(teacher), "keep": 0.5, "chunk": chunk}
    )
    with open_session("none") as session:
        refine(prepare(config), out=out, session=session)
    return {"chunk": chunk, **purity(out / "scores.parquet")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where models and refinements lie; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        every = documents()
        trained_on = [d for i, d in enumerate(every) if i % CORPUS]
        asked = every[::CORPUS]
        text = write(folder / "train.jsonl", [(d.set_name, d.text) for d in trained_on])
        corpus = write(folder / "corpus.jsonl", [
            ("shuffled", shuffled_words(d.text, i)) if i % 2 else ("real", d.text) for i, d in enumerate(asked)
        ])  # fmt: skip
        tokenizer = make_tokenizer([d.text for d in trained_on], folder / "tokenizer")
        reference, small = make_model(folder / "reference", text, tokenizer, REFERENCE)
        teacher, large = make_model(folder / "teacher", text, tokenizer, TEACHER)
        rows = [refined(corpus, reference, teacher, chunk, folder / f"refined-{chunk}") for chunk in CHUNKS]
        chance = refined(corpus, teacher, teacher, CHUNKS[-1], folder / "same-model")
    about = {"documents": len(asked), "bytes": sum(d.n_bytes for d in asked), "torch": torch.__version__}
    found = {"about": about, "reference": small, "teacher": large, "rows": rows, "one_model": chance}
    text_of_it = json.dumps(found, indent=2, allow_nan=False) + "\n"
    options.out.write_text(text_of_it)
    sys.stdout.write(text_of_it)


if __name__ == "__main__":
    main()
