"""The content key: a digest of everything that could change a step's result, kept as named components.

Two results with the same key are the same result; where keys differ, `differences` says in what, in the order of
COMPONENTS. Worker count, node names, log level and the time are in no component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ...models.provenance import computation_key
from ...runtime.plan import canonical_json, digest_of
from .step import Step

if TYPE_CHECKING:
    from ...models import LanguageModel
    from .step import StepSettings

#: most telling first: `why` names the first one that differs
COMPONENTS = (
    "step", "model", "others", "training", "data", "settings", "layers", "seeds", "batches", "dtype", "backend",
    "sources", "versions", "upstream",
)  # fmt: skip
_ABSENT = "absent"


@dataclass(frozen=True)
class Key:
    """`digest` is the sha256 of the canonical JSON of `components`."""

    digest: str
    components: Mapping[str, Any]


class KeyDifference(NamedTuple):
    """`name` (dotted, from its component on) is `now` here and `then` there."""

    name: str
    now: Any
    then: Any

    def __str__(self) -> str:
        if isinstance(self.now, str) and isinstance(self.then, str) and len(self.now) == len(self.then) == 64:
            return f"{self.name} ({self.then[:12]} -> {self.now[:12]})"  # digests: the head tells them apart
        if max(len(str(self.now)), len(str(self.then))) > 60:
            return self.name
        return f"{self.name} ({self.then} -> {self.now})"


def step_key(
    step: Step,
    model: LanguageModel,
    *,
    settings: StepSettings,
    layers: Sequence[int],
    seed: int,
    data_digest: str,
    batches_digest: str,
    upstream: Mapping[str, str],
    others: Sequence[tuple[LanguageModel, str, str]] = (),
) -> Key:
    """The key of a step's result for a model and planned questions; `upstream` are the keys of the steps it needs,
    `others` the further models that it compares, with the digests of data and batches in their tokens. A step that
    takes further models may look at how long each was trained, which the weights do not say."""
    records = [other.training_record for other in (model, *(other for other, _, _ in others))] if step.others else []
    components = {
        "step": {"name": step.name, "version": step.version},
        "others": {
            str(number): {"data": data, "batches": batches, **computation_key(other)}
            for number, (other, data, batches) in enumerate(others, 1)
        },
        "training": {str(number): asdict(record) for number, record in enumerate(records) if record is not None},
        "data": data_digest,
        "settings": settings.model_dump(mode="json"),
        "layers": list(layers),
        "seeds": {"seed": seed} if step.seeded else {},
        "batches": batches_digest,
        "upstream": dict(upstream),
        **computation_key(model, step.module, *(step.code(settings) if step.code is not None else ())),
    }
    assert set(components) == set(COMPONENTS)
    canonical_json(components)  # raises here, where the step is known, if a setting is not plain finite JSON
    return Key(digest_of(components), components)


def differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[KeyDifference]:
    """In what two keys' components differ, in the order of COMPONENTS; inside a component every entry by itself."""
    found: list[KeyDifference] = []
    for name in dict.fromkeys([*COMPONENTS, *sorted({*now, *then})]):
        found += _differences(name, now.get(name, _ABSENT), then.get(name, _ABSENT))
    return found


def _differences(name: str, now: Any, then: Any) -> list[KeyDifference]:
    if now == then:
        return []
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        keys = sorted({*now, *then})
        return [d for key in keys for d in _differences(f"{name}.{key}", now.get(key, _ABSENT), then.get(key, _ABSENT))]
    return [KeyDifference(name, now, then)]


def nearest(key: Key, others: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[KeyDifference]] | None:
    """The digest of the entry whose components differ from `key` in the fewest places, and in what; None of none."""
    compared = [(other, differences(key.components, components)) for other, components in sorted(others.items())]
    return min(compared, key=lambda pair: len(pair[1]), default=None)
