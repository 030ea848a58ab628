"""A configuration is plain data, every mistake names its place, and what is written is read back equal."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mplat.core.config import Config, dump_config, load_config
from mplat.core.errors import UsageError
from mplat.eval.eval_config import EvalConfig
from pydantic import field_validator


class Optim(Config):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Part(Config):
    name: str
    weight: float = 1.0


class Example(Config):
    seed: int = 0
    title: str = "run"
    out: Path | None = None
    on: bool = True
    optim: Optim = Optim()
    parts: list[Part] = []
    table: dict[str, Any] = {}

    @field_validator("seed")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("a seed is not negative")
        return value


def _load(tmp_path: Path, text: str | bytes, *overrides: str) -> Example:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(Example, path, list(overrides))


def _message(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_without_a_file_everything_has_its_default():
    assert load_config(Example, None, []) == Example()


def test_an_empty_file_changes_nothing(tmp_path):
    assert _load(tmp_path, "") == _load(tmp_path, "# only a comment\n") == Example()


def test_values_are_those_of_yaml_1_2(tmp_path):
    text = "table: {a: no, b: on, c: 1:30, d: 2024-01-31, e: 010, f: 1e-3, g: true, h: null, i: 0x1f, j: -7, k: .5}"
    assert _load(tmp_path, text).table == {
        "a": "no",
        "b": "on",
        "c": "1:30",
        "d": "2024-01-31",
        "e": 10,
        "f": 0.001,
        "g": True,
        "h": None,
        "i": 31,
        "j": -7,
        "k": 0.5,
    }


def test_overrides_win_over_the_file_and_a_key_is_given_once(tmp_path):
    with pytest.raises(UsageError, match="^--set seed=3: the key 'seed' is given twice; give it once$"):
        _load(tmp_path, "seed: 1\n", "seed=2", "seed=3")
    config = _load(tmp_path, "seed: 1\noptim: {learning_rate: 1}\n", "seed=3", "optim.betas=[0.5, 0.6]")
    assert (config.seed, config.optim) == (3, Optim(learning_rate=1, betas=(0.5, 0.6)))


def test_overrides_make_mappings_and_reach_into_lists(tmp_path):
    config = _load(tmp_path, "parts: [{name: a}, {name: b}]", "parts.1.weight=2", "table.x.y=1", "title=two words")
    assert config.parts == [Part(name="a"), Part(name="b", weight=2.0)]
    assert (config.table, config.title) == ({"x": {"y": 1}}, "two words")


def test_the_result_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Example().seed = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\noptim:\n  leraning_rate: 1\n", "c.yaml:3: unknown key 'leraning_rate' in 'optim'; did you mean "
         "'learning_rate'? valid: betas, learning_rate"),
        ("parts:\n- name: a\n- name: b\n  wieght: 1\n", "c.yaml:4: unknown key 'wieght' in 'parts.1'; did you mean "
         "'weight'? valid: name, weight"),
        ("sed: 1", "c.yaml:1: unknown key 'sed'; did you mean 'seed'? valid: on, optim, out, parts, seed, "
         "table, title"),
        ("seed: 1\n\nseed: 2\n", "c.yaml:3: key 'seed' is given twice (first in line 1)"),
        ("optim: {betas: [1, 2], betas: [3, 4]}", "c.yaml:1: key 'betas' is given twice (first in line 1)"),
        ("table: {1: a, '1': b}", "c.yaml:1: key '1' is given twice (first in line 1)"),
        ("seed: 1\ntitle: !!python/object/apply:os.system ['true']\n", "c.yaml:2: the tag "
         "'!!python/object/apply:os.system' is not allowed; a configuration is plain data"),
        ("title: !function f", "c.yaml:1: the tag '!function' is not allowed; a configuration is plain data"),
        ("a: &x [1]\nb: [*x, *x]\n", "c.yaml:1: anchors (&) and aliases (*) are not allowed; write the value out, or "
         "quote it if it is text"),
        ("table: {<<: {a: 1}}", "c.yaml:1: merge keys (<<) are not allowed; write the values out"),
        ("optim:\n\tlearning_rate: 1\n", "c.yaml:2: a tab stands where YAML needs spaces; indent with spaces"),
        ("seed: 1\ntitle: ${HOME}/x\n", "c.yaml:2: ${HOME} is not expanded; write the value, or give it with --set"),
        ("seed: 1\n---\nseed: 2\n", "c.yaml:2: a second document (---) begins here; a configuration is one document"),
        ("- 1\n- 2\n", "c.yaml:1: a configuration is a mapping of keys to values, not a list"),
        ("{[1]: 2}", "c.yaml:1: a key must be a word, not a list"),
        ("seed: abc", 'c.yaml:1: seed="abc": input should be a valid integer'),
        ("seed: '3'", 'c.yaml:1: seed="3": input should be a valid integer'),
        ("seed: true", "c.yaml:1: seed=true: input should be a valid integer"),
        ("title: 3", "c.yaml:1: title=3: input should be a valid string"),
        ("on: 1", "c.yaml:1: on=1: input should be a valid boolean"),
        ("parts: 3", "c.yaml:1: parts=3: input should be a list"),
        ("seed: 1\noptim: 3\n", "c.yaml:2: optim=3: input should be a mapping"),
        ("parts:\n- weight: 1\n", "c.yaml:2: the key 'parts.0.name' is missing; it has no default"),
        ("seed: -1", "c.yaml:1: seed=-1: a seed is not negative"),
        ("optim:\n  learning_rate: .nan\n", "c.yaml:2: 'optim.learning_rate' must be a finite number, not nan"),
        ("table: {a: [1, -.inf]}", "c.yaml:1: 'table.a.1' must be a finite number, not -inf"),
        ("seed: " + "9" * 60, "c.yaml:1: a number of more than 40 digits"),
        ("seed: [1", "c.yaml:1: expected ',' or ']', but got '<stream end>'"),
        (b"seed: 1\ntitle: \xff\n", "c.yaml:2: not UTF-8 text (byte 15)"),
    ],
)  # fmt: skip
def test_i11_a_mistake_in_the_file_is_one_sentence_with_its_line(tmp_path, text, message):
    assert _message(tmp_path, text) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "write KEY=VALUE, with dots between nested keys, such as optim.learning_rate=0.001"),
        ("=1", "write KEY=VALUE, with dots between nested keys, such as optim.learning_rate=0.001"),
        ("optim..betas=1", "write KEY=VALUE, with dots between nested keys, such as optim.learning_rate=0.001"),
        ("optim.learnin_rate=1", "unknown key 'learnin_rate' in 'optim'; did you mean 'learning_rate'? valid: betas, "
         "learning_rate"),
        ("seed.x=1", "'seed' is a number, it has no key 'x'"),
        ("parts.1.name=x", "'parts' is a list of 1 items, so '1' must be the number of one of them, from 0"),
        ("optim.learning_rate=inf", 'optim.learning_rate="inf": input should be a valid number'),
        ("optim.learning_rate=.inf", "'optim.learning_rate' must be a finite number, not inf"),
        ("title=!!python/name:os.system", "the tag '!!python/name:os.system' is not allowed; a configuration is "
         "plain data"),
        ("title=*x", "anchors (&) and aliases (*) are not allowed; write the value out, or quote it if it is text"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_override_names_the_override(tmp_path, override, message):
    assert _message(tmp_path, "seed: 1\nparts: [{name: a}]", override) == f"--set {override}: {message}"


def test_several_mistakes_are_told_at_once(tmp_path):
    assert _message(tmp_path, "seed: a\ntitle: 1\n").splitlines() == [
        'c.yaml:1: seed="a": input should be a valid integer',
        "c.yaml:2: title=1: input should be a valid string",
    ]


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the configuration .*absent\.yaml: No such file"):
        load_config(Example, tmp_path / "absent.yaml", [])
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(Example, tmp_path, [])


def test_a_file_too_large_or_too_deep_is_refused(tmp_path):
    assert "is too large for a configuration" in _message(tmp_path, "#" * (1 << 18) + "\nseed: 1")
    assert "nested more than 32 levels" in _message(tmp_path, "table: " + "[" * 5000 + "]" * 5000)
    assert "nested more than 32 levels" in _message(tmp_path, "table: " + "{a: " * 5000 + "}" * 5000)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda t: "${" not in t)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_word = st.text(string.ascii_letters, min_size=1)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | _finite | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_word, inner, max_size=3),
    max_leaves=8,
)


@given(table=st.dictionaries(_text, _plain, max_size=4), title=_text, rate=st.floats(1e-300, 1e300))
def test_what_is_dumped_loads_back_equal(tmp_path_factory, table, title, rate):
    config = Example(table=table, title=title, optim=Optim(learning_rate=rate))
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(Example, path, []) == config


@given(st.from_regex(r"[-+]?[0-9]{1,6}(\.[0-9]{0,6})?([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_numbers_are_read_as_python_reads_them(text):
    value = load_config(Example, None, [f"table.x={text}"]).table["x"]
    expected_whole = text.lstrip("+-").isdecimal() and (text.lstrip("+-") == "0" or text.lstrip("+-")[0] != "0")
    assert math.isclose(value, float(text), rel_tol=1e-15)
    assert isinstance(value, int) == expected_whole


@given(_text)
def test_any_text_is_a_value_or_a_usage_error(text):
    try:
        load_config(Example, None, [f"title={text}"])
    except UsageError as error:
        assert str(error).startswith("--set title=")


@given(_text)
def test_a_quoted_text_is_that_text(text):
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=False, width=10**6).strip()
    assert load_config(Example, None, [f"title={quoted}"]).title == text


def test_the_shipped_settings_of_an_evaluation_are_all_there_are_at_their_defaults(root):
    path = root / "configs" / "eval" / "default.yaml"
    assert load_config(EvalConfig, path, []) == EvalConfig.model_validate({"steering": {"variant": "mamba2"}})
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(written) == set(EvalConfig.model_fields)
    assert set(written["steering"]) == set(EvalConfig().steering.__class__.model_fields)
