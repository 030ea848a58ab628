"""The stages of a quickstart in their order, each a call of the stage's own public functions.

    prompts.parquet                  generated questions of six levels
    classify/files/*.json            a sample in the formats of SQuAD v1.1 and HotpotQA, made here
    classify/questions.parquet       the sample, classified; its summary beside it
    models/planted-<model>/          a model with a known damage, as any model's folder
    interp/<model>/                  step results on development questions
    eval/<model>/                    recipe, answers, summary: as `mplat eval` writes them
    report.html   run.json           all of it on one page; what was asked

The folder holds one quickstart: a run of another command, or a quickstart with other settings, is refused; `fresh`
deletes a quickstart first. What a stage has computed is reused when the same quickstart runs again: steps from the
cache, answers from the ledgers in eval/<model>/work. The recipe is found and the models are looked into on development
questions only; the test questions judge. The planted model comes first, and goes the way of all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from ..core.observer import Observer, WithoutParts
from ..runtime.stage import Run
from .in_short import InShort, in_short
from .inside import look_inside
from .planning import PROMPTS, REPORT, names_of, planned, restrictions
from .planting import PlantedModel, plant_into
from .quickstart_config import QuickstartConfig, planted_folder
from .sample import classify_sample

if TYPE_CHECKING:
    from ..eval.planning import Plan
    from ..runtime import Session


@dataclass(frozen=True)
class Finished:
    """A finished stage."""

    name: str
    found: str
    seconds: float


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart made. planted: the model with a known damage, None without one. about: what was done to it and
    what was found of it, in sentences. in_short: a line for each model. verdicts: model -> sentence; bad_share: model
    -> share of test rows without a score."""

    out: Path
    report: Path
    report_sha256: str
    stages: tuple[Finished, ...]
    planted: PlantedModel | None
    about: tuple[str, ...]
    in_short: tuple[InShort, ...]
    verdicts: dict[str, str]
    summaries: dict[str, dict[str, Any]]
    bad_share: dict[str, float]
    fail_over: float


def run_quickstart(
    config: QuickstartConfig,
    out: Path,
    *,
    session: Session,
    cache_dir: Path,
    fresh: bool = False,
    observer: Observer | None = None,
    reproduce: str = "",
) -> QuickstartResult:
    """Run every stage. `reproduce` is the command that the report names. `fresh`: compute again what is there."""
    from ..models.files.loading import resolve

    for model in config.models:
        resolve(model)  # a name that leads nowhere is found before the models before it have taken their time
    with planned(config).begin(out, session=session, observer=observer, fresh=fresh) as run:
        return _Pipeline(config, run, session, cache_dir, reproduce).stages()


