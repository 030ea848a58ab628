"""A parity certificate: the model that is analysed fires, decodes and forgets edits as every analysis supposes.

Each check of `methods.parity` is made on the beginnings of a few prompts. The largest difference that was measured
stands beside its bound: 0 where bits must agree, else what rounding explains in the model's dtype. A check that fails
is never tolerated: the run ends with 1 and says which, whatever share of rows may fail.

`versions` holds what the certificate is for: digests of model, tokenizer and code, kernel backends, the versions of the
packages that compute, the seed. It names only what is part of the key, so that the same key always gives these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from pydantic import Field

from ...models.provenance import computation_key
from ...runtime.plan import digest_of
from ..engine.batches import Batch, spread
from ..engine.columns import column
from ..engine.effort import of_files
from ..engine.statuses import CHECK_FAILED, GOOD, NOT_APPLICABLE
from ..engine.step import Asked, Effort, Job, StepSettings, Tables, step
from ..engine.view import Column, MapPart, TablePart, View
from ..methods.parity import CHECKS, bound_of, measure

if TYPE_CHECKING:
    from ...models import LanguageModel
    from ...models.access.sites import Site


class Settings(StepSettings):
    small = {"prompts": 2, "tokens": 5}
    prompts: int = Field(3, ge=1)
    """prompts on which the checks are made, taken at equal steps"""
    tokens: int = Field(16, ge=2)
    """tokens of each, from its beginning"""


MEASURED_SCHEMA = pa.schema([
    ("id", pa.string()), ("check", pa.string()), ("site", pa.string()), ("difference", pa.float64()),
    ("problem", pa.string()),
])  # fmt: skip

CHECKS_SCHEMA = pa.schema([
    column("check", pa.string(), "what was checked, in one word"),
    column("claim", pa.string(), "the same in words"),
    column("prompts", pa.int32(), "on the beginnings of so many prompts"),
    column("comparisons", pa.int32(), "how many there were, over prompts and sites"),
    column("difference", pa.float64(), "the largest difference measured, in units of the largest value of what is "
           "compared; null where the check compares no numbers"),
    column("bound", pa.float64(), "what it may be at most; 0: equal bit for bit"),
    column("worst", pa.string(), "site with the largest difference or the first problem; null for the logits"),
    column("status", pa.string(), "ok; check_failed; not_applicable: the model has nothing of the kind"),
    column("reason", pa.string(), "what is wrong, or what there is nothing of"),
])  # fmt: skip

SITES_SCHEMA = pa.schema([
    column("site", pa.string(), "name of the site, as in captures and edits"),
    column("layer", pa.int32(), "its block; null outside of the blocks"),
    column("name", pa.string(), "its name inside the block"),
    column("shape", pa.string(), "as it is declared; B is the batch, T the text"),
    column("dtype", pa.string(), "as it is declared"),
    column("editable", pa.bool_(), "whether edits may act there"),
    column("repeat_difference", pa.float64(), "between two runs; 0: equal bit for bit"),
    column("decode_difference", pa.float64(), "between decoding token by token and one pass, in units of the site's "
           "largest value"),
    column("bound", pa.float64(), "of decode_difference"),
    column("status", pa.string(), "ok; check_failed"),
    column("reason", pa.string(), "what is wrong"),
])  # fmt: skip

VERSIONS_SCHEMA = pa.schema([
    column("kind", pa.string(), "model, tokenizer, backend, package, code, seed"),
    column("name", pa.string(), "what of it"),
    column("value", pa.string(), "digest, version or name; null where there is none"),
    column("status", pa.string(), "ok; not_applicable: the model has none"),
])  # fmt: skip

VIEW = View(
    "Parity certificate",
    "What every analysis supposes of the model, measured on the beginnings of a few prompts. Differences are in units "
    "of the largest value compared; a bound of 0 means equal bit for bit. It says that numbers are computed as they "
    "are said to be, and nothing about what the model has learned.",
    (
        TablePart(
            part="checks",
            title="Checks",
            columns=(
                Column("check"), Column("claim"), Column("status"), Column("difference"), Column("bound"),
                Column("worst", "where", absent="the logits"), Column("comparisons"), Column("reason", absent=""),
            ),
        ),
        TablePart(
            part="versions",
            title="What it is for",
            columns=(Column("kind"), Column("name"), Column("value", absent="none")),
        ),
        MapPart(
            part="sites",
            rows="layer",
            columns="name",
            value="decode_difference",
            title="How far decoding token by token is from one pass",
            explains="Rounding only, as long as it stays below the bound of the check `decode`.",
            label="in units of the site's largest value",
        ),
        TablePart(
            part="sites",
            title="Sites with a failed check",
            only={"status": CHECK_FAILED},
            columns=(Column("site"), Column("shape"), Column("dtype"), Column("decode_difference"), Column("reason")),
            top=20,
        ),
    ),
)  # fmt: skip


def cost(asked: Asked, lengths: Sequence[int]) -> Effort:
    """A dozen passes over a few tokens, and each of these alone; on such short texts every block costs more than what
    it computes."""
    settings = asked.settings
    texts, blocks = min(settings.prompts, len(lengths)), asked.model.n_layers
    calls = texts * (settings.tokens + 12) * blocks
    return Effort(14.0 * texts * settings.tokens, of_files(3) + 150 * len(asked.model.sites()), 0.006 * calls)


@step("setup", seeded=True, settings=Settings, view=VIEW, cost=cost)
def setup(job: Job) -> Tables:
    """Parity certificate: sites fire, decoding equals one pass, edits leave nothing; versions, digests, backends."""
    chosen = [item.id for item in spread(job.items, job.settings.prompts)]
    arguments = {"ids": chosen, "tokens": job.settings.tokens}
    rows = job.map(batch_parity, MEASURED_SCHEMA, arguments).to_pylist()
    dtype = str(job.model.dtype).removeprefix("torch.")
    checks = [_check(name, [row for row in rows if row["check"] == name], dtype) for name in CHECKS]
    by_site: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_site.setdefault(row["site"], []).append(row)
    sites = [_site(site, by_site.get(site.name, []), dtype) for site in job.model.sites()]
    return {
        "checks": pa.Table.from_pylist(checks, schema=CHECKS_SCHEMA),
        "sites": pa.Table.from_pylist(sites, schema=SITES_SCHEMA),
        "versions": pa.Table.from_pylist(_versions(job.model, job.seed), schema=VERSIONS_SCHEMA),
    }


def batch_parity(model: LanguageModel, batch: Batch, arguments: Mapping[str, Any]) -> pa.Table:
    """A row for each comparison on those of the batch's prompts that were chosen, each by itself."""
    rows: list[dict[str, Any]] = []
    for item in batch.items:
        if item.id in arguments["ids"]:
            tokens = torch.tensor([item.prompt[: arguments["tokens"]]], device=batch.device)
            rows += [{"id": item.id, **found._asdict()} for found in measure(model, tokens)]
    return pa.Table.from_pylist(rows, schema=MEASURED_SCHEMA)


