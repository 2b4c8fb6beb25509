"""Rejection notes that came in for results of this node: a radiologist's verdict, given at another workstation."""

from __future__ import annotations

import datetime as dt

from pipelines.cine.facts import InstanceFacts
from storage.assessments import RejectionReceived, note_rejections
from storage.jobs import StudyContents
from storage.ledger import Ledger

__all__ = ["note_rejections_received"]


def note_rejections_received(ledger: Ledger, contents: StudyContents, *, now: dt.datetime) -> int:
    """Keep, once for each note and package, that results were rejected; returns how many verdicts were new.

    Notes of this node itself, which an archive passes on, judge nothing.
    """
    received = []
    for series in contents.series:
        for one in map(InstanceFacts.from_json, series.facts):
            if one.rejects and not one.own_output:
                received.append(
                    RejectionReceived(one.sop_instance_uid, series.calling_ae_title, one.rejects, one.refers_to)
                )
    if not received:
        return 0
    return note_rejections(ledger, contents.study_instance_uid, received, now=now)
