"""What a quickstart will do, before it does any of it: its stages in words, and the record that its folder keeps."""

from __future__ import annotations

from ..runtime.stage import Planned, Stage
from .planting import check_plant
from .quickstart_config import QuickstartConfig, folder_name, planted_folder

REPORT = "report.html"
PROMPTS = "prompts.parquet"
STAGE = Stage("quickstart", work=("classify", "models", "interp", "eval", PROMPTS, REPORT))


def plan_lines(config: QuickstartConfig) -> list[str]:
    """The stages in words, without doing or loading anything."""
    lines = [
        f"prompts: {config.per_level} for each of six levels, seed {config.seed}",
        f"classify: {6 * config.classify.per_level} generated questions in the formats of SQuAD v1.1 and HotpotQA",
    ]
    if config.plant is not None:
        lines.append(f"plant {planted_folder(config.plant)}: {config.plant}, a known damage that no stage is told of")
    for name in names_of(config):
        lines += [
            f"interp {name}: {', '.join(config.interp.steps)}",
            f"eval {name}: search of {_searched(config)} on at most {config.steering.development_limit} development "
            f"questions, then test unsteered, steered and under controls of {config.steering.draws} draws",
        ]
    return [*lines, f"report: {REPORT}"]


def names_of(config: QuickstartConfig) -> list[str]:
    """The folders of all models' results, the planted one's first."""
    planted = [] if config.plant is None else [planted_folder(config.plant)]
    return [*planted, *map(folder_name, config.models)]


def _searched(config: QuickstartConfig) -> str:
    sites = config.steering.sites
    return f"{' and '.join(sites)} in every block" if sites else "the sites of the model's variant in every block"


def restrictions(config: QuickstartConfig) -> str:
    """What a quickstart leaves out to be quick, in a sentence."""
    from ..eval.eval_config import PROMPT_CONTROL
    from ..steering.controls import control_names

    steering = config.steering
    said = f"In all models alike the search looks at {_searched(config)}"
    if steering.budget is not None:
        said += f" and reads at most {steering.budget:,} tokens"
    asked = steering.controls
    left_out = [name for name in (*control_names(), PROMPT_CONTROL) if asked is not None and name not in asked]
    return f"{said}; {'controls left out: ' + ', '.join(left_out) if left_out else 'no control is left out'}."


def planned(config: QuickstartConfig) -> Planned:
    """The run that `config` asks for, to look for an earlier one in a folder or to begin. Raises UsageError for a plant
    that there is not or that no folder can hold."""
    if config.plant is not None:
        check_plant(config.plant)
    return STAGE.plan(config, seeds={"seed": config.seed}, plan={"stages": plan_lines(config)})
