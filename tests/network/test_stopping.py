"""A receiver that is told to stop while peers have stopped in the middle of an image."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from interop.ports import wait_until

from network.objects import MR, encoded, mr_image
from network.running_node import NODE, SCANNER, configuration, left_behind, receiver_thread, with_node
from network.wire import COMMAND, DATA, LAST, P_DATA_TF, Proposal, Scripted, connected, pdu, pdv, store_request
from storage.files import KEPT_IN_MEMORY

GRACE_S = 5.0
"""What open associations get to finish."""
FRAGMENT = 16_000
"""Bytes; of so many that they are no longer kept in memory, a file is on its way."""


@pytest.mark.parametrize("sent", [12, 300, None], ids=["no byte of it", "a part of a PDU", "a whole PDU"])
def test_it_ends_soon_and_leaves_no_file(tmp_path: Path, sent: int | None) -> None:
    # Far more than it may take: nobody waits for the rest of a PDU.
    node = with_node(configuration(tmp_path), network_timeout_s=120)
    with contextlib.ExitStack() as connections:
        with receiver_thread(node) as receiver:
            for number in range(3):
                connection = connections.enter_context(connected(receiver.port))
                peer = Scripted(connection)
                peer.associate(Proposal(3, MR), calling=SCANNER, called=NODE)
                peer.send(pdu(P_DATA_TF, pdv(3, COMMAND | LAST, store_request(number, MR, f"1.2.3.{number}"))))
                connection.sendall((KEPT_IN_MEMORY // FRAGMENT + 1) * pdu(P_DATA_TF, pdv(3, DATA, bytes(FRAGMENT))))
                connection.sendall(pdu(P_DATA_TF, pdv(3, DATA, encoded(mr_image())[:500]))[:sent])
            wait_until(lambda: len(left_behind(receiver)) == 3, seconds=30, what="three files are on their way")
            began = time.monotonic()
        assert time.monotonic() - began < GRACE_S + 20
        assert left_behind(receiver) == []
