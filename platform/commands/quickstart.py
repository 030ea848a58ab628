"""`mplat quickstart`: the whole pipeline on the shipped tiny models, ending in one page that opens in a browser.

Parses, builds the configuration, calls `mplat.quickstart`, says what each stage found and how long it took. It runs in
this process by default: starting a private Ray takes longer than two cores can win back on models this small.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ToleranceError
from .frame.command import command
from .frame.folders import writable_folder
from .frame.options import (
    Address,
    ConfigFile,
    DryRun,
    Fresh,
    Json,
    Out,
    Overrides,
    Quiet,
    Verbose,
    given,
)
from .frame.output import Output

if TYPE_CHECKING:
    from ..quickstart import QuickstartConfig, QuickstartResult

_DEFAULT_OUT = Path("runs") / "quickstart"


@command("quickstart", order=10)
def quickstart(
    address: Address = "none",
    config: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006  typer copies it
    out: Out = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Everything random follows from it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Prompts, classify, interp, eval with controls and report, on the shipped tiny models."""
    from ..core.config import load_config
    from ..quickstart import QuickstartConfig, plan_lines, planned

    output = Output(json=as_json, quiet=quiet, verbose=verbose)
    settings = load_config(QuickstartConfig, config, [*given({"seed": seed}), *overrides])
    folder = out or _DEFAULT_OUT
    planned(settings).check(folder, fresh=fresh)
    if dry_run:
        lines = [*plan_lines(settings), f"out: {folder}"]
        values = {"out": str(folder), "stages": plan_lines(settings), "config": settings.model_dump(mode="json")}
        output.result(values, "\n".join(lines))
        return
    writable_folder(folder)
    result = _run(settings, folder, address, fresh, output, _command(config, seed, overrides, out, address))
    output.result(_values(result), _text(result))
    over = {model: share for model, share in result.bad_share.items() if share > result.fail_over}
    if over:
        told = ", ".join(f"{model} {share:.0%}" for model, share in over.items())
        raise ToleranceError(
            f"too many test rows have no score ({told}; allowed {result.fail_over:.0%}); "
            f"their status and reason are in {folder / 'eval'}/*/items.parquet"
        )


def _run(
    settings: QuickstartConfig, folder: Path, address: str, fresh: bool, output: Output, reproduce: str
) -> QuickstartResult:
    from ..core.folders import cache_folder
    from ..core.observer import Observer
    from ..quickstart import plan_lines, run_quickstart
    from ..runtime import Progress, open_session

    total = len(plan_lines(settings))
    shows_counts = sys.stderr.isatty() and not output.quiet  # in a file one line for each stage is enough

    class Console(Observer):
        """One calm line for each stage, and a count while it runs."""

        def __init__(self, stack: ExitStack) -> None:
            self._stack, self._done, self._number = stack, 0, 0
            self._open: ExitStack | None = None
            self._job = ""

        def begin(self, part: str, detail: str = "") -> None:
            self._number += 1
            output.detail(f"{self._number}/{total} {part}")

        def progress(self, progress: Progress) -> None:
            if progress.note:
                output.warn(progress.note)
            if not shows_counts or progress.shards_done == progress.shards == progress.resumed_shards:
                return
            if progress.name != self._job:
                self._close()
                self._job, self._done = progress.name, progress.rows_done
                self._open = self._stack.enter_context(ExitStack())
                left = progress.rows - progress.rows_done
                self._bar = self._open.enter_context(output.progress(progress.name, left, "rows"))
            self._bar.advance(progress.rows_done - self._done)
            self._done = progress.rows_done

        def warn(self, text: str) -> None:
            output.warn(text)

        def end(self, part: str, outcome: str, seconds: float) -> None:
            self._close()
            output.say(f"{self._number}/{total} {part}: {outcome} ({_seconds(seconds)})")

        def _close(self) -> None:
            if self._open is not None:
                self._open.close()
            self._open, self._job = None, ""

    with ExitStack() as stack:
        session = stack.enter_context(open_session(address))
        return run_quickstart(
            settings,
            folder,
            session=session,
            cache_dir=cache_folder(),
            fresh=fresh,
            observer=Console(stack),
            reproduce=reproduce,
        )


def _command(config: Path | None, seed: int | None, overrides: list[str], out: Path | None, address: str) -> str:
    """The command that makes this page again."""
    words = ["mplat", "quickstart"]
    words += [] if config is None else ["--config", str(config)]
    words += [] if seed is None else ["--seed", str(seed)]
    words += [word for override in overrides for word in ("--set", override)]
    words += [] if out is None else ["--out", str(out)]
    return shlex.join(words if address == "none" else [*words, "--address", address])


def _values(result: QuickstartResult) -> dict[str, Any]:
    return {
        "out": str(result.out),
        "report": str(result.report),
        "report_sha256": result.report_sha256,
        "stages": [{"stage": s.name, "found": s.found, "seconds": round(s.seconds, 3)} for s in result.stages],
        "verdicts": result.verdicts,
        "bad_share": result.bad_share,
        "summaries": result.summaries,
    }


def _text(result: QuickstartResult) -> str:
    verdicts = [f"{model}: {sentence}" for model, sentence in result.verdicts.items()]
    seconds = sum(stage.seconds for stage in result.stages)
    return "\n".join([*verdicts, f"open {result.report} in a browser (made in {_seconds(seconds)})"])


def _seconds(seconds: float) -> str:
    from .frame.output import duration

    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
