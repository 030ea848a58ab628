"""What difference sampling keeps of a corpus of which half is noise: real text of The Pile among shuffled words.

Usage: python benchmarks/refine.py [--seeds 1 2] [--folder DIR] [--out FILE]      needs MPLAT_SHARED_DATA

Prose of The Pile's test split (five sets) is divided by documents: two thirds train a tokenizer and three models with
`mplat train`, a teacher and two small references; the rest is the corpus. In every second document of the corpus the
words are put into random order, so that the noise has the words of real text and their frequencies. Then `mplat
refine` keeps half of it. One reference is trained on the texts as they are, with few steps (`small`: what MiniPLM
asks, what a small model does not know yet); the other on the same texts with their words shuffled (`words`: what
order says). Written to results/refine.json for both, for two lengths of chunks: how much of what is kept is real, by
chunks, by bytes, and by chunks of every set, and the rank statistic of the scores (AUROC: how often a real chunk has
the higher score of a pair).

With one model as reference and teacher the first half of the corpus is kept; its share of real text is chance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from mplat.datasets.readers.pile import Document, read
from mplat.datasets.tokenizer import END_OF_TEXT, save
from mplat.datasets.word_order import shuffled_words
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
MUON = {"optimizer": {"name": "muon", "learning_rate": 0.01}}
TEACHER = {"steps": 400, "model": {"arch": "mamba", "size": "tiny"}}
SMALL = {"steps": 200, "model": {"arch": "mamba", "size": "nano"}}
WORDS = {"steps": 300, "model": {"arch": "mamba", "size": "nano"}, **MUON}
RESULTS = Path(__file__).parent / "results" / "refine.json"


def documents() -> list[Document]:
    """Documents of a middling length of every set, in the order of the file."""
    found = read(Path(os.environ["MPLAT_SHARED_DATA"]) / "pile").documents
    by_set = {name: [d for d in found if d.set_name == name and d.n_bytes < 6000][:PER_SET] for name in SETS}
    return [document for group in zip(*by_set.values(), strict=True) for document in group]


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


def make_model(
    out: Path, text: Path, tokenizer: Path, recipe: dict[str, Any], seed: int, *, shuffle_words: bool = False
) -> dict[str, Any]:
    """A model trained by `mplat train` into `out`, and how it predicts what that held out."""
    files = {"paths": (str(text),), "shuffle_words": shuffle_words}
    config = TrainConfig.model_validate({
        "seed": seed, "batch_size": 4, "sequence_length": 256, "threads": 1,
        "data": {"source": "text", "tokenizer": str(tokenizer), "text": files},
        "optimizer": {"learning_rate": 0.004},
        "evaluation": {"every": 0}, "checkpoint": {"every": 0}, **recipe,
    })  # fmt: skip
    result = train(config, out)
    about = {**recipe["model"], "optimizer": config.optimizer.name, "steps": recipe["steps"]}
    return {**about, "shuffled_words": shuffle_words, "held_out_bits_per_byte": result.metrics.get("bits_per_byte")}


def purity(scores: Path) -> dict[str, Any]:
    """Shares of real text among what is kept."""
    rows = [{**row, "real": row["set"].startswith("real ")} for row in pq.read_table(scores).to_pylist()]
    kept = [row for row in rows if row["kept"]]
    ranks = rankdata([row["score"] for row in rows])
    of_real = [rank for rank, row in zip(ranks, rows, strict=True) if row["real"]]
    n, m = len(of_real), len(rows) - len(of_real)
    return {
        "chunks": len(rows),
        "real_share_of_all_chunks": n / len(rows),
        "real_share_of_all_bytes": sum(r["bytes"] for r in rows if r["real"]) / sum(r["bytes"] for r in rows),
        "real_share_of_kept_chunks": sum(row["real"] for row in kept) / len(kept),
        "real_share_of_kept_bytes": sum(r["bytes"] for r in kept if r["real"]) / sum(r["bytes"] for r in kept),
        "auroc": (sum(of_real) - n * (n + 1) / 2) / (n * m),
        "real_share_of_kept_chunks_by_set": {
            name: _share([row["real"] for row in kept if row["set"].endswith(f" {name}")]) for name in SETS
        },
    }


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def refined(corpus: Path, reference: Path, teacher: Path, chunk: int, out: Path) -> dict[str, Any]:
    """One refinement, measured."""
    config = RefineConfig.model_validate({
        "data": (corpus,), "reference": str(reference / "model"), "teacher": str(teacher / "model"),
        "keep": 0.5, "chunk": chunk,
    })  # fmt: skip
    with open_session("none") as session:
        refine(prepare(config), out=out, session=session)
    return {"chunk": chunk, **purity(out / "scores.parquet")}


def measured(seed: int, folder: Path) -> dict[str, Any]:
    """All models of one seed, and what they keep."""
    folder.mkdir(parents=True, exist_ok=True)
    every = documents()
    trained_on = [d for i, d in enumerate(every) if i % CORPUS]
    asked = every[::CORPUS]
    text = write(folder / "train.jsonl", [(d.set_name, d.text) for d in trained_on])
    corpus = write(folder / "corpus.jsonl", [
        (f"shuffled {d.set_name}", shuffled_words(d.text, i)) if i % 2 else (f"real {d.set_name}", d.text)
        for i, d in enumerate(asked)
    ])  # fmt: skip
    tokenizer = make_tokenizer([d.text for d in trained_on], folder / "tokenizer")
    models = {
        "teacher": make_model(folder / "teacher", text, tokenizer, TEACHER, seed),
        "small": make_model(folder / "small", text, tokenizer, SMALL, seed),
        "words": make_model(folder / "words", text, tokenizer, WORDS, seed, shuffle_words=True),
    }
    rows = [
        {"reference": name, **refined(corpus, folder / name, folder / "teacher", chunk, folder / f"{name}-{chunk}")}
        for name in ("small", "words")
        for chunk in CHUNKS
    ]
    chance = refined(corpus, folder / "teacher", folder / "teacher", CHUNKS[-1], folder / "same-model")
    about = {"documents": len(asked), "bytes": sum(d.n_bytes for d in asked)}
    return {"seed": seed, **about, "models": models, "rows": rows, "one_model": chance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where models and refinements lie; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            runs.append(measured(seed, (options.folder or Path(temporary)) / f"seed-{seed}"))
            text = json.dumps({"torch": torch.__version__, "runs": runs}, indent=2, allow_nan=False) + "\n"
            options.out.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