def _check(name: str, rows: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, Any]:
    """The certificate's row of a check: its worst comparison against its bound."""
    known = {"check": name, "claim": CHECKS[name].words}
    if not rows:
        nothing = "no prompt has two tokens" if name == "padding" else "the model has no site that can be edited"
        return known | {"status": NOT_APPLICABLE, "reason": nothing}
    bound = bound_of(name, dtype)
    wrong = _wrong(rows, bound)
    numbers = [row for row in rows if row["difference"] is not None]
    largest = max(numbers, key=lambda row: row["difference"], default=None)
    telling = wrong[0] if wrong else largest
    return known | {
        "prompts": len({row["id"] for row in rows}),
        "comparisons": len(rows),
        "difference": None if largest is None else largest["difference"],
        "bound": None if largest is None else bound,
        "worst": None if telling is None else telling["site"] or None,
        "status": CHECK_FAILED if wrong else GOOD,
        "reason": _reason(wrong, bound) if wrong else None,
    }


def _wrong(rows: Iterable[Mapping[str, Any]], bound: float) -> list[Mapping[str, Any]]:
    """The comparisons that fail, problems first, then the largest differences."""
    bad = [row for row in rows if row["problem"] is not None or (row["difference"] or 0.0) > bound]
    return sorted(bad, key=lambda row: -float("inf") if row["problem"] is not None else -row["difference"])


def _reason(wrong: Sequence[Mapping[str, Any]], bound: float) -> str:
    """The first of what is wrong, and at how many places more."""
    first, places = wrong[0], {row["site"] for row in wrong}
    where = first["site"] or "the logits"
    said = first["problem"] or f"{where}: differs by {first['difference']:.2g}, and at most {bound:.2g} is allowed"
    return said + (f"; and {len(places) - 1} other sites" if len(places) > 1 else "")


def _site(site: Site, rows: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, Any]:
    """A site's row: the worst over prompts."""
    wrong = [row for row in rows if _wrong([row], bound_of(row["check"], dtype))]

    def largest(check: str) -> float | None:
        values = [row["difference"] for row in rows if row["check"] == check and row["difference"] is not None]
        return max(values, default=None)

    inside = site.name.split(".", 2) if site.name.startswith("blocks.") else None
    decode = largest("decode")
    return {
        "site": site.name,
        "layer": None if inside is None else int(inside[1]),
        "name": site.name if inside is None else inside[2],
        "shape": ", ".join(map(str, site.shape)),
        "dtype": site.dtype,
        "editable": site.editable,
        "repeat_difference": largest("repeat"),
        "decode_difference": decode,
        "bound": None if decode is None else bound_of("decode", dtype),
        "status": CHECK_FAILED if wrong else GOOD,
        "reason": _reason(wrong[:1], bound_of(wrong[0]["check"], dtype)) if wrong else None,
    }


def _versions(model: LanguageModel, seed: int) -> list[dict[str, Any]]:
    """What is part of the key of this step, and the tokenizer's own digest."""
    key = computation_key(model, __name__)
    values = {
        ("model", "digest"): key["model"],
        ("model", "architecture"): model.config.arch,
        ("model", "dtype"): key["dtype"],
        ("tokenizer", "digest"): _tokenizer_digest(model),
        **{("backend", name): value for name, value in key["backend"].items()},
        **{("package", name): value for name, value in key["versions"].items()},
        ("code", "digest"): digest_of(key["sources"]),
        ("seed", "seed"): str(seed),
    }
    return [
        {"kind": kind, "name": name, "value": value, "status": NOT_APPLICABLE if value is None else GOOD}
        for (kind, name), value in values.items()
    ]


def _tokenizer_digest(model: LanguageModel) -> str | None:
    if model.tokenizer is None:
        return None
    return sha256(model.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
