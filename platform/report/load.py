"""Run folders -> `Report`: what kind of run a folder holds, and everything that can be shown of it.

A path may be the folder of one run (it has a run.json), a folder with runs somewhere below it, or a classification's
summary file. The order of the page is that of the paths, and within a folder that of the names.

Promises: a path that does not exist or holds no run is an InputError that says which command makes one; a damaged file
is an InputError that names it; a run that was not finished gives a page that says what is missing, and a result that
is not the one that the run wrote is named there. Nothing is made up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.inside import leads_down
from ..runtime.record import RUN_RECORD, RunRecord, list_runs, read_run
from ..runtime.run import in_pieces
from .content import Classification, Evaluation, Interpretation, Report, Training
from .documents import Document
from .section import SECTIONS, Content
from .sections.other_runs import SUMMARY_SUFFIX, read_classification
from .sections.training import read_training

_HOW = (
    "make one with `mplat quickstart`, `mplat eval`, `mplat interp --out`, `mplat trace`, `mplat classify --out` or "
    "`mplat train`"
)


def load(paths: Sequence[Path], *, title: str | None = None, reproduce: str = "", about: Sequence[str] = ()) -> Report:
    """Everything that the runs at `paths` have to show. `reproduce`: the command that makes all of it, if one does.
    `about`: sentences that a reader must know before the verdicts."""
    runs: list[Content] = []
    classifications: list[Classification] = []
    missing: list[str] = []
    pieces: list[str] = []
    for path in dict.fromkeys(paths):
        if not path.exists():
            raise InputError(f"{path}: there is no such run; {_HOW}")
        sources = list(_sources(path))
        if not sources:
            unfinished = any((path / name).exists() for name in ("work", "recipe.json", "checkpoints"))
            why = "holds a run that is not finished; run its command again" if unfinished else f"holds no run; {_HOW}"
            raise InputError(f"{path}: {why} (there is no {RUN_RECORD} here or below)")
        for source in sources:
            if source.name.endswith(SUMMARY_SUFFIX):
                classifications.append(read_classification(source))
                continue
            record, folder = read_run(source), source.parent
            missing += changed_files(folder, record)
            run = Document(source, record.model_dump(mode="json"), "run its command again")
            pieces += _in_pieces(folder, run)
            if record.command in SECTIONS.names():
                runs.append(SECTIONS.get(record.command)(folder, run))
            elif record.command not in ("quickstart", "classify"):  # shown by the runs below, the summary beside
                missing.append(f"{folder}: a run of `mplat {record.command}`, which this report cannot show")
    evaluations = [run for run in runs if isinstance(run, Evaluation)]
    interpretations = [run for run in runs if isinstance(run, Interpretation)]
    trainings = [run for run in runs if isinstance(run, Training)]
    trainings += _of_shipped_models({run.model for run in evaluations} - {run.model for run in trainings})
    shown = [*evaluations, *interpretations, *classifications, *trainings]
    if not shown:
        raise InputError(f"{paths[0]}: nothing to show: {'; '.join(missing) or 'no run'}; {_HOW}")
    return Report(
        title=title or _title(evaluations, interpretations),
        reproduce=reproduce,
        about=tuple(about),
        evaluations=tuple(evaluations),
        interpretations=tuple(interpretations),
        classifications=tuple(classifications),
        trainings=tuple(trainings),
        missing=tuple(missing),
        in_pieces=tuple(pieces),
    )


def _in_pieces(folder: Path, run: Document) -> Iterator[str]:
    """A sentence for each table of which batches were computed in pieces."""
    details = run.at("details")
    for name, shards in details.at("cut").entries() if "cut" in details else ():
        yield f"{folder}: {in_pieces(name, len([*shards.elements()]))}"


def changed_files(folder: Path, record: RunRecord) -> list[str]:
    """A sentence for each result of a run in `folder` that is no longer the file that the run wrote."""
    return [
        f"{folder / name}: is not the file that the run wrote, its sha256 is another one than {RUN_RECORD} says"
        for name, sha256 in record.files.items()
        if leads_down(name, deep=True) and (folder / name).is_file() and _sha256(folder / name) != sha256
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sources(path: Path) -> Iterator[Path]:
    """The files that say what there is: run.json of every run, and summaries of classifications."""
    if path.is_file():
        if not path.name.endswith(SUMMARY_SUFFIX) and path.name != RUN_RECORD:
            raise InputError(f"{path}: a report is made of run folders, or of the summary that `mplat classify` writes")
        yield path
        return
    yield from list_runs(path, beside=SUMMARY_SUFFIX)


def _of_shipped_models(names: set[str]) -> list[Training]:
    """Training logs that came with shipped models; a model without one is not an error."""
    if not names:
        return []
    from ..models.files.catalog import shipped

    folders = shipped()
    logs = {name: folders[name] / "log.jsonl" for name in sorted(names) if name in folders}
    return [read_training(log, name) for name, log in logs.items() if log.is_file()]


def _title(evaluations: Sequence[Evaluation], looks: Sequence[Interpretation]) -> str:
    names = list(dict.fromkeys([run.model for run in evaluations] or [run.model for run in looks]))
    what = "Steering" if evaluations else "Inside" if looks else "Runs"
    return f"{what} {', '.join(names)}".strip()
