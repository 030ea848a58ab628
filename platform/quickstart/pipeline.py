"""The stages of a quickstart in their order, each a call of the stage's own public functions.

    prompts.parquet                  generated questions of six levels
    classify/files/*.json            a sample in the formats of SQuAD v1.1 and HotpotQA, made here
    classify/questions.parquet       the sample, classified; its summary beside it
    interp/<model>/                  step results on development questions
    eval/<model>/                    recipe, answers, summary: as `mplat eval` writes them
    report.html   run.json           all of it on one page; what was asked

The folder holds one quickstart: a run of another command, or a quickstart with other settings, is refused; `fresh`
deletes a quickstart first. What a stage has computed is reused when the same quickstart runs again: steps from the
cache, answers from the ledgers in eval/<model>/work. The recipe is found and the models are looked into on development
questions only; the test questions judge.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import differing_keys
from ..core.errors import UsageError
from ..core.folders import RUN_RECORD, earlier_run, refuse_other_settings
from .inside import look_inside
from .quickstart_config import QuickstartConfig, folder_name
from .sample import classify_sample

if TYPE_CHECKING:
    from ..eval.planning import Plan
    from ..runtime import Progress, Session

REPORT = "report.html"
COMMAND = "quickstart"
PROMPTS = "prompts.parquet"


class Watcher:
    """Told about a quickstart as it goes; override what is of interest."""

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def progress(self, progress: Progress) -> None:
        """A batch of the running stage is done."""

    def warn(self, text: str) -> None:
        """Something the reader must know to trust the result."""

    def end(self, stage: str, found: str, seconds: float) -> None:
        """A stage is done; `found` says in words what came out."""


@dataclass(frozen=True)
class Stage:
    """A finished stage."""

    name: str
    found: str
    seconds: float


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart made. verdicts: model -> sentence; bad_share: model -> share of test rows without a score."""

    out: Path
    report: Path
    report_sha256: str
    stages: tuple[Stage, ...]
    verdicts: dict[str, str]
    summaries: dict[str, dict[str, Any]]
    bad_share: dict[str, float]
    fail_over: float


def plan_lines(config: QuickstartConfig) -> list[str]:
    """The stages in words, without doing or loading anything."""
    lines = [
        f"prompts: {config.per_level} for each of six levels, seed {config.seed}",
        f"classify: {6 * config.classify.per_level} generated questions in the formats of SQuAD v1.1 and HotpotQA",
    ]
    for model in config.models:
        lines += [
            f"interp {folder_name(model)}: {', '.join(config.interp.steps)}",
            f"eval {folder_name(model)}: search on at most {config.steering.development_limit} development questions, "
            f"then test unsteered, steered and under {config.steering.draws} random controls",
        ]
    return [*lines, f"report: {REPORT}"]


def check_folder(config: QuickstartConfig, out: Path, *, fresh: bool = False) -> None:
    """Raises UsageError where `out` holds a run of another command or, without `fresh`, another quickstart."""
    earlier = earlier_run(out, COMMAND, fresh=fresh)
    if earlier is not None and not fresh:
        refuse_other_settings(out, COMMAND, differing_keys(config, earlier["config"]))


def run_quickstart(
    config: QuickstartConfig,
    out: Path,
    *,
    session: Session,
    cache_dir: Path,
    fresh: bool = False,
    watcher: Watcher | None = None,
    reproduce: str = "",
) -> QuickstartResult:
    """Run every stage. `reproduce` is the command that the report names. `fresh`: compute again what is there."""
    return _Pipeline(config, out, session, cache_dir, fresh, watcher or Watcher(), reproduce).run()