class _Pipeline:
    """One quickstart under way."""

    def __init__(self, config: QuickstartConfig, run: Run, session: Session, cache_dir: Path, reproduce: str) -> None:
        self.config, self.run, self.session = config, run, session
        self.cache_dir, self.reproduce, self.out, self.fresh = cache_dir, reproduce, run.out, run.fresh
        self.finished: list[Finished] = []
        self.planted: PlantedModel | None = None
        self.about: list[str] = []
        self.in_short: list[InShort] = []
        self.verdicts: dict[str, str] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.bad_share: dict[str, float] = {}
        self.fail_over = 1.0

    def stages(self) -> QuickstartResult:
        """All stages in order."""
        with self._stage("prompts") as tell:
            tell(self._prompts())
        with self._stage("classify") as tell:
            tell(classify_sample(self.config, self.out / "classify"))
        models = list(self.config.models)
        if self.config.plant is not None:
            with self._stage(f"plant {planted_folder(self.config.plant)}") as tell:
                self.planted = self._plant(self.config.plant, tell)
            models.insert(0, str(self.planted.folder))
        # what cannot be done with one of them is found before any of them has taken its time
        plans = {name: self._plan(model) for name, model in zip(names_of(self.config), models, strict=True)}
        for name, plan in plans.items():
            with self._stage(f"interp {name}") as tell:
                tell(
                    look_inside(
                        plan,
                        self.config.interp.steps,
                        out=self.out / "interp" / name,
                        session=self.session,
                        cache_dir=self.cache_dir,
                        fresh=self.fresh,
                        observer=WithoutParts(self.run.observer),
                    )
                )
            with self._stage(f"eval {name}") as tell:
                tell(self._evaluate(plan, name))
        with self._stage("report") as tell:
            digest = self._report()
            tell(str(self.out / REPORT))
        self.run.update(
            files={REPORT: digest}, counts={"stages": len(self.finished)}, details={"verdicts": self.verdicts}
        )
        return QuickstartResult(
            out=self.out,
            report=self.out / REPORT,
            report_sha256=digest,
            stages=tuple(self.finished),
            planted=self.planted,
            about=tuple(self.about),
            in_short=tuple(self.in_short),
            verdicts=self.verdicts,
            summaries=self.summaries,
            bad_share=self.bad_share,
            fail_over=self.fail_over,
        )

    def _prompts(self) -> str:
        from ..datasets import facts
        from ..datasets.records import to_table
        from ..runtime import replace_table

        questions = facts.prompts(per_level=self.config.per_level, seed=self.config.seed)
        replace_table(to_table(questions), self.out / PROMPTS)
        return f"{len(questions)} questions, {self.config.per_level} for each of six levels"

    def _plant(self, name: str, tell: Callable[[str], None]) -> PlantedModel:
        planted, there = plant_into(name, self.out / "models" / planted_folder(name))
        self.about += [*planted.sentences(), restrictions(self.config)]
        self.run.update(details={"planted": planted.to_dict()})
        tell(f"{planted.damage}, {'is already in' if there else 'saved in'} {planted.folder}")
        return planted

    def _plan(self, model: str) -> Plan:
        from ..eval.eval_config import EvalConfig
        from ..eval.planning import prepare

        steering = self.config.steering
        settings = EvalConfig.model_validate(
            {
                "model": model,
                "questions": self.out / PROMPTS,
                "seed": self.config.seed,
                "controls": steering.controls,
                "draws": steering.draws,
                "development_limit": steering.development_limit,
                "price_limit": steering.price_limit,
                "steering": {"sites": steering.sites, "budget": steering.budget},
            }
        )
        plan = prepare(settings)
        if not plan.controls:
            raise UsageError("there is no control to compare steering with; a quickstart shows all three conditions")
        return plan

    def _evaluate(self, plan: Plan, name: str) -> str:
        from ..eval.runner import evaluate, planned

        folder = self.out / "eval" / name
        result = evaluate(
            plan,
            out=folder,
            session=self.session,
            # The folder is a part of this quickstart: what a former version of a model left there goes.
            fresh=self.fresh or bool(planned(plan).differences(folder, fresh=True)),
            observer=WithoutParts(self.run.observer),
        )
        self.in_short.append(in_short(name, result.summary))
        if self.planted is not None and name == self.planted.folder.name and result.recipe is not None:
            self.about.append(self.planted.found(result.recipe))
        self.verdicts[name] = result.summary.verdict.sentence
        self.summaries[name] = result.summary.to_dict()
        self.bad_share[name], self.fail_over = result.bad_share, plan.config.fail_over
        conditions = result.summary.overall.em.conditions
        shares = ", ".join(f"{family.removeprefix('control_')} {_share(e.mean)}" for family, e in conditions.items())
        return f"exact match on {result.summary.overall.n} test questions: {shares}"

    def _report(self) -> str:
        from ..report import load, write

        names = names_of(self.config)
        paths = [self.out / "eval" / name for name in names] + [self.out / "interp" / name for name in names]
        report = load([*paths, self.out / "classify"], title="Quickstart", reproduce=self.reproduce, about=self.about)
        return write(report, self.out / REPORT)

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times a stage; the block says what came out by calling what it is given."""
        outcomes: list[str] = []
        self.run.observer.begin(name)
        start = time.monotonic()
        yield outcomes.append
        self.finished.append(Finished(name, outcomes[-1], time.monotonic() - start))
        self.run.observer.end(name, outcomes[-1], self.finished[-1].seconds)


def _share(mean: float | None) -> str:
    return "unknown" if mean is None else f"{mean:.3f}"
