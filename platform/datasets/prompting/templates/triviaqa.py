"""TriviaQA: questions of general knowledge, with or without a text in which the answer may stand."""

from __future__ import annotations

from ..template import TitledTexts, template


@template("triviaqa")
class TriviaQA(TitledTexts):
    """The question alone, or after a text where there is one."""
