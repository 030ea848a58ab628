"""What the values of a model's configuration may be: one rule per field, kept before anything is computed from them.

Promises: a value that breaks its rule is refused with one sentence that names the key, what it should be and what it
is; sizes have an upper limit far above those of published models, so that a slip of the keyboard allocates nothing.
Nothing is converted, with two exceptions that lose nothing: a whole number may stand where a real one is wanted (1 for
1.0, but not 2.0 for 2), and infinity, where a rule admits it, may be written as a number or, as transformers does, as
{"__float__": "Infinity"}. true is no number, "2" is no number, "false" is no flag, and null is a value only where a
rule says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.errors import InputError, UsageError


class Rule(NamedTuple):
    """words: what a value should be, for a sentence. accept: the value as it is to be used; ValueError if it is wrong.
    null: whether there may be none."""

    words: str
    accept: Callable[[Any], Any]
    null: bool = False


def whole(low: int, high: int, *, null: bool = False, word: str | None = None) -> Rule:
    """A whole number from low to high, or `word`."""

    def accept(value: Any) -> int | str:
        if word is not None and value == word and isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Rule(f"a whole number from {low} to {high}" + (f" or {json.dumps(word)}" if word else ""), accept, null)


def real(low: float, high: float, *, above: bool = False, null: bool = False) -> Rule:
    """A finite number from low to high; above: more than low."""

    def accept(value: Any) -> float:
        value = _number(value)
        if not low <= value <= high or (above and value == low) or math.isinf(value):
            raise ValueError
        return value

    where = "a finite number" if math.isinf(high) else f"a number {'above' if above else 'from'} {low:g} to {high:g}"
    return Rule(where.replace("above 0 to", "above 0 and up to"), accept, null)


def reals(count: int, *, null: bool = False) -> Rule:
    """A list of so many finite numbers."""

    def accept(value: Any) -> tuple[float, ...]:
        found = tuple(map(_number, _listed(value)))
        if len(found) != count or not all(map(math.isfinite, found)):
            raise ValueError
        return found

    return Rule(f"a list of {count} finite numbers", accept, null)


def _span(value: Any) -> tuple[float, float]:
    found = tuple(map(_number, _listed(value)))
    if len(found) != 2 or not 0 <= found[0] <= found[1] or math.isinf(found[0]):
        raise ValueError
    return found


def _number(value: Any) -> float:
    if isinstance(value, Mapping) and value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity"):
        return float(value["__float__"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if isinstance(value, int) and abs(value) > 2**53:  # not every number beyond is a float, and some are too large
        raise ValueError
    return float(value)


def _of(*kinds: type) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise ValueError
        return value

    return accept


_listed: Callable[[Any], Sequence[Any]] = _of(list, tuple)


def listed(rule: Rule, *, null: bool = False) -> Rule:
    """A list, not empty, of values that keep `rule`."""

    def accept(value: Any) -> tuple[Any, ...]:
        if not _listed(value):
            raise ValueError
        return tuple(map(rule.accept, value))

    return Rule(f"a list, not empty, each of it {rule.words}", accept, null)


def either(one: Rule, other: Rule) -> Rule:
    """What keeps one rule or the other."""

    def accept(value: Any) -> Any:
        try:
            return one.accept(value)
        except ValueError:
            return other.accept(value)

    return Rule(f"{one.words} or {other.words}", accept, one.null or other.null)


FLAG = Rule("true or false", _of(bool))
TEXT = Rule("a text", _of(str))
#: a range of Delta; the upper end may be infinite
SPAN = Rule("a list of two numbers, 0 <= low <= high, of which the second may be infinite", _span)
#: of layers, experts, groups, ...
COUNT = whole(1, 4096)
#: of activations
WIDTH = whole(1, 65_536)
VOCABULARY = whole(1, 2**23)
TOKEN = whole(0, 2**23, null=True)
TOKENS = either(TOKEN, listed(whole(0, 2**23)))
EPSILON = real(0, 1)
STEP = real(0, 1000, above=True)
#: of the recurrent branch
INNER = whole(1, 2**23)
_OPTION = whole(0, 2**20)
_REAL = real(-math.inf, math.inf)

#: the fields of `ModelConfig`
FIELDS: Mapping[str, Rule] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "n_layers": COUNT,
    "state_size": WIDTH,
    "expand": real(0, 1024, above=True),
    "conv_kernel": COUNT,
    "dt_rank": whole(1, 65_536, word="auto"),
    "head_dim": WIDTH,
    "n_groups": WIDTH,
    "chunk_size": whole(1, 2**20),
    "norm_eps": EPSILON,
    "use_bias": FLAG,
    "use_conv_bias": FLAG,
    "residual_in_fp32": FLAG,
    "tie_embeddings": FLAG,
    "dt_min": STEP,
    "dt_max": STEP,
    "dt_floor": real(0, 1000),
    "dt_limit": SPAN,
    "bos_token_id": TOKEN,
    "eos_token_id": TOKENS,
    "pad_token_id": TOKEN,
}


def accepted(rule: Rule, key: str, value: Any, source: str, error: type[UsageError | InputError] = InputError) -> Any:
    """`value` as it is to be used. Raises `error`, naming `source` and `key`, where it breaks its rule."""
    if value is None and rule.null:
        return None
    try:
        return rule.accept(value)
    except ValueError:
        words = rule.words + (", or null" if rule.null else "")
        raise error(f"{source}: {key} must be {words}, not {shown(value)}") from None


def read_fields(
    content: Mapping[str, Any],
    names: Mapping[str, str],
    source: str,
    prefix: str = "",
    rules: Mapping[str, Rule] = FIELDS,
) -> dict[str, Any]:
    """Our field -> its value, for those of `names` (our field -> key of the file) that `content` has.

    Raises InputError for a value that breaks the field's rule, naming `source`, `prefix` and the key."""
    return {
        ours: accepted(rules[ours], prefix + theirs, content[theirs], source)
        for ours, theirs in names.items()
        if theirs in content
    }


