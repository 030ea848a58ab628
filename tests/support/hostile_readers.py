"""Every reader of the project with a small whole folder for it, to be given damaged ones; not a test file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from adapter_zoo import theirs
from model_zoo import nano, tokens
from mplat.datasets.readers.own_prompts import read_questions
from mplat.datasets.records import to_table
from mplat.datasets.tokens.folder import TokenFolder
from mplat.datasets.tokens.tokenizer import open_tokenizer
from mplat.interp.methods.sae.dictionary import SparseDictionary
from mplat.interp.methods.sae.saelens import read_saelens, write_saelens
from mplat.models import Add, Clamp, Scale, load, load_edits, save_edits
from mplat.report.load import load as load_report
from mplat.report.sections.training import read_training
from mplat.runtime.ledger import read_ledger
from mplat.runtime.record import read_run
from mplat.steering import Part, Recipe
from mplat.steering.features import read_dictionary
from mplat.steering.vectors.vectors import LayerVector, Vectors
from mplat.train import checkpoint
from report_runs import questions, write_eval_run, write_interp_run
from token_folders import write_texts
from tokenizer_zoo import llama_kind
from train_runs import small_model

Read = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Reader:
    """make: writes the folder. files: name -> kind of change (`mutations.mutated`). mend: makes digests right again, so
    that what lies behind them is reached."""

    make: Callable[[Path], object]
    files: dict[str, str]
    read: Read
    mend: Callable[[Path], object] = lambda folder: None


def _model(arch: str) -> Reader:
    def read(folder: Path) -> None:
        model = load(folder)
        with torch.no_grad():
            model(tokens(1, 5, vocab=model.config.vocab_size))

    return Reader(
        lambda folder: nano(arch).save(folder), {"config.json": "json", "model.safetensors": "safetensors"}, read
    )


def _adapted(case: str) -> Reader:
    return dataclasses.replace(_model("mamba"), make=lambda folder: theirs(case).save_pretrained(folder))


def _sharded(folder: Path) -> None:
    nano("mamba").save(folder)
    weights = folder / "model.safetensors"
    names = list(json.loads(weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")]))
    weights.rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {n: "model-00001-of-00001.safetensors" for n in names if n[0] != "_"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (folder / "trainer.json").write_text('{"step": 3, "tokens": 9, "evaluation": {"loss": 1.5}, "last_loss": 2.0}')


def _recipe(folder: Path) -> None:
    folder.mkdir()
    parts = (
        Part("scale_channels", "mixer_out", (0, 1), 2.0, channels=(0, 1)),
        Part("add_vector", "resid_post", (1,), 1.0, "value", tensors={"vector": torch.ones(24)}, positions=(-1,)),
    )
    Recipe(parts, "ab" * 32, "some").save(folder / "recipe.json")
    inline = json.dumps(Recipe.load(folder / "recipe.json").to_dict())
    (folder / "inline.json").write_text(inline)


def _read_recipes(folder: Path) -> None:
    for name in ("recipe.json", "inline.json"):
        for part in Recipe.load(folder / name).parts:
            part.described()


def _mend_tensors(key: str, name: str) -> Callable[[Path], None]:
    def mend(folder: Path) -> None:
        about = folder / f"{name}.json"
        try:
            content: Any = json.loads(about.read_text())
            digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
            about.write_text(json.dumps(content | {key: digest}))
        except (ValueError, TypeError, RecursionError):
            return

    return mend


def _vectors(folder: Path) -> None:
    folder.mkdir()
    layers = {n: LayerVector(torch.eye(24)[n], 1.0 + n, 0.5, 0.75) for n in (0, 1)}
    Vectors(
        method="mean_difference", site="resid_post", at="last", seed=0, folds=2, layers=layers, model_digest="ab" * 32,
        texts_digest="cd" * 32, source="made up", n_positive=3, n_negative=3, decided_on=("ef",),
    ).save(folder / "vectors.json")  # fmt: skip


def _edits(folder: Path) -> None:
    save_edits(folder, [
        Scale("blocks.0.mixer_out", 2.0, channels=[0, 3], positions=[-1]),
        Add("blocks.1.resid_post", torch.ones(24), phase="decode"),
        Clamp("blocks.0.mixer.delta", 0.1, 0.5),
    ])  # fmt: skip


def _dictionary(folder: Path) -> None:
    dictionary = SparseDictionary.of(
        {"W_enc": torch.ones(4, 6), "b_enc": torch.zeros(6), "W_dec": torch.ones(6, 4), "b_dec": torch.zeros(4)}, "made"
    )
    write_saelens(dictionary, folder, model="m", site="resid_post")


def _question_files(folder: Path) -> None:
    folder.mkdir()
    records = [
        {"prompt": f"Ann {n} lives in Rome. She", "answers": ["Rome"], "group": "ann", "evidence": [f"Ann {n} lives"],
         "subject": "Ann", "id": f"q{n}"} for n in range(3)
    ]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "a.json").write_text(json.dumps(records))
    (folder / "a.csv").write_text("prompt,answers\n" + "".join(f'"Ann, {n}",Rome\n' for n in range(3)))
    pq.write_table(to_table(questions()[:2]), folder / "a.parquet")


def _either(*names: str, read: Read) -> Read:
    """Read each of several files, of which one is damaged."""

    def all_of(folder: Path) -> None:
        for name in names:
            read(folder / name)

    return all_of


def _token_folder(folder: Path) -> None:
    write_texts(folder, [("a", "one text"), ("b", "another text, longer"), ("a", "third")])


def _read_tokens(folder: Path) -> None:
    opened = TokenFolder.open(folder)
    opened.columns("set", "offset")
    opened.verify()
    opened.documents.to_pylist()
    open_tokenizer(folder / "tokenizer")


def _ledger(folder: Path) -> None:
    folder.mkdir()
    head = {"ledger": 1, "plan": "ab" * 32, "parts": {"name": "x", "shards": "y"}}
    rows = [
        {"shard": f"0000{n}-ab", "index": n, "file": f"part-0000{n}-{'ab' * 8}.parquet", "sha256": "ab" * 32, "rows": 3,
         "attempts": 1, "split": False, "seconds": 0.1, "at": 1.5} for n in range(4)
    ]  # fmt: skip
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (head, *rows)))


def _checkpoints(folder: Path) -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.param_groups(0.1), lr=1e-3)
    model(tokens(1, 4)).mean().backward()
    optimizer.step()
    checkpoint.save(folder, model, optimizer, {"step": 4, "tokens": 80, "config": {}})


def _read_checkpoints(folder: Path) -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.param_groups(0.1), lr=1e-3)
    checkpoint.latest(folder, lambda text: None)
    checkpoint.restore(folder / "step-00000004", model, optimizer)


def _mend_checkpoint(folder: Path) -> None:
    place = folder / "step-00000004"
    try:
        manifest: Any = json.loads((place / "manifest.json").read_text())
        for name in ("model.safetensors", "optimizer.safetensors", "trainer.json", "config.json"):
            content = (place / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (place / "manifest.json").write_text(json.dumps(manifest))
    except (ValueError, TypeError, KeyError, RecursionError):
        return


def _log(folder: Path) -> None:
    folder.mkdir()
    lines = [{"kind": "train", "step": n, "loss": 2.0 / n, "lr": 0.1} for n in range(1, 6)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


_STEP = "step-00000004/"
READERS = {
    **{f"model {arch}": _model(arch) for arch in ("mamba", "mamba2", "hyena", "striped_hyena", "moe_mamba")},
    **{f"model {case}": _adapted(case) for case in ("gpt2",)},
    "model in shards": Reader(
        _sharded,
        {"model.safetensors.index.json": "json", "generation_config.json": "json", "trainer.json": "json",
         "model-00001-of-00001.safetensors": "safetensors"},
        load,
    ),
    "recipe": Reader(
        _recipe, {"recipe.json": "json", "inline.json": "json", "recipe.safetensors": "safetensors"}, _read_recipes,
        _mend_tensors("tensors_digest", "recipe"),
    ),
    "vectors": Reader(
        _vectors, {"vectors.json": "json", "vectors.safetensors": "safetensors"},
        lambda folder: Vectors.load(folder / "vectors.json").part(0, 1.0), _mend_tensors("tensors_sha256", "vectors"),
    ),
    "edits": Reader(_edits, {"edits.json": "json", "edits.safetensors": "safetensors"}, load_edits),
    "saelens": Reader(_dictionary, {"cfg.json": "json", "sae_weights.safetensors": "safetensors"}, read_saelens),
    "dictionary": Reader(
        _dictionary, {"cfg.json": "json", "sae_weights.safetensors": "safetensors"},
        lambda folder: read_dictionary(folder / "sae_weights.safetensors"),
    ),
    "questions": Reader(
        _question_files, {"a.jsonl": "lines", "a.json": "json", "a.csv": "bytes", "a.parquet": "bytes"},
        _either("a.jsonl", "a.json", "a.csv", "a.parquet", read=read_questions),
    ),
    "token folder": Reader(
        _token_folder, {"manifest.json": "json", "documents.parquet": "bytes", "tokens.bin": "bytes"}, _read_tokens
    ),
    "ledger": Reader(_ledger, {"ledger.jsonl": "lines"}, lambda folder: read_ledger(folder / "ledger.jsonl")),
    "run.json": Reader(
        lambda folder: write_eval_run(folder), {"run.json": "json"}, read_run,
    ),
    "checkpoints": Reader(
        _checkpoints,
        {_STEP + "trainer.json": "json", _STEP + "manifest.json": "json", _STEP + "model.safetensors": "safetensors",
         _STEP + "optimizer.safetensors": "safetensors"},
        _read_checkpoints, _mend_checkpoint,
    ),
    "training log": Reader(_log, {"log.jsonl": "lines"}, lambda folder: read_training(folder / "log.jsonl", "m")),
    "report of an evaluation": Reader(
        lambda folder: write_eval_run(folder, whole=True),
        {"run.json": "json", "summary.json": "json", "recipe.json": "json", "items.parquet": "bytes"},
        lambda folder: load_report([folder]),
    ),
    "report of analyses": Reader(
        write_interp_run, {"run.json": "json", "bottlenecks.parquet": "bytes"}, lambda folder: load_report([folder])
    ),
    "tokenizer": Reader(
        lambda folder: llama_kind().save_pretrained(folder),
        {"tokenizer.json": "json", "tokenizer_config.json": "json"}, open_tokenizer,
    ),
}  # fmt: skip
