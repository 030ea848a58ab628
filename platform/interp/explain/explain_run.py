"""An explanation as a folder of its own: every table as Parquet, the findings and the answer as JSON, and its page.

Writes into `out`: run.json, explanation.json, explain.html (what `draw` makes) and a `<table>.parquet` for each.
A folder that holds another run is refused; `fresh` deletes an explanation first, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.observer import Observer
from ...models.decoding import ends
from ...models.lending import label
from ...models.provenance import backend, identity
from ...runtime.session import Session
from ...runtime.stage import Planned, Stage
from ..engine.cache import Cache
from ..engine.statuses import bad_statuses
from .explanation import Explanation, explain
from .findings import findings

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ..engine.interp_config import InterpConfig
    from .choosing import Chosen

PAGE, VALUES = "explain.html", "explanation.json"
TABLES = (
    "tokens", "left", "states", "reads", "maps", "cuts", "readers", "lens", "traces", "features",
)  # fmt: skip
STAGE = Stage(
    "interp --explain",
    results=(PAGE, VALUES, *(f"{name}.parquet" for name in TABLES)),
    work=(),
    by_content={"model", "tokenizer", "questions", "facts", "data_dir", "texts"},
    data_is="question",
)
#: the page of an explanation
Draw = Callable[[Explanation], str]


def planned(model: LanguageModel, chosen: Chosen, config: InterpConfig) -> Planned:
    """The run with its record, to look for an earlier one in a folder or to begin."""
    return STAGE.plan(
        config,
        model=identity(model),
        data={"digest": chosen.data.digest, "counts": {"questions": 1}, "left_out": {}},
        seeds={"seed": config.seed},
        plan={"question": chosen.item.id},
        backend=backend(model),
        details={"end_tokens": ends.record(model)},
    )


def explain_into(
    out: Path,
    model: LanguageModel,
    chosen: Chosen,
    config: InterpConfig,
    *,
    cache: Cache,
    draw: Draw,
    session: Session | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """`explain` with `out` for its results; returns what explanation.json holds, the names of all files, and under
    `not_ok` the tables with rows that failed, by status.

    Raises UsageError where `out` holds another run, InputError where its record is damaged.
    """
    run = planned(model, chosen, config)
    with run.begin(out, session=session, observer=observer, fresh=fresh) as under_way:
        found = explain(model, chosen, config, cache=cache, observer=observer)
        for name, table in found.tables.items():
            under_way.table(f"{name}.parquet", table)
        values = as_values(found)
        under_way.json(VALUES, values)
        under_way.bytes(PAGE, draw(found).encode("utf-8"))
        not_ok = {name: bad for name, table in found.tables.items() if (bad := bad_statuses([table]))}
        return values | {"files": sorted(under_way.record.files), "not_ok": not_ok}


def as_values(found: Explanation) -> dict[str, Any]:
    """The findings, the answer and the numbers of each block as plain JSON."""
    chosen = found.chosen
    blocks = {name: found.tables[name].to_pylist() for name in ("states", "readers") if name in found.tables}
    return {
        "question": chosen.item.id,
        "model": label(found.model),
        "model_digest": found.model.digest,
        "prompt": chosen.text,
        "gold": list(chosen.gold),
        "answer": found.answer._asdict() | {"right": found.answer.right},
        "evidence": {
            "tokens": None if chosen.span is None else list(chosen.span),
            "text": None if chosen.span is None else "".join(chosen.tokens[slice(*chosen.span)]),
            "what": chosen.evidence,
        },
        "layers": list(found.layers),
        "findings": findings(found),
        "blocks": blocks,
        "absent": dict(found.absent),
    }
