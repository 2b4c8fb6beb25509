"""Predicted beside acquired late enhancement of the same study: kept for the site's own figures. No patient data."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import ShadowComparisonRow, StudyRow

__all__ = ["KeptComparison", "Segment", "drop_comparison", "kept_comparisons", "record_comparison"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Predicted and acquired late enhancement of one AHA segment.

    Attributes
    ----------
    probability : float
        Predicted.
    enhanced : bool
        On the acquired images.
    """

    probability: float
    enhanced: bool


@dataclass(frozen=True, slots=True)
class KeptComparison:
    """Predicted and acquired late enhancement of one study.

    Attributes
    ----------
    version : str
        Of the analysis package that predicted.
    scanner : str
        Manufacturer, model and field strength.
    compared_at : datetime.datetime
    probability : float
        Predicted, that there is enhancement, 0 … 1.
    present : bool
        Whether acquired late enhancement shows an infarct.
    predicted_percent, acquired_percent : float
        Extent, % of the left ventricular muscle.
    segments : mapping of int to Segment
        By number, 1 … 16; empty where the one or the other could not tell segments.
    """

    version: str
    scanner: str
    compared_at: dt.datetime
    probability: float
    present: bool
    predicted_percent: float
    acquired_percent: float
    segments: Mapping[int, Segment] = field(default_factory=dict)


def record_comparison(ledger: Ledger, study_instance_uid: str, route: str, comparison: KeptComparison) -> None:
    """Keep the comparison of a study on a route, in place of the one before.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    with ledger.transaction() as session:
        study_id = _study(session, study_instance_uid)
        row = session.scalar(
            select(ShadowComparisonRow)
            .where(ShadowComparisonRow.study_id == study_id, ShadowComparisonRow.route == route)
            .with_for_update()
        )
        if row is None:
            row = ShadowComparisonRow(study_id=study_id, route=route)
            session.add(row)
        row.version, row.scanner = comparison.version[:24], comparison.scanner[:160]
        row.compared_at = comparison.compared_at
        row.probability, row.present = comparison.probability, comparison.present
        row.predicted_percent, row.acquired_percent = comparison.predicted_percent, comparison.acquired_percent
        row.segments = {str(number): [one.probability, one.enhanced] for number, one in comparison.segments.items()}
        at = comparison.compared_at
        record_event(session, "prediction compared", study_instance_uid, at=at, study_id=study_id, route=route)


def drop_comparison(ledger: Ledger, study_instance_uid: str, route: str) -> None:
    """Drop the comparison of a study on a route, if there is one: its latest version no longer holds both.

    Raises
    ------
    LedgerError
        There is no such study.
    """
    with ledger.transaction() as session:
        study_id = _study(session, study_instance_uid)
        for row in session.scalars(
            select(ShadowComparisonRow).where(
                ShadowComparisonRow.study_id == study_id, ShadowComparisonRow.route == route
            )
        ):
            session.delete(row)


def kept_comparisons(ledger: Ledger, since: dt.datetime | None = None) -> tuple[KeptComparison, ...]:
    """All comparisons, the oldest first; of a study that several routes compared the latest.

    Parameters
    ----------
    since
        Leaves out what was compared before.
    """
    # A study that is forgotten stands for itself: no other row can be of it.
    of_study = func.coalesce(ShadowComparisonRow.study_id, -ShadowComparisonRow.id)
    latest = func.row_number().over(
        partition_by=of_study, order_by=(ShadowComparisonRow.compared_at.desc(), ShadowComparisonRow.id.desc())
    )
    numbered = select(ShadowComparisonRow.id, latest.label("number")).subquery()
    chosen = select(ShadowComparisonRow).join(numbered, numbered.c.id == ShadowComparisonRow.id)
    chosen = chosen.where(numbered.c.number == 1)
    if since is not None:
        chosen = chosen.where(ShadowComparisonRow.compared_at >= since)
    with ledger.reading() as session:
        rows = session.scalars(chosen.order_by(ShadowComparisonRow.compared_at, ShadowComparisonRow.id)).all()
        return tuple(map(_kept, rows))


def _study(session: Session, study_instance_uid: str) -> int:
    study_id = session.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid))
    if study_id is None:
        raise LedgerError(f"no study {study_instance_uid} in the ledger")
    return study_id


def _kept(row: ShadowComparisonRow) -> KeptComparison:
    return KeptComparison(
        version=row.version,
        scanner=row.scanner,
        compared_at=row.compared_at,
        probability=row.probability,
        present=row.present,
        predicted_percent=row.predicted_percent,
        acquired_percent=row.acquired_percent,
        segments={int(number): Segment(float(one[0]), bool(one[1])) for number, one in row.segments.items()},
    )
