"""A group of workers under Ray Train: `TorchTrainer` starts them, sets up torch.distributed, replaces what is lost.

The trainer runs in a task. Workers tell an actor what they have to say; it holds the wish to stop, and this process
asks it for news. Ending the task ends everything, because Ray ends what a dead process owns; so an error of one worker
that starting again could not mend does not wait until Ray Train has tried.

What a worker raises is told to this process, except RuntimeError: what torch raises where another worker is gone is
one, and Ray Train starts all of them again.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..core.errors import ClusterError, StoppedEarly
from .installation import difference, installation
from .pool import Failed, error_from
from .stop import StopRequest
from .threads import ThreadLimit
from .worker_group import GroupSize

_POLL_S = 0.2
_STOPPED = ("StoppedEarly", "KeyboardInterrupt")
_STARTS = 40  # failures to place or start all workers, of half a minute each, before the run is given up
_SETTINGS = {  # of Ray Train, unless the environment says otherwise
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a lost worker is noticed
    # How long a place for all workers is waited for. After the death of a node Ray counts it in once more, so this is
    # also how long a run with a range of workers stands before it goes on with less.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean what they mean where the command was typed
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class _Mailbox:
    """The actor between this process and the workers. It does one thing at a time, so messages keep their order."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._signal = 0

    def tell(self, message: dict[str, Any]) -> None:
        self._told.append(message)

    def news(self) -> list[dict[str, Any]]:
        """What was told since the last call."""
        told, self._told = self._told, []
        return told

    def ask_to_stop(self, number: int) -> None:
        self._signal = number

    def asked(self) -> int:
        return self._signal


def _fit(function: str, arguments: dict[str, Any], size: GroupSize, where: dict[str, Any], mailbox: Any) -> str:
    """Train; why Ray Train gave up, empty where it did not."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    resources = {"CPU": size.threads} | ({"GPU": size.gpus} if size.gpus else {})
    trainer = TorchTrainer(
        lambda: work(function, arguments, size.threads, where, mailbox),
        scaling_config=ScalingConfig(
            num_workers=size.most if size.fewest == size.most else (size.fewest, size.most),
            use_gpu=size.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=where["scratch"],
            failure_config=FailureConfig(max_failures=size.max_failures, controller_failure_limit=_STARTS),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return str(error)
    return ""


class RayPlace:
    """See `worker_group.Place`."""

    def __init__(self, mailbox: Any) -> None:
        self.node = socket.gethostname()
        self._mailbox = mailbox
        self._question = mailbox.asked.remote()
        self._answer = 0
        self._last = self._question

    def tell(self, message: Mapping[str, Any]) -> None:
        self._last = self._mailbox.tell.remote(dict(message))

    def finish(self) -> None:
        """On return everything that was told is known."""
        ray.get(self._last)

    def asked_to_stop(self) -> int:
        if not self._answer and ray.wait([self._question], timeout=0)[0]:
            self._answer = int(ray.get(self._question))
            self._question = self._mailbox.asked.remote()
        return self._answer

    def fail(self, error: BaseException) -> None:
        """Tell what was raised; on return it is known."""
        failure: dict[str, Any] = {
            "kind": type(error).__name__,
            "message": str(error),
            "trace": traceback.format_exc(),
            "node": self.node,
            "resume": getattr(error, "resume_command", None),
        }
        if isinstance(error, OSError) and error.errno:
            failure |= {"errno": error.errno, "file": str(error.filename or "")}
        ray.get(self._mailbox.tell.remote({"failed": failure}))


def work(function: str, arguments: dict[str, Any], threads: int, where: dict[str, Any], mailbox: Any) -> None:
    """What each worker does."""
    place = RayPlace(mailbox)
    try:
        if (other := difference(installation(), where["installation"])) is not None:
            raise ClusterError(other)  # `fail` names the node
        os.environ["NUMBA_NUM_THREADS"] = str(threads)  # this process is ours alone and numba is not loaded yet
        ThreadLimit(threads)
        if os.path.isdir(where["folder"]):
            os.chdir(where["folder"])
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(**arguments, place=place)
        place.finish()
    except RuntimeError:  # another worker may be the reason
        raise
    except (Exception, KeyboardInterrupt) as error:
        place.fail(error)


def run_group(
    function: str,
    arguments: dict[str, Any],
    size: GroupSize,
    *,
    scratch: str,
    hear: Callable[[Mapping[str, Any]], None],
    stop: StopRequest,
) -> None:
    """See `worker_group.run_together`."""
    where = {"scratch": scratch, "folder": os.getcwd(), "installation": installation()}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: Any = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()
    trainer = ray.remote(_fit).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    fit = trainer.remote(function, arguments, size, where, mailbox)
    begun = asked = False
    try:
        while True:
            done, _ = ray.wait([fit], timeout=_POLL_S)
            for message in ray.get(mailbox.news.remote()):
                if "failed" in message:
                    raise _error(message["failed"], stop)
                begun = True
                hear(message)
            if stop and not begun:  # there may be nobody yet who could hear of it
                raise stop.error("stopped before the workers began")
            if stop and not asked:
                asked = True
                mailbox.ask_to_stop.remote(int(stop.signal or signal.SIGTERM))
            if done:
                break
        if gave_up := ray.get(fit):
            raise ClusterError(
                f"workers were lost more often than --max-failures {size.max_failures} allows, the last time with: "
                f"{_last_line(gave_up)}; run the same command again to continue from the last checkpoint"
            )
    except SystemError as error:  # what Ray makes of the error that a second signal raises inside it
        if isinstance(error.__cause__, KeyboardInterrupt | StoppedEarly):
            raise error.__cause__ from None
        raise
    except ray_errors.RayError as error:
        raise ClusterError(
            f"Ray is in trouble: {type(error).__name__}; run the same command again to continue from the last "
            "checkpoint"
        ) from error
    finally:
        ray.cancel(fit, force=True)
        ray.kill(mailbox, no_restart=True)


def _error(failure: dict[str, Any], stop: StopRequest) -> BaseException:
    """What a worker raised, as it would have been raised here."""
    if failure["kind"] in _STOPPED and stop:
        return stop.error(failure["message"], failure["resume"])
    if failure["kind"] == "StoppedEarly":
        return StoppedEarly(failure["message"])
    if "errno" in failure:
        return OSError(failure["errno"], os.strerror(failure["errno"]), f"node {failure['node']}: {failure['file']}")
    where = f"worker on node {failure['node']}"
    own = error_from(Failed(-1, failure["kind"], failure["message"], failure["trace"]), where=where)
    return type(own)(f"{where}: {own}") if failure["message"] == str(own) else own


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
