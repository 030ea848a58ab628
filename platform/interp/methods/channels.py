"""The channels that carry the answer at one site of one layer: what steering asks the analyses for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from ...core.errors import InputError, UsageError
from ...datasets.prompting.asked_before import question_digests
from ...datasets.prompting.truncation import MAX_PROMPT_TOKENS
from ...runtime.table_job import Progress
from ..engine.cache import Cache
from ..engine.graph import all_steps
from ..engine.interp_config import default_config, settings_of
from ..engine.places import check_layers, places, relative_name, relative_names
from ..engine.run import Observer, run_steps

if TYPE_CHECKING:
    from ...datasets.records import Question
    from ...models import LanguageModel

#: (what is being done, batches done, batches in all)
Tell = Callable[[str, int, int], None]


def bottleneck_channels(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    layer: int,
    site: str,
    k: int,
    cache_dir: Path | None = None,
    seed: int = 0,
    max_tokens: int = MAX_PROMPT_TOKENS,
    template: str | None = None,
    progress: Tell | None = None,
) -> list[int]:
    """The `k` channels of `site` ("mixer_out", "delta", ...) at `layer` with the largest |attribution|, largest first.

    Reads the cached result of the step `attribution` for these questions, and computes and caches it (all layers at
    once, it costs the same) where it is missing; `progress` hears what is computed. cache_dir: default as for
    `mplat interp`. Attribution draws nothing at random; `seed` is passed on all the same. max_tokens, template: how the
    questions are rendered, as in an evaluation (`max_prompt_tokens`, `template`).

    Raises UsageError for a layer, site or k that the model does not have, InputError where no question gave a finite
    result.
    """
    check_layers([layer], model.n_layers)
    name = relative_name(model, site)
    (place,) = places(model, [layer], [name])
    if not 1 <= k <= place.channels:
        raise UsageError(f"k is {k}; site {name!r} has {place.channels} channels, so it can be 1 to {place.channels}")
    asked = {"steps": ("attribution",), "seed": seed, "max_tokens": max_tokens, "template": template}
    config = default_config().model_copy(update=asked)
    settings = settings_of(config, all_steps()["attribution"])
    if name not in relative_names(model, settings.model_dump()["sites"]):
        config = config.model_copy(update={"attribution": type(settings).model_validate({"sites": (name,)})})
    observer = _Teller(model.name, progress)
    cache = Cache(cache_dir, warn=observer.warn)
    table = run_steps(model, questions, config, cache=cache, observer=observer)["attribution"].table
    here = table.filter((pc.field("layer") == layer) & (pc.field("site") == name) & (pc.field("rank") <= k))
    if here.num_rows < k:
        raise InputError(
            f"model {model.name}: no question gave a finite attribution at block {layer}, site {name!r}; "
            "its activations overflow or are NaN"
        )
    return [int(channel) for channel in here.sort_by("rank")["channel"].to_pylist()]


def bottleneck_finder(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    cache_dir: Path,
    seed: int,
    max_tokens: int = MAX_PROMPT_TOKENS,
    template: str | None = None,
    say: Callable[[str], None] | None = None,
) -> ChannelFinder:
    """`bottleneck_channels` as a search asks for it, (site, layer, k) -> channels.

    `say` hears once what is not cached yet.
    """
    said: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        if say is not None and what not in said:
            said.add(what)
            say(f"not in the cache {cache_dir}, computed now: {what}")

    def find(site: str, layer: int, k: int) -> list[int]:
        return bottleneck_channels(
            model, questions, layer=layer, site=site, k=k, cache_dir=cache_dir, seed=seed, max_tokens=max_tokens,
            template=template, progress=tell,
        )  # fmt: skip

    return ChannelFinder(find, question_digests(questions))


@dataclass(frozen=True)
class ChannelFinder:
    """(site, layer, k) -> channels, and `decided_on`, the digests of the questions it looks at."""

    find: Callable[[str, int, int], list[int]]
    decided_on: tuple[str, ...]

    def __call__(self, site: str, layer: int, k: int) -> list[int]:
        return self.find(site, layer, k)


def _nothing(what: str, done: int, total: int) -> None:
    """Where nobody wants to know."""


class _Teller(Observer):
    """Passes on what is computed, in words."""

    def __init__(self, model: str, tell: Tell | None) -> None:
        self._model, self._tell = model, tell or _nothing

    def progress(self, progress: Progress) -> None:
        what = progress.note or f"{progress.name} of {self._model} on {progress.rows} prompts"
        self._tell(what, progress.shards_done, progress.shards)

    def warn(self, text: str) -> None:
        """Damage in the cache: passed on like progress, with nothing to count."""
        self._tell(text, 0, 0)
