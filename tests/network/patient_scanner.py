"""A scanner that does not give up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_node.config import Peer
from dicom_node.network.sender import ScuSettings, send_files
from network.objects import MR
from network.running_node import SCANNER

PATIENCE_S = 300
"""For an answer: a disk on which many files were just removed may take half a minute to make one."""
SETTINGS = ScuSettings(SCANNER, acse_timeout_s=10, response_timeout_s=60)


def patient_requestor() -> AE:
    """An application entity that proposes MR images and waits minutes for each answer."""
    entity = AE(ae_title=SCANNER)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE_S
    entity.add_requested_context(MR, ExplicitVRLittleEndian)
    return entity


class PatientScanner(threading.Thread):
    """Sends every image until it is acknowledged, as a scanner's queue does.

    In an order of its own, a part of the queue on each association, and now and then one that was acknowledged
    already.
    """

    def __init__(self, peer: Peer, paths: Iterable[Path], *, seed: int = 0, patience_s: float = 240) -> None:
        super().__init__(daemon=True)
        self.peer, self.waiting = peer, list(paths)
        self.acknowledged: dict[str, Path] = {}
        self.statuses: set[int | None] = set()
        self.failures = 0
        self._random = random.Random(seed)
        self._random.shuffle(self.waiting)
        self._until = time.monotonic() + patience_s

    def run(self) -> None:
        while self.waiting and time.monotonic() < self._until:
            part = self.waiting[: self._random.choice([1, 5, 40])]
            if self.acknowledged and self._random.random() < 0.3:
                part.append(self._random.choice(list(self.acknowledged.values())))
            for outcome in send_files(part, self.peer, SETTINGS):
                self.statuses.add(outcome.status)
                self.failures += outcome.error is not None
                if outcome.error is None and outcome.sop_instance_uid not in self.acknowledged:
                    self.acknowledged[outcome.sop_instance_uid] = outcome.path
                    self.waiting.remove(outcome.path)
            time.sleep(0.05)
