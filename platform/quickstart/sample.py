"""Classification of real file formats without real data: files in the schemas of SQuAD v1.1 and HotpotQA, made here."""

from __future__ import annotations

from pathlib import Path

from ..datasets import facts
from ..datasets.classify.classify_config import ClassifyConfig
from ..datasets.classify.classify_run import classify_into
from ..datasets.classify.classifying import gather
from ..datasets.facts.as_files import write_hotpotqa, write_squad
from ..runtime import open_session
from .quickstart_config import QuickstartConfig

TABLE = "questions.parquet"
_APART = 1  # added to the seed: the sample is not the questions that the models are asked


def classify_sample(config: QuickstartConfig, out: Path) -> str:
    """Write the files and their classification below `out`; what came out, in words."""
    questions = facts.prompts(per_level=config.classify.per_level, seed=(config.seed + _APART) % 2**63)
    files = out / "files"
    files.mkdir(parents=True, exist_ok=True)
    write_squad([q for q in questions if q.hops == 1], files / "squad-facts.json")
    write_hotpotqa([q for q in questions if (q.hops or 0) > 1], files / "hotpotqa-facts.json")
    settings = ClassifyConfig(per_dataset=0, per_category=config.classify.per_category, seed=config.seed)
    with open_session("none") as session:
        summary = classify_into(out / TABLE, gather(["squad", "hotpotqa"], files), settings, session=session)
    read = sum(account["questions"] for account in summary["datasets"].values())
    used = sum(1 for entry in summary["categories"].values() if entry["available"])
    return f"{read} questions of two data sets in {used} categories, {summary['questions']} drawn"
