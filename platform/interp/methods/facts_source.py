"""Which factual prompts a trace is asked for: a registered set among data files, a file of one or of the user's own
prompts, or generated ones.

Files are recognised by their content, wherever below the folder they lie. At most `limit` prompts are drawn with the
seed, in the order of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from ...core.errors import InputError, UsageError, suggest
from ...datasets.factual import FactualPrompt, facts_world_prompts, names, read_factual
from ...datasets.factual.factual_set import FactualSet, get
from ...datasets.factual.own import read_own
from ...datasets.factual.reading import belongs, owner
from ...datasets.sources.finding import data_files
from .facts_config import FactsConfig

GENERATED = "generated"
ALIASES = {"relations": "lre_relations"}
GENERATED_PROMPTS = 100  # where no limit is given
DATA_DIR = Path("data")


class Facts(NamedTuple):
    """The prompts, and in words what of the files could not be used."""

    prompts: tuple[FactualPrompt, ...]
    notes: tuple[str, ...] = ()


def read_facts(config: FactsConfig) -> Facts:
    """The prompts that `config.facts` names.

    Raises UsageError for a name that is neither a set nor a file, InputError for files that are missing or damaged.
    """
    assert config.facts is not None
    if config.facts == GENERATED:
        return Facts(tuple(facts_world_prompts(config.limit or GENERATED_PROMPTS, seed=config.seed)))
    name = ALIASES.get(config.facts, config.facts)
    if name in names():
        paths = _find(name, config.data_dir or DATA_DIR)
    else:
        path = Path(config.facts)
        if not path.is_file():
            valid = [GENERATED, *ALIASES, *names()]
            raise UsageError(f"--facts {config.facts!r} is neither a file nor a set of facts; {suggest(name, valid)}")
        recognised = owner(path)
        if recognised is None:
            return _own(path, config)
        name, paths = recognised.name, [path]
    reading = read_factual(name, paths)
    bad = ", ".join(f"{reason} {count}" for reason, count in reading.bad.items())
    notes = (f"{name}: records of the files that are no prompts: {bad}",) if bad else ()
    return Facts(_drawn(reading.prompts, config.limit, config.seed), notes)


def _drawn(prompts: Sequence[FactualPrompt], limit: int | None, seed: int) -> tuple[FactualPrompt, ...]:
    if limit is None or limit >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[i] for i in sorted(Random(f"facts-{seed}").sample(range(len(prompts)), limit)))


def _find(name: str, folder: Path) -> list[Path]:
    """The files of a set below `folder`, which may be one of them."""
    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder; give the folder of the data files with --data-dir")
    candidates = [folder] if folder.is_file() else data_files(folder)
    chosen = get(name)
    found = [path for path in candidates if _is_of(chosen, path)]
    if not found:
        raise InputError(
            f"{folder}: no {chosen.title} file among {len(candidates)} data files; expected {chosen.expects}; "
            "give the folder of the data files with --data-dir"
        )
    return found


def _own(path: Path, config: FactsConfig) -> Facts:
    """Prompts of the user's own."""
    found = read_own(path)
    note = f"{path}: {found.whole} prompts name no `subject` and no `evidence`; all of their words are corrupted"
    return Facts(_drawn(found.prompts, config.limit, config.seed), (note,) if found.whole else ())


def _is_of(chosen: FactualSet, path: Path) -> bool:
    """Whether a file in a folder is one of this set; not where it is too damaged to look into: another set may own it.

    Raises InputError for a file that two sets recognise.
    """
    try:
        if not belongs(chosen, path):
            return False
    except InputError:
        return False
    return owner(path) is chosen
