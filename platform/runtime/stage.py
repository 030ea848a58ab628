"""What a run of any command is: a record, a folder that is its own, jobs of workers, and one who watches.

    EVAL = Stage("eval", results=("items.parquet", "summary.json"), by_content={"model", "questions"})

    planned = EVAL.plan(config, model=identity(model), data={"digest": digest}, plan={"layers": [1, 2]})
    planned.check(out)                                    # UsageError: the folder holds another run
    with planned.begin(out, session=session, observer=observer) as run:
        run.table("items.parquet", run.job("test", items, worker, ...))

Promises: a folder holds one run of one command; another run is refused by naming what differs, `fresh` deletes what the
stage owns and nothing else, and one driver at a time works there. The record is `unfinished` from the beginning until
the block ends without an error. A job continues where it was: its folder is named by everything that decides its rows.

It knows neither models nor data sets: a command says in plain values what they are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..core.config import differing_keys
from ..core.errors import InputError, UsageError
from ..core.folder_lock import alone_in
from ..core.inside import leads_down, leads_out
from ..core.observer import Observer
from ..core.versions import code_digest, versions
from ..core.whole_files import remove_unfinished, write_errors
from .record import FORMAT, RUN_RECORD, RunRecord, read_run, record_values
from .run import Run
from .session import Session


@dataclass(frozen=True)
class Stage:
    """What the runs of one command have in common.

    results, work: patterns of the files and folders that a run leaves beside its record; a new run deletes the results
    of an earlier one, and with `fresh` its work too, by which it would continue. keeps: what it writes to and never
    deletes. by_content: settings that are compared
    by what they hold, or that change no result. data_is: the data in words. mark: a pattern of files that show whose
    folder it is where there is no record. hint: what "choose another --out" goes on with.
    """

    command: str
    results: tuple[str, ...] = ()
    work: tuple[str, ...] = ("work/*",)
    keeps: tuple[str, ...] = ()
    by_content: Set[str] = frozenset()
    data_is: str = "data"
    mark: str = RUN_RECORD
    hint: Callable[[Path], str] = lambda out: ""

    def plan(self, config: BaseModel, **sections: Any) -> Planned:
        """A run of this command that has not begun; `sections` are those of `RunRecord`, as plain values."""
        values = {"command": self.command, "config": config.model_dump(mode="json"), **sections}
        return Planned(self, config, RunRecord.of(values))

    def refuse_links(self, out: Path) -> None:
        """Raise UsageError where something that this stage writes to or deletes is a symbolic link out of `out`, with
        which a folder from elsewhere would reach others."""
        for pattern in (*self.results, *self.work, *self.keeps):
            parts = pattern.split("/")
            for depth in range(1, len(parts) + 1):
                for path in out.glob("/".join(parts[:depth])):
                    if path.is_symlink() and leads_out(path, out):
                        raise UsageError(f"{path}: is a symbolic link out of the run folder; remove it")

    def sweep(self, out: Path, name: str = "") -> None:
        """Delete what a killed run was writing in `out`. name: of a run that shares the folder."""
        if name:
            remove_unfinished(out, rf"{re.escape(name)}\.(?:[a-z]+|(?:run|summary)\.json)")
            return
        folders = {"", *self.results, *(pattern.rpartition("/")[0] for pattern in self.results)}
        for folder in (out / name for name in folders if "*" not in name):
            remove_unfinished(folder)

    def clear(self, out: Path, *, fresh: bool) -> None:
        """Delete what an earlier run left in `out`; where nothing shows that it is of this command, nothing."""
        if not any(path for pattern in (RUN_RECORD, self.mark) for path in out.glob(pattern)):
            return
        paths = {path for pattern in (*self.results, *(self.work if fresh else ())) for path in out.glob(pattern)}
        if fresh:
            with suppress(InputError):  # no record, or a damaged one: the patterns are known without it
                named = {out / name for name in read_run(out).files if leads_down(name, deep=True)}
                paths |= {path for path in named if path.is_file()}  # never a folder, whatever a record says
        with write_errors(out):
            for path in sorted(path for path in paths if path.resolve().is_relative_to(out.resolve())):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Planned:
    """A run with everything that decides its results."""

    stage: Stage
    config: BaseModel
    record: RunRecord

    def check(self, out: Path, *, fresh: bool = False) -> None:
        """Raises UsageError where `out` holds a run of another command or, without `fresh`, one with other settings,
        InputError where its record is damaged."""
        command = self.stage.command
        differing = self.differences(out, fresh=fresh)
        if differing and not fresh:
            names = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
            raise UsageError(
                f"--out {out} holds a run of `mplat {command}` with another configuration (differs in {names}); "
                f"choose another --out{self.stage.hint(out)}, or start anew with --fresh, which deletes that run"
            )

    def differences(self, out: Path, *, fresh: bool = False) -> list[str]:
        """In what an earlier run in `out` differs from this one; empty where there is none. Raises as `check` does."""
        path, command = out / RUN_RECORD, self.stage.command
        try:
            values = record_values(path)
            if values is None:
                return []
            if values["command"] != command:
                raise UsageError(f"--out {out} holds a run of `mplat {values['command']}`; choose another --out")
            if not isinstance(values.get("config"), dict):
                raise InputError(
                    f"{path} is damaged (it has no config); start anew with --fresh, or choose another folder"
                )
            earlier = read_run(path) if values.get("format") == FORMAT else None
        except InputError:
            if fresh:
                return []
            raise
        differing = differing_keys(self.config, values["config"], ignored=self.stage.by_content)
        if earlier is None:  # made by another version, which said less or other things
            return differing or ["the format of its record"]
        now = self.record
        for ours, there, words in (
            (now.model, earlier.model, "model"),
            (now.data, earlier.data, self.stage.data_is),
        ):
            if ours is not None and (there is None or there.digest != ours.digest):
                differing.append(f"the {words}")
        names = sorted(n for n in {*now.plan, *earlier.plan} if now.plan.get(n) != earlier.plan.get(n))
        return differing or [f"the {name.replace('_', ' ')}" for name in names]  # named where nothing else explains it

    @contextmanager
    def begin(
        self,
        out: Path,
        *,
        session: Session | None = None,
        observer: Observer | None = None,
        fresh: bool = False,
        name: str = "",
    ) -> Iterator[Run]:
        """The run under way in `out`, which is its own until the block ends; its record is then `done`, and stays
        `unfinished` after an error. name: of a run that shares `out` with others; its record is NAME.run.json, and what
        has its name is replaced.

        Raises as `check` does, and UsageError where another driver works in `out`.
        """
        if not name:
            self.check(out, fresh=fresh)
        with alone_in(out, name):
            self.stage.refuse_links(out)
            self.stage.sweep(out, name)
            if not name:
                self.stage.clear(out, fresh=fresh)
            path = out / (f"{name}.{RUN_RECORD}" if name else RUN_RECORD)
            if isinstance(session, Session):
                session = replace(session, record=path.absolute())
            run = Run(self.record, path, session, observer or Observer(), fresh)
            run.update(code=code_digest(), versions=versions())
            yield run
            run.update(status="done")
