"""SQuAD v1.1: every question is answered by words of its passage."""

from __future__ import annotations

from ..template import TitledTexts, template


@template("squad")
class Squad(TitledTexts):
    """The passage under its title, and the question."""

    head = "Answer the question with words of the passage.\n\n"
