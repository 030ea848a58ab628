"""`mplat quickstart`: the whole pipeline on a model with a known damage and on undamaged ones, ending in one page that
opens in a browser.

It runs in this process by default: starting a private Ray takes longer than two cores can win back on models this
small.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.plain_text import Table, short_duration
from .frame.command import command
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..quickstart import QuickstartConfig, QuickstartResult


@command(
    "quickstart",
    order=10,
    config="quickstart.quickstart_config.QuickstartConfig",
    without=("--actors",),
    address="none",
)
def quickstart(typed: Typed[QuickstartConfig]) -> Run:
    """Prompts, classify, interp, eval with controls and report, on a planted damage and on shipped tiny models."""
    from ..core.folders import cache_folder
    from ..quickstart import plan_lines, planned, run_quickstart

    config, lines = typed.config, plan_lines(typed.config)
    again, address = typed.again("quickstart"), typed.shared.address

    def work(at: At) -> Outcome:
        result = run_quickstart(
            config,
            at.folder,
            session=at.session,
            cache_dir=cache_folder(),
            fresh=at.fresh,
            observer=at.console,
            reproduce=shlex.join(again if address == "none" else [*again, "--address", address]),
        )
        return _outcome(result)

    return Run(
        work,
        folder=Path("runs") / "quickstart",
        check=planned(config).check,
        operations=float("inf"),
        lines=lines,
        plan={"stages": lines, "config": config.model_dump(mode="json")},
        says_lines=False,  # each is said when it is done
        parts=len(lines),
    )


def _outcome(result: QuickstartResult) -> Outcome:
    from ..quickstart.in_short import table

    planted = result.planted
    values = {
        "out": str(result.out),
        "report": str(result.report),
        "report_sha256": result.report_sha256,
        "stages": [{"stage": s.name, "found": s.found, "seconds": round(s.seconds, 3)} for s in result.stages],
        "planted": None if planted is None else planted.to_dict() | {"folder": str(planted.folder)},
        "about": list(result.about),
        "in_short": [line._asdict() for line in result.in_short],
        "verdicts": result.verdicts,
        "bad_share": result.bad_share,
        "summaries": result.summaries,
    }
    took = short_duration(sum(stage.seconds for stage in result.stages))
    words: list[str | Table] = [f"{model}: {sentence}" for model, sentence in result.verdicts.items()]
    words += ["", *result.about, "", table(result.in_short), ""]
    words.append(f"open {result.report} in a browser (made in {took})")
    over = {model: share for model, share in result.bad_share.items() if share > result.fail_over}
    if not over:
        return Outcome(values, words)
    shares = ", ".join(f"{model} {share:.0%}" for model, share in over.items())
    return Outcome(
        values,
        words,
        f"too many test rows have no score ({shares}; allowed {result.fail_over:.0%}); "
        f"their status and reason are in {result.out / 'eval'}/*/items.parquet",
    )
