"""SQuAD v2: half of the questions have no answer in their passage, and the prompt says what to write then.

The official evaluator knows a missing answer as the empty text, which a language model hardly writes. So the agreed
word is asked for, and a prediction that is this word is scored as the empty text.
"""

from __future__ import annotations

from ..template import template
from .squad import Squad


@template("squad_v2")
class SquadV2(Squad):
    """As for v1.1, with a word for questions that the passage leaves open."""

    no_answer = "unanswerable"
    head = 'Answer the question with words of the passage. If the passage does not say it, answer "unanswerable".\n\n'
