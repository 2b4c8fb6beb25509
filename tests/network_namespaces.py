"""Machines of one network as network namespaces of Linux, each of which can be cut off."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000


def enter(namespace: str) -> None:
    """Let this thread, and all that it starts, live in a network namespace."""
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Network:
    """A bridge, on which this machine has the first address, and a namespace for each other machine."""

    prefix: str
    """Of IPv4 addresses, without the last number."""
    namespaces: dict[str, str]
    """By the name of the machine."""

    @property
    def here(self) -> str:
        return f"{self.prefix}.1"

    def address(self, machine: str) -> str:
        return f"{self.prefix}.{2 + list(self.namespaces).index(machine)}"

    def connect(self, machine: str, *, up: bool) -> None:
        """Cut a machine off from all others, or connect it again."""
        _ip("link", "set", self.namespaces[machine], "up" if up else "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def allowed() -> bool:
    """Whether this process may make namespaces."""
    try:
        with network(("a",)):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def network(machines: tuple[str, ...]) -> Iterator[Network]:
    """Machines that reach each other and this one.

    Raises
    ------
    subprocess.CalledProcessError, OSError
        Namespaces cannot be made here.
    """
    mark = secrets.token_hex(3)
    made = Network(
        f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}",
        {name: f"dn{mark}{number}" for number, name in enumerate(machines)},
    )
    bridge = f"dn{mark}b"
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{made.here}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for machine, name in made.namespaces.items():
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            # The outer end has the name of the namespace.
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", bridge)
            _ip("link", "set", name, "up")
            _ip("-n", name, "addr", "add", f"{made.address(machine)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield made
