"""What detectors of channels, and spikes from layer to layer, find of planted damages.

    python benchmarks/detectors.py [--plants NAME ...]

Every plant of `mplat.eval.planted` is grown and looked at with 72 development questions (12 of each level, seed 0). Of
detectors: precision, recall and signs as `detect` counts them. Of the measures of layers (`layer_signals`): whether the
damaged block has the largest |spike| among the blocks with that site, damaged and before the damage. All of it goes to
results/detectors.json; means by kind go to platform/interp/methods/planted_figures.py, which `bottlenecks` prints.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from mplat.datasets.facts import prompts
from mplat.eval.planted import PLANTS, find_plant
from mplat.eval.planted.detecting import FINDS, detect
from mplat.eval.planted.plant import Planted
from mplat.interp.engine.batches import Batch
from mplat.interp.engine.questions import encode
from mplat.interp.methods.detector_runs import SUMS, batch_sums
from mplat.interp.methods.layer_signals import signals
from mplat.models import LanguageModel
from mplat.scoring.statistics import Resampling
from mplat.steering.detectors import channels_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "detectors.json"
TABLE = ROOT / "platform" / "interp" / "methods" / "planted_figures.py"
MAX_TOKENS = 2048


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plants", nargs="+", default=list(PLANTS), metavar="NAME")
    parser.add_argument(
        "--table", action="store_true", help="write the table of what was measured, and measure nothing"
    )
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"detections": [], "layers": []}
    for name in () if options.table else options.plants:
        found = [asdict(one) | {"lift": one.lift} for one in detect([name])]
        layers = layers_of(find_plant(name).grow())
        for part, rows in (("detections", found), ("layers", layers)):
            known[part] = [row for row in known[part] if row["plant"] != name] + rows
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(name, len(found), [(row["measure"], row["first"], row["first_undamaged"]) for row in layers], flush=True)
    TABLE.write_text(written(figures(known)))


def layers_of(planted: Planted) -> list[dict[str, Any]]:
    """Whether the damaged block has the largest spike of its site: a row for each measure; none for sites of one block
    and those without a value per token."""
    plant, model = planted.plant, planted.model
    width = channels_of(model, plant.full_site)
    blocks = [i for i in range(model.n_layers) if channels_of(model, f"blocks.{i}.{plant.site}") == width]
    if width is None or len(blocks) < 2:
        return []
    with planted.applied():
        damaged = _first(model, plant.site, blocks)
    clean = _first(planted.clean, plant.site, blocks)
    return [
        {"plant": plant.name, "kind": plant.kind, "measure": measure, "blocks": len(blocks),
         "first": damaged[measure] == plant.layer, "first_undamaged": clean[measure] == plant.layer}
        for measure in damaged
    ]  # fmt: skip


def _first(model: LanguageModel, site: str, blocks: list[int]) -> dict[str, int]:
    """By measure, the block of largest |spike|."""
    items = encode(model, prompts(12, 0, stream="planted-development"), max_tokens=MAX_TOKENS).items
    arguments = {"layers": blocks, "sites": [site]}
    rows = [
        row for i in range(0, len(items), 12)
        for row in batch_sums(model, Batch(items[i : i + 12], model.device), arguments).to_pylist()
    ]  # fmt: skip
    finite = {row["id"] for row in rows} - {row["id"] for row in rows if row["sums"] is None}
    by_block = [[row for row in rows if row["layer"] == block and row["id"] in finite] for block in blocks]
    vectors = np.array([[row["vector"] for row in of] for of in by_block])
    sums = np.array([[row["sums"] for row in of] for of in by_block]).reshape(*vectors.shape[:2], SUMS, -1)
    groups = [item.group for item in items if item.id in finite]
    found = signals(vectors, sums[:, :, 2], sums[:, :, 3], groups, how=Resampling(0, 0.95, 1), draws=1)
    return {one.measure: blocks[int(np.abs(one.spike).argmax())] for one in found}


def figures(known: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Means over the plants of a kind, as `planted_figures.Figure` has them."""
    rows: list[tuple[Any, ...]] = []
    seen = [one for one in known["detections"] if one["precision"] is not None]
    for detector, kind in sorted({(one["detector"], one["kind"]) for one in seen}):
        of = [one for one in seen if (one["detector"], one["kind"]) == (detector, kind)]
        signs = [one["right_sign"] for one in of if one["right_sign"] is not None]
        mean = [fmean(values) for values in zip(*((o["planted"] / o["width"], o["precision"], o["recall"]) for o in of),
                                                strict=True)]  # fmt: skip
        found = sum(one["lift"] >= FINDS for one in of)
        rows.append((detector, kind, len(of), *mean, fmean(signs) if signs else None, None, found))
    for measure, kind in sorted({(one["measure"], one["kind"]) for one in known["layers"]}):
        of = [one for one in known["layers"] if (one["measure"], one["kind"]) == (measure, kind)]
        chance = fmean(1 / one["blocks"] for one in of)
        hit, before = (fmean(one[name] for one in of) for name in ("first", "first_undamaged"))
        rows.append(
            (
                measure,
                kind,
                len(of),
                chance,
                hit,
                None,
                None,
                before,
                sum(one["first"] and not one["first_undamaged"] for one in of),
            )
        )
    return rows


def written(rows: list[tuple[Any, ...]]) -> str:
    """The module that `bottlenecks` reads."""
    head = TABLE.read_text().partition("FIGURES")[0]
    lines = [", ".join(repr(round(v, 3) if isinstance(v, float) else v) for v in row) for row in rows]
    body = "".join(f"    Figure({line}),\n" for line in lines).replace("'", '"')
    return f"{head}FIGURES: tuple[Figure, ...] = (\n{body})\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
