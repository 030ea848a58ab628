"""A small Mamba trained for five minutes on text of The Pile, beside byte n-gram models trained on the same documents.

Usage: python benchmarks/pile.py FILE.jsonl.zst [--minutes 5] [--threads 2] [--vocabulary 4000]
       python benchmarks/pile.py --speeds [--threads 2]

Documents are held out by their hashes. The vocabulary (byte-level BPE), the n-gram models and the Mamba are trained on
the other documents alone, and all are judged by bits per byte of whole held-out documents. The Mamba's state goes on
through a document; the n-gram models (modified Kneser-Ney, `byte_ngram.py`) know where a document begins. How many
tokens fit into the minutes is found out by forty steps before; the clock counts the whole training, from its start to
the exported model.

--speeds: tokens a second of a training step of every architecture, size tiny, 8 x 256 tokens of the facts world, the
median of five steps. Writes results/pile.json.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from byte_ngram import ByteNgram
from mplat.datasets.tokens.folder import TokenFolder, document_hash
from mplat.datasets.tokens.reading import BadLines, documents
from mplat.datasets.tokens.split import held_out
from mplat.datasets.tokens.token_corpus import Corpus
from mplat.models import load
from mplat.models.mixer import names
from mplat.train.held_out import HeldOut, evaluate
from mplat.train.loop import train
from mplat.train.train_config import TrainConfig

RESULT = Path(__file__).resolve().parent / "results" / "pile.json"
HELD_OUT = 0.03
ORDERS = (5, 6)
WHOLE = 1 << 16  # tokens of a row in which documents are judged
PROBE = 40  # steps that say how fast this machine is


def config(folder: Path, threads: int, tokens: int, **more: Any) -> TrainConfig:
    """A Mamba of about 1.4 million parameters, Muon, small steps."""
    settings: dict[str, Any] = {
        "seed": 1, "threads": threads, "tokens": tokens, "batch_size": 4, "sequence_length": 256, "log_every": 20,
        "model": {"arch": "mamba", "size": "tiny", "d_model": 160, "n_layers": 4},
        "data": {"source": "tokens", "tokens": {
            "paths": [str(folder)], "holdout_share": HELD_OUT, "holdout_tokens": 10**9, "near_duplicate": 1.0}},
        "optimizer": {"name": "muon", "learning_rate": 0.01},
        "schedule": {"shape": "cosine", "warmup_fraction": 0.05, "floor": 4e-5},
        "evaluation": {"every": 0}, "checkpoint": {"every": 0}, "log": {"trackers": []},
    }  # fmt: skip
    return TrainConfig.model_validate(settings | more)


def is_held_out(text: str) -> bool:
    """The rule of `mplat.datasets.tokens.split`."""
    return document_hash(text.encode()) < int(HELD_OUT * 2**64)


def mplat(*arguments: str) -> None:
    """A command, as it is typed."""
    subprocess.run([sys.executable, "-m", "mplat", *arguments, "--quiet"], check=True)


def token_folder(file: Path, trained_on: Sequence[str], vocabulary: int, work: Path) -> Path:
    """All documents as tokens of a vocabulary that is learned from those that are not held out."""
    with (work / "trained.jsonl").open("w") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in trained_on)
    mplat("tokenizer", "train", str(work / "trained.jsonl"), "--vocab", str(vocabulary), "--out", str(work / "T"))
    mplat("tokenize", str(file), "--tokenizer", str(work / "T"), "--out", str(work / "tokens"), "--address", "none")
    return work / "tokens"


def held_out_streams(folder: Path) -> dict[str, HeldOut]:
    """By set: the held-out documents, as they lie in the folder."""
    corpus = Corpus.open([folder])
    of = corpus.documents
    chosen = held_out(of, HELD_OUT, 10**12)
    streams: dict[str, HeldOut] = {}
    for code, name in enumerate(of.sets):
        mine = np.flatnonzero(chosen & (of.set == code))
        if len(mine):
            tokens = np.concatenate([corpus.document(int(number)) for number in mine]).astype(np.int64)
            streams[name] = HeldOut(tokens, int(of.bytes[mine].sum()))
    return streams


def compared(file: Path, minutes: float, threads: int, vocabulary: int, work: Path) -> dict[str, Any]:
    """The Mamba and the n-gram models on the same held-out documents."""
    texts = list(documents(file, "text", BadLines(0)))
    train_texts, test_texts = ([t for t in texts if is_held_out(t) == out] for out in (False, True))
    folder = token_folder(file, train_texts, vocabulary, work)
    found: dict[str, Any] = {
        "documents": len(train_texts), "held_out_documents": len(test_texts),
        "bytes": sum(len(t.encode()) for t in train_texts), "held_out_bytes": sum(len(t.encode()) for t in test_texts),
    }  # fmt: skip
    train(config(folder, threads, PROBE * 1024), work / "probe")
    lines = [json.loads(line) for line in (work / "probe" / "log.jsonl").read_text().splitlines()]
    pace = median(line["tokens_per_second"] for line in lines[len(lines) // 3 :] if line["kind"] == "train")
    # beside the steps: opening, the last evaluation in short rows, the export, which a tenth is left for
    tokens = int(pace * 60 * minutes * 0.9)
    started = time.perf_counter()
    made = train(config(folder, threads, tokens), work / "run")
    seconds = time.perf_counter() - started
    model = load(str(work / "run" / "model"))
    facts = TokenFolder.open(folder).tokenizer
    found["mamba"] = {
        "parameters": model.n_parameters, "vocabulary": facts.size, "tokens": made.tokens, "seconds": round(seconds, 1),
        "tokens_per_second": round(made.tokens / seconds), "threads": threads,
        **{k: round(v, 4) for k, v in evaluate(model, held_out_streams(folder), facts, WHOLE, 1).metrics.items()
           if k.startswith("bits_per_byte")},
    }  # fmt: skip
    print("mamba", found["mamba"]["bits_per_byte"], "bits per byte after", made.tokens, "tokens in", seconds, "s")
    for order in ORDERS:
        start = time.process_time()
        nats = ByteNgram([t.encode() for t in train_texts], order).nats([t.encode() for t in test_texts])
        bits = nats / math.log(2) / found["held_out_bytes"]
        found[f"{order}-gram"] = {
            "bits_per_byte": round(bits, 4), "processor_seconds": round(time.process_time() - start)
        }  # fmt: skip
        print(f"bytes, {order}-gram", round(bits, 4), "bits per byte")
    return found


def speeds(threads: int) -> dict[str, Any]:
    """Tokens a second of five training steps of every architecture."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    for arch in names():
        with tempfile.TemporaryDirectory() as out:
            run = {"steps": 8, "threads": threads, "batch_size": 8, "sequence_length": 256, "log": {"trackers": []},
                   "model": {"arch": arch, "size": "tiny"}, "evaluation": {"every": 0, "prompts_per_level": 1},
                   "checkpoint": {"every": 0}}  # fmt: skip
            made = train(TrainConfig.model_validate(run), Path(out) / "run")
            lines = [json.loads(line) for line in (Path(out) / "run" / "log.jsonl").read_text().splitlines()]
            assert made.model_folder is not None
            pace = median([line["tokens_per_second"] for line in lines if line["kind"] == "train"][3:])
            found[arch] = {"parameters": load(str(made.model_folder)).n_parameters, "tokens_per_second": round(pace)}
        print(arch, found[arch])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--speeds", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    found["about"] = {"torch": torch.__version__, "machine": platform.machine(), "threads": options.threads}
    if options.speeds:
        found["speeds"] = speeds(options.threads)
    else:
        with tempfile.TemporaryDirectory() as work:
            found["pile"] = compared(
                options.file, options.minutes, options.threads, options.vocabulary, Path(work)
            )  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
