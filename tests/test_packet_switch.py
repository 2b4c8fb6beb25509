"""The network that tests make bad: packets come late, some are lost, and who is cut off is not reached."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from absence import absent
from network_namespaces import Network, allowed, enter, network

PORT = 9000


@pytest.fixture
def made() -> Iterator[Network]:
    if not allowed():
        absent(
            "this process may make no network namespaces: run the test as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN"
        )
    with network(("far",), seed=1) as one:
        yield one


def _echo_in(namespace: str, listening: threading.Event, connections: int) -> None:
    # A thread of its own: the namespace is left with it.
    enter(namespace)
    with socket.create_server(("0.0.0.0", PORT)) as server:
        listening.set()
        for _ in range(connections):
            connection, _ = server.accept()
            with connection:
                while received := connection.recv(65536):
                    connection.sendall(received)


def _answers(made: Network, message: bytes) -> tuple[bytes, float]:
    """What comes back, and after how many seconds."""
    with socket.create_connection((made.address("far"), PORT), timeout=60) as connection:
        started = time.monotonic()
        connection.sendall(message)
        received = b""
        while len(received) < len(message):
            received += connection.recv(65536)
        return received, time.monotonic() - started


def test_packets_are_late_and_lost_as_asked(made: Network) -> None:
    listening = threading.Event()
    echo = threading.Thread(target=_echo_in, args=(made.namespaces["far"], listening, 3))
    echo.start()
    assert listening.wait(30)
    assert _answers(made, b"now")[0] == b"now"
    made.change(delay_s=0.2)
    time.sleep(0.2)
    answer, seconds = _answers(made, b"late")
    assert (answer, seconds >= 0.4) == (b"late", True)
    made.change(delay_s=0.0, jitter_s=0.01, loss=0.1)
    message = bytes(range(256)) * 400
    assert _answers(made, message)[0] == message
    echo.join(60)
    made.end()
    assert made.counts is not None
    assert made.counts.carried > 100
    assert made.counts.lost > 5
    assert made.counts.cut == 0


def test_who_is_cut_off_is_not_reached_until_connected_again(made: Network) -> None:
    listening = threading.Event()
    echo = threading.Thread(target=_echo_in, args=(made.namespaces["far"], listening, 1))
    echo.start()
    assert listening.wait(30)
    made.connect("far", up=False)
    time.sleep(0.2)
    with pytest.raises(TimeoutError):
        socket.create_connection((made.address("far"), PORT), timeout=1.0)
    made.connect("far", up=True)
    assert _answers(made, b"again")[0] == b"again"
    echo.join(60)
