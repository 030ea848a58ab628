"""Where the paragraphs and sentences of a context stand in a prompt, and what of them is given up first.

Pure functions of texts and characters; tokens are counted elsewhere (`truncation`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

Span = tuple[int, int]  # start and stop, in characters of the prompt
Place = tuple[int, int]  # paragraph and sentence, as a question's supporting facts name them


class Layout(NamedTuple):
    """A text with the places of what it tells. paragraphs: number -> characters, title included, in their order; empty
    ones are left out. sentences: (paragraph, number) -> characters."""

    text: str
    paragraphs: Mapping[int, Span]
    sentences: Mapping[Place, Span]

    def inside(self, before: str, after: str) -> Layout:
        """The same with a text before and one after it."""
        n = len(before)
        return Layout(
            before + self.text + after,
            {number: (a + n, b + n) for number, (a, b) in self.paragraphs.items()},
            {place: (a + n, b + n) for place, (a, b) in self.sentences.items()},
        )

    def stripped(self) -> Layout:
        """The same without white space around it."""
        text = self.text.strip()
        lead, n = len(self.text) - len(self.text.lstrip()), len(text)

        def moved(span: Span) -> Span:
            return min(max(span[0] - lead, 0), n), min(max(span[1] - lead, 0), n)

        return Layout(
            text,
            {number: moved(span) for number, span in self.paragraphs.items()},
            {place: moved(span) for place, span in self.sentences.items()},
        )


def sentences_in(sentences: Sequence[str]) -> tuple[str, list[Span]]:
    """The sentences of a paragraph with single spaces between them, and where each stands."""
    text, spans = "", []
    for number, sentence in enumerate(sentences):
        words = sentence.strip()
        text += (" " if number else "") + words
        spans.append((len(text) - len(words), len(text)))
    lead = len(text) - len(text.lstrip())
    text = text.strip()
    return text, [(min(max(a - lead, 0), len(text)), min(max(b - lead, 0), len(text))) for a, b in spans]


def cut_order(layout: Layout, context: Span, evidence: Collection[Place]) -> list[Span]:
    """What a prompt that is too long loses, in order; together everything of `context`, nothing twice.

    Paragraphs without evidence go first, then sentences without evidence, then the rest; each of them from left to
    right, so that of what is alike the nearest to the question stays. Where no evidence is known, that is the context
    from the left. The space between two pieces goes with the one that is lost.
    """
    order: list[Span] = []
    holding = sorted({paragraph for paragraph, _ in evidence})
    if holding:
        order += _around([*layout.paragraphs.items()], holding, space_first=False)
    for paragraph in holding:
        inside = [(place, span) for place, span in layout.sentences.items() if place[0] == paragraph]
        order += _around(inside, [place for place in evidence if place[0] == paragraph], space_first=True)
    position = context[0]
    for start, stop in [*sorted(order), (context[1], context[1])]:
        if position < start:
            order.append((position, start))
        position = max(position, stop)
    return order


def _around(pieces: Sequence[tuple[object, Span]], kept: Collection[object], *, space_first: bool) -> list[Span]:
    """The pieces but for those of `kept`, each with the space that parts it from the first kept one.

    space_first: behind that one, the space before a piece goes with its first character (words begin with their space),
    otherwise when all of the piece is gone (a line stays a line).
    """
    first = next(n for n, (name, _) in enumerate(pieces) if name in kept)
    spans: list[Span] = []
    for n, (name, (start, stop)) in enumerate(pieces):
        if name in kept:
            continue
        if n < first:
            spans.append((start, pieces[n + 1][1][0]))
        elif space_first:
            spans.append((pieces[n - 1][1][1], stop))
        else:
            spans += [(start, stop), (pieces[n - 1][1][1], start)]
    return [span for span in spans if span[0] < span[1]]


def without(text: str, dropped: Sequence[Span]) -> str:
    """The text but for the dropped spans, which do not overlap."""
    kept, position = [], 0
    for start, stop in sorted(dropped):
        kept.append(text[position:start])
        position = stop
    return "".join([*kept, text[position:]])


def moved_by(span: Span, dropped: Sequence[Span]) -> Span | None:
    """Where `span` stands in the text without the dropped ones; None where a part of it is dropped."""
    if any(start < span[1] and stop > span[0] for start, stop in dropped):
        return None
    before = sum(stop - start for start, stop in dropped if stop <= span[0])
    return span[0] - before, span[1] - before
