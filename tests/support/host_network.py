"""Hosts on this machine, each a network namespace with its own address on one bridge, where that is allowed; not a test
file.

A host that is cut off answers nothing and refuses nothing, as one without power does.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """prefix: what runs a command there. address: its IP address. link: this machine's end of its cable."""

    prefix: tuple[str, ...]
    address: str
    link: str


class HostNetwork:
    """A bridge, the interface with the address of this machine, and the hosts on it, until `close`."""

    def __init__(self) -> None:
        self._name, self._hosts = f"mp{secrets.token_hex(3)}", 0
        self._net = f"10.{random.SystemRandom().randint(64, 250)}.{random.SystemRandom().randint(1, 250)}"
        self.address, self.interface = f"{self._net}.1", self._name
        _ip("link", "add", self._name, "type", "bridge")
        try:
            _ip("addr", "add", f"{self.address}/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def add(self) -> Host:
        """A host that reaches this machine and the other hosts."""
        self._hosts += 1
        space, link, address = f"{self._name}-{self._hosts}", f"{self._name}{self._hosts}", self._hosts + 1
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", self._name, "up")
        _ip("-n", space, "addr", "add", f"{self._net}.{address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-n", space, "link", "set", interface, "up")
        return Host(("ip", "netns", "exec", space), f"{self._net}.{address}", link)

    def cut(self, host: Host) -> None:
        """Pull its cable."""
        _ip("link", "set", host.link, "down")

    def mend(self, host: Host) -> None:
        """Plug its cable in again."""
        _ip("link", "set", host.link, "up")

    def slow(self, host: Host, rate: str) -> None:
        """Let no more than `rate`, such as 2mbit, through its cable each way, where the kernel can."""
        limit = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
        _run("tc", "qdisc", "add", "dev", host.link, *limit)
        _run(*host.prefix, "tc", "qdisc", "add", "dev", "eth0", *limit)

    def close(self) -> None:
        """Take everything away. A second call does nothing."""
        with contextlib.suppress(subprocess.CalledProcessError):
            for number in range(self._hosts, 0, -1):
                _ip("netns", "del", f"{self._name}-{number}")  # its end of the cable goes with it
            self._hosts = 0
            _ip("link", "del", self._name)


def host_network() -> HostNetwork | None:
    """One that was tried with a host, or None where this user or machine has no network namespaces."""
    network = None
    try:
        network = HostNetwork()
        network.add()
    except (OSError, subprocess.CalledProcessError):
        if network is not None:
            network.close()
        return None
    return network


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)
