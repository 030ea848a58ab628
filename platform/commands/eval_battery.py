"""`mplat eval battery`: what a model can do, task by task, as it is and steered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frame.command import command
from .frame.folders import writable
from .frame.models import named, opened
from .frame.run import At, Outcome, Run, Typed

if TYPE_CHECKING:
    from ..eval.battery.battery_config import BatteryConfig

FILE = "battery.parquet"


@command(
    "eval battery",
    order=45,
    config="eval.battery.battery_config.BatteryConfig",
    without=("--actors", "--address", "--fresh"),
)
def eval_battery(typed: Typed[BatteryConfig]) -> Run:
    """Ask a model the battery of tasks, steered with a recipe too, and count what is right."""
    from ..core.whole_files import replace_table
    from ..eval.battery import assess, in_words, questions
    from ..steering.stored import load_stored

    config = typed.config
    named(config.model)
    asked = len(questions(config.tasks, config.per_task, config.seed, lambada=config.lambada))
    model = opened(config.model, config.tokenizer, config.device)
    recipe = None if config.recipe is None else load_stored(config.recipe, model)
    answers = asked * (1 if recipe is None else 2)
    out = typed.shared.out

    def work(at: At) -> Outcome:
        with typed.output.progress("battery", answers, "answers") as progress:
            table = assess(
                model,
                recipe,
                tasks=config.tasks,
                per_task=config.per_task,
                seed=config.seed,
                lambada=config.lambada,
                confidence=config.confidence,
                batch_size=config.batch_size,
                max_prompt_tokens=config.max_prompt_tokens,
                advance=progress.advance,
            )
        path = None if out is None else replace_table(table, out / FILE).path
        values = {
            "model": model.name,
            "recipe": None if recipe is None else recipe.digest,
            "categories": table.to_pylist(),
            "out": None if path is None else str(path),
        }
        return Outcome(values, [in_words(table)] if path is None else [in_words(table), f"\nout: {path}"])

    steered = "" if recipe is None else ", and again steered"
    return Run(
        work,
        folder=None,
        operations=None,
        lines=(f"{asked} questions are asked of {model.name}{steered}",),
        plan={"questions": asked, "answers": answers, "config": config.model_dump(mode="json")},
        says_lines=False,
        prepare=writable,
    )
