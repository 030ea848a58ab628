"""A question of the facts world before it is text: which facts are stated in which words, and what is asked.

Prompts are drawn as `Asked`, controls and distance sweeps change an `Asked`, and only then it becomes a `Question`. So
a change is a change of facts or of their order, and everything the record says is counted from what is really stated.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from ..records import CATEGORIES, Paragraph, Question, Support
from .relations import RELATIONS, Path, QuestionShape, Statement
from .world import Fact


class Stated(NamedTuple):
    """A fact and the shape of the sentence that states it."""

    fact: Fact
    shape: Statement

    @property
    def sentence(self) -> str:
        """The sentence, without the space before it."""
        before, between, after, subject_first = self.shape
        first, second = self.fact.subject, self.fact.object
        first, second = (first, second) if subject_first else (second, first)
        return (before + first + between + second + after).strip()


class Asked(NamedTuple):
    """A question about `head` along `path`. stated: in the order of the text. evidence: positions of the facts that
    answer it, in the order of the chain; none in a control. Entities carry their leading space."""

    id: str
    split: str
    level: int
    path: Path
    head: str
    answer: str
    shape: QuestionShape
    stated: tuple[Stated, ...]
    evidence: tuple[int, ...]
    control: str = ""
    derived_from: str = ""
    distance_target: int | None = None
    distance_tokens: int | None = None
    note: str = ""  # what was changed, for the reason

    @property
    def question(self) -> str:
        """The question in words."""
        return (self.shape.before + self.head + self.shape.after).strip()

    @property
    def text(self) -> str:
        """The prompt: the sentences, the question, and the cue after which the answer is written."""
        context = f" {' '.join(s.sentence for s in self.stated)}\n" if self.stated else ""
        return f"{context}Q: {self.question}\nA:"

    @property
    def guesses(self) -> tuple[str, ...]:
        """Every stated name of the kind that is asked for, in the order of the text, the original answer first."""
        kind = RELATIONS[self.path[-1]].object
        named = [self.answer]
        for relation, subject, target in (s.fact for s in self.stated):
            kinds = RELATIONS[relation].subject, RELATIONS[relation].object
            named += [name for name, its in zip((subject, target), kinds, strict=True) if its == kind]
        if RELATIONS[self.path[0]].subject == kind:
            named.append(self.head)
        return tuple(dict.fromkeys(name.strip() for name in named))

    def record(self, header: str = "") -> Question:
        """The question as a record; `header` is worked examples that stand before the prompt."""
        sentences = tuple(s.sentence for s in self.stated)
        words = [len(sentence.split()) for sentence in sentences]
        others = [s.fact for i, s in enumerate(self.stated) if i not in self.evidence]
        same_relation = sum(fact.relation in self.path for fact in others)
        prompt = header + self.text
        return Question(
            id=self.id,
            dataset="facts",
            split=self.split,
            question=self.question,
            context=(Paragraph("", sentences),) if sentences else (),
            answers=self.guesses if self.control else (self.answer.strip(),),
            metric="squad_v1",
            supporting_facts=tuple(Support(0, i) for i in self.evidence),
            hops=len(self.path),
            licence="MIT",
            category=CATEGORIES[self.level - 1],
            level=self.level,
            rule_set="generated",
            reason=f"{self.note}path={'>'.join(self.path)} hops={len(self.path)} facts={len(sentences)} "
            f"distractors={len(others)} same_relation={same_relation}",
            n_facts=len(sentences),
            context_words=sum(words),
            evidence_distance=tuple(sum(words[i + 1 :]) for i in self.evidence),
            prompt=prompt,
            control=self.control,
            derived_from=self.derived_from,
            distance_target=self.distance_target,
            distance_tokens=self.distance_tokens,
            prompt_digest=hashlib.sha256(prompt.encode()).hexdigest(),
            group=self.head.strip(),
        )
