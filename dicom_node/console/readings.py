"""Who read which study in the console, for the audit trail: one message for each time that somebody sits down to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dicom_node.audit.messages import Access, Study, instances_accessed
from dicom_node.audit.trail import held_patient_id
from storage.bucket import BucketError
from storage.holdings import held_series
from storage.ledger import utc_now

if TYPE_CHECKING:
    from dicom_node.console.access import Person
    from dicom_node.console.node import Node

__all__ = ["TOLD_AGAIN_S", "StudyReadings"]

TOLD_AGAIN_S = 900.0
"""Who still reads a study so long after it was told is told again; pictures and reloads in between are not."""
_MOST_KEPT = 10_000


class StudyReadings:
    """What was told lately of who reads which study; safe to use from all threads of a console.

    Parameters
    ----------
    clock
        Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str, str], tuple[float, bool]] = {}
        """By person, address and study: when it was told, and whether as one that named the patient."""

    def tell(self, node: Node, person: Person, study_instance_uid: str, *, named: bool) -> None:
        """Write into the audit trail that somebody reads a study, unless that was told lately.

        Parameters
        ----------
        study_instance_uid
            Of a study that the node knows.
        named
            Whether what is read names the patient. Who has read other pages before is told again for it.
        """
        trail = node.trail
        if trail.file is None or not self._is_new((person.name, person.address, study_instance_uid), named):
            return
        patient_id = _patient_id(node, study_instance_uid) if trail.patient_ids else None
        what = "read in the console, with pages that name the patient" if named else "read in the console"
        study = Study(study_instance_uid, {}, patient_id)
        trail.record(
            instances_accessed(person.participant, trail.node, study, access=Access.READ, reason=what, at=utc_now())
        )

    def _is_new(self, key: tuple[str, str, str], named: bool) -> bool:
        with self._lock:
            now = self._clock()
            at, as_named = self._told.pop(key, (now - TOLD_AGAIN_S, False))
            new = now - at >= TOLD_AGAIN_S or (named and not as_named)
            # The least lately read stand first.
            self._told[key] = (now, named) if new else (at, as_named)
            if len(self._told) > _MOST_KEPT:
                self._told.pop(next(iter(self._told)))
            return new


def _patient_id(node: Node, study_instance_uid: str) -> str:
    """Patient ID of what is held of a study; empty where nothing is, or it cannot be had now."""
    for series in held_series(node.ledger, study_instance_uid):
        try:
            return held_patient_id(node.files, series.path)
        except BucketError:
            return ""
    return ""
