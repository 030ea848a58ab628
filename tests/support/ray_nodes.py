"""A Ray cluster of several nodes on this machine, as `ray start` makes one of several machines; not a test file.

Each node is a `ray start --block` with everything that it starts below it, so that a node can be killed as a machine
is: all of its processes at once, with nothing said to anybody.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil
from host_network import Host, HostNetwork, host_network

# A node that says nothing is taken for dead after two seconds, not after half a minute.
_FAST = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 3,
}


class Cluster:
    """A head with so many CPUs at `address`, asking for a token that is in `environment`; ended as a context manager.

    environment: what all of its processes have besides. gpus: how many the head says that it has, for Ray to count.
    hosts: each node is a host with an address of its own, where
    this machine has network namespaces; elsewhere, as without, all nodes share its address."""

    def __init__(self, head_cpus: int = 1, *, gpus: int = 0, hosts: bool = False, **environment: str) -> None:
        self._head_cpus, self._gpus = head_cpus, gpus
        self.network: HostNetwork | None = host_network() if hosts else None
        self._hosts: dict[int, Host] = {}  # by the number of the node
        self._folder = Path(tempfile.mkdtemp(prefix="mplat-", dir="/tmp"))  # sockets want short names
        self.address = f"{self.network.address if self.network else '127.0.0.1'}:{_free_port()}"
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else workers wait for every other process of a busy machine
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._ever: dict[int, psutil.Process] = {}

    def add_node(self, *, hidden: Path | None = None, **environment: str) -> int:
        """Join a node with one CPU; its number, for `kill_node`. hidden: a folder that is empty there, where
        `can_hide()`. environment: what its processes have besides."""
        options = ["--num-cpus=1", f"--address={self.address}"]
        if self.network is None:
            return self._start(*options, prefix=() if hidden is None else _hiding(hidden), **environment)
        host = self.network.add()
        number = self._start(*options, f"--node-ip-address={host.address}", prefix=host.prefix)
        self._hosts[number] = host
        return number

    def host(self, number: int) -> Host:
        """Of a node that `add_node` made, where there are hosts."""
        return self._hosts[number]

    def kill_node(self, number: int) -> None:
        """All processes of the node at once, as when a machine loses its power; of a host the cable first."""
        if self.network is not None and number in self._hosts:
            self.network.cut(self._hosts.pop(number))
        for process in self.processes(number):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # or what is still there would tell of those that are gone
        for process in self.processes(number):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._nodes[number].wait(20)

    def processes(self, number: int) -> list[psutil.Process]:
        """Everything that belongs to the node now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._nodes[number].pid)
            found = [first, *first.children(recursive=True)]
            self._ever |= {process.pid: process for process in found}
            return found
        return []

    def close(self) -> list[psutil.Process]:
        """Kill what is left, and return what even then is there."""
        for number in reversed(range(len(self._nodes))):
            self.kill_node(number)
        _, alive = psutil.wait_procs(list(self._ever.values()), timeout=20)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.network is not None:
            self.network.close()
        return [process for process in alive if process.is_running()]

    def _start(self, *options: str, prefix: tuple[str, ...] = (), **more: str) -> int:
        environment = self.environment | more
        if self.network is not None:  # else gloo takes the address that the machine's name has
            environment["GLOO_SOCKET_IFNAME"] = "eth0" if prefix else self.network.interface
        words = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        memory = [f"--object-store-memory={100 << 20}", "--include-log-monitor=false"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={_free_port()}"]
        number = len(self._nodes)
        said = self._folder / f"node-{number}"
        with said.open("wb") as file:
            node = subprocess.Popen(
                [*words, *memory, *ports, *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._nodes.append(node)
        deadline = time.monotonic() + 400
        while b"Ray runtime started" not in said.read_bytes():
            assert node.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        return number

    def __enter__(self) -> Cluster:
        port = f"--port={self.address.rpartition(':')[2]}"
        head = [
            "--head",
            f"--num-cpus={self._head_cpus}",
            f"--num-gpus={self._gpus}",
            port,
            f"--temp-dir={self._folder}",
        ]
        head.append(f"--system-config={json.dumps(_FAST)}")
        if self.network is not None:
            head.append(f"--node-ip-address={self.network.address}")
        try:
            self._start(*head, "--include-dashboard=false")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.close()
        assert error is not None or not left, left


def can_hide(folder: Path) -> bool:
    """Whether this user may hide a folder from some processes."""
    done = subprocess.run([*_hiding(folder), "true"], capture_output=True)
    return done.returncode == 0


def _hiding(folder: Path) -> tuple[str, ...]:
    """What runs a command to which `folder` is empty."""
    return ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder))


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]
