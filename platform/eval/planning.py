"""From settings to a plan: the model opened, the questions read, split and tokenised, and everything wrong found early.

Nothing is computed with the model here. What can be refused is refused now, before a worker starts: unknown
names, a variant for another architecture, layers that do not exist, files that are no questions. Questions that
cannot be asked (too long, without an answer) are kept with the reason; they become rows with that status.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, UsageError, suggest
from ..datasets.prompting.asked_before import read_choice, refuse_overlap
from ..datasets.prompting.prompts import Prompt
from ..datasets.prompting.templates import Template, find, template_for
from ..datasets.records import Question
from ..models.lending import label
from ..steering import Recipe, Variant, find_variant, variant_for, variant_names
from ..steering.from_edits import load_recipe_of_edits
from ..steering.recipe import site_width
from ..steering.search import SearchPlan, plan_search, searched_sites
from ..steering.source_recipe import source_site
from .asked_spans import spans_at
from .asking import headed, mode_of, read_header, read_questions, tokenize
from .baselines import is_learned
from .choices import Choices, choices
from .conditions import Condition
from .eval_config import BASELINES, PROMPT_CONTROL, EvalConfig, all_controls
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
    search: SearchPlan | None
    rule: str | None
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
    def steers(self) -> bool:
        """Whether the model is steered, and not only asked."""
        return self.recipe is not None or self.variant.steers

    @property
    def conditions_at_most(self) -> int:
        """Under how many conditions a test question is answered at most."""
        if not self.steers:
            return 1
        return 2 + sum(self.draws_of(name) for name in self.controls)

    def draws_of(self, control: str) -> int:
        """How many draws a control has at most."""
        from ..steering.controls.shuffled_labels import REPEATS

        several = {
            PROMPT_CONTROL: 1, "high_variance": 1, "shuffled_labels": min(REPEATS, self.config.draws),
            **dict.fromkeys(BASELINES, 1),
            "other_layers": min(self.config.draws, self.model.n_layers - 1),
        }  # fmt: skip
        return several.get(control, self.config.draws)

    @cached_property
    def choices(self) -> Mapping[str, Choices]:
        """Question id -> what is scored behind its prompt; empty where likelihoods are not asked for."""
        others = [question for other in self.alternatives for question in other.questions]
        questions = (*self.development, *self.test, *self.unanswerable, *others) if self.config.likelihood else ()
        return {q.id: self._choices(q, self.prompts[q.id]) for q in questions if q.id not in self.refused}

    def _choices(self, question: Question, prompt: Prompt) -> Choices:
        assert self.model.tokenizer is not None, self.model.name
        stop, no_answer = next(iter(self.config.stop), ""), self.template_of(question).no_answer
        return choices(question, prompt, self.model.tokenizer, stop, no_answer)

    @property
    def tokens(self) -> int:
        """Tokens that are read and written at most, in the search and in all conditions."""
        room = self.config.max_new_tokens
        scored = {name: of.tokens for name, of in self.choices.items()}
        asked = self._over_conditions(
            {name: len(prompt.tokens) + room + scored.get(name, 0) for name, prompt in self.prompts.items()}
        )
        if self.rule is not None:  # a pass over the development questions for every channel that is ablated, and one
            known = sum(len(self.prompts[q.id].tokens) + room for q in self.asked_in_development)
            asked += known * (1 + (site_width(self.model, source_site(self.model)) or 0))
        searches = 1 + (self.draws_of("shuffled_labels") if "shuffled_labels" in self.controls else 0)
        return asked + (0 if self.search is None else searches * self.search.tokens)

    @property
    def answers(self) -> int:
        """Answers that are given at most, in all conditions."""
        return self._over_conditions(dict.fromkeys(self.prompts, 1))

    def _over_conditions(self, each: Mapping[str, int]) -> int:
        """The sum of a number of each question's prompt over all that is asked, in every condition."""
        seen = sum(each[q.id] for q in self.development if q.id not in self.refused) if self.search else 0
        judging = sum(each[q.id] for q in (*self.test, *self.unanswerable) if q.id not in self.refused)
        doses = sum(each[q.id] for q in self.test if q.id not in self.refused) * len(self.config.doses or ())
        others = sum(each[q.id] for of in self.alternatives for q in of.questions if q.id not in self.refused)
        return 2 * seen + judging * self.conditions_at_most + ((doses + 2 * others) if self.steers else 0)

    @property
    def asked_in_development(self) -> list[Question]:
        """The development questions that the model can be asked."""
        return [question for question in self.development if question.id not in self.refused]

    @property
    def asked_in_test(self) -> list[Question]:
        """The test questions that the model can be asked."""
        return [question for question in self.test if question.id not in self.refused]

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
        as_asked = {header: [self._as_asked(q, header) for q in order] for header in {c.header for c in conditions}}
        about = {"split": side, "model": label(self.model), "variant": self.variant.name}
        return [
            asked | about | {"condition": condition.name}
            for condition in conditions
            for asked in as_asked[condition.header]
        ]

    def _as_asked(self, question: Question, header: str) -> dict[str, Any]:
        """What an item says of its question behind `header`, under whatever condition."""
        prompt = headed(self.prompts[question.id], header, self.model)
        digests = {"prompt_digest": prompt.digest, "ids_digest": prompt.ids_digest} if header else {}
        likely: dict[str, Any] = {}
        if self.config.likelihood:
            likely = (self._choices(question, prompt) if header else self.choices[question.id]).fields()
        return (
            self._asked_fields(question)
            | digests
            | {"tokens": prompt.tokens, "n_cut_tokens": prompt.cut_tokens}
            | {"no_answer": self.template_of(question).no_answer}
            | spans_at(question, prompt)
            | likely
        )

    def shown(self) -> tuple[str, str]:
        """What `examples` gives, and why there is none: no question to show, or no room before the longest prompt."""
        header = self.examples()
        if not header:
            return "", "there are no development questions to show as examples"
        judging = [self.prompts[q.id] for q in (*self.test, *self.unanswerable) if q.id not in self.refused]
        longest = max((len(headed(prompt, header, self.model).tokens) for prompt in judging), default=0)
        if longest > (most := self.config.max_prompt_tokens):
            return "", f"with examples before it the longest prompt has {longest} tokens, the budget is {most}"
        return header, ""

    def examples(self, count: int = 2) -> str:
        """The shortest development questions with their answers, as a header that asks for the same in words; "" where
        there are none. A header of the run's own stands before the question alone, and not before each example."""
        own = read_header(self.config)
        known = [q for q in self.development if q.id not in self.refused and q.answers and not q.control]
        short = sorted(known, key=lambda q: (len(self.prompts[q.id].tokens), q.id))[:count]
        texts = [(self.prompts[q.id].text.removeprefix(own), q.answers[0]) for q in short]
        return "".join(f"{text}{'' if text[-1:].isspace() else ' '}{answer}\n\n" for text, answer in texts)

    def refused_rows(
        self, questions: Sequence[Question], side: str, conditions: Sequence[Condition]
    ) -> list[dict[str, Any]]:
        """Rows of the questions that cannot be asked, one for every condition."""
        return [
            self._asked_fields(q)
            | {"split": side, "model": label(self.model), "variant": self.variant.name}
            | condition.fields()
            | dict(zip(("status", "reason"), self.refused[q.id], strict=True))
            | {"likelihood_status": self.refused[q.id][0] if self.config.likelihood else None}
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
    if wrong := [layer for layer in steering.layers or () if not 0 <= layer < model.n_layers]:
        raise UsageError(f"layer {wrong[0]} does not exist; {model.name} has layers 0 to {model.n_layers - 1}")
    known = all_controls()
    for name in config.controls or ():
        if name not in known:
            raise UsageError(f"there is no control {name!r}; {suggest(name, known)}")
    recipe = _given(config, model)
    if config.controls is None and not (recipe is not None and is_learned(recipe)):
        known = [name for name in known if name not in BASELINES]
    controls = tuple(known if config.controls is None else config.controls) if variant.steers else ()
    if model.tokenizer is None:
        raise InputError(
            f"model {model.name} has no tokenizer, so it cannot be asked questions; name one with --tokenizer"
        )
    template = None if config.template is None else find(config.template)
    prompts, refused = tokenize(questions, model, config.max_prompt_tokens, template, read_header(config))
    answerable = [q for q in questions if not q.control]
    tuning, judging = _sides(config, variant, questions)  # all at once: controls lie where their originals do
    development, test = ([q for q in of_side if not q.control] for of_side in (tuning, judging))
    unasked, unanswerable = ([q for q in of_side if q.control] for of_side in (tuning, judging))
    usable = [q for q in development if q.id not in refused]
    chosen = choose(usable, config.development_limit, seed=config.seed)
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
    decided_on = {*((recipe.decided_on or ()) if recipe is not None else ()), *read_choice(model.name)}
    _refuse_what_was_decided_on(config, model, recipe, [*test, *_as_read(test, prompts)])
    others: tuple[Alternative, ...] = ()
    if config.robust:
        generated = config.per_level if mode_of(config) != "dataset" else None
        others = alternatives(test, development, seed=config.seed, per_level=generated, decided_on=decided_on)
        for other in others:
            under = template if other.template is None else find(other.template)
            more, refused_too = tokenize(other.questions, model, config.max_prompt_tokens, under, read_header(config))
            prompts, refused = prompts | more, refused | refused_too
    search = None
    rule = variant.name if _asks_for_the_rule(config) and recipe is None else None
    if rule is not None and variant.source is None:
        raise UsageError(f"variant {variant.name} has no published rule; leave :source out to search for a recipe")
    if recipe is None and variant.steers and rule is None:
        search = plan_search(
            model, chosen, seed=config.seed, sites=steering.sites or searched_sites(variant, model),
            layers=steering.layers or variant.layers(model.n_layers) or None,
            budget=steering.budget, parts=steering.parts, alpha=steering.alpha,
            **asked_as(config, template),
        )  # fmt: skip
    return Plan(
        config=config, model=model, variant=variant, recipe=recipe, search=search, rule=rule, controls=controls,
        mode=mode_of(config),
        development=tuple(q for q in development if q.id in chosen_ids), test=tuple(test),
        unused=(*(q for q in development if q.id not in chosen_ids), *unasked),
        unanswerable=tuple(unanswerable), prompts=prompts, refused=refused,
        price_texts=price_texts(model, test, file=config.price_texts, limit=config.price_limit),
        alternatives=others,
    )  # fmt: skip


def asked_as(config: EvalConfig, template: Template | None) -> dict[str, Any]:
    """How `steering.answered.ask` is to put the questions, so that a search sees the prompts that are judged."""
    return {
        "max_tokens": config.max_prompt_tokens, "template": template, "header": read_header(config),
        "stop": next(iter(config.stop), ""),
    }  # fmt: skip


def _asks_for_the_rule(config: EvalConfig) -> bool:
    name = config.steering.variant or ""
    if ":" in name and not name.endswith(":source"):
        raise UsageError(f"--steering {name}: what may stand behind the colon is source, the published rule")
    return name.endswith(":source")


def _given(config: EvalConfig, model: LanguageModel) -> Recipe | None:
    """The recipe that is to be judged, None where one is searched for."""
    steering = config.steering
    if steering.edits is not None:
        return load_recipe_of_edits(steering.edits, model)
    return None if steering.recipe is None else Recipe.load(steering.recipe, model)


def _as_read(questions: Sequence[Question], prompts: Mapping[str, Prompt]) -> list[Question]:
    """Those that are read as another text than they bring, as that text: vectors know what they are made of by it."""
    texts = ((q, prompts[q.id].text) for q in questions if prompts[q.id].status == "ok")
    return [dataclasses.replace(q, prompt=text) for q, text in texts if text != q.prompt]


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
    given = config.steering.model_dump(exclude={"variant"}, exclude_defaults=True)
    others = {"controls": config.controls, "doses": config.doses, "robust": config.robust}
    named = [f"steering.{name}" for name in given] + [name for name, value in others.items() if value]
    if named:
        name = named[0]
        raise UsageError(
            f"{name} has no meaning where the model is not steered; leave it out, or give a --steering other than none"
        )


def variant_and_model(config: EvalConfig, model: LanguageModel | None = None) -> tuple[Variant, LanguageModel]:
    """The steering variant and the model, each from the other where only one is named."""
    from ..models import load

    name = config.steering.variant
    variant = None if name is None else find_variant(name.partition(":")[0])
    if model is None:
        if variant is None and config.model is None:
            raise UsageError(f"say what to evaluate with --steering or --model; {suggest('', variant_names())}")
        name = config.model if config.model is not None or variant is None else variant.default_model
        if name is None:
            assert variant is not None
            kind = "any model" if variant.arch is None else f"{variant.arch} models"
            raise UsageError(f"--steering {variant.name} is for {kind} and names none; say which with --model")
        model = load(name, config.device, config.dtype, tokenizer=config.tokenizer)
    if variant is None:
        variant = variant_for(model)
    if variant.arch not in (None, model.config.arch):
        raise UsageError(
            f"variant {variant.name} steers {variant.arch} models and {model.name} is a {model.config.arch} model; "
            f"{suggest(model.config.arch, variant_names())}"
        )
    return find_variant(variant.name, model), model
