"""Modality performed procedure steps (PS3.4 annex F): what scanners say they made, and how much of it is here."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from storage.ledger import Ledger, insert_if_absent, record_event
from storage.schema import InstanceRow, PerformedStepRow, PerformedStepStudyRow, StepState, StudyRow

__all__ = ["NO_STEPS", "StepChange", "StepOutcome", "StudySteps", "change_step", "create_step", "study_steps"]

_UIDS_A_QUERY = 500


class StepOutcome(enum.Enum):
    """Outcome of recording a change."""

    CHANGED = "changed"
    UNKNOWN = "unknown"
    """There is no such step."""
    ENDED = "ended"
    """It is completed or discontinued: final."""
    NO_END = "no end"
    """To end it needs its end date and time."""
    NO_SERIES = "no series"
    """To be completed it needs the series that it made."""


@dataclass(frozen=True, slots=True)
class StepChange:
    """The change of an N-SET request; what is ``None`` stays as it is."""

    state: StepState | None = None
    made: Mapping[str, Sequence[str]] | None = None
    """SOP Instance UIDs by Series Instance UID; replaces all that was said before."""
    end_given: bool = False


@dataclass(frozen=True, slots=True)
class StudySteps:
    """The performed procedure steps of one study."""

    in_progress: int = 0
    completed: int = 0
    discontinued: int = 0
    images: int = 0
    """That the steps name."""
    missing: int = 0
    """Of these in series of which some have come."""
    series_not_begun: int = 0

    @property
    def ended(self) -> bool:
        """Whether there are steps and none is in progress."""
        return not self.in_progress and bool(self.completed + self.discontinued)

    @property
    def sentence(self) -> str:
        """How many steps are in which state, as a sentence for the operator; empty without steps."""
        counts = (
            (self.in_progress, "in progress"),
            (self.completed, "completed"),
            (self.discontinued, "discontinued"),
        )
        if not any(count for count, _ in counts):
            return ""
        parts = ["performed procedure step " + " and ".join(name for count, name in counts if count)]
        if self.missing:
            parts.append(f"{self.missing} of its {self.images} images have not come")
        if self.series_not_begun:
            parts.append(f"{self.series_not_begun} of its series have not come")
        if self.ended and self.images and not self.missing and not self.series_not_begun:
            parts.append(f"all its {self.images} images are here")
        return ", ".join(parts)


NO_STEPS = StudySteps()


def create_step(
    ledger: Ledger,
    *,
    sop_instance_uid: str,
    calling_ae_title: str,
    study_instance_uids: Collection[str],
    made: Mapping[str, Sequence[str]],
    now: dt.datetime,
) -> bool:
    """Take a new step into the ledger: IN PROGRESS.

    Returns
    -------
    bool
        False, and nothing changed, when there is one of this UID.
    """
    with ledger.transaction() as session:
        new = insert_if_absent(
            session,
            cast(Table, PerformedStepRow.__table__),
            {
                "sop_instance_uid": sop_instance_uid,
                "calling_ae_title": calling_ae_title,
                "state": StepState.IN_PROGRESS,
                "made": {series: list(uids) for series, uids in made.items()},
                "end_given": False,
                "changed_at": now,
            },
        )
        if not new:
            return False
        step = session.scalars(
            select(PerformedStepRow).where(PerformedStepRow.sop_instance_uid == sop_instance_uid)
        ).one()
        session.add_all(
            PerformedStepStudyRow(step_id=step.id, study_instance_uid=uid) for uid in sorted(set(study_instance_uids))
        )
        session.flush()
        _event(session, step, now)
        return True


def change_step(ledger: Ledger, sop_instance_uid: str, change: StepChange, *, now: dt.datetime) -> StepOutcome:
    """Change a step that is in progress; all of the change or nothing."""
    with ledger.transaction() as session:
        step = session.scalar(
            select(PerformedStepRow).where(PerformedStepRow.sop_instance_uid == sop_instance_uid).with_for_update()
        )
        if step is None:
            return StepOutcome.UNKNOWN
        if step.state is not StepState.IN_PROGRESS:
            return StepOutcome.ENDED
        state = change.state or step.state
        made = step.made if change.made is None else {series: list(uids) for series, uids in change.made.items()}
        if state is not StepState.IN_PROGRESS and not (step.end_given or change.end_given):
            return StepOutcome.NO_END
        if state is StepState.COMPLETED and not made:
            return StepOutcome.NO_SERIES
        step.state, step.made, step.changed_at = state, made, now
        step.end_given = step.end_given or change.end_given
        if state is not StepState.IN_PROGRESS:
            _event(session, step, now)
        return StepOutcome.CHANGED


def study_steps(ledger: Ledger, study_instance_uid: str) -> StudySteps:
    """The steps of a study, and how many of the images that they name are held."""
    with ledger.reading() as session:
        steps = session.scalars(
            select(PerformedStepRow)
            .join(PerformedStepRow.studies)
            .where(PerformedStepStudyRow.study_instance_uid == study_instance_uid)
        ).all()
        if not steps:
            return NO_STEPS
        made: dict[str, set[str]] = {}
        for step in steps:
            for series, uids in step.made.items():
                made.setdefault(series, set()).update(uids)
        here = _held(session, sorted(set[str]().union(*made.values())))
        begun = [uids for uids in made.values() if uids & here]
        states = [step.state for step in steps]
        return StudySteps(
            in_progress=states.count(StepState.IN_PROGRESS),
            completed=states.count(StepState.COMPLETED),
            discontinued=states.count(StepState.DISCONTINUED),
            images=sum(len(uids) for uids in made.values()),
            missing=sum(len(uids - here) for uids in begun),
            series_not_begun=sum(bool(uids) and not uids & here for uids in made.values()),
        )


def _held(session: Session, sop_instance_uids: Sequence[str]) -> set[str]:
    held: set[str] = set()
    for start in range(0, len(sop_instance_uids), _UIDS_A_QUERY):
        part = sop_instance_uids[start : start + _UIDS_A_QUERY]
        held.update(
            session.scalars(
                select(InstanceRow.sop_instance_uid).where(
                    InstanceRow.sop_instance_uid.in_(part), InstanceRow.removed_at.is_(None)
                )
            )
        )
    return held


def _event(session: Session, step: PerformedStepRow, at: dt.datetime) -> None:
    studies: Sequence[int | None] = session.scalars(
        select(StudyRow.id)
        .join(PerformedStepStudyRow, PerformedStepStudyRow.study_instance_uid == StudyRow.study_instance_uid)
        .where(PerformedStepStudyRow.step_id == step.id)
    ).all()
    for study_id in studies or [None]:
        record_event(
            session,
            f"performed step {step.state.value.lower()}",
            step.sop_instance_uid,
            at=at,
            study_id=study_id,
            peer=step.calling_ae_title,
            images=sum(len(uids) for uids in step.made.values()),
        )
