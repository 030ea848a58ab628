"""`mplat interp --sweep` and `--checkpoints`: the run of analyses at several points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError, UsageError
from .frame.folders import refuse_file, writable
from .frame.run import At, Outcome, Run, Typed
from .interp import again_alone, failure_of, plan_of

if TYPE_CHECKING:
    from ..interp import InterpConfig, Plan


def at_points(
    typed: Typed[InterpConfig], sweep: list[str], checkpoints: str | None, cache: Path | None, fail_over: float | None
) -> Run:
    """The run at every point of the sweeps and checkpoints.

    Raises UsageError for what was typed wrongly, and for a sweep that no analysis depends on; InputError for
    checkpoints that are not there or damaged, and for items of which none can be used.
    """
    from ..interp import Cache
    from ..interp.engine import points_in_words as words
    from ..interp.engine.points import Axis, Point, points_of, swept
    from ..interp.engine.points import checkpoints as checkpoint_axis
    from ..interp.engine.points_run import check_axes, outline, planned_points, run_points
    from ..models import load
    from ..models.files.training_record import each_model
    from ..models.placement import device_named

    axes: list[Axis] = []
    if checkpoints is not None:
        if typed.config.model is not None:
            raise UsageError("--checkpoints names the models; leave out --model")
        axes.append(checkpoint_axis(checkpoints, typed.config.tokenizer))
    axes += [swept(text) for text in sweep]
    points = points_of(axes)

    def at(point: Point) -> Typed[InterpConfig]:
        ordinary = typed if point.model is None else typed.with_value("model", point.model)
        ordinary = ordinary if point.tokenizer is None else ordinary.with_value("tokenizer", point.tokenizer)
        return ordinary.with_settings("--sweep", point.settings)

    for point in points:  # a wrong setting is found before a model is loaded
        _ = at(point).config
    for axis in axes:
        _refuse_damaged(axis.models)
    out, fresh = typed.shared.out, typed.shared.fresh
    refuse_file(cache)
    store = Cache(cache, warn=typed.output.warn)
    compared = sum(len(each_model(name)) for name in typed.config.compare)
    latest = lru_cache(maxsize=1 + 2 * compared)(load)  # not more models than an ordinary run has
    plans: dict[str, Plan] = {}

    def plan_at(point: Point) -> Plan:
        if point.name in plans:
            return plans[point.name]
        try:
            plan = plan_of(at(point), latest)
        except (InputError, UsageError) as error:
            raise type(error)(f"{point.name}: {error}") from error
        if point.model is None:  # all points have one model: what they read of it is small
            plans[point.name] = plan
        return plan

    outlines = [
        outline(point, plan_at(point), store, fresh=fresh, costs=typed.shared.dry_run) for point in points
    ]  # fmt: skip
    check_axes(axes, outlines)
    if outlines[0].left_out:
        left_out = ", ".join(outlines[0].left_out)
        typed.output.say(f"not run, since nobody named them or the prompts and models they take: {left_out}")

    def again(point: Point, step: str) -> str:
        return again_alone(at(point), step, cache)

    def work(where: At) -> Outcome:
        done = run_points(
            axes, outlines, plan_at, typed.config, out=out, cache=store, session=where.session, fresh=fresh,
            observer=where.console, again=again,
        )  # fmt: skip
        values = words.result_values(done, store.folder, again) | {"out": None if out is None else str(out)}
        tables = str(store.folder if out is None else out)
        failures = [(one, failure_of(one.outline.wanted, one.carried, fail_over, tables)) for one in done]
        said = [(one.point.name, failure) for one, failure in failures if failure is not None]
        nothing = len(said) == len(done) and all(not one.carried.results for one in done)
        if said and nothing and isinstance(said[0][1], Exception):
            return Outcome(values, words.result_words(done, again, out), said[0][1])  # with its own code
        reason = "; ".join(f"{name}: {failure}" for name, failure in said) or None
        return Outcome(values, words.result_words(done, again, out), reason)

    return Run(
        work,
        folder=None,
        check=planned_points(axes, outlines, typed.config).check,
        operations=sum(one.operations for one in outlines),
        device=str(device_named(typed.config.device)),
        lines=words.plan_words(outlines, store.folder),
        plan=words.plan_values(outlines, store.folder, typed.config.model_dump(mode="json")),
        says_lines=False,
        unit="prompts",
        warnings=words.warnings(outlines),
        cost=(lambda: words.total(outlines)) if typed.shared.dry_run else None,
        prepare=partial(writable, caches=True, cache=cache),
    )


def _refuse_damaged(checkpoints: Sequence[str]) -> None:
    """Raises InputError for a checkpoint of which a file is missing or has other bytes than were written."""
    from ..train.checkpoint import damage

    for name in checkpoints:
        run, _, step = name.rpartition("@")
        folder = Path(run).expanduser() / "checkpoints" / f"step-{int(step):08d}"
        if (fault := damage(folder)) is not None:
            raise InputError(f"checkpoint {folder} cannot be used: {fault}; select others, such as {run}@FROM..TO")
