"""Natural Questions: what people typed into a search engine, put as they typed it."""

from __future__ import annotations

from ..template import Template, template


@template("natural_questions")
class NaturalQuestions(Template):
    """The page where there is one, and the question."""

    head = "Answer the question in a few words.\n\n"
    context = "{context}"
    paragraph = "{title}\n{text}"
    between = "\n\n"
    question = "\n\nQuestion: {question}\nAnswer:"
    alone = "Question: {question}\nAnswer:"
