"""Measures how long destinations take to commit results, and studies to be answered for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import metrics
from storage.ledger import Ledger
from storage.overview import commitments

__all__ = ["observe_commitments"]

_log = structlog.get_logger(__name__)


def observe_commitments(
    ledger: Ledger, *, at: dt.datetime, delivery_ids: Collection[int] = (), transaction_uid: str | None = None
) -> None:
    """Take into the metrics what of these deliveries was committed at ``at``; what it measures is in the ledger, so a
    ledger that does not answer costs a number and nothing else."""
    try:
        committed = commitments(ledger, at=at, delivery_ids=delivery_ids, transaction_uid=transaction_uid)
    except SQLAlchemyError as error:
        _log.warning("commitment not measured", what=type(error).__name__)
        return
    for one in committed:
        metrics.COMMITMENT_SECONDS.labels(one.destination).observe(one.waited_s)
        if one.turnaround_s is not None:
            metrics.TURNAROUND_SECONDS.observe(one.turnaround_s)
