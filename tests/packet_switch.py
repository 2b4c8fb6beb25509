"""Carries the packets of a small network between TUN devices, late, lost or not at all as it is told.

``tc netem`` does that in the kernel, where the kernel has it; this does it everywhere, and draws from a seed what is
lost. It is a process of its own: threads that share an interpreter with a test would make packets late by chance.

    python packet_switch.py SEED ADDRESS=DESCRIPTOR [ADDRESS=DESCRIPTOR ...]

Each line of the standard input is a :class:`Weather` as JSON. At the end of the input it prints what it did.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

MOST_BYTES = 65536
MOST_AT_ONCE = 64
"""Packets of one device before the others are looked at."""
MOST_WAITING = 20_000
"""Packets on their way; more are lost, as in the queue of a router."""


@dataclass
class Weather:
    """What happens to packets from now on."""

    delay_s: float = 0.0
    """Of each packet, each way."""
    jitter_s: float = 0.0
    """Up to so much more, drawn for each packet: later ones overtake earlier ones."""
    loss: float = 0.0
    """Share of packets that are lost."""
    cut_off: list[str] = field(default_factory=list)
    """Addresses from which and to which nothing comes through."""


@dataclass
class Counts:
    """Packets."""

    carried: int = 0
    lost: int = 0
    """By chance."""
    cut: int = 0
    """From or to who is cut off."""


class Switch:
    """The network."""

    def __init__(self, devices: dict[bytes, int], seed: int) -> None:
        self.counts = Counts()
        self._devices, self._random = devices, random.Random(seed)
        self._weather, self._cut_off = Weather(), frozenset[bytes]()
        self._on_their_way: list[tuple[float, int, bytes, bytes]] = []
        self._number = 0

    def change(self, weather: Weather) -> None:
        """Let other weather begin; what is on its way arrives when it would have."""
        self._weather, self._cut_off = weather, frozenset(map(socket.inet_aton, weather.cut_off))

    def run(self, orders: int) -> None:
        """Carry packets until there are no more orders."""
        with selectors.DefaultSelector() as ready:
            ready.register(orders, selectors.EVENT_READ)
            for device in self._devices.values():
                os.set_blocking(device, False)
                ready.register(device, selectors.EVENT_READ)
            told = b""
            while True:
                wait = max(0.0, self._on_their_way[0][0] - time.monotonic()) if self._on_their_way else None
                for key, _ in ready.select(wait):
                    if key.fd != orders:
                        self._take(key.fd)
                        continue
                    read = os.read(orders, MOST_BYTES)
                    if not read:
                        return
                    *lines, told = (told + read).split(b"\n")
                    for line in lines:
                        self.change(Weather(**json.loads(line)))
                self._deliver()

    def _take(self, device: int) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                packet = os.read(device, MOST_BYTES)
            except BlockingIOError:
                return
            # IPv4: source and destination at 12 and 16 (RFC 791 3.1).
            source, destination = packet[12:16], packet[16:20]
            if packet[0] >> 4 != 4 or destination not in self._devices:
                continue
            if source in self._cut_off or destination in self._cut_off:
                self.counts.cut += 1
            elif self._random.random() < self._weather.loss or len(self._on_their_way) >= MOST_WAITING:
                self.counts.lost += 1
            else:
                late = self._weather.delay_s + self._weather.jitter_s * self._random.random()
                self._number += 1
                heapq.heappush(self._on_their_way, (time.monotonic() + late, self._number, destination, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._on_their_way and self._on_their_way[0][0] <= now:
            _, _, destination, packet = heapq.heappop(self._on_their_way)
            try:
                os.write(self._devices[destination], packet)
            except OSError:
                # The machine takes no more for now.
                self.counts.lost += 1
            else:
                self.counts.carried += 1


def _main() -> None:
    seed, *devices = sys.argv[1:]
    pairs = [one.split("=") for one in devices]
    switch = Switch({socket.inet_aton(address): int(descriptor) for address, descriptor in pairs}, int(seed))
    print("ready", flush=True)
    switch.run(sys.stdin.fileno())
    print(json.dumps(asdict(switch.counts)), flush=True)


if __name__ == "__main__":
    _main()
