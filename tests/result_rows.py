"""Results as a worker keeps them: on disk, with what the ledger is to hold of them."""

from __future__ import annotations

from collections.abc import Iterable

from dicom_node.network.file_meta import decode_file_meta
from dicom_node.results.objects import ResultObject
from storage.files import RESULTS, InstanceFiles
from storage.jobs import ResultRecord

__all__ = ["stored_results"]


def stored_results(
    files: InstanceFiles, results: Iterable[ResultObject], *, delivered: bool = True
) -> list[ResultRecord]:
    """Write result objects to disk; their records.

    Parameters
    ----------
    delivered
        Whether they go to their destinations; nowhere otherwise.
    """
    records = []
    for one in results:
        begin = decode_file_meta(one.content).length
        stored = files.store(
            one.content[begin:],
            file_meta=one.content[:begin],
            transfer_syntax_uid=one.transfer_syntax_uid,
            folder=RESULTS,
        )
        records.append(
            ResultRecord(
                role=one.role.value,
                sop_class_uid=one.sop_class_uid,
                sop_instance_uid=one.sop_instance_uid,
                series_instance_uid=one.series_instance_uid,
                series_description=one.series_description,
                path=stored.path,
                digest=stored.digest,
                size=stored.size,
                destinations=tuple(sorted(one.destinations)) if delivered else (),
            )
        )
    return records
