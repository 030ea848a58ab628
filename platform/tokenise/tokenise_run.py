"""`mplat tokenize` from settings to a token folder: files looked over, read by workers, put together.

    plan = prepare(TokeniseConfig(files=("pile.jsonl.zst",), tokenizer=Path("T")))
    with open_session("none") as session:
        made = tokenise(plan, Path("tokens"), session=session)

The folder (`datasets.tokens.folder`) is the same, byte for byte, wherever, on however many workers and in however large
parts it is made. Interrupted, the same command goes on with the parts that are there, in work/; they are deleted once
the folder is whole. Of a folder that is whole, the files that it was made from are only compared with what they were.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.code_closure import source_digests
from ..core.errors import InputError, UsageError
from ..core.versions import versions
from ..datasets.tokens.corpus import corpus_files
from ..datasets.tokens.folder import MANIFEST, TABLE, TOKENIZER, TOKENS, Manifest, Source, TokenFolder, token_dtype
from ..datasets.tokens.hub_texts import HUB, pinned
from ..datasets.tokens.spans import Span
from ..datasets.tokens.tokenizer import FILES, TokenizerFacts, open_tokenizer
from ..runtime import Session, digest_of
from ..runtime.record import RUN_RECORD, read_run
from ..runtime.stage import Observer, Planned, Run, Stage
from . import worker
from .assembly import Assembled, assemble
from .tokenise_config import TokeniseConfig
from .worker import SURVEYS, part_schema

STAGE = Stage(
    "tokenize",
    results=(MANIFEST, TOKENS, TABLE, TOKENIZER, f".{TOKENS}.*.part", f".{TABLE}.*.part"),
    by_content={"files", "tokenizer", "bad_limit", "shard_mib", "keep_parts"},
    data_is="texts",
)
_FILES_AT_ONCE = 256  # parts of the survey, at most: an fsync for each of many small files would take long


@dataclass(frozen=True)
class TokenisePlan:
    """What will be read, and by which tokenizer. sizes: bytes of each file as it is; 0 for the hub's."""

    config: TokeniseConfig
    files: Sequence[str]
    sizes: Sequence[int]
    tokenizer: TokenizerFacts

    @property
    def step(self) -> int:
        """Bytes of text for one part."""
        return max(1, int(self.config.shard_mib * 2**20))


@dataclass(frozen=True)
class TokeniseResult:
    """The folder; `anew`: it was made now, and not found whole."""

    folder: TokenFolder
    anew: bool


def prepare(config: TokeniseConfig) -> TokenisePlan:
    """Find the files and open the tokenizer.

    Raises UsageError where nothing is named, InputError where a file or the tokenizer is not there.
    """
    files = corpus_files(config.files)
    _, tokenizer = open_tokenizer(config.tokenizer)
    sizes = [0 if file.startswith(HUB) else Path(file).stat().st_size for file in files]
    return TokenisePlan(config, files, sizes, tokenizer)


def planned(plan: TokenisePlan) -> Planned:
    """The run of `plan` with its record, to look for an earlier one in a folder or to begin."""
    names = [file if file.startswith(HUB) else Path(file).name for file in plan.files]
    return STAGE.plan(
        plan.config,
        data={"digest": digest_of([names, list(plan.sizes)]), "counts": {"files": len(plan.files)}},
        plan={"tokenizer": plan.tokenizer.digest},
    )


def tokenise(
    plan: TokenisePlan, out: Path, *, session: Session, fresh: bool = False, observer: Observer | None = None
) -> TokeniseResult:
    """Make the token folder `out`, or go on with it. Raises as `Stage.begin` and `assemble` do, and InputError for a
    file that cannot be read to its end."""
    run_of = planned(plan)
    if not fresh and (there := _whole(run_of, plan, out)):
        return TokeniseResult(there, anew=False)
    with run_of.begin(out, session=session, observer=observer, fresh=fresh) as run:
        surveys = _survey(plan, run)
        items = list(_items([Span(**span) for row in surveys for span in row["spans"]], plan.step))
        if not items:
            raise InputError(f"{', '.join(plan.config.files)}: the files hold no document")
        made = _read(plan, items, run)
        run.update(files=made.files, counts=made.total.model_dump())
        _finish(plan, made, surveys, run)
    if not plan.config.keep_parts:
        shutil.rmtree(out / "work", ignore_errors=True)
    return TokeniseResult(TokenFolder.open(out), anew=True)


