"""TriviaQA: questions of general knowledge, with or without a text in which the answer may stand."""

from __future__ import annotations

from ..template import Template, template


@template("triviaqa")
class TriviaQA(Template):
    """The question alone, or after a text where there is one."""

    context = "{context}"
    paragraph = "{title}\n{text}"
    between = "\n\n"
    question = "\n\nQuestion: {question}\nAnswer:"
    alone = "Question: {question}\nAnswer:"
