"""Plain YAML with places: the data of a configuration file, and for each key the line on which it stands.

Promises
- Plain data only. Tags that build Python objects, anchors and aliases (a small file that means a huge one), merge keys,
  several documents, keys given twice, `${VARIABLES}`, files over 256 KiB and over 32 levels are refused, with the line.
- Values are those of YAML 1.2: `true`/`false`, `null`, numbers (`1e-3` too); `no`, `on`, `1:30` and dates are strings.
- `Dumper` quotes every string that this reader, or a YAML 1.1 reader, would take for something else.

It knows nothing about what a configuration means: that is `mplat.config`.
"""

# pyright: reportUnknownMemberType=false
# PyYAML's own types leave parameters and results out.

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, cast

import yaml

from .errors import UsageError
from .json_files import Plain

MAX_BYTES = 1 << 18
MAX_DEPTH = 32
KeyPath = tuple[str | int, ...]


@dataclass
class Source:
    """Plain data, and for each key where it was written (`file:line`, or the override)."""

    name: str
    data: dict[str, Plain]
    places: dict[KeyPath, str] = field(default_factory=dict[KeyPath, str])

    def place(self, path: KeyPath) -> str:
        """The nearest written place of `path` or of what contains it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.name


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, restricted to plain YAML 1.2 data."""


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper: quotes each string that either YAML 1.1 or `parse` would read as something else."""


_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_PREFIX = "tag:yaml.org,2002:"
_RESOLVERS = [  # in order of precedence: a whole number is not yet a float
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    ("float", re.compile(rf"(?:{_FLOAT.pattern})\Z"), list("-+.0123456789")),
]
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_PREFIX + _tag, _pattern, _first)
    Dumper.add_implicit_resolver(_PREFIX + _tag, _pattern, _first)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes can hold the rarer line breaks of Unicode: in the other styles they come back as newlines.
    style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar(_PREFIX + "str", text, style=style)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > 40:
        raise yaml.constructor.ConstructorError(None, None, "a number of more than 40 digits", node.start_mark)
    return int(node.value, 16 if node.value.startswith("0x") else 10)


Dumper.add_representer(str, _represent_text)
_Loader.add_constructor(_PREFIX + "float", _construct_float)
_Loader.add_constructor(_PREFIX + "int", _construct_int)


def read(path: Path) -> Source:
    """The mapping in the file, with the line of each key. Raises UsageError for all that is refused, with its place."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        near = _nearest(path) if isinstance(error, FileNotFoundError) else None
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"cannot read the configuration {path}: {error.strerror or error}{hint}") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{path}: {len(raw)} bytes is too large for a configuration (at most {MAX_BYTES})")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8 text (byte {error.start})") from error
    places: dict[KeyPath, str] = {}
    data = parse(text, str(path), places)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: a configuration is a mapping of keys to values, not a {kind(data)}")
    return Source(str(path), data, places)


def _nearest(path: Path) -> Path | None:
    """The configuration beside `path` that was probably meant: `a.yaml` for `a.yml`, else the nearest name."""
    if not path.parent.is_dir():
        return None
    there = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml"))
    other = next((name for name in there if Path(name).stem == path.stem), None)
    near = [other] if other else difflib.get_close_matches(path.name, there, n=1)
    return path.with_name(near[0]) if near else None


def parse(text: str, name: str, places: dict[KeyPath, str] | None = None) -> Plain:
    """The one YAML document in `text` as plain data; fills `places`, where given, with `name:line` of each path.

    Raises UsageError for all that is refused.
    """

    def at(line: int) -> str:
        return name if places is None else f"{name}:{line + 1}"

    try:
        _refuse_bombs(text, at)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        for path, key in _walk(node, (), at):
            if places is not None:
                places[path] = at(key.start_mark.line)
        return cast("Plain", loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        _raise_syntax(error, text, at)
    except yaml.YAMLError as error:  # characters that YAML does not allow; the message says where
        reason = " ".join(str(error).split())
        raise UsageError(f"{name}: not YAML: {reason}") from error


def _refuse_bombs(text: str, at: Callable[[int], str]) -> None:
    """Aliases make a small file mean a huge one, deep nesting takes hours to read; no configuration needs either."""
    depth = 0
    for event in cast("Iterator[yaml.Event]", yaml.parse(text, Loader=_Loader)):
        place = at(event.start_mark.line)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UsageError(f"{place}: nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UsageError(
                f"{place}: anchors (&) and aliases (*) are not allowed; write the value out, or quote it if it is text"
            )


def _walk(node: yaml.Node, path: KeyPath, at: Callable[[int], str]) -> Iterator[tuple[KeyPath, yaml.Node]]:
    """Every path below `node` with the node that says where it is; refuses duplicate and non-text keys."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{at(line)}: a key must be a word, not a {_node_kind(key)}")
            if key.value in seen:
                raise UsageError(f"{at(line)}: key {key.value!r} is given twice (first in line {seen[key.value] + 1})")
            if key.value == "<<":
                raise UsageError(f"{at(line)}: merge keys (<<) are not allowed; write the values out")
            seen[key.value] = line
            key.tag = _PREFIX + "str"  # `1: x` names the key "1"
            yield (*path, key.value), key
            yield from _walk(value, (*path, key.value), at)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value
            yield from _walk(value, (*path, index), at)
    elif isinstance(node, yaml.ScalarNode) and (found := re.search(r"\$\{\w+\}", node.value)):
        line = node.start_mark.line
        raise UsageError(f"{at(line)}: {found.group()} is not expanded; write the value, or give it with --set")


def _raise_syntax(error: yaml.MarkedYAMLError, text: str, at: Callable[[int], str]) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    problem = error.problem or error.context or "not YAML"
    source_line = next(iter(text.split("\n")[line : line + 1]), "")
    if "\t" in source_line[: mark.column + 1 if mark else None]:
        problem = "a tab stands where YAML needs spaces; indent with spaces"
    elif found := re.search(r"tag '([^']*)'", problem):
        problem = f"the tag {found.group(1).replace(_PREFIX, '!!')!r} is not allowed; a configuration is plain data"
    elif "expected a single document" in str(error):
        problem = "a second document (---) begins here; a configuration is one document"
    raise UsageError(f"{at(line)}: {problem}") from error


def dotted(path: KeyPath) -> str:
    """`("optim", "betas", 0)` -> `optim.betas.0`."""
    return ".".join(str(step) for step in path)


def kind(value: object) -> str:
    """What a value is called in YAML."""
    names: dict[type[object], str] = {
        dict: "mapping",
        list: "list",
        str: "text",
        bool: "truth value",
        int: "number",
        float: "number",
    }
    return names.get(type(value), "missing value")


def _node_kind(node: yaml.Node) -> str:
    return "mapping" if isinstance(node, yaml.MappingNode) else "list"
