"""Errors a user can act on, each with the exit code its command ends with.

Every message says what went wrong, where, and what to do. The command line prints the message
without a traceback and ends with `exit_code`; library callers catch the class they care about.

Exit codes: 0 done; 1 finished, but over the bad-row tolerance, diverged, or a self-check failed; 2 usage or
configuration; 3 bad input data or model; 4 cluster trouble after retries; 75 stopped early, safe to
rerun; 130 interrupted with the state saved.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_LONGEST = 2000  # characters of a message: a file may hold anything where a name or a number should stand


class MplatError(Exception):
    """Base of every error that mplat raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 400]} [...] {text[-300:]}"


class ToleranceError(MplatError):
    """The run finished, but more rows are bad than allowed, a training diverged, or a self-check failed."""

    exit_code = 1


class UsageError(MplatError, ValueError):
    """A wrong argument, option, configuration key or site name."""

    exit_code = 2


class InputError(MplatError, ValueError):
    """Data or a model that cannot be used: missing, truncated, malformed, not finite."""

    exit_code = 3


class ClusterError(MplatError):
    """Ray could not be reached, or the work could not be done on it after retries."""

    exit_code = 4


class StoppedEarly(MplatError):
    """Work ended before its time; running the same command again continues it."""

    exit_code = 75


def suggest(name: str, valid: Iterable[str], *, limit: int = 12) -> str:
    """A clause for the end of an error message: the nearest valid name, then what exists.

    `suggest("mumba2", ["mamba", "mamba2"])` -> "did you mean 'mamba2'? valid: mamba, mamba2". What is spelled alike and
    means something else is no suggestion: falcon_mamba is not stable_mamba, and llama is not jamba.
    """
    names = sorted({str(v) for v in valid})
    lower = {other.lower(): other for other in reversed(names)}
    alike = difflib.get_close_matches(str(name).lower(), lower, n=5, cutoff=0.5)
    near = [lower[other] for other in alike if not _contradict(str(name), other, names)]
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"valid: {listed}"


def _contradict(a: str, b: str, names: Sequence[str]) -> bool:
    """Whether each of two names has a word that is not nearly one of the other's, nor the beginning of one; unless they
    share a word that few of `names` have, as resid_mid and resid_pre do."""

    def odd(words: list[str], others: list[str]) -> bool:
        near = [word for word in words if difflib.get_close_matches(word, others, n=1, cutoff=0.65)]
        begun = [word for word in words if any(word.startswith(o) or o.startswith(word) for o in others)]
        return bool(set(words) - {*near, *begun})

    first, second = _words(a), _words(b)
    telling = [w for w in {*first} & {*second} if sum(w in _words(name) for name in names) * 4 <= len(names)]
    return not telling and odd(first, second) and odd(second, first)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())
