"""Which latents of sparse autoencoders are active at the evidence and at the end, where `sae` has trained some.

They are those of the newest result of this very model in the cache: nothing is trained here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from ..engine.cache import Cache, CachedResult, Stored
from ..engine.columns import column
from ..methods.asked import evaluating
from ..methods.sae.dictionary import SparseDictionary
from .choosing import Chosen

if TYPE_CHECKING:
    from ...models import LanguageModel

TOP = 5  # latents at each token
CONTEXTS = 2  # shown for each of them
FEATURES_SCHEMA = pa.schema([
    column("layer", pa.int32(), "block"),
    column("site", pa.string(), "site, relative to the block"),
    column("kind", pa.string(), "kind of autoencoder; its first seed"),
    column("at", pa.string(), "evidence (its last token) or last (of the prompt)"),
    column("position", pa.int32(), "that token"),
    column("token", pa.string(), "what it says"),
    column("rank", pa.int32(), "1 for the latent of the largest value"),
    column("latent", pa.int32(), "latent"),
    column("value", pa.float64(), "its value there, in the units of the site"),
    column("density", pa.float64(), "share of tokens that activate it"),
    column("contexts", pa.list_(pa.string()), "tokens at which it is largest, with those around them, as far as known"),
])  # fmt: skip


def cached_autoencoders(cache: Cache, model: LanguageModel) -> Stored | None:
    """The newest result of `sae` for `model`; None where the cache holds none."""

    def made(entry: CachedResult) -> float:
        return max((entry.folder / part.file).stat().st_mtime for part in entry.parts)

    entries = [entry for entry in cache.entries("sae") if entry.components.get("model") == model.digest and entry.parts]
    for entry in sorted(entries, key=made, reverse=True):
        if (stored := cache.read_all("sae", entry.key)) is not None:
            return stored
    return None


@torch.no_grad()
def feature_table(model: LanguageModel, chosen: Chosen, stored: Stored) -> pa.Table:
    """The strongest latents at the evidence's last token and at the prompt's last; autoencoders of states, which have
    no value at every token, are left out."""
    sites = {site.name: site for site in model.sites()}
    places = {"last": len(chosen.tokens) - 1}
    if chosen.span is not None:
        places = {"evidence": chosen.span[1] - 1} | places
    used = [
        (row, f"blocks.{row['layer']}.{row['site']}") for row in stored.tables["saes"].to_pylist()
        if row["status"] == "ok" and row["seed"] == 0
    ]  # fmt: skip
    used = [(row, name) for row, name in used if name in sites and sites[name].editable and len(sites[name].axes) == 1]
    tokens = torch.tensor(chosen.item.prompt, device=model.device)
    with evaluating(model), model.capture(*dict.fromkeys(name for _, name in used)) as values:
        model(tokens[None], last_only=True)
    density = {_key(row): row["density"] for row in stored.tables["features"].to_pylist()}
    contexts: dict[tuple[Any, ...], list[str]] = {}
    for row in sorted(stored.tables["contexts"].to_pylist(), key=lambda row: row["rank"]):
        contexts.setdefault(_key(row), []).append(row["context"])
    rows: list[dict[str, Any]] = []
    for row, name in used:
        dictionary = SparseDictionary.of(stored.tensors[row["tensors"]])
        about = {key: row[key] for key in ("layer", "site", "kind")}
        for at, position in places.items():
            latents = dictionary.latents(values[name][0, position].float().cpu())
            best = latents.topk(min(TOP, len(latents)))
            for rank, (value, latent) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), 1):
                if value <= 0:
                    break
                key = _key(row | {"latent": latent})
                rows.append(about | {
                    "at": at, "position": position, "token": chosen.tokens[position], "rank": rank, "latent": latent,
                    "value": value, "density": density.get(key), "contexts": contexts.get(key, [])[:CONTEXTS],
                })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=FEATURES_SCHEMA)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("layer", "site", "kind", "seed", "latent"))
