"""Group commit: the instances of many associations share the transactions that record them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from storage.instances import ReceivedInstance, Reception, record_instances, record_more, series_ids
from storage.ledger import Ledger, LedgerError, utc_now

__all__ = ["GroupCommit"]

MAXIMUM_BATCH = 256


@dataclass(slots=True, eq=False)
class _Waiting:
    instance: ReceivedInstance
    ready: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    reception: Reception | None = None
    error: BaseException | None = None


class GroupCommit:
    """Records instances for many threads at once.

    Whoever finds nobody at work commits at once, alone; those who come meanwhile are committed together by the first
    of them. So a single sender waits for nothing, and many wait for one flush of the disk instead of one each.

    Parameters
    ----------
    held_by
        Of the storage that their files are in, see :attr:`storage.files.InstanceFiles.held_by`.
    """

    def __init__(self, ledger: Ledger, held_by: str | None = None) -> None:
        self._ledger, self._held_by = ledger, held_by
        self._series_ids: dict[str, dict[tuple[str, str], int]] = {}
        """By association, study and series; only the thread that leads touches it."""
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._connection: PoolProxiedConnection | None = None
        self._lock = threading.Lock()
        self._at_work = False
        self._queue: list[_Waiting] = []

    def record(self, instance: ReceivedInstance) -> Reception:
        """Take an instance into the record; after it the sender may be told Success.

        Raises
        ------
        LedgerError
            Its association is not in the ledger.
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not accept the transaction.
        """
        return self.record_all((instance,))[0]

    def knows(self, instance: ReceivedInstance) -> bool:
        """Whether its association has sent to its series before."""
        series = (instance.study_instance_uid, instance.series_instance_uid)
        return series in self._series_ids.get(instance.association_id, ())

    def record_all(self, instances: Sequence[ReceivedInstance]) -> list[Reception]:
        """Take many instances into the record.

        Returns
        -------
        list of Reception
            One for each, in their order.

        Raises
        ------
        LedgerError
            The association of one of them is not in the ledger; others may be recorded.
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not accept the transaction; some may be recorded.
        """
        receptions = []
        for one in self._commit_with_others(instances):
            if one.error is not None:
                raise one.error
            assert one.reception is not None
            receptions.append(one.reception)
        return receptions

    def close(self) -> None:
        """Let go of the connection to the ledger; nobody may record any more."""
        if self._connection is not None:
            self._connection.close()

    def forget(self, association_id: str) -> None:
        """Drop what is remembered of an association that has ended."""
        self._ended.put(association_id)

    def _commit_with_others(self, instances: Sequence[ReceivedInstance]) -> list[_Waiting]:
        mine = [_Waiting(one) for one in instances]
        with self._lock:
            self._queue += mine
            mine[0].leads = not self._at_work
            self._at_work = True
        for one in mine:
            if not one.leads:
                one.ready.wait()
            if one.leads:
                self._lead()
        return mine

    def _record(self, batch: Sequence[ReceivedInstance]) -> list[Reception]:
        while not self._ended.empty():
            self._series_ids.pop(self._ended.get(), None)
        known = [
            self._series_ids.get(one.association_id, {}).get((one.study_instance_uid, one.series_instance_uid))
            for one in batch
        ]
        rows = [(series_id, one) for series_id, one in zip(known, batch, strict=True) if series_id is not None]
        with self._ledger.turn():
            if len(rows) == len(batch) and self._record_more(rows):
                return [Reception.NEW] * len(batch)
            receptions = record_instances(self._ledger, batch, at=utc_now(), held_by=self._held_by)
        new = [one for one, reception in zip(batch, receptions, strict=True) if reception is Reception.NEW]
        for one, series_id in zip(new, series_ids(self._ledger, new), strict=True):
            sent = self._series_ids.setdefault(one.association_id, {})
            sent[one.study_instance_uid, one.series_instance_uid] = series_id
        return receptions

    def _record_more(self, rows: Sequence[tuple[int, ReceivedInstance]]) -> bool:
        engine = self._ledger.engine
        try:
            if self._connection is None:
                self._connection = engine.raw_connection()
            return record_more(self._connection, engine.dialect, rows, at=utc_now(), held_by=self._held_by)
        except BaseException as error:
            if self._connection is not None:
                self._connection.invalidate()
                self._connection = None
            if isinstance(error, engine.dialect.loaded_dbapi.Error):
                raise DBAPIError("record_more", None, error) from error
            raise

    def _lead(self) -> None:
        with self._lock:
            batch, self._queue = self._queue[:MAXIMUM_BATCH], self._queue[MAXIMUM_BATCH:]
        try:
            self._commit(batch)
        finally:
            with self._lock:
                if self._queue:
                    self._queue[0].leads = True
                    self._queue[0].ready.set()
                else:
                    self._at_work = False
            for one in batch:
                one.ready.set()

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            receptions = self._record([one.instance for one in batch])
        except LedgerError as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One of them is at fault, and the others must not suffer for it.
            for one in batch:
                self._commit([one])
        except Exception as error:  # noqa: BLE001 - each thread that waits for the batch raises it
            for one in batch:
                one.error = error
        else:
            for one, reception in zip(batch, receptions, strict=True):
                one.reception = reception
