"""Connecting this process to Ray and leaving no trace of it: a private local Ray, or a cluster that is there.

One setting, RAY_AUTH_MODE, must be the same in all processes of a cluster, and Ray changes its default by version and
by whether a token lies in the home folder. Here it is decided once, exported before Ray looks at it, and restored on
`close`. A private Ray gets a token of its own, so that nobody else on the network can use it and nothing is written
to the home folder; nothing of it listens to the network.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from ..core.errors import ClusterError, UsageError
from .preflight import Preflight
from .private_folder import PrivateFolder

OBJECT_STORE_BYTES = 256 << 20  # Ray would take 30 % of the memory
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: this node's address is 127.0.0.1, and nothing listens elsewhere
_IMPORTED = "Ray is imported"  # which takes a busy machine longer than connecting does, and says nothing of the address
_PROBE = (
    f"import sys, ray; print({_IMPORTED!r}, file=sys.stderr, flush=True); "
    "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
)
_REFUSED = ("InvalidAuthToken", "Unauthenticated")  # Ray repeats these for a minute before it gives up


class RayConnection:
    """Ray is connected in this process until `close`."""

    def __init__(self, on_close: Callable[[], None], preflight: Preflight | None = None) -> None:
        from .idle_actors import IDLE

        self._on_close: Callable[[], None] | None = on_close
        self.preflight = preflight
        self.idle = IDLE

    def nodes(self) -> list[Mapping[str, float]]:
        """The resources of every living node."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def close(self) -> None:
        """Disconnect, end a private Ray, restore the environment. A second call does nothing."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            self.idle.end()
            if self.preflight is not None:
                self.preflight.close()
            on_close()


def start_local(auth: str | None) -> RayConnection:
    """A private Ray on this machine, without dashboard."""
    _refuse_if_connected()
    mode = auth or os.environ.get("RAY_AUTH_MODE") or "token"
    variables = {"RAY_AUTH_MODE": mode, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", _CLUSTERS: "0"}
    if mode == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        variables["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    folder = PrivateFolder()
    restore = _export(variables)

    def close() -> None:
        _shut_down()
        restore()
        folder.remove()

    try:
        _initialise(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder.for_ray),
        )
    except Exception as error:
        close()
        raise ClusterError(
            f"a local Ray could not be started with RAY_AUTH_MODE={mode}: {_first_line(error)}; use "
            "--address none to run in this process, or try again on a less busy machine"
        ) from error
    except BaseException:
        close()
        raise
    return RayConnection(close)


def attach(address: str, auth: str | None, timeout_s: float) -> RayConnection:
    """The cluster at `address` (HOST:PORT, or auto for one that runs on this machine)."""
    _refuse_if_connected()
    mode = auth or os.environ.get("RAY_AUTH_MODE") or ("token" if _has_token() else "disabled")
    restore = _export({"RAY_AUTH_MODE": mode})

    def close() -> None:
        _shut_down()
        restore()

    try:
        reason = _why_unreachable(address, timeout_s)
        if reason:
            raise ClusterError(
                f"cannot connect to Ray at {address} within {timeout_s:.0f} s: {reason}; RAY_AUTH_MODE is {mode} "
                "here and must be what the cluster was started with (token or disabled); --address none or local runs "
                "without it"
            )
        try:
            _initialise(address=address)
        except Exception as error:
            raise ClusterError(
                f"cannot connect to Ray at {address} with RAY_AUTH_MODE={mode}: {_first_line(error)}"
            ) from error
    except BaseException:
        close()
        raise
    return RayConnection(close, Preflight())


def adopt() -> RayConnection:
    """The Ray this process is connected to already; it stays when the session closes."""
    return RayConnection(lambda: None, Preflight())


def _why_unreachable(address: str, timeout_s: float) -> str:
    """Empty where a Ray of this version answers at `address` and accepts us; else the reason, in time: `timeout_s` from
    when Ray is imported, for which a busy machine has as long again."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, timeout_s / 3)).close()
        except OSError as error:
            return f"nothing answers there ({error.strerror or error})"
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", _PROBE, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        imported, end = False, time.monotonic() + timeout_s
        try:
            while child.poll() is None:
                text = _text(said)
                if any(word in text for word in _REFUSED):
                    return "it refused our token, or our having none"
                if not imported and _IMPORTED in text:
                    imported, end = True, time.monotonic() + timeout_s
                if time.monotonic() > end - 1.0:  # a second is kept for ending the child
                    return "something answers there, but not in time as a Ray of this version"
                time.sleep(0.05)
        finally:
            child.kill()
            child.wait()
        lines = [line.strip() for line in _text(said).splitlines() if line.strip()]
    if child.returncode == 0:
        return ""
    return lines[-1] if lines and lines[-1] != _IMPORTED else f"the attempt ended with exit code {child.returncode}"


def _text(file: IO[bytes]) -> str:
    """What another process has written to `file` so far."""
    return os.pread(file.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def _refuse_if_connected() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise UsageError(
            "this process is connected to a Ray already; use --address auto to run there, or call ray.shutdown() first"
        )


def _initialise(**options: Any) -> None:
    """`ray.init`, and nothing of Ray's on standard output, where a command's result belongs."""
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR, namespace=f"mplat-{secrets.token_hex(4)}", **options)
    _let_print(False)


def _shut_down() -> None:
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()
        _let_print(True)


def _let_print(allowed: bool) -> None:
    """Ray prints deaths of workers to standard output even with `log_to_driver=False`; this switch is all there is."""
    worker = sys.modules.get("ray._private.worker")
    if worker is not None:
        vars(worker)["_worker_logs_enabled"] = allowed


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").exists()


def _export(variables: Mapping[str, str]) -> Callable[[], None]:
    """Set environment variables; the result puts them back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    _reread_settings()

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reread_settings()

    return restore


def _reread_settings() -> None:
    """An imported Ray has read its environment once; without this its children would use another mode than it does."""
    raylet = sys.modules.get("ray._raylet")
    if raylet is not None:
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None:
        default = "0" if sys.platform in ("darwin", "win32") else "1"
        vars(constants)["ENABLE_RAY_CLUSTER"] = os.environ.get(_CLUSTERS, default) != "0"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
