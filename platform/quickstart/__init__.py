"""The whole pipeline in one go: prompts, classification, analyses, steering with controls, report.

with open_session("none") as session:
    result = run_quickstart(QuickstartConfig(), Path("runs/quickstart"), session=session, cache_dir=cache_folder())
"""

from __future__ import annotations

from .pipeline import QuickstartResult, run_quickstart
from .planning import plan_lines, planned
from .quickstart_config import QuickstartConfig

__all__ = ["QuickstartConfig", "QuickstartResult", "plan_lines", "planned", "run_quickstart"]
