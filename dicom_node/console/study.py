"""What the page of one study tells, put together from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.console.access import Person
from dicom_node.console.node import Node
from dicom_node.console.pictures import may_see_patients, names_patient
from dicom_node.errors import raised_at
from dicom_node.schedule.study import StudyDescription, describe
from storage.assessments import Assessment, assessments
from storage.closing import FRONT_PAGE
from storage.ledger import utc_now
from storage.overview import (
    DeliveryOverview,
    Event,
    JobOverview,
    StudyOverview,
    StudyReceipt,
    delivery_overviews,
    events_of_study,
    job_overviews,
    result_overviews,
    study_overviews,
    study_receipt,
)
from storage.performed_steps import study_steps
from storage.schema import AssessmentResult, DeliveryState, JobState, Verdict

__all__ = ["JudgedJob", "Page", "ReportParagraph", "StudyView", "read_study", "study_view"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of results that is there."""

    id: int
    series_description: str
    names_patient: bool


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """One job of a study, and what a radiologist said of its results."""

    job: JobOverview
    latest: bool
    """Whether no later job of its route and package took its place."""
    pictures: tuple[Page, ...]
    assessment: Assessment | None

    @property
    def can_run_again(self) -> bool:
        """Whether an operator may ask for it."""
        return self.latest and self.job.state in (JobState.FAILED, JobState.SUCCEEDED)

    @property
    def can_be_assessed(self) -> bool:
        """Whether it made results that a radiologist could judge: a front page is no answer of an analysis."""
        made = self.job.verdict in (Verdict.DELIVERED, Verdict.PARTIAL) and bool(self.job.results)
        return self.latest and made and self.job.package != FRONT_PAGE


@dataclass(frozen=True, slots=True)
class ReportParagraph:
    """The paragraph for the radiologist's report, as the front page of a route has it."""

    route: str
    text: str
    rejected: tuple[str, ...]
    """Packages whose results a radiologist rejected: the paragraph must not be used as it is."""


@dataclass(frozen=True, slots=True)
class StudyView:
    """What the page of one study shows."""

    overview: StudyOverview
    receipt: StudyReceipt
    said_made: int
    """Images that the scanner says it made (MPPS); 0 where it does not say."""
    description: StudyDescription | None
    """None where its files cannot be read any more."""
    jobs: tuple[JudgedJob, ...]
    paragraphs: tuple[ReportParagraph, ...]
    deliveries: Mapping[DeliveryState, int]
    undelivered: tuple[DeliveryOverview, ...]
    events: tuple[Event, ...]

    @property
    def timeline(self) -> tuple[tuple[Event, ...], ...]:
        """The events, those together that say the same of one object after the other within a minute."""
        told: list[list[Event]] = []
        for event in self.events:
            last = told[-1][-1] if told else None
            if last is not None and _says_the_same(last, event):
                told[-1].append(event)
            else:
                told.append([event])
        return tuple(map(tuple, told))


def _says_the_same(one: Event, other: Event) -> bool:
    same = (one.kind, one.detail, one.sender) == (other.kind, other.detail, other.sender)
    return same and one.subject != other.subject and abs((other.at - one.at).total_seconds()) < 60


def read_study(node: Node, person: Person, study_instance_uid: str) -> StudyView:
    """Look at a study, and tell the audit trail that somebody does.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    view = study_view(node, study_instance_uid)
    shown = may_see_patients(node, person)
    named = shown and any(page.names_patient for one in view.jobs for page in one.pictures)
    node.readings.tell(node, person, view.overview.study_instance_uid, named=named)
    return view


def study_view(node: Node, study_instance_uid: str) -> StudyView:
    """Look at a study.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    ledger = node.ledger
    (overview,) = study_overviews(ledger, study_instance_uid=study_instance_uid)
    jobs = job_overviews(ledger, study_instance_uid=study_instance_uid, limit=500)
    given = assessments(ledger, study_instance_uid=study_instance_uid)
    results = result_overviews(ledger, study_instance_uid)
    # The newest first: the first of each route and package is the one that counts.
    latest: dict[tuple[str, str], int] = {}
    for job in jobs:
        latest.setdefault((job.route, job.package), job.id)
    undelivered = (DeliveryState.DEAD, DeliveryState.NOT_ACCEPTED)
    judged = tuple(
        JudgedJob(
            job,
            latest[job.route, job.package] == job.id,
            tuple(
                Page(one.id, one.series_description, names_patient(node, one))
                for one in results
                if one.job_id == job.id and one.present and one.sop_class_uid == SecondaryCaptureImageStorage
            ),
            _of_job(job, given),
        )
        for job in reversed(jobs)
    )
    return StudyView(
        overview=overview,
        receipt=study_receipt(ledger, study_instance_uid),
        said_made=study_steps(ledger, study_instance_uid).images,
        description=_description(node, study_instance_uid),
        jobs=judged,
        paragraphs=tuple(_paragraphs(judged)),
        deliveries=overview.deliveries,
        undelivered=delivery_overviews(ledger, states=undelivered, study_instance_uid=study_instance_uid, limit=100),
        events=events_of_study(ledger, study_instance_uid, limit=500),
    )


def _paragraphs(jobs: Sequence[JudgedJob]) -> Iterator[ReportParagraph]:
    """Of the latest front page of each route, each text once: destinations may be told different things."""
    rejected: dict[str, list[str]] = {}
    for one in jobs:
        if one.latest and one.assessment and one.assessment.result is AssessmentResult.REJECTED:
            rejected.setdefault(one.job.route, []).append(one.job.package)
    for one in jobs:
        if one.latest and one.job.package == FRONT_PAGE:
            told = (one.job.summary or {}).get("told", {}).values()
            for text in dict.fromkeys(each["paragraph"] for each in told if each["paragraph"]):
                yield ReportParagraph(one.job.route, text, tuple(rejected.get(one.job.route, ())))


def _of_job(job: JobOverview, given: tuple[Assessment, ...]) -> Assessment | None:
    own = [
        one
        for one in given
        if (one.study_version, one.route, one.package) == (job.study_version, job.route, job.package)
    ]
    return own[-1] if own else None


def _description(node: Node, study_instance_uid: str) -> StudyDescription | None:
    try:
        return describe(node.ledger, node.configuration, study_instance_uid, now=utc_now())
    except Exception as error:  # noqa: BLE001 - whatever the study holds, the rest of the page is told
        _log.warning("study cannot be described", study_instance_uid=study_instance_uid, at=raised_at(error))
        return None
