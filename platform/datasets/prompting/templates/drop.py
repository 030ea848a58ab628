"""DROP: questions that count, add and compare what a passage says; answers are numbers, dates or words of it."""

from __future__ import annotations

from ..template import Template, template


@template("drop")
class Drop(Template):
    """The passage, and the question; the forms that answers can have are named."""

    head = "Answer the question about the passage with a number, a date, or words of the passage.\n\n"
    context = "{context}"
    question = "\n\nQuestion: {question}\nAnswer:"
    alone = "Question: {question}\nAnswer:"
