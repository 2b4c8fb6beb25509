"""What people have done to what the node holds: one function each, for the commands and the console alike.

Each is recorded in the ledger with who wanted it and why, and told in the audit trail.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_node.audit.messages import Access, AuditMessage, Participant, Study, instances_accessed, study_deleted
from dicom_node.config import Configuration
from dicom_node.errors import NodeError
from storage.deletion import DeletedStudy, check_deletable, delete_study
from storage.deliveries import Selection, dismiss_deliveries, requeue_deliveries, selected_studies
from storage.files import InstanceFiles
from storage.holdings import held_series
from storage.jobs import add_jobs, requeue_job
from storage.ledger import Ledger, utc_now
from storage.overview import QuarantineOverview, study_of_job
from storage.quarantine import leave_quarantine
from storage.rejection import results_of_study
from storage.schema import DeliveryState

if TYPE_CHECKING:
    from dicom_node.audit.trail import AuditTrail

__all__ = [
    "SENDABLE",
    "Consent",
    "Rejection",
    "audit_access",
    "delete_everywhere",
    "drop_quarantined",
    "give_deliveries_up",
    "run_job_again",
    "run_route",
    "send_again",
    "take_in_quarantined",
]

SENDABLE = (DeliveryState.DEAD, DeliveryState.NOT_ACCEPTED, DeliveryState.COMMITTED, DeliveryState.NOT_VERIFIED)
"""Deliveries that have come to an end and may be made once more."""


class Rejection(enum.StrEnum):
    """What destinations are told of results that they hold."""

    SAFETY = "safety"
    RETENTION = "retention"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Consent:
    """Who wants something done, from where, and why."""

    by: str
    """Name of the account."""
    host: str
    """Name or address of the machine that the person sits at."""
    reason: str

    def audit(
        self,
        trail: AuditTrail,
        studies: Iterable[Study],
        message: Callable[[Participant, Participant, Study], AuditMessage],
    ) -> None:
        """Write one message for each study into the audit trail, if there is one."""
        if trail.file is None:
            return
        person = Participant(self.by, "", self.host)
        for study in studies:
            trail.record(message(person, trail.node, study))


def audit_access(trail: AuditTrail, given: Consent, studies: Iterable[str], access: Access, what: str = "") -> None:
    """Tell the audit trail that a person changed something about these studies.

    Parameters
    ----------
    what
        Stands before the reason.
    """
    reason = ": ".join(part for part in (what, given.reason) if part)
    given.audit(
        trail,
        (Study(uid, {}, None) for uid in studies),
        lambda person, node, one: instances_accessed(person, node, one, access=access, reason=reason, at=utc_now()),
    )


def run_job_again(ledger: Ledger, trail: AuditTrail, job_id: int, given: Consent) -> None:
    """Run one job again.

    Raises
    ------
    LedgerError
        It cannot run again: see :func:`storage.jobs.requeue_job`.
    """
    requeue_job(ledger, job_id, now=utc_now())
    audit_access(trail, given, (study_of_job(ledger, job_id),), Access.UPDATE, f"job {job_id} run again")


def run_route(
    configuration: Configuration,
    ledger: Ledger,
    trail: AuditTrail,
    study: str,
    route: str,
    given: Consent,
    *,
    every_series: bool = False,
) -> tuple[int, ...]:
    """Let a route analyse a study that is held, whatever took it when it came in; the numbers of the jobs.

    Parameters
    ----------
    every_series
        Take all its series that this node did not make, though no rule of the route takes them.

    Raises
    ------
    NodeError
        There is no such route, it takes no series of the study, or it has analysed the same images already.
    LedgerError
        There is no such study, or images of it wait to be scheduled.
    OSError
        One of its files cannot be read.
    """
    from dicom_node.schedule.completeness import study_reading
    from dicom_node.schedule.routed import jobs_of_route

    if route not in configuration.routes:
        known = ", ".join(configuration.routes) or "none"
        raise NodeError("there is no such route", subject=route, remedy=f"known: {known}")
    reading = study_reading(ledger, configuration, study)
    explained = next(one for one in reading.routes if one.route == route)
    series = explained.series_instance_uids
    if every_series:
        series = tuple(one.series.series_instance_uid for one in explained.series if not one.series.own_output)
    if not series:
        raise NodeError("takes no series of this study", subject=f"route {route}", remedy="let it take every series")
    jobs = jobs_of_route(configuration, route, series)
    made = add_jobs(ledger, reading.contents, jobs, reason=given.reason, by=given.by, now=utc_now())
    if not made:
        raise NodeError("has analysed these images already", subject=f"route {route}", remedy="run its jobs again")
    audit_access(trail, given, (study,), Access.UPDATE, f"route {route} run")
    return made


def send_again(
    ledger: Ledger, trail: AuditTrail, selection: Selection, given: Consent, *, states: Collection[DeliveryState]
) -> int:
    """Make deliveries once more, with all their attempts; how many."""
    studies = selected_studies(ledger, selection, states)
    done = requeue_deliveries(ledger, selection, now=utc_now(), states=states)
    audit_access(trail, given, studies, Access.UPDATE, "results sent again")
    return done


def give_deliveries_up(
    ledger: Ledger, trail: AuditTrail, selection: Selection, given: Consent, *, states: Collection[DeliveryState]
) -> int:
    """Give deliveries up; how many."""
    studies = selected_studies(ledger, selection, states)
    done = dismiss_deliveries(ledger, selection, reason=given.reason, by=given.by, now=utc_now(), states=states)
    audit_access(trail, given, studies, Access.UPDATE, "deliveries dismissed")
    return done


def delete_everywhere(
    configuration: Configuration,
    ledger: Ledger,
    files: InstanceFiles,
    trail: AuditTrail,
    study: str,
    reject: Rejection,
    given: Consent,
) -> DeletedStudy:
    """Delete a study from this node, and reject its results where they have been delivered.

    Raises
    ------
    NodeError
        It is being received, or one of its results is on its way to a destination at this moment.
    LedgerError
        There is no such study.
    """
    from dicom_node.audit.trail import held_patient_id
    from dicom_node.deliver.rejection import Withdraw, reject_set
    from dicom_node.results.rejection import RejectionReason

    title = {
        Rejection.SAFETY: RejectionReason.PATIENT_SAFETY,
        Rejection.RETENTION: RejectionReason.RETENTION,
        Rejection.NONE: None,
    }[reject]
    check_deletable(ledger, study)
    void = results_of_study(ledger, study, now=utc_now())
    if void is not None and void.results:
        done = reject_set(
            ledger,
            files,
            configuration,
            void,
            title,
            sentence=f"The study was deleted from the analysis node, and its results with it: {given.reason}",
            reason=f"study deleted: {given.reason}",
            by=given.by,
            now=utc_now(),
            withdraw=Withdraw.ALWAYS if title is RejectionReason.PATIENT_SAFETY else Withdraw.NEVER,
        )
        if not done:
            raise NodeError(
                "its results are on their way to a destination", subject=study, remedy="try again in a minute"
            )
    patient_id = None
    if configuration.audit.patient_id:
        series = held_series(ledger, study)
        patient_id = held_patient_id(files, series[0].path) if series else ""
    given.audit(
        trail,
        [Study(study, {}, patient_id)],
        lambda person, node, one: study_deleted(person, node, one, reason=given.reason, at=utc_now()),
    )
    return delete_study(ledger, study, reason=given.reason, by=given.by, now=utc_now())


def take_in_quarantined(
    configuration: Configuration,
    ledger: Ledger,
    files: InstanceFiles,
    trail: AuditTrail,
    one: QuarantineOverview,
    given: Consent,
) -> None:
    """Take an object in that was kept aside, in place of what is held under its UID.

    Raises
    ------
    NodeError
        It cannot be taken in: see :func:`dicom_node.network.quarantine.accept_quarantined`.
    OSError
        Its file cannot be read.
    """
    from dicom_node.network.quarantine import accept_quarantined, study_of

    audit_access(trail, given, (study_of(files, one) or "unknown",), Access.UPDATE)
    accept_quarantined(configuration, ledger, files, one)
    leave_quarantine(ledger, one.id, accepted=True, reason=given.reason, by=given.by, now=utc_now())


def drop_quarantined(
    ledger: Ledger, files: InstanceFiles, trail: AuditTrail, one: QuarantineOverview, given: Consent
) -> None:
    """Delete an object that was kept aside."""
    from dicom_node.network.quarantine import study_of

    audit_access(trail, given, (study_of(files, one) or "unknown",), Access.DELETE)
    leave_quarantine(ledger, one.id, accepted=False, reason=given.reason, by=given.by, now=utc_now())
