"""What became of a plan: results, and the steps without one, because they failed or need one that did."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...core.errors import ClusterError, MplatError, StoppedEarly

if TYPE_CHECKING:
    from .run import StepResult

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Failure:
    """Why a step has no result. needed: the step that failed, where this one was skipped because it needs its result;
    `error` is then the error of that one."""

    step: str
    key: str
    error: Exception
    needed: str | None = None

    @property
    def status(self) -> Literal["failed", "skipped"]:
        """Whether it was tried."""
        return "failed" if self.needed is None else "skipped"

    @property
    def reason(self) -> str:
        """The error in one line: mplat's own as they are, others with their class, since they are bugs."""
        text = (str(self.error).strip().splitlines() or [""])[0]
        if isinstance(self.error, MplatError):
            return text
        return f"{type(self.error).__name__}: {text}" if text else type(self.error).__name__

    def __str__(self) -> str:
        if self.needed is None:
            return f"{self.step} failed: {self.reason}"
        return f"{self.step} is skipped, since {self.needed}, which it needs, failed"

    def values(self, again: str | None = None) -> dict[str, Any]:
        """As plain JSON; again: the command that runs the step."""
        return {
            "step": self.step,
            "key": self.key,
            "status": self.status,
            "needed": self.needed,
            "error": {"type": type(self.error).__name__, "message": self.reason},
            "again": again,
        }


@dataclass(frozen=True)
class Carried:
    """What a plan gave, by step in the order of the plan."""

    results: Mapping[str, StepResult]
    failures: Mapping[str, Failure]

    def whole(self) -> dict[str, StepResult]:
        """The results; raises the error of the first step that failed, where one did, with the others as its notes."""
        failed = list(self.failures.values())
        if failed:
            error = failed[0].error
            for other in failed:
                error.add_note(str(other))
            raise error
        return dict(self.results)


def stops_everything(error: Exception) -> bool:
    """Whether an error is no fault of one step: the next one would meet it too, or somebody asked to stop."""
    full = isinstance(error, OSError) and error.errno in _FULL_DISK
    return full or isinstance(error, ClusterError | StoppedEarly)


def forget_values(error: Exception) -> None:
    """Let go of what the functions held in which the error arose, tensors of a step perhaps: other steps are run while
    the error is kept. Its traceback still names their lines."""
    one: BaseException | None = error
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__
