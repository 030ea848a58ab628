"""SQuAD v1.1: every question is answered by words of its passage."""

from __future__ import annotations

from ..template import Template, template


@template("squad")
class Squad(Template):
    """The passage under its title, and the question."""

    head = "Answer the question with words of the passage.\n\n"
    context = "{context}"
    paragraph = "{title}\n{text}"
    between = "\n\n"
    question = "\n\nQuestion: {question}\nAnswer:"
    alone = "Question: {question}\nAnswer:"