def _whole(run_of: Planned, plan: TokenisePlan, out: Path) -> TokenFolder | None:
    """The finished folder of this run, if there is one. Raises UsageError where its files are others by now."""
    if not (out / MANIFEST).is_file() or run_of.differences(out) or read_run(out / RUN_RECORD).status != "done":
        return None
    folder = TokenFolder.open(out)
    for file, source in zip(plan.files, folder.manifest.sources, strict=True):
        if _digest(file) != source.sha256:
            raise UsageError(
                f"--out {out} was made from another {file}; choose another --out, or start anew with --fresh"
            )
    return folder


def _digest(file: str) -> str:
    if file.startswith(HUB):
        return pinned(file).digest
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _key() -> dict[str, Any]:
    known = versions()
    return {
        "sources": source_digests([worker.__name__]),
        "versions": {name: known[name] for name in ("tokenizers", "numpy", "pyarrow")},
    }


def _survey(plan: TokenisePlan, run: Run) -> list[dict[str, Any]]:
    """A row for every file, in order. A file that was touched since is looked at again."""
    items = [
        {"file": number, "path": file, "bytes": size, "touched": 0 if not size else Path(file).stat().st_mtime_ns}
        for number, (file, size) in enumerate(zip(plan.files, plan.sizes, strict=True))
    ]
    table = run.job(
        "survey", items, f"{worker.__name__}:make_surveyor", opens={}, arguments={"step": plan.step}, key=_key(),
        schema=SURVEYS, sort_by=["file"], batch_size=1 + len(items) // _FILES_AT_ONCE, id_column="file",
        needs=_of_this_machine(plan),
    )  # fmt: skip
    return table.to_pylist()


def _items(spans: Sequence[Span], step: int) -> Iterator[dict[str, Any]]:
    """What one worker reads at once: spans that follow each other, of about `step` bytes together."""
    waiting: list[Span] = []
    number = held = 0
    for position, span in enumerate(spans):
        waiting.append(span)
        held += span.size
        if held >= step or span.form == "hub" or position == len(spans) - 1:
            yield {"item": number, "spans": [list(one) for one in waiting]}
            waiting, number, held = [], number + 1, 0


def _read(plan: TokenisePlan, items: Sequence[dict[str, Any]], run: Run) -> Assembled:
    config, facts = plan.config, plan.tokenizer
    with run.parts(
        "tokens", items, f"{worker.__name__}:make_worker",
        opens={"tokenizer": str(facts.folder.resolve()), "bad_limit": config.bad_limit},
        arguments={"digest": facts.digest, "field": config.field, "set_field": config.set_field},
        files={str(facts.folder.resolve()): [str(facts.folder.resolve() / name) for name in _files(facts)]},
        needs=_of_this_machine(plan), key=_key(), schema=part_schema(), batch_size=1, id_column="item",
        rows_per_item=None, compressed=False,
    ) as parts:  # fmt: skip
        dtype = token_dtype(facts.size)
        return assemble(parts, run.out, bytes_per_token=dtype.itemsize, bad_limit=config.bad_limit)


def _finish(plan: TokenisePlan, made: Assembled, surveys: Sequence[dict[str, Any]], run: Run) -> None:
    facts = plan.tokenizer
    for name in _files(facts):
        run.bytes(f"{TOKENIZER}/{name}", (facts.folder / name).read_bytes())
    names = (MANIFEST, RUN_RECORD)
    manifest = Manifest(
        tokenizer=facts.digest,
        vocabulary=facts.size,
        eos_id=facts.eos_id,
        begin=list(facts.begin),
        dtype=token_dtype(facts.size).name,
        total=made.total,
        sets=made.sets,
        left_out=dict(sorted(made.left_out.items())),
        sources=[Source(name=_name(row["path"]), bytes=row["bytes"], sha256=row["sha256"]) for row in surveys],
        files={name: digest for name, digest in sorted(run.record.files.items()) if name not in names},
    )
    run.json(MANIFEST, manifest.model_dump(mode="json"))


def _files(tokenizer: TokenizerFacts) -> list[str]:
    return [name for name in FILES if (tokenizer.folder / name).is_file()]


def _of_this_machine(plan: TokenisePlan) -> list[str]:
    """The files that every node has to see: too many bytes to be sent to each."""
    return [str(file) for file in plan.files if not str(file).startswith(HUB)]


def _name(path: str) -> str:
    """A source in the manifest: its place on this machine says nothing elsewhere."""
    return path if path.startswith(HUB) else Path(path).name
