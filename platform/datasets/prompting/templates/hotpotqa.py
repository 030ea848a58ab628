"""HotpotQA: several titled paragraphs, of which two are needed; some answers are yes or no."""

from __future__ import annotations

from ..template import Instructed, template


@template("hotpotqa")
class HotpotQA(Instructed):
    """One line a paragraph, with its title, by which questions lead from one to the next."""

    head = "Answer the question from the paragraphs, in a few words. Where it asks whether, answer yes or no.\n\n"
    paragraph = "{title}: {text}"
