"""DROP: questions that count, add and compare what a passage says; answers are numbers, dates or words of it."""

from __future__ import annotations

from ..template import Instructed, template


@template("drop")
class Drop(Instructed):
    """The passage, and the question; the forms that answers can have are named."""

    head = "Answer the question about the passage with a number, a date, or words of the passage.\n\n"
