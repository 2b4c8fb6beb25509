"""From a receiver's journal into instance files and the ledger: after Success, many instances at a time.

What the ledger makes of an instance is what it would have made of it before Success. A conflict has been answered by
then, so only instances of peers that are answered Success even then may come this way: the first is kept, the other
quarantined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from storage.files import InstanceFiles, StoredFile
from storage.group_commit import GroupCommit
from storage.instances import (
    CONFLICT,
    QuarantinedObject,
    ReceivedInstance,
    Reception,
    close_association,
    known_associations,
    open_association,
    record_quarantine,
)
from storage.journal import MAXIMUM_BATCH, JournalledInstance, left_segments
from storage.ledger import Ledger, LedgerError, utc_now

__all__ = ["Filing", "file_left_segments"]


class Filing:
    """Files what a journal holds.

    Parameters
    ----------
    commit
        Of the process.
    receiver
        Name of the process in the ledger.
    """

    def __init__(self, ledger: Ledger, files: InstanceFiles, commit: GroupCommit, receiver: str) -> None:
        self._ledger, self._files, self._commit, self._receiver = ledger, files, commit, receiver

    def file(self, batch: Sequence[JournalledInstance]) -> list[tuple[ReceivedInstance, Reception]]:
        """Write the files of instances, flush them, and take them into the record; twice does no harm.

        Returns
        -------
        list of ReceivedInstance and Reception
            What became of each.

        Raises
        ------
        OSError
            The disk does not take them now; some files may be written.
        sqlalchemy.exc.SQLAlchemyError
            The ledger does not take them now; some may be recorded.
        """
        self._files.store_all([(one.instance.path, one.content) for one in batch])
        instances = [one.instance for one in batch]
        opened: dict[str, str] = {}
        try:
            receptions = self._commit.record_all(instances)
        except LedgerError:
            # The ledger was lost, or put back from a time before their associations.
            opened = self._open_anew(instances)
            instances = [
                dataclasses.replace(one, association_id=opened.get(one.association_id, one.association_id))
                for one in instances
            ]
            receptions = self._commit.record_all(instances)
        outcomes = list(zip(instances, receptions, strict=True))
        for one, reception in outcomes:
            if reception is Reception.CONFLICT:
                self._keep_aside(one)
        for association_id in opened.values():
            self._commit.forget(association_id)
            close_association(self._ledger, association_id, outcome="receiver died", at=utc_now())
        return outcomes

    def _open_anew(self, instances: Sequence[ReceivedInstance]) -> dict[str, str]:
        senders = {one.association_id: one.calling_ae_title for one in instances}
        unknown = senders.keys() - known_associations(self._ledger, senders.keys())
        return {
            association_id: open_association(
                self._ledger,
                calling_ae_title=senders[association_id],
                called_ae_title="",
                address="",
                at=utc_now(),
                receiver=self._receiver,
            )
            for association_id in sorted(unknown)
        }

    def _keep_aside(self, one: ReceivedInstance) -> None:
        kept = self._files.copy_to_quarantine(StoredFile(one.path, one.digest, one.size))
        record_quarantine(
            self._ledger,
            QuarantinedObject(kept.digest, kept.path, CONFLICT, one.sop_instance_uid, one.association_id),
            at=utc_now(),
        )


def file_left_segments(ledger: Ledger, files: InstanceFiles, receiver: str) -> int:
    """File what receiver processes that are dead had acknowledged; no receiver may run.

    Parameters
    ----------
    receiver
        Name, in the ledger, of who does it.

    Returns
    -------
    int
        How many instances.

    Raises
    ------
    OSError, sqlalchemy.exc.SQLAlchemyError
        The disk or the ledger does not take them now; they stay in the segments.
    """
    commit = GroupCommit(ledger, files.held_by)
    filing, filed = Filing(ledger, files, commit, receiver), 0
    try:
        for segment, journalled in left_segments(files):
            try:
                for start in range(0, len(journalled), MAXIMUM_BATCH):
                    filed += len(filing.file(journalled[start : start + MAXIMUM_BATCH]))
            except BaseException:
                for one in journalled:
                    one.content.release()
                segment.leave()
                raise
            for one in journalled:
                one.content.release()
            segment.remove()
    finally:
        commit.close()
    return filed
