"""Studies whose order came after their images: what the order lets routes take is analysed then."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration
from dicom_node.errors import raised_at
from dicom_node.schedule.completeness import study_reading
from dicom_node.schedule.correcting import correcting_series, with_corrections
from dicom_node.schedule.routed import jobs_of_route
from storage.jobs import SCHEDULER, add_jobs
from storage.ledger import Ledger, LedgerError
from storage.orders import (
    NewOrder,
    OrderedStudy,
    UnusedOrder,
    new_orders,
    note_considered,
    note_unused,
    ordered_studies,
)

__all__ = ["LateOrders", "Looked", "asking_routes", "tell_unused"]

_log = structlog.get_logger(__name__)

UNREADABLE_PAUSE = dt.timedelta(seconds=30)
"""Between two tries while files cannot be reached."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of one look at new orders."""

    jobs: tuple[int, ...] = ()
    """Ids of those that were made."""
    to_be_read: frozenset[str] = frozenset()
    """Studies that wait to be scheduled, and have an order now that they had not when they were last read."""


class LateOrders:
    """Holds orders that came or changed against the studies that are held.

    An order is done with when no study of its accession number waits: one that is being scheduled at this moment may
    have been read before the order came.
    """

    def __init__(self) -> None:
        self._waited_for: dict[NewOrder, frozenset[str]] = {}
        """Studies for which an order is put off."""
        self._not_before: dt.datetime | None = None

    def look(self, ledger: Ledger, configuration: Configuration, waiting: Collection[str], now: dt.datetime) -> Looked:
        """Make the jobs that new orders ask for.

        Parameters
        ----------
        waiting
            Studies that wait to be scheduled: the scheduler reads the orders of those itself.
        """
        asking = asking_routes(configuration)
        if not asking or (self._not_before is not None and now < self._not_before):
            return Looked()
        orders = new_orders(ledger)
        self._waited_for = {one: studies for one, studies in self._waited_for.items() if one in orders}
        orders = tuple(one for one in orders if not self._waited_for.get(one, frozenset()).intersection(waiting))
        if not orders:
            return Looked()
        new = frozenset(one.id for one in orders)
        created: list[int] = []
        to_be_read: set[str] = set()
        undone: dict[str, set[str]] = {}
        for study in ordered_studies(ledger, {one.accession_number for one in orders}):
            try:
                if study.study_instance_uid in waiting:
                    to_be_read.add(study.study_instance_uid)
                    undone.setdefault(study.accession_number, set()).add(study.study_instance_uid)
                else:
                    created += _analysed(ledger, configuration, study, asking - study.routes, new, now)
            except LedgerError:
                # Something came in for it this moment.
                undone.setdefault(study.accession_number, set()).add(study.study_instance_uid)
            except SQLAlchemyError:
                raise
            except OSError as error:
                # Storage may come back.
                self._not_before = now + UNREADABLE_PAUSE
                undone.setdefault(study.accession_number, set())
                _log.error(
                    "order not held against its study",
                    study_instance_uid=study.study_instance_uid,
                    error=error.strerror,
                )
            except Exception as error:  # noqa: BLE001 - one study must not hold up the others, whatever it holds
                _log.error(
                    "order not held against its study", study_instance_uid=study.study_instance_uid, at=raised_at(error)
                )
        self._waited_for |= {
            one: frozenset(undone[one.accession_number]) for one in orders if one.accession_number in undone
        }
        note_considered(ledger, [one for one in orders if one.accession_number not in undone], now=now)
        return Looked(tuple(created), frozenset(to_be_read))


def asking_routes(configuration: Configuration) -> frozenset[str]:
    """Routes that ask for orders."""
    return frozenset(
        name for name, route in configuration.routes.items() if any(rule.order is not None for rule in route.series)
    )


def tell_unused(ledger: Ledger, study_instance_uid: str, orders: Sequence[UnusedOrder], now: dt.datetime) -> None:
    """Tell, in log and ledger, that orders of a study's accession number are not used for it."""
    if not orders:
        return
    note_unused(ledger, study_instance_uid, orders, now=now)
    for why in dict.fromkeys(one.why for one in orders):
        _log.warning(
            "order not used: it has the accession number of the study and is not its own",
            study_instance_uid=study_instance_uid,
            differs=why.value,
            orders=sum(one.why is why for one in orders),
        )


def _analysed(
    ledger: Ledger,
    configuration: Configuration,
    study: OrderedStudy,
    routes: Collection[str],
    new: Collection[int],
    now: dt.datetime,
) -> tuple[int, ...]:
    """Let routes that have not analysed the present version of a study take what they take now."""
    if not routes:
        return ()
    reading = study_reading(ledger, configuration, study.study_instance_uid)
    jobs = [
        job
        for one in reading.routes
        if one.route in routes and one.series_instance_uids
        for job in jobs_of_route(configuration, one.route, one.series_instance_uids)
    ]
    created: tuple[int, ...] = ()
    if jobs:
        jobs = with_corrections(jobs, correcting_series(ledger, reading.contents))
        created = add_jobs(ledger, reading.contents, jobs, reason="an order came", by=SCHEDULER, now=now)
        _log.info(
            "study scheduled for its order",
            study_instance_uid=study.study_instance_uid,
            routes=list(dict.fromkeys(one.route for one in jobs)),
            jobs=created,
        )
    unused = [one for one in reading.orders.unused if one.id in new]
    tell_unused(ledger, study.study_instance_uid, unused, now)
    return created
