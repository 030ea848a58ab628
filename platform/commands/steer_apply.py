"""`mplat steer apply RECIPE --model M`: what a model answers, and what it answers steered, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from ..core.plain_text import Table
from .frame.command import command
from .frame.options import Device, Json
from .frame.output import Output
from .steer_show import StoredRecipe

if TYPE_CHECKING:
    from ..models import LanguageModel
    from ..steering import Recipe


@command("steer apply", order=48)
def steer_apply(
    recipe: StoredRecipe,
    model: Annotated[str, typer.Option("--model", metavar="M", help="The model that the recipe is for.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="A prompt; may be repeated. Default: the lines of standard input."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer in tokens.")
    ] = 32,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Answer prompts with the model as it is and steered, side by side."""
    from ..models import load
    from ..steering.in_words import describe
    from ..steering.stored import load_stored

    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {max_new_tokens}: an answer has at least 1 token")
    opened = load(model, device)
    if opened.tokenizer is None:
        raise UsageError(f"model {opened.name} has no tokenizer, so it cannot be given texts")
    read = load_stored(recipe, opened)
    output = Output(json=as_json)
    for line in describe(read):
        output.say(line)
    talk = prompt is None and sys.stdin.isatty() and not as_json
    answers: list[dict[str, str]] = []
    for text in prompt if prompt is not None else _lines(talk):
        plain, steered = both_answers(opened, read, text, max_new_tokens)
        answers.append({"prompt": text, "unsteered": plain, "steered": steered})
        if talk:
            output.result({}, f"unsteered: {plain}", f"steered:   {steered}")
    if not answers and not talk:
        raise UsageError("there is no prompt: give --prompt TEXT, or lines on standard input")
    if not talk:
        rows = [[_shown(answer[name]) for name in ("prompt", "unsteered", "steered")] for answer in answers]
        values = {"model": opened.name, "recipe": read.digest, "answers": answers}
        output.result(values, Table(["prompt", "unsteered", "steered"], rows))


def both_answers(model: LanguageModel, recipe: Recipe, prompt: str, max_new_tokens: int) -> tuple[str, str]:
    """The greedy answer to `prompt` of the model as it is, and steered.

    Raises InputError where it is not known which tokens of the prompt the recipe is to act on.
    """
    from ..models.decoding.generation import encode
    from ..steering import Layout

    plain = model.generate([prompt], max_new_tokens)[0]
    layout = Layout(len(encode(model, [prompt])[0]))
    with model.edit(*recipe.edits(model, [layout])):
        return plain, model.generate([prompt], max_new_tokens)[0]


def _lines(talk: bool) -> Iterator[str]:
    """Prompts from standard input, up to its end or an empty line; asked for where somebody types them."""
    while True:
        if talk:
            sys.stderr.write("prompt> ")
            sys.stderr.flush()
        line = sys.stdin.readline().rstrip("\n")
        if not line.strip():
            return
        yield line


def _shown(text: str) -> str:
    return text.replace("\n", " ").strip() or "(nothing)"