def require_fixed(
    content: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], source: str, prefix: str = ""
) -> None:
    """Raise InputError for a key of `fixed` that `content` has with another value than those given there: keys that
    would change the function in a way that is not computed here. 1 is not true."""
    for key, valid in fixed.items():
        if key in content and not any(type(content[key]) is type(v) and content[key] == v for v in valid):
            raise InputError(f"{source}: {prefix}{key} {content[key]!r} is not supported; only {valid[-1]!r} is")


def read_options(
    options_class: type, content: Mapping[str, Any], source: str, error: type[UsageError | InputError] = InputError
) -> dict[str, Any]:
    """The values of an architecture's own options that `content` has; lists become tuples, so that configurations can
    be compared. Raises `error` for a value of another type than the option has."""
    kinds = typing.get_type_hints(options_class)
    found: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(options_class) if f.name in content):
        value, rule = content[name], rule_of(kinds[name])
        if rule is None:  # a kind of value that only its class knows how to check
            found[name] = tuple(value) if isinstance(value, list) else value
        else:
            found[name] = accepted(rule, name, value, source, error)
    return found


def rule_of(annotation: Any) -> Rule | None:
    """The rule that a type says: of an architecture's own options, which check their ranges themselves."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        found = rule_of(inner[0]) if len(inner) == 1 else None
        return found and found._replace(null=len(inner) < len(typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        kinds = typing.get_args(annotation)
        if kinds[-1] is not Ellipsis:
            return reals(len(kinds)) if set(kinds) == {float} else None
        inside = rule_of(kinds[0])
        return inside and Rule(f"a list, each of it {inside.words}", lambda v: tuple(map(inside.accept, _listed(v))))
    if typing.get_origin(annotation) is typing.Literal:
        return _one_of(typing.get_args(annotation))
    return {bool: FLAG, int: _OPTION, float: _REAL, str: TEXT}.get(annotation)


def _one_of(values: tuple[Any, ...]) -> Rule:
    def accept(value: Any) -> Any:
        if not any(type(value) is type(v) and value == v for v in values):
            raise ValueError
        return value

    return Rule("one of " + ", ".join(map(shown, values)), accept)


def shown(value: Any) -> str:
    """A value as a file would say it, in at most 60 characters."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
