"""Results that became void: by a later version of their study, or because somebody deleted it.

What was not sent is not sent any more. What reached a destination is rejected there by a note (IHE RAD, Imaging Object
Change Management), a result object of its own that is delivered like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.orm import Session, aliased, selectinload

from storage.closing import FRONT_PAGE
from storage.deliveries import dismiss, leave_to_a_person
from storage.jobs import ROUTE_RUN, SCHEDULER, STUDY_COMPLETE, ResultRecord, add_result
from storage.ledger import Ledger, record_event
from storage.replacement import INSTANCE_REPLACED
from storage.schema import (
    AssessmentRow,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    JobRow,
    JobState,
    ResultRow,
    SeriesRow,
    StudyRow,
    Verdict,
)

__all__ = [
    "REJECTION_ROLE",
    "VoidResult",
    "VoidSet",
    "corrected_sets",
    "is_under_way",
    "left_sets",
    "reject",
    "results_of_study",
    "superseded_sets",
    "taken_over_sets",
]

REJECTION_ROLE = "rejection-note"
_GOING_OUT = (DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT)
_UNSENT = (DeliveryState.QUEUED, DeliveryState.DEAD)


@dataclass(frozen=True, slots=True)
class VoidResult:
    """One result that is void and that no note names yet."""

    id: int
    job_id: int
    """Whose result it is."""
    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    """Relative to the storage directory."""
    present: bool
    """Whether its file is still there."""
    arrived_at: frozenset[str]
    """Destinations that said that they stored it, whether or not they committed to it."""


@dataclass(frozen=True, slots=True)
class VoidSet:
    """Results of one study that became void together."""

    study_instance_uid: str
    job_id: int
    """Whose results stand in for them; or, where nothing does, the last that the study had."""
    study_version: int
    since: dt.datetime
    """When they became void."""
    results: tuple[VoidResult, ...]
    instead: tuple[str, ...] = ()
    """Files of the results that stand in for them, relative to the storage directory."""


def superseded_sets(ledger: Ledger) -> tuple[VoidSet, ...]:
    """Results of jobs for which a later job of the same study, route and package has succeeded.

    What is being sent or waits for commitment is left for the next look, with all that became void with it.
    """
    earlier, later = aliased(JobRow), aliased(JobRow)
    comes_after = (later.study_version > earlier.study_version) | (
        (later.study_version == earlier.study_version) & (later.revision > earlier.revision)
    )
    again = exists().where(
        JobRow.study_id == StudyRow.id,
        JobRow.state == JobState.SUCCEEDED,
        (JobRow.study_version > 1) | (JobRow.revision > 0),
    )
    with ledger.reading() as session:
        # Of the studies that are present, few beside all that the ledger remembers, those that came more than once.
        studies = session.scalars(select(StudyRow.id).where(StudyRow.removed_at.is_(None), again)).all()
        rows = session.execute(
            select(ResultRow.id, later)
            .join(earlier, earlier.id == ResultRow.job_id)
            .join(
                later,
                (later.study_id == earlier.study_id)
                & (later.route == earlier.route)
                & (later.package == earlier.package),
            )
            .where(
                earlier.study_id.in_(studies),
                ResultRow.rejected_at.is_(None),
                ResultRow.role != REJECTION_ROLE,
                comes_after,
            )
            .order_by(later.study_version, later.revision)
        )
        # The last row of each result names the latest of the jobs that came after it.
        latest: dict[int, JobRow] = {result_id: job for result_id, job in rows if job.state is JobState.SUCCEEDED}
        by_job: dict[int, tuple[JobRow, list[int]]] = {}
        for result_id, job in latest.items():
            by_job.setdefault(job.id, (job, []))[1].append(result_id)
        sets = (_void_set(session, job, ids) for job, ids in by_job.values())
        return tuple(one for one in sets if one is not None)


def taken_over_sets(ledger: Ledger, routes: Mapping[str, Collection[str]]) -> tuple[VoidSet, ...]:
    """Results of routes that would have stood back, where another route has analysed all that they did since.

    A study has one front page then: that of the other route, which has ended, stands for all. What a radiologist has
    judged stays: nobody has judged what would take its place. What is being sent or waits for commitment is left for
    the next look, with all that became void with it.

    Parameters
    ----------
    routes
        Of each route, those whose results take the place of its.
    """

    def takes_over(own: Sequence[JobRow], front: JobRow, jobs: Sequence[JobRow]) -> bool:
        return all(_stands_for(front, one, jobs) for one in own)

    return _replaced_sets(ledger, routes, takes_over, stays=_judged)


def left_sets(ledger: Ledger, routes: Mapping[str, Collection[str]]) -> tuple[VoidSet, ...]:
    """Results of routes that did not take a later version, which a route that stands back for them analysed instead.

    So it is where an order is cancelled, or changes, and images come after that: what the route found was found for an
    order that does not hold any more, and on a part of the images. A study has one front page then: that of the later
    version. What a radiologist has judged stays, and so does a route that a person has run by hand. What is being sent
    or waits for commitment is left for the next look, with all that became void with it.

    Parameters
    ----------
    routes
        Of each route, those that stand back for it and whose results take the place of its.
    """

    def leaves(own: Sequence[JobRow], front: JobRow, jobs: Sequence[JobRow]) -> bool:
        # What only the route that is left looked for has nobody to stand for it.
        shared = {one.package for one in jobs if one.route == front.route}
        return all(
            one.study_version < front.study_version
            and not _is_open(one)
            and (one.package not in shared or _stands_for(front, one, jobs))
            for one in own
        )

    return _replaced_sets(
        ledger,
        routes,
        leaves,
        stays=lambda session, study_id, route: (
            _judged(session, study_id, route) or _run_by_hand(session, study_id, route)
        ),
    )


def corrected_sets(ledger: Ledger) -> tuple[VoidSet, ...]:
    """Results of routes that do not take their study any more since images of it were replaced.

    So it is where a correction changes what the rules of the route ask for. The results say who the patient was and
    what the images showed before, whoever judged them or asked for them, and no others come in their place. Where
    images only came late they stay. What is being sent or waits for commitment is left for the next look, with all that
    became void with it.
    """
    waits = exists().where(
        SeriesRow.study_id == StudyRow.id,
        InstanceRow.series_id == SeriesRow.id,
        InstanceRow.removed_at.is_(None),
        InstanceRow.study_version.is_(None),
    )
    with ledger.reading() as session:
        # Few: those that were corrected, and have results of an earlier version that hold.
        studies = session.scalars(
            select(StudyRow)
            .join(JobRow, JobRow.study_id == StudyRow.id)
            .join(ResultRow, ResultRow.job_id == JobRow.id)
            .where(
                StudyRow.removed_at.is_(None),
                StudyRow.version > 1,
                JobRow.study_version < StudyRow.version,
                ResultRow.rejected_at.is_(None),
                ResultRow.role != REJECTION_ROLE,
                exists().where(EventRow.study_id == StudyRow.id, EventRow.kind == INSTANCE_REPLACED),
                ~waits,
            )
            .distinct()
        ).all()
        sets = [_not_taken_since(session, study) for study in studies]
        return tuple(one for of_study in sets for one in of_study)


def _not_taken_since(session: Session, study: StudyRow) -> list[VoidSet]:
    events = session.scalars(
        select(EventRow)
        .where(EventRow.study_id == study.id, EventRow.kind.in_((STUDY_COMPLETE, INSTANCE_REPLACED)))
        # Not by their time: clocks are set.
        .order_by(EventRow.id)
    ).all()
    replaced = max((one.id for one in events if one.kind == INSTANCE_REPLACED), default=0)
    closed = {int(one.detail["version"]): one for one in events if one.kind == STUDY_COMPLETE}
    present = closed.get(study.version)
    if present is None or not replaced:
        return []
    jobs = session.scalars(
        select(JobRow).where(JobRow.study_id == study.id).order_by(JobRow.study_version, JobRow.revision)
    ).all()

    def seen_last(job: JobRow) -> EventRow | None:
        """The last version that a job stands for: its package gets no other job while its input is the same."""
        others = [one.study_version for one in jobs if (one.route, one.package) == (job.route, job.package)]
        until = min((one for one in others if one > job.study_version), default=study.version + 1)
        taken = [one for one, event in closed.items() if job.route in event.detail["routes"] and one < until]
        return closed.get(max([job.study_version, *taken]))

    sets = []
    for route in dict.fromkeys(one.route for one in jobs):
        own = [one for one in jobs if one.route == route]
        if route in present.detail["routes"] or own[-1].study_version == study.version:
            continue
        seen = {one.id: seen_last(one) for one in own}
        before = [job_id for job_id, event in seen.items() if event is not None and event.id < replaced]
        ids = session.scalars(
            select(ResultRow.id).where(
                ResultRow.job_id.in_(before), ResultRow.rejected_at.is_(None), ResultRow.role != REJECTION_ROLE
            )
        ).all()
        results = _results(session, ids)
        if results and not _is_going_out(results):
            void = tuple(map(_void, results))
            sets.append(VoidSet(study.study_instance_uid, own[-1].id, study.version, present.at, void))
    return sets


def _replaced_sets(
    ledger: Ledger,
    routes: Mapping[str, Collection[str]],
    replaces: Callable[[Sequence[JobRow], JobRow, Sequence[JobRow]], bool],
    *,
    stays: Callable[[Session, int, str], bool],
) -> tuple[VoidSet, ...]:
    """Results of routes in whose place those of another have come.

    Parameters
    ----------
    routes
        Of each route, the others.
    replaces
        Told the jobs of a route, a closing job of another one that has ended, and all jobs of the study: whether what
        that front page tells takes the place of what the route found.
    stays
        Told the id of a study and a route: whether its results stay all the same.
    """
    others = frozenset().union(*routes.values())
    if not others:
        return ()
    front, back = aliased(JobRow), aliased(JobRow)
    with ledger.reading() as session:
        # Few: a study is taken by one of the routes, where both have a rule for it from the beginning.
        studies = session.scalars(
            select(StudyRow.id)
            .join(back, back.study_id == StudyRow.id)
            .join(ResultRow, ResultRow.job_id == back.id)
            .where(
                StudyRow.removed_at.is_(None),
                back.route.in_(routes),
                ResultRow.rejected_at.is_(None),
                ResultRow.role != REJECTION_ROLE,
                exists().where(
                    front.study_id == StudyRow.id,
                    front.route.in_(others),
                    front.package == FRONT_PAGE,
                    front.state == JobState.SUCCEEDED,
                ),
            )
            .distinct()
        ).all()
        sets = [_replaced(session, study, routes, replaces, stays) for study in studies]
        return tuple(one for of_study in sets for one in of_study)


def _replaced(
    session: Session,
    study_id: int,
    routes: Mapping[str, Collection[str]],
    replaces: Callable[[Sequence[JobRow], JobRow, Sequence[JobRow]], bool],
    stays: Callable[[Session, int, str], bool],
) -> list[VoidSet]:
    jobs = session.scalars(
        select(JobRow).where(JobRow.study_id == study_id).order_by(JobRow.study_version, JobRow.revision)
    ).all()
    sets = []
    for route, others in routes.items():
        own = [one for one in jobs if one.route == route]
        fronts = [
            one
            for one in jobs
            if own
            and one.route in others
            and one.package == FRONT_PAGE
            and one.state is JobState.SUCCEEDED
            and replaces(own, one, jobs)
        ]
        if not fronts or stays(session, study_id, route):
            continue
        ids = session.scalars(
            select(ResultRow.id).where(
                ResultRow.job_id.in_([one.id for one in own]),
                ResultRow.rejected_at.is_(None),
                ResultRow.role != REJECTION_ROLE,
            )
        ).all()
        void = _void_set(session, fronts[-1], ids) if ids else None
        if void is not None:
            sets.append(void)
    return sets


def _judged(session: Session, study_id: int, route: str) -> bool:
    """Whether a radiologist has judged any result of a route."""
    return bool(
        session.scalar(
            select(
                exists().where(
                    StudyRow.id == study_id,
                    AssessmentRow.study_instance_uid == StudyRow.study_instance_uid,
                    AssessmentRow.route == route,
                )
            )
        )
    )


def _run_by_hand(session: Session, study_id: int, route: str) -> bool:
    """Whether a person has let a route analyse a study."""
    events = session.scalars(select(EventRow).where(EventRow.study_id == study_id, EventRow.kind == ROUTE_RUN))
    return any(route in one.detail["routes"] and one.detail["by"] != SCHEDULER for one in events)


def _stands_for(front: JobRow, job: JobRow, jobs: Sequence[JobRow]) -> bool:
    """Whether what a front page tells holds what a job of another route found, or that job told nothing."""
    if _is_open(job):
        return False
    if job.state is not JobState.SUCCEEDED or job.package == FRONT_PAGE:
        return job.study_version <= front.study_version
    return any(
        one.route == front.route
        and one.package == job.package
        and one.state is JobState.SUCCEEDED
        and job.study_version <= one.study_version <= front.study_version
        and (one.verdict is Verdict.DELIVERED or job.verdict is not Verdict.DELIVERED)
        for one in jobs
    )


def _is_open(job: JobRow) -> bool:
    return job.state in (JobState.QUEUED, JobState.RUNNING)


def results_of_study(ledger: Ledger, study_instance_uid: str, *, now: dt.datetime) -> VoidSet | None:
    """All results of a study that no note names yet, to be made void together; ``None`` when it never had a job."""
    with ledger.reading() as session:
        job = session.scalars(
            select(JobRow)
            .join(StudyRow, StudyRow.id == JobRow.study_id)
            .where(StudyRow.study_instance_uid == study_instance_uid)
            .order_by(JobRow.id.desc())
            .limit(1)
        ).one_or_none()
        if job is None:
            return None
        ids = session.scalars(
            select(ResultRow.id)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(JobRow.study_id == job.study_id, ResultRow.rejected_at.is_(None), ResultRow.role != REJECTION_ROLE)
        ).all()
        results = _results(session, ids)
        return VoidSet(job.study.study_instance_uid, job.id, job.study_version, now, tuple(map(_void, results)))


def reject(
    ledger: Ledger,
    void: VoidSet,
    notes: Sequence[ResultRecord],
    *,
    reason: str,
    by: str,
    now: dt.datetime,
    undecided: Mapping[tuple[str, str], str] | None = None,
    not_told: Sequence[str] = (),
) -> bool:
    """Record notes whose files are on disk, dismiss what of the set was not sent, and queue the notes.

    Parameters
    ----------
    reason
        For the record of the deliveries that are dismissed.
    by
        Who made them void.
    undecided
        By SOP Instance UID of a note and its destination: why a person has to say whether it is sent there.
    not_told
        Destinations that hold some of the set and get no note, as none can be written.

    Returns
    -------
    bool
        False, and nothing done, when one of the results has come under way to a destination meanwhile.
    """
    with ledger.transaction() as session:
        rows = session.scalars(
            select(ResultRow)
            .where(ResultRow.id.in_([one.id for one in void.results]), ResultRow.rejected_at.is_(None))
            .order_by(ResultRow.id)
            .with_for_update(of=ResultRow)
        ).all()
        deliveries = session.scalars(
            select(DeliveryRow)
            .where(DeliveryRow.result_id.in_([row.id for row in rows]))
            .order_by(DeliveryRow.id)
            .with_for_update(of=DeliveryRow)
        ).all()
        arrived = {(row.result_id, row.destination) for row in deliveries if row.sent_at is not None}
        seen = {(one.id, destination) for one in void.results for destination in one.arrived_at}
        if arrived != seen or any(row.state in _GOING_OUT for row in deliveries):
            return False
        for delivery in deliveries:
            if delivery.state in _UNSENT:
                dismiss(session, delivery, reason=reason, by=by, now=now)
        for row in rows:
            row.rejected_at = now
        job = session.get_one(JobRow, void.job_id)
        for note in notes:
            add_result(session, job, note, now)
        for (uid, destination), why in (undecided or {}).items():
            for delivery in session.scalars(
                select(DeliveryRow)
                .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
                .where(
                    ResultRow.sop_instance_uid == uid,
                    DeliveryRow.destination == destination,
                    DeliveryRow.state == DeliveryState.QUEUED,
                )
            ):
                leave_to_a_person(session, delivery, why=why, now=now)
        record_event(
            session,
            "results rejected",
            f"job {job.id}",
            at=now,
            correlation_id=job.correlation_id,
            study_id=job.study_id,
            results=len(rows),
            notes=[note.sop_instance_uid for note in notes],
            reason=reason,
            by=by,
            **({"not_told": sorted(not_told)} if not_told else {}),
        )
        return True


def _void_set(session: Session, job: JobRow, result_ids: Collection[int]) -> VoidSet | None:
    results = _results(session, result_ids)
    if _is_going_out(results):
        return None
    since = job.ended_at or job.created_at
    instead = tuple(one.path for one in job.results if one.role != REJECTION_ROLE and one.removed_at is None)
    void = tuple(map(_void, results))
    return VoidSet(job.study.study_instance_uid, job.id, job.study_version, since, void, instead)


def is_under_way(ledger: Ledger, void: VoidSet) -> bool:
    """Whether one of a set is being sent, or waits for commitment, at this moment."""
    with ledger.reading() as session:
        return _is_going_out(_results(session, [one.id for one in void.results]))


def _is_going_out(results: Sequence[ResultRow]) -> bool:
    return any(delivery.state in _GOING_OUT for row in results for delivery in row.deliveries)


def _results(session: Session, result_ids: Collection[int]) -> Sequence[ResultRow]:
    return session.scalars(
        select(ResultRow)
        .where(ResultRow.id.in_(result_ids))
        .order_by(ResultRow.id)
        .options(selectinload(ResultRow.deliveries))
    ).all()


def _void(row: ResultRow) -> VoidResult:
    return VoidResult(
        id=row.id,
        job_id=row.job_id,
        role=row.role,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        path=row.path,
        present=row.removed_at is None,
        arrived_at=frozenset(one.destination for one in row.deliveries if one.sent_at is not None),
    )
