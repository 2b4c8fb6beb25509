"""Ports that test processes choose at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from interop.ports import free_port

CHOOSE = "import sys; sys.path.insert(0, {tests!r}); from interop.ports import free_port; {statement}"


def test_no_outgoing_connection_can_take_a_chosen_port() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < min(first_outgoing, 32768) for _ in range(20))


def test_a_port_in_use_is_not_chosen_and_a_chosen_one_can_be_listened_on() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert port not in {free_port() for _ in range(50)}


def test_another_process_cannot_lock_a_chosen_port() -> None:
    port = free_port()
    statement = f"import interop.ports as p; p._PORTS = range({port}, {port + 20}); print(free_port())"
    other = subprocess.run(
        [sys.executable, "-c", CHOOSE.format(tests=str(Path(__file__).parents[1]), statement=statement)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert port < int(other.stdout) < port + 20
