"""Temporary."""
from __future__ import annotations
import json, os
from pathlib import Path
from .prompts import Prompt

def read_prompts(config):
    if config.facts == "generated":
        from ...datasets import facts
        from ...eval.prompting import render
        found = []
        for q in facts.prompts(per_level=100, seed=config.seed):
            if q.level != 1: continue
            text = render(q, lambda t: [0], 512).text if hasattr(render(q, lambda t: [0], 512), "text") else None
            found.append(q)
        raise SystemExit("later")
    base = Path(config.data_dir or os.environ["MPLAT_SHARED_DATA"])
    out = []
    for e in json.loads((base / "known_1000/known_1000.json").read_text()):
        a = e["prompt"].find(e["subject"])
        out.append(Prompt(f"known-{e['known_id']}", e["prompt"], (a, a + len(e["subject"])), e["attribute"], e["relation_id"]))
    return out[: config.limit]
