"""From settings to a plan: the model opened, the questions read, split and tokenised, and everything wrong found early.

Nothing is computed with the model here. What can be refused is refused now, before a worker starts: unknown
names, a variant for another architecture, layers that do not exist, files that are no questions. Questions that
cannot be asked (too long, without an answer) are kept with the reason; they become rows with that status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, UsageError, suggest
from ..datasets.prompting.asked_before import read_choice, refuse_overlap
from ..datasets.prompting.prompts import Prompt, render, unusable
from ..datasets.prompting.templates import Template, find, template_for
from ..datasets.records import Question
from ..models.lending import label
from ..scoring.metrics import names as metric_names
from ..steering import (
    Recipe,
    Variant,
    control_names,
    find_operator,
    find_variant,
    variant_for,
    variant_names,
)  # fmt: skip
from .asked_spans import spans_at
from .conditions import Condition
from .eval_config import EvalConfig
from .price_texts import PriceTexts, price_texts
from .robustness import Alternative, alternatives
from .schema import question_fields
from .split import DEVELOPMENT, TEST, choose, split

if TYPE_CHECKING:
    from ..models import LanguageModel


SAME_OPENING = 32  # tokens; prompts that agree in so many have a context in common


@dataclass(frozen=True)
class Plan:
    """What an evaluation will do.

    development: the questions that choose a recipe; test: those that judge it, all where nothing is steered; unused:
    those of the development side that are not needed. unanswerable: controls of test questions, which nothing in their
    text answers; they choose and judge nothing, an answer to them is a guess. refused: question id -> why it cannot be
    asked or scored.
    price_texts: on what the price is measured. alternatives: the test questions in other forms, asked steered and
    not."""

    config: EvalConfig
    model: LanguageModel
    variant: Variant
    recipe: Recipe | None
    strengths: Mapping[str, tuple[float, ...]]
    layers: tuple[int, ...]
    channel_share: float
    controls: tuple[str, ...]
    mode: str
    development: tuple[Question, ...]
    test: tuple[Question, ...]
    unused: tuple[Question, ...]
    unanswerable: tuple[Question, ...]
    prompts: Mapping[str, Prompt]
    refused: Mapping[str, tuple[str, str]]
    price_texts: PriceTexts
    alternatives: tuple[Alternative, ...] = ()

    @property
    def grid_size(self) -> int:
        """Number of candidates."""
        return (
            0
            if self.recipe is not None or not self.steers
            else len(self.layers) * sum(map(len, self.strengths.values()))
        )

    @property
    def steers(self) -> bool:
        """Whether the model is steered, and not only asked."""
        return self.recipe is not None or self.variant.steers

    @property
    def tokens(self) -> int:
        """Tokens that are read and written at most, in all conditions."""
        room = self.config.max_new_tokens
        return self._over_conditions({name: len(prompt.tokens) + room for name, prompt in self.prompts.items()})

    @property
    def answers(self) -> int:
        """Answers that are given at most, in all conditions."""
        return self._over_conditions(dict.fromkeys(self.prompts, 1))

    def _over_conditions(self, each: Mapping[str, int]) -> int:
        """The sum of a number of each question's prompt over all that is asked, in every condition."""
        searched = sum(each[q.id] for q in self.development if q.id not in self.refused)
        judging = sum(each[q.id] for q in (*self.test, *self.unanswerable) if q.id not in self.refused)
        searches = 1 + self.grid_size if self.grid_size else 0
        if not self.steers:
            return searched * searches + judging
        doses = sum(each[q.id] for q in self.test if q.id not in self.refused) * len(self.config.doses or ())
        others = sum(each[q.id] for of in self.alternatives for q in of.questions if q.id not in self.refused)
        return searched * searches + judging * (2 + len(self.controls) * self.config.draws) + doses + 2 * others

    @property
    def asked_in_development(self) -> list[Question]:
        """The development questions that the model can be asked."""
        return [question for question in self.development if question.id not in self.refused]

    @property
    def every_question(self) -> list[Question]:
        """All that was read."""
        return [*self.development, *self.test, *self.unused, *self.unanswerable]

    def template_of(self, question: Question) -> Template:
        """The template that puts `question` into words, where it brings no prompt."""
        return find(self.config.template) if self.config.template else template_for(question.dataset)

    def _asked_fields(self, question: Question) -> dict[str, Any]:
        prompt = self.prompts[question.id]
        if prompt.status != "ok":
            return question_fields(question)
        return question_fields(question) | {
            "prompt_digest": prompt.digest, "ids_digest": prompt.ids_digest, "evidence_kept": prompt.evidence_kept,
        }  # fmt: skip

    def items(self, questions: Sequence[Question], side: str, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        """Work for the answering worker: condition by condition, the longest prompts first, so that batches are
        even. Prompts that begin alike stand together, because a batch reads a common beginning once."""
        order = [q for q in questions if q.id not in self.refused]
        opening = {q.id: tuple(self.prompts[q.id].tokens[:SAME_OPENING]) for q in order}
        longest: dict[tuple[int, ...], int] = {}
        for q in order:
            longest[opening[q.id]] = max(longest.get(opening[q.id], 0), len(self.prompts[q.id].tokens))
        order.sort(key=lambda q: (-longest[opening[q.id]], opening[q.id], -len(self.prompts[q.id].tokens), q.id))
        return [
            self._asked_fields(q)
            | {"split": side, "model": label(self.model), "variant": self.variant.name, "condition": condition.name}
            | {"tokens": self.prompts[q.id].tokens, "n_cut_tokens": self.prompts[q.id].cut_tokens}
            | {"no_answer": self.template_of(q).no_answer}
            | spans_at(q, self.prompts[q.id])
            for condition in conditions
            for q in order
        ]

    def refused_rows(
        self, questions: Sequence[Question], side: str, conditions: Sequence[Condition]
    ) -> list[dict[str, Any]]:
        """Rows of the questions that cannot be asked, one for every condition."""
        return [
            self._asked_fields(q)
            | {"split": side, "model": label(self.model), "variant": self.variant.name}
            | condition.fields()
            | dict(zip(("status", "reason"), self.refused[q.id], strict=True))
            for condition in conditions
            for q in questions
            if q.id in self.refused
        ]


def prepare(config: EvalConfig, model: LanguageModel | None = None) -> Plan:
    """Check `config` against everything it names. `model`: opened already, else it is loaded."""
    questions = read_questions(config)
    variant, model = variant_and_model(config, model)
    steering = config.steering
    if not variant.steers:
        _refuse_what_steers(config)
    layers = tuple(variant.layers(model.n_layers) if steering.layers is None else sorted(steering.layers))
    if wrong := [layer for layer in layers if not 0 <= layer < model.n_layers]:
        raise UsageError(f"layer {wrong[0]} does not exist; {model.name} has layers 0 to {model.n_layers - 1}")
    operators = list(variant.strengths) if steering.operators is None else steering.operators
    for name in operators:
        find_operator(name)
    fallback = next(iter(variant.strengths.values()), ())
    strengths = {name: tuple(steering.strengths or variant.strengths.get(name, fallback)) for name in operators}
    controls = tuple(control_names() if config.controls is None else config.controls) if variant.steers else ()
    for name in controls:
        if name not in control_names():
            raise UsageError(f"there is no control {name!r}; {suggest(name, control_names())}")
    recipe = None if steering.recipe is None else Recipe.load(steering.recipe, model)
    channel_share = steering.channel_share or variant.channel_share
    if model.tokenizer is None:
        raise InputError(
            f"model {model.name} has no tokenizer, so it cannot be asked questions; name one with --tokenizer"
        )
    template = None if config.template is None else find(config.template)
    prompts, refused = tokenize(questions, model, config.max_prompt_tokens, template)
    answerable = [q for q in questions if not q.control]
    tuning, judging = _sides(config, variant, questions)  # all at once: controls lie where their originals do
    development, test = ([q for q in of_side if not q.control] for of_side in (tuning, judging))
    unasked, unanswerable = ([q for q in of_side if q.control] for of_side in (tuning, judging))
    usable = [q for q in development if q.id not in refused]
    chosen = [] if recipe is not None else choose(usable, config.development_limit, seed=config.seed)
    chosen_ids = {q.id for q in chosen} | ({q.id for q in development} - {q.id for q in usable})
    for side, there in (
        (DEVELOPMENT, chosen or recipe or not variant.steers),
        (TEST, [q for q in test if q.id not in refused]),
    ):
        if not there:
            if not variant.steers:
                raise InputError(_all_refused(answerable, refused))
            raise InputError(
                f"none of the {len(answerable)} questions that can be asked fell on the {side} side of the split; "
                "give more questions, another --seed, a stored recipe, or ask them all with --steering none"
            )
    _refuse_what_was_decided_on(config, model, recipe, test)
    others: tuple[Alternative, ...] = ()
    if config.robust:
        generated = config.per_level if mode_of(config) != "dataset" else None
        others = alternatives(test, development, seed=config.seed, per_level=generated)
        for other in others:
            under = template if other.template is None else find(other.template)
            more, refused_too = tokenize(other.questions, model, config.max_prompt_tokens, under)
            prompts, refused = prompts | more, refused | refused_too
    return Plan(
        config=config, model=model, variant=variant, recipe=recipe, strengths=strengths, layers=layers,
        channel_share=channel_share, controls=controls, mode=mode_of(config),
        development=tuple(q for q in development if q.id in chosen_ids), test=tuple(test),
        unused=(
            *(q for q in development if q.id not in chosen_ids),
            *unasked,
        ),
        unanswerable=tuple(unanswerable),
        prompts=prompts, refused=refused,
        price_texts=price_texts(model, test, file=config.price_texts, limit=config.price_limit),
        alternatives=others,
    )  # fmt: skip


def _refuse_what_was_decided_on(
    config: EvalConfig, model: LanguageModel, recipe: Recipe | None, test: Sequence[Question]
) -> None:
    """InputError where a question is to judge what was decided on it."""
    if recipe is not None and recipe.decided_on is not None:
        advice = "evaluate with the --seed and the development share it was found with, or on other questions"
        refuse_overlap(test, recipe.decided_on, f"the recipe {config.steering.recipe}", advice)
    advice = "give others, another --seed, or the weights of the last step (export.weights: last)"
    refuse_overlap(test, read_choice(model.name), f"the choice of the weights of {model.name}", advice)


def _sides(config: EvalConfig, variant: Variant, questions: list[Question]) -> tuple[list[Question], list[Question]]:
    """(development, test); where nothing is tuned, every question judges."""
    return split(questions, seed=config.seed, share=config.development_share) if variant.steers else ([], questions)


def _all_refused(questions: Sequence[Question], refused: Mapping[str, tuple[str, str]]) -> str:
    first = next((q.id for q in questions if q.id in refused), None)
    why = "" if first is None else f"; the first, {first!r}: {refused[first][1]}"
    return f"none of the {len(questions)} questions can be asked and scored{why}"


def _refuse_what_steers(config: EvalConfig) -> None:
    """UsageError for a setting that means nothing where nothing is steered."""
    given = config.steering.model_dump(exclude={"variant"}, exclude_none=True)
    also = next((name for name in ("controls", "doses", "robust") if getattr(config, name)), None)
    if given or also:
        name = f"steering.{next(iter(given))}" if given else also
        raise UsageError(
            f"{name} has no meaning where the model is not steered; leave it out, or give a --steering other than none"
        )


def mode_of(config: EvalConfig) -> str:
    """prompts, dataset or both; UsageError where it does not fit the other settings."""
    mode = config.mode or ("prompts" if config.questions is None else "dataset")
    if mode != "prompts" and config.questions is None:
        raise UsageError(f"mode {mode} asks the rows of a file; name it with --questions FILE")
    if mode == "prompts" and config.questions is not None:
        raise UsageError("mode prompts asks generated questions and would ignore --questions; use --mode both")
    return mode


def read_questions(config: EvalConfig) -> list[Question]:
    """The questions of the mode, at most `limit` of them, and those without an answer that were made from them.

    Raises InputError for a file that holds none, or an id twice.
    """
    mode = mode_of(config)
    found: list[Question] = []
    if mode != "dataset":
        from ..datasets import facts

        found += facts.prompts(per_level=config.per_level, seed=config.seed, split="eval")
    if mode != "prompts" and config.questions is not None:
        from ..datasets.readers.own_prompts import read_questions as read_file

        found += read_file(config.questions)
    twice = [name for name, count in Counter(q.id for q in found).items() if count > 1]
    if twice:
        generated = "; the file holds generated prompts, ask them with --mode dataset" if mode == "both" else ""
        raise InputError(
            f"{len(twice)} question ids occur more than once, the first is {twice[0]!r}; ids must be unique{generated}"
        )
    if config.limit is None:
        return found
    chosen = choose([q for q in found if not q.control], config.limit, seed=config.seed, stream="limit")
    kept = {q.id for q in chosen}
    originals = {q.original for q in chosen}
    return [q for q in found if (q.original in originals if q.control else q.id in kept)]


def variant_and_model(config: EvalConfig, model: LanguageModel | None = None) -> tuple[Variant, LanguageModel]:
    """The steering variant and the model, each from the other where only one is named."""
    from ..models import load

    name = config.steering.variant
    variant = None if name is None else find_variant(name)
    if model is None:
        if variant is None and config.model is None:
            raise UsageError(f"say what to evaluate with --steering or --model; {suggest('', variant_names())}")
        name = config.model if config.model is not None or variant is None else variant.default_model
        if name is None:
            assert variant is not None
            kind = "any model" if variant.arch is None else f"{variant.arch} models"
            raise UsageError(f"--steering {variant.name} is for {kind} and names none; say which with --model")
        model = load(name, dtype=config.dtype, tokenizer=config.tokenizer)
    if variant is None:
        variant = variant_for(model)
    if variant.arch not in (None, model.config.arch):
        raise UsageError(
            f"variant {variant.name} steers {variant.arch} models and {model.name} is a {model.config.arch} model; "
            f"{suggest(model.config.arch, variant_names())}"
        )
    return find_variant(variant.name, model), model


def tokenize(
    questions: Sequence[Question], model: LanguageModel, max_tokens: int, template: Template | None = None
) -> tuple[dict[str, Prompt], dict[str, tuple[str, str]]]:
    """Question id -> prompt, and question id -> (status, reason) for those that cannot be asked or scored.
    price_texts: on what the price is measured. alternatives: the test questions in other forms, asked steered and
    not."""
    from ..models.decoding.text import encode_text

    assert model.tokenizer is not None, model.name
    prompts: dict[str, Prompt] = {}
    refused: dict[str, tuple[str, str]] = {}
    metrics = set(metric_names())
    one = partial(encode_text, model.tokenizer)
    for question in questions:
        prompt = prompts[question.id] = render(question, one, max_tokens, template)
        reason = unusable(question, metrics)
        if prompt.status != "ok":
            refused[question.id] = (prompt.status, prompt.reason)
        elif reason:
            refused[question.id] = ("bad_input", reason)
    return prompts, refused
