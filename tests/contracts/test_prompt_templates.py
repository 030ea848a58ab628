"""What every registered prompt template promises: everything is in the prompt, and what is cut is the context."""

from __future__ import annotations

import hashlib

import pytest
from mplat.datasets.prompting import templates
from mplat.datasets.prompting.prompts import prompt_text, render
from mplat.datasets.records import Paragraph, Question

CONTEXT = (Paragraph("Mira", ("Mira lives {there}. ", "She is old.")), Paragraph("", ("Oslo is a town.",)))
ALL = templates.names()


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def question(name: str, context: tuple[Paragraph, ...] = CONTEXT) -> Question:
    return Question("q", name, "dev", "Who {lives} in Oslo?", context, ("Mira",), "squad_v1")


def text(prompt) -> str:
    return "".join(map(chr, prompt.tokens))


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_holds_everything_and_ends_with_the_cue(name):
    asked = question(name)
    words = text(render(asked, encode, 10_000))
    assert words == prompt_text(asked)
    assert words == words.rstrip() and words.count("Who {lives} in Oslo?") == 1, "the space is the answer's"
    assert "Mira lives {there}. She is old." in words and "Oslo is a town." in words
    assert words.index("Oslo is a town.") < words.index("Who {lives}")
    assert "{context}" not in words and "{title}" not in words
    alone = text(render(question(name, context=()), encode, 10_000))
    assert alone.count("Who {lives} in Oslo?") == 1 and "Oslo is a town." not in alone
    assert alone == alone.rstrip() and "{question}" not in alone + words


@pytest.mark.parametrize("name", ALL)
def test_the_context_is_cut_from_the_left_and_instructions_and_question_never(name):
    template = templates.find(name)
    whole = render(question(name), encode, 10_000)
    asked = template.question.format(question="Who {lives} in Oslo?")
    fixed = len(template.head) + len(asked)
    cut = render(question(name), encode, fixed + 7)
    assert text(cut) == template.head + text(whole)[len(template.head) : -len(asked)][-7:] + asked
    assert cut.cut_tokens == len(whole.tokens) - fixed - 7
    for prompt in (whole, cut):  # what is recorded is what is read
        assert prompt.text == text(prompt) and prompt.digest == hashlib.sha256(text(prompt).encode()).hexdigest()
    assert render(question(name), encode, fixed - 1).status == "too_long"


@pytest.mark.parametrize("name", ALL)
def test_a_template_is_named_by_the_digest_of_its_texts(name):
    template = templates.find(name)
    assert render(question(name), encode, 10_000).template == template.digest
    for part in ("head", "context", "paragraph", "between", "question", "alone", "no_answer"):
        changed = type("Changed", (type(template),), {part: getattr(template, part) + "!"})()
        assert changed.digest != template.digest, part
    assert type("Same", (type(template),), {})().digest == template.digest
