"""The questions of an evaluation: read, limited, and put into tokens, with a header before them where one is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..core.errors import InputError, UsageError
from ..datasets.prompting.prompts import Prompt, render, unusable
from ..datasets.prompting.templates import Template
from ..datasets.records import Question
from ..scoring.metrics import names as metric_names
from .eval_config import EvalConfig
from .split import choose

if TYPE_CHECKING:
    from ..models import LanguageModel


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


def tokenize(
    questions: Sequence[Question],
    model: LanguageModel,
    max_tokens: int,
    template: Template | None = None,
    header: str = "",
) -> tuple[dict[str, Prompt], dict[str, tuple[str, str]]]:
    """Question id -> prompt, and question id -> (status, reason) for those that cannot be asked or scored."""
    from ..models.decoding.text import encode_text

    assert model.tokenizer is not None, model.name
    prompts: dict[str, Prompt] = {}
    refused: dict[str, tuple[str, str]] = {}
    metrics = set(metric_names())
    one = partial(encode_text, model.tokenizer)
    for question in questions:
        prompt = headed(render(question, one, max_tokens, template), header, model)
        if len(prompt.tokens) > max_tokens:
            reason = f"with its header the prompt has {len(prompt.tokens)} tokens, the budget is {max_tokens}"
            prompt = Prompt([], "too_long", reason)
        prompts[question.id] = prompt
        reason = unusable(question, metrics)
        if prompt.status != "ok":
            refused[question.id] = (prompt.status, prompt.reason)
        elif reason:
            refused[question.id] = ("bad_input", reason)
    return prompts, refused


def read_header(config: EvalConfig) -> str:
    """The text of the header's file, "" where there is none. Raises InputError where it cannot be read or is empty."""
    if config.header is None:
        return ""
    try:
        text = config.header.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{config.header}: the header cannot be read ({error})") from error
    if not text.strip():
        raise InputError(f"{config.header}: the header is empty; leave --header out")
    return text


def headed(prompt: Prompt, header: str, model: LanguageModel) -> Prompt:
    """`prompt` with `header` before it, in the tokens of both together; places move with it."""
    from ..models.decoding.text import encode_text

    if not header or prompt.status != "ok":
        return prompt
    assert model.tokenizer is not None, model.name
    text = header + prompt.text
    encoded = encode_text(model.tokenizer, text)
    moved = tuple((first + len(header), end + len(header)) for first, end in prompt.evidence)
    return prompt._replace(tokens=list(encoded.ids), text=text, encoded=encoded, evidence=moved)
