"""The options of a command come out of its configuration: its marked fields, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from mplat.commands import build_app, main
from mplat.commands.frame import command as registry
from mplat.commands.frame.config_options import field_options, parameters, settings
from mplat.commands.frame.run import config_class
from mplat.core.config import Config, FromOption, Seed, load_config
from mplat.core.errors import UsageError
from mplat.core.option import Option
from mplat.core.typed_lists import parse_numbers
from mplat.eval import eval_config
from mplat.interp.engine import interp_config
from mplat.interp.engine.step import STEPS, StepSettings, step
from pydantic import Field
from typer.main import get_command


def _numbers(text: str, option: str) -> list[float]:
    return parse_numbers(text, low=0, high=9, option=option)


class Section(Config):
    depth: Annotated[int, Option()] = Field(1, ge=1)
    """How deep."""
    blocks: Annotated[tuple[int, ...] | None, Option(metavar="0,2-4", blocks=True)] = None
    weights: Annotated[tuple[float, ...], Option("--weight", "1,2", parse=_numbers)] = (1.0,)
    unmarked: int = 3


class Settings(Config):
    source: Annotated[Path | None, Option("SOURCE")] = None
    """What is read."""
    share: Annotated[float, Option(metavar="SHARE", shows_default=True)] = Field(0.5, le=1)
    """A part."""
    how: Annotated[Literal["one", "two"], Option(help="In this way.")] = "one"
    both: Annotated[bool, Option(off="--single")] = True
    length: Annotated[int | None, Option(sets=lambda text: {"steps": None, "length": int(text)})] = None
    steps: int | None = 7
    seed: Seed = 0
    section: Section = Section()


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`probe(words)`: exit code, what was said, and the configuration that the command got."""
    build_app()
    monkeypatch.setattr(registry.COMMANDS, "_entries", dict(registry.COMMANDS._entries))
    monkeypatch.setattr(eval_config, "Settings", Settings, raising=False)
    got: list[Settings] = []
    again: list[list[str]] = []

    @registry.command("probe", config="eval.eval_config.Settings", without=("--how", "--fresh", "--out"))
    def command(typed, twice: bool = False) -> None:
        """Probe."""
        got.append(typed.with_blocks(4))
        again.append(typed.again("probe"))

    def call(*words: str) -> tuple[int, str, Settings | None]:
        got.clear()
        code = main(["probe", *words], prog="mplat")
        result = code, "".join(capsys.readouterr()), got[0] if got else None
        if got and words != (first := tuple(again[-1][2:])):  # the words that give the same give the same
            assert call(*first)[2] == result[2]
        return result

    return call


def test_the_help_says_what_the_fields_say(probe):
    code, text, _ = probe("--help")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert code == 0
    for line in (
        "SOURCE <Path> What is read. [required]", "--share SHARE A part. [default: 0.5]", "--both / --single",
        "--depth N How deep.", "--blocks 0,2-4", "--weight 1,2", "--seed N Everything random follows from it.",
    ):  # fmt: skip
        assert line in lines, line
    assert not [word for word in ("--unmarked", "--how", "--fresh", "--out", "--steps") if word in text]


def test_what_is_typed_is_in_the_configuration(probe):
    code, _, got = probe(
        "here", "--share", "0.25", "--single", "--length", "3", "--blocks", "1-2", "--weight", "3,4", "--set",
        "section.unmarked=5",
    )  # fmt: skip
    assert code == 0
    section = Section(depth=1, blocks=(1, 2), weights=(3.0, 4.0), unmarked=5)
    assert got == Settings(source=Path("here"), share=0.25, both=False, length=3, steps=None, section=section)
    assert probe("here")[2] == Settings(source=Path("here"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--share", "2"], "error: --share 2.0: input should be less than or equal to 1\n"),
        (["a", "--depth", "0"], "error: --depth 0: input should be greater than or equal to 1\n"),
        (["a", "--weight", "10"], "error: --weight '10': 10 is out of range; allowed: 0 to 9\n"),
        (["a", "--blocks", "4"], "error: --blocks '4': there is no block 4; allowed: 0 to 3, ranges such as 0-3, or "
         "all\n"),
        (["a", "--how", "one"], "error: `mplat probe` has no option --how; valid: --actors, "),
        ([], "error: `mplat probe`: missing argument 'SOURCE'; see `mplat probe --help`\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_the_option(probe, words, said):
    code, text, _ = probe(*words)
    assert code == 2 and text.startswith(said)


def test_two_fields_cannot_have_one_option():
    class Twice(Config):
        depth: Annotated[int, Option()] = 1
        section: Section = Section()

    with pytest.raises(UsageError, match=r"--depth is the option of two settings, depth and section\.depth; give"):
        parameters(Twice)
    assert parameters(Twice, without=("--depth",))


def test_a_new_field_of_an_evaluation_shows_in_its_help(monkeypatch, capsys):
    class Steering(eval_config.SteeringSection):
        sharpness: Annotated[float, Option("--sharp", "X")] = 1.0
        """How sharply."""

    class More(eval_config.EvalConfig):
        steering: Steering = Steering()
        patience: Annotated[int, Option()] = 3
        """How long to wait."""

    monkeypatch.setattr(eval_config, "EvalConfig", More)
    assert main(["eval", "--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "--patience N How long to wait." in lines and "--sharp X How sharply." in lines


def test_a_new_setting_of_an_analysis_shows_in_the_help_of_interp(monkeypatch, capsys):
    class Sharp(StepSettings):
        sharpness: Annotated[float, Option("--sharp", "X")] = 1.0
        """How sharply."""

    STEPS.all()  # the real ones are registered
    monkeypatch.setattr(STEPS, "_entries", dict(STEPS._entries))
    interp_config.config_model.cache_clear()

    @step("sharpening", settings=Sharp)
    def sharpen(job):
        """Sharpens."""

    try:
        assert main(["interp", "--help"]) == 0
        assert "--sharp X How sharply." in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        config = load_config(interp_config.config_model(), None, [FromOption("--sharp", "sharpening.sharpness", 2.5)])
        assert config.sharpening == Sharp(sharpness=2.5)  # type: ignore[attr-defined]
    finally:
        interp_config.config_model.cache_clear()


def test_an_inherited_field_is_an_option_where_it_is_marked():
    class Base(Config):
        depth: int = 1
        """How deep."""

    class Here(Base):
        marks = {"depth": Option()}

    assert [(field.name, field.description) for field in field_options(Here)] == [("--depth", "How deep.")]
    assert not list(field_options(Base))


def test_every_option_of_every_command_is_explained_and_every_default_can_be_loaded():
    build_app()
    commands = get_command(build_app()).commands  # type: ignore[attr-defined]
    for name, entry in registry.COMMANDS.all().items():
        for parameter in commands[name].params:
            assert parameter.help, (name, parameter.name)
        if entry.config is not None:
            config = config_class(entry.config)
            assert load_config(config, None, settings(config, {})) == config()
            keys = [field.key for field in field_options(config)]
            assert len(keys) == len(set(keys)) > 0


def test_a_setting_is_called_by_the_option_that_set_it():
    typed = {"share": 0.25, "both": False, "section__weights": "1,2", "section__blocks": "0"}
    assert settings(Settings, typed) == [
        FromOption("--share", "share", 0.25),
        FromOption("--single", "both", False),
        FromOption("--weight", "section.weights", [1.0, 2.0]),
    ]
    assert settings(Settings, typed, n_layers=1)[-2] == FromOption("--blocks", "section.blocks", [0])
