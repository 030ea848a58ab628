"""Where the sections of a report register: what is shown of a run of one command.

    @section("perplexity")
    def read_perplexity(folder: Path, run: Document) -> Interpretation: ...

A section is one file in `sections` with a function named by the command whose run.json it takes. It reads what the run
left in its folder; what should be there and is not is said in `missing`, and a damaged file is an InputError. Content
that is an evaluation or a training has a layout of its own on the page; whatever else there is to show is an
`Interpretation` under a heading: titled maps, curves and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.registry import Registry
from .content import Evaluation, Interpretation, Training
from .documents import Document

Content = Evaluation | Interpretation | Training
SECTIONS: Registry[Callable[[Path, Document], Content]] = Registry("report section", "section", __name__, ".sections")
section = SECTIONS.itself
