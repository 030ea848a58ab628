"""The settings of a classification: which data sets are read, how they are judged, how large the sample is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from ...core.config import Config, Seed
from ...core.option import SEED, Option
from ...core.typed_lists import parse_names


def _data_sets(text: str, option: str) -> list[str]:
    from ..data_set import names

    return parse_names(text, names(), option=option)


def _splits(text: str, option: str) -> list[str]:
    from ..sources.hub import SPLITS

    return parse_names(text, list(SPLITS), option=option)


class ClassifyConfig(Config):
    """Everything that decides the sample; where it runs is not part of it."""

    marks = {"seed": replace(SEED, shows_default=True)}

    datasets: Annotated[tuple[str, ...] | None, Option(metavar="A,B|all", parse=_data_sets)] = None
    """Data sets that must be there, such as squad,hotpotqa; default: those that are, of --hub three."""
    data_dir: Annotated[Path | None, Option(metavar="DIR")] = None
    """Folder of the data files, searched by content; or one file. Default: data."""
    hub: Annotated[tuple[str, ...], Option(metavar="dev,train|all", parse=_splits)] = ()
    """In place of --data-dir: these splits of the pinned copies on the Hugging Face hub or in its cache."""
    per_dataset: Annotated[int, Option(shows_default=True)] = 500
    """At most N questions of a data set; 0: all."""
    per_category: Annotated[int, Option(shows_default=True)] = 100
    """At most N questions of a category; 0: all."""
    rule_set: Annotated[str, Option(shows_default=True)] = "evidence"
    """evidence: real sentences and marked evidence; source: lengths and words."""
    tokenizer: Annotated[str, Option(metavar="T", shows_default=True)] = "tiny"
    """What tokens are counted with: tiny (the shipped models'), a folder with a tokenizer.json, a hub id."""
    fail_over: Annotated[float, Option(metavar="SHARE", shows_default=True)] = 0.01
    """Share of bad records that is tolerated."""
    seed: Seed = 0
