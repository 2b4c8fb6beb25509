"""Machines of one network as network namespaces of Linux; packets between them are late, lost or cut off as asked."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from packet_switch import Counts, Weather

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""linux/if_tun.h: packets of IP, with nothing before them."""
MTU = 1500


def enter(namespace: str) -> None:
    """Let this thread, and all that it starts, live in a network namespace."""
    descriptor = os.open(Path("/run/netns") / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


@dataclass
class Network:
    """This machine, which has the first address, and a namespace for each other machine."""

    prefix: str
    """Of IPv4 addresses, without the last number."""
    namespaces: dict[str, str]
    """By the name of the machine."""
    switch: subprocess.Popen[str]
    weather: Weather = field(default_factory=Weather)
    counts: Counts | None = None
    """What became of the packets, once it has ended."""

    @property
    def here(self) -> str:
        return f"{self.prefix}.1"

    def address(self, machine: str) -> str:
        return f"{self.prefix}.{2 + list(self.namespaces).index(machine)}"

    def connect(self, machine: str, *, up: bool) -> None:
        """Cut a machine off from all others, or connect it again."""
        others = [one for one in self.weather.cut_off if one != self.address(machine)]
        self.change(cut_off=others if up else [*others, self.address(machine)])

    def change(self, **weather: object) -> None:
        """Change what happens to packets from now on, see :class:`packet_switch.Weather`."""
        self.weather = replace(self.weather, **weather)  # type: ignore[arg-type]
        assert self.switch.stdin is not None
        self.switch.stdin.write(json.dumps(asdict(self.weather)) + "\n")
        self.switch.stdin.flush()

    def end(self) -> None:
        """Carry nothing any more."""
        if self.counts is not None:
            return
        told, _ = self.switch.communicate(timeout=30)
        self.counts = Counts(**json.loads(told))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def _device(name: str) -> int:
    """A TUN device that lives as long as the descriptor that is returned."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def allowed() -> bool:
    """Whether this process may make namespaces and devices."""
    try:
        with network(("a",)):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def network(machines: tuple[str, ...], seed: int = 0) -> Iterator[Network]:
    """Machines that reach each other and this one.

    Raises
    ------
    subprocess.CalledProcessError, OSError
        Namespaces or devices cannot be made here.
    """
    mark = secrets.token_hex(3)
    prefix = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
    namespaces = {name: f"dn{mark}{number}" for number, name in enumerate(machines)}
    with contextlib.ExitStack() as stack:
        devices: dict[str, int] = {}

        def device(name: str, address: str) -> None:
            devices[address] = _device(name)
            stack.callback(os.close, devices[address])

        here = f"dn{mark}h"
        device(here, f"{prefix}.1")
        _ip("addr", "add", f"{prefix}.1/24", "dev", here)
        _ip("link", "set", here, "mtu", str(MTU), "up")
        for number, name in enumerate(namespaces.values()):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            address = f"{prefix}.{2 + number}"
            device(name, address)
            _ip("link", "set", name, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "mtu", str(MTU), "up")
            _ip("-n", name, "link", "set", "lo", "up")
        switch = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("packet_switch.py")),
                str(seed),
                *(f"{address}={descriptor}" for address, descriptor in devices.items()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=list(devices.values()),
        )
        stack.callback(switch.wait)
        stack.callback(switch.kill)
        assert switch.stdout is not None
        if switch.stdout.readline() != "ready\n":
            raise OSError("the switch did not start")
        made = Network(prefix, namespaces, switch)
        yield made
        made.end()
