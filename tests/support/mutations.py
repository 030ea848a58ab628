"""Files as chance or malice makes them: seeded changes to bytes, to JSON and to headers of weights; not a test file."""

from __future__ import annotations

import json
import random
from typing import Any

#: JSON texts that stand where something else was: other types, sizes that no memory holds, what is no JSON at all
HOSTILE = (
    "null", "true", "false", "0", "-1", "1", "3", "0.5", "-0.0", "1e308", "1e999", "NaN", "-Infinity", "4096", "65536",
    "1000000000000", "18446744073709551616", "1" * 39, "9" * 5000, '""', '"x"', '"../../x"', '"/dev/zero"',
    r'"\u0000"', r'"\ud800"',
    '"' + "a" * 5000 + '"', "[]", "{}", "[[]]", '[1, "a", null]', "[-1]", "[1e308]", '{"a": 1}', "[" * 90 + "]" * 90,
    "[" * 5000 + "]" * 5000, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000,
)  # fmt: skip


def mutated(data: bytes, kind: str, rng: random.Random) -> bytes:
    """`data` changed at one place or at three, never the same. kind: "json", "lines" of it, "safetensors" or another,
    of which only bytes are changed."""
    for _ in range(rng.choice((1, 1, 1, 3))):
        if kind == "bytes" or rng.random() < 0.25:
            data = _bytes(data, rng)
        elif kind == "lines":
            lines = data.split(b"\n")
            at = rng.randrange(len(lines))
            lines[at] = _json(lines[at], rng)
            data = b"\n".join(lines)
        elif kind == "safetensors":
            length = int.from_bytes(data[:8], "little")
            header = _json(data[8 : 8 + length], rng)
            data = len(header).to_bytes(8, "little") + header + data[8 + length :]
        else:
            data = _json(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    flipped = bytearray(data)
    if at < len(data):
        flipped[at] ^= 1 << rng.randrange(8)
    return rng.choice([
        bytes(flipped), bytes(flipped), data[:at], data[:at] + data[end:], data[:end] + data[at:end] + data[end:],
        data[:at] + b"\0" * 9 + data[at:], data[:at] + b"\xff\xfe" + data[at:], data + data, b"",
    ])  # fmt: skip


def _json(text: bytes, rng: random.Random) -> bytes:
    """A value replaced, a key removed, renamed or put there twice, at a random place; bytes where it is no JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _bytes(text, rng)
    places = list(_places(value))
    if not places:
        return rng.choice(HOSTILE).encode()
    holder, key = rng.choice(places)
    what = rng.choice(("replace", "replace", "replace", "replace", "remove", "twice", "rename", "whole"))
    if what == "whole":
        return rng.choice(HOSTILE).encode()
    if what == "remove":
        del holder[key]
    elif what == "rename" and isinstance(holder, dict):
        holder[rng.choice(("x", "", "a" * 999, f"{key}s", "\0"))] = holder.pop(key)
    elif what == "twice" and isinstance(holder, dict):
        holder["@twice"] = holder[key]
        return json.dumps(value).replace('"@twice"', json.dumps(key)).encode()
    else:
        holder[key] = "@hostile"
    return json.dumps(value).replace('"@hostile"', rng.choice(HOSTILE)).encode()


def _places(value: Any) -> Any:
    """Every (container, key) of a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)
