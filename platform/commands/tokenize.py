"""`mplat tokenize FILES`: texts to a folder of tokens that `mplat train` reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .frame.command import command
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..models.probe import Cost
    from ..tokenise.estimate import Estimate
    from ..tokenise.tokenise_config import TokeniseConfig

Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILES",
        show_default=False,
        help="Texts: .jsonl, .txt, .csv, .parquet, also packed; folders, patterns, hub:NAME.",
    ),
]


@command("tokenize", order=26, config="tokenise.tokenise_config.TokeniseConfig", without=("FILES", "--gpus-per-actor"))
def tokenize(typed: Typed[TokeniseConfig], texts: Texts = None) -> Run:
    """Make tokens of texts once: a folder of tokens, with digests, that is read by every training on them."""
    from ..tokenise import estimate, in_words, tokenise_run

    typed = typed.with_value("files", texts)
    plan = tokenise_run.prepare(typed.config)
    lines, values, cost = in_words.plan_lines(plan), {"files": list(plan.files)}, None
    if typed.shared.dry_run:
        expected, alone, frame = estimate.estimate(plan), estimate.one_piece(plan), estimate.one_frame(plan)
        lines += in_words.estimate_lines(expected, alone, frame)
        values |= {**vars(expected), "read_by_one_worker": alone, "one_frame": frame}
        cost = partial(_cost, expected, plan.step)

    def work(at: At) -> Outcome:
        result = tokenise_run.tokenise(plan, at.folder, session=at.session, fresh=at.fresh, observer=at.console)
        return Outcome(in_words.result_values(result), in_words.result_words(result))

    return Run(
        work,
        folder=Path("runs") / f"tokens-{Path(plan.files[0].rpartition(':')[2]).name.split('.')[0]}",
        check=tokenise_run.planned(plan).check,
        operations=estimate.operations(plan),
        lines=lines,
        plan=values,
        unit="shards",
        cost=cost,
    )


def _cost(expected: Estimate, step: int) -> Cost:
    from ..models.probe import Cost

    how = "from the first texts of some files, on one core"
    return Cost(expected.seconds, 12 * step + 2**28, how)
