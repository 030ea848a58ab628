"""Natural Questions: what people typed into a search engine, put as they typed it."""

from __future__ import annotations

from ..template import TitledTexts, template


@template("natural_questions")
class NaturalQuestions(TitledTexts):
    """The page where there is one, and the question."""

    head = "Answer the question in a few words.\n\n"