class _Pipeline:
    """One quickstart under way."""

    def __init__(
        self,
        config: QuickstartConfig,
        out: Path,
        session: Session,
        cache_dir: Path,
        fresh: bool,
        watcher: Watcher,
        reproduce: str,
    ) -> None:
        self.config, self.out, self.session, self.cache_dir = config, out, session, cache_dir
        self.fresh, self.watcher, self.reproduce = fresh, watcher, reproduce
        self.stages: list[Stage] = []
        self.verdicts: dict[str, str] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.bad_share: dict[str, float] = {}
        self.fail_over = 1.0

    def run(self) -> QuickstartResult:
        """All stages in order."""
        from ..models.files.loading import resolve
        from ..runtime import publish_json

        for model in self.config.models:
            resolve(model)  # a name that leads nowhere is found before the models before it have taken their time
        check_folder(self.config, self.out, fresh=self.fresh)
        if self.fresh:
            self._clear()
        publish_json({"command": COMMAND, "config": self.config.model_dump(mode="json")}, self.out / RUN_RECORD)
        with self._stage("prompts") as tell:
            tell(self._prompts())
        with self._stage("classify") as tell:
            tell(classify_sample(self.config, self.out / "classify"))
        for model in self.config.models:
            name = folder_name(model)
            with self._stage(f"interp {name}") as tell:
                plan = self._plan(model)
                tell(
                    look_inside(
                        plan,
                        self.config.interp.steps,
                        out=self.out / "interp" / name,
                        session=self.session,
                        cache_dir=self.cache_dir,
                        fresh=self.fresh,
                        watcher=self.watcher,
                    )
                )
            with self._stage(f"eval {name}") as tell:
                tell(self._evaluate(plan, name))
        with self._stage("report") as tell:
            digest = self._report()
            tell(str(self.out / REPORT))
        return QuickstartResult(
            out=self.out,
            report=self.out / REPORT,
            report_sha256=digest,
            stages=tuple(self.stages),
            verdicts=self.verdicts,
            summaries=self.summaries,
            bad_share=self.bad_share,
            fail_over=self.fail_over,
        )

    def _clear(self) -> None:
        """Delete what an earlier quickstart wrote; without its record nothing is known to be one's own."""
        if not (self.out / RUN_RECORD).is_file():
            return
        for name in ("classify", "interp", "eval"):
            if (self.out / name).is_dir():
                shutil.rmtree(self.out / name)
        for name in (PROMPTS, REPORT, RUN_RECORD):
            (self.out / name).unlink(missing_ok=True)

    def _prompts(self) -> str:
        from ..datasets import facts
        from ..datasets.records import to_table
        from ..runtime import replace_table

        questions = facts.prompts(per_level=self.config.per_level, seed=self.config.seed)
        replace_table(to_table(questions), self.out / PROMPTS)
        return f"{len(questions)} questions, {self.config.per_level} for each of six levels"

    def _plan(self, model: str) -> Plan:
        from ..eval.eval_config import EvalConfig
        from ..eval.planning import prepare

        steering = self.config.steering
        settings = EvalConfig.model_validate(
            {
                "model": model,
                "questions": self.out / PROMPTS,
                "seed": self.config.seed,
                "draws": steering.draws,
                "development_limit": steering.development_limit,
                "price_texts_per_level": steering.price_texts_per_level,
                "steering": {"strengths": steering.strengths},
            }
        )
        plan = prepare(settings)
        if not plan.controls:
            raise UsageError("there is no control to compare steering with; a quickstart shows all three conditions")
        return plan

    def _evaluate(self, plan: Plan, name: str) -> str:
        from ..eval.runner import Observer, differences, evaluate
        from ..interp import bottleneck_finder

        folder = self.out / "eval" / name
        earlier = earlier_run(folder, "eval", fresh=True)
        result = evaluate(
            plan,
            out=folder,
            session=self.session,
            find_channels=bottleneck_finder(
                plan.model,
                plan.asked_in_development,
                cache_dir=self.cache_dir,
                seed=plan.config.seed,
                max_tokens=plan.config.max_prompt_tokens,
                template=plan.config.template,
            ),
            # The folder is a part of this quickstart: what a former version of a model left there goes.
            fresh=self.fresh or (earlier is not None and bool(differences(plan, earlier))),
            observer=Observer(progress=self.watcher.progress),
        )
        self.verdicts[name] = result.summary.verdict.sentence
        self.summaries[name] = result.summary.to_dict()
        self.bad_share[name], self.fail_over = result.bad_share, plan.config.fail_over
        conditions = result.summary.overall.em.conditions
        shares = ", ".join(f"{family.removeprefix('control_')} {_share(e.mean)}" for family, e in conditions.items())
        return f"exact match on {result.summary.overall.n} test questions: {shares}"

    def _report(self) -> str:
        from ..report import load, write

        names = [folder_name(model) for model in self.config.models]
        paths = [self.out / "eval" / name for name in names] + [self.out / "interp" / name for name in names]
        report = load([*paths, self.out / "classify"], title="Quickstart", reproduce=self.reproduce)
        return write(report, self.out / REPORT)

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times a stage; the block says what came out by calling what it is given."""
        found: list[str] = []
        self.watcher.begin(name)
        start = time.monotonic()
        yield found.append
        self.stages.append(Stage(name, found[-1], time.monotonic() - start))
        self.watcher.end(name, found[-1], self.stages[-1].seconds)


def _share(mean: float | None) -> str:
    return "unknown" if mean is None else f"{mean:.3f}"
