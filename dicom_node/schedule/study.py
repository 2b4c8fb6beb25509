"""A study as the scheduler sees it, for people who ask."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from dicom_node.config import Configuration
from dicom_node.schedule.completeness import decide, study_reading
from dicom_node.schedule.routing import RouteExplanation
from pipelines.cine.facts import Completeness
from storage.jobs import studies_to_consider
from storage.ledger import Ledger
from storage.set_aside import why_set_aside

__all__ = ["StudyDescription", "describe"]

NOTHING = Completeness((), "")
_LEFT_ALONE = "left alone: no route takes any of its series"
_NO_IMAGE = (
    "no image of it is held any more: it was deleted, or its images were removed after retention; events tell which"
)


@dataclass(frozen=True, slots=True)
class StudyDescription:
    """How complete a study is, what it waits for, and what the routes make of its series."""

    sentence: str
    waiting: bool
    """Whether it has instances that are not scheduled yet."""
    completeness: Completeness
    routes: tuple[RouteExplanation, ...]


def describe(
    ledger: Ledger, configuration: Configuration, study_instance_uid: str, *, now: dt.datetime
) -> StudyDescription:
    """Describe a study by the routes of this configuration, whatever they were when it was scheduled.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    waiting = next((one for one in studies_to_consider(ledger) if one.study_instance_uid == study_instance_uid), None)
    aside = None if waiting is None else why_set_aside(ledger, waiting)
    if aside is not None:
        # Not read again here: what failed in the scheduler would fail here too.
        at = aside.at.isoformat(sep=" ", timespec="seconds")
        sentence = f"set aside at {at}: {aside.reason}; looked at again when something comes in for it, or in a day"
        return StudyDescription(sentence, True, NOTHING, ())
    reading = study_reading(ledger, configuration, study_instance_uid)
    if not reading.contents.instances:
        return StudyDescription(_NO_IMAGE, waiting is not None, NOTHING, ())
    if waiting is None:
        routed = any(one.series_instance_uids for one in reading.routes)
        outcome = f"scheduled as version {reading.contents.version}" if routed else _LEFT_ALONE
        sentence = f"{reading.completeness.sentence}; {outcome}"
    else:
        decision = decide(reading, configuration.execution, open_associations=waiting.open_associations, now=now)
        sentence = f"{decision.sentence}; {'to be scheduled now' if decision.ready else 'waiting'}"
    return StudyDescription(sentence, waiting is not None, reading.completeness, reading.routes)
