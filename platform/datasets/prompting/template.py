"""Where prompt templates register, and what a template is.

A template is one file in this folder with one class under `@template("name of the data set")` that sets what differs
from the plain template below: texts only, no code, so that its digest says everything about it. The files are
found, there is no list to edit. Changing a text changes every number obtained with it; results name the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from ...core.registry import Registry
from ..records import Paragraph
from .context_layout import Layout, sentences_in

_FIRST = ("context", "question", "alone")  # in the digest as they are; all others only where they differ from below
_LATER = ("head", "paragraph", "between", "no_answer")


class Template:
    """The plain template: context, newline, question, and the cue after which the answer is written.

    Without a context `alone` takes the place of `question`. When a prompt is too long, the context is cut; `head` and
    the question stay whole.
    """

    name: ClassVar[str] = ""  # set by the decorator
    head: ClassVar[str] = ""  # what stands before everything: instructions
    # the space before the first word gives it the same tokens as in the middle of a text
    context: ClassVar[str] = " {context}"
    paragraph: ClassVar[str] = "{text}"  # a paragraph with a title, {title}; one without is its text alone
    between: ClassVar[str] = "\n"  # between paragraphs
    question: ClassVar[str] = "\nQ: {question}\nA:"
    alone: ClassVar[str] = "Q: {question}\nA:"
    no_answer: ClassVar[str] = ""  # what the model is asked to write where there is no answer; scored as ""

    @property
    def digest(self) -> str:
        """sha256 of the texts."""
        texts = [getattr(self, part) for part in _FIRST]
        texts += [f"{part}={own}" for part in _LATER if (own := getattr(self, part)) != getattr(Template, part)]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def laid_out(self, paragraphs: Sequence[Paragraph]) -> Layout:
        """The context in words, and where its paragraphs and sentences stand in them."""
        text, ranges, places = "", {}, {}
        for number, paragraph in enumerate(paragraphs):
            title = paragraph.title.strip()
            words, sentences = sentences_in(paragraph.sentences)
            if not words:
                continue
            before, _, after = self.paragraph.partition("{text}") if title else ("", "", "")
            before, after = before.format(title=title), after.format(title=title)
            start = len(text) + (len(self.between) if text else 0)
            text += (self.between if text else "") + before + words + after
            ranges[number] = (start, len(text))
            first = start + len(before)
            places |= {(number, n): (first + a, first + b) for n, (a, b) in enumerate(sentences) if a < b}
        return Layout(text, ranges, places)

    def context_text(self, paragraphs: Sequence[Paragraph]) -> str:
        """The context in words; "" where there is none."""
        return self.laid_out(paragraphs).text


class Instructed(Template):
    """The common form of data sets with instructions: a blank line, "Question:" and "Answer:"."""

    context = "{context}"
    question = "\n\nQuestion: {question}\nAnswer:"
    alone = "Question: {question}\nAnswer:"


class TitledTexts(Instructed):
    """The same for texts that stand under their titles, with a blank line between them."""

    paragraph = "{title}\n{text}"
    between = "\n\n"


PLAIN = Template()
TEMPLATES: Registry[Template] = Registry("prompt template", "template", __name__)
template, names, find = TEMPLATES.instance, TEMPLATES.names, TEMPLATES.get


def template_for(data_set: str) -> Template:
    """The template of a data set; the plain one where it has none."""
    return find(data_set) if data_set in names() else PLAIN
