"""MuSiQue: up to twenty titled paragraphs; the answer is reached in two to four steps."""

from __future__ import annotations

from ..template import Instructed, template


@template("musique")
class MuSiQue(Instructed):
    """One line a paragraph, with its title."""

    head = "Answer the question from the paragraphs, in a few words. It takes several of them.\n\n"
    paragraph = "{title}: {text}"
