"""Studies whose images lie in storage and ledger, with jobs that wait for an executor; no network takes part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom import dcmread

from dicom_node.config import Configuration
from dicom_node.instance_files import instance_files
from dicom_node.network.file_meta import decode_file_meta
from storage.files import InstanceFiles
from storage.instances import ReceivedInstance, close_association, open_association, record_instances
from storage.jobs import RoutedJob, create_jobs, study_contents
from storage.ledger import open_ledger, utc_now

__all__ = ["queue_study"]

DEFAULT_TIMEOUT_S = 300.0


def queue_study(configuration: Configuration, paths: Iterable[Path], timeouts_s: Mapping[str, float] = {}) -> None:
    """Put one study into storage and ledger, and queue a job for each analysis of route ``cine``.

    Parameters
    ----------
    paths
        Its Part 10 files.
    timeouts_s
        Of jobs, by package.
    """
    files = instance_files(configuration)
    with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
        association = open_association(
            ledger, calling_ae_title="MR1", called_ae_title="NODE", address="127.0.0.1", at=utc_now(), receiver="test"
        )
        instances = [_stored(files, path, association) for path in paths]
        record_instances(ledger, instances, at=utc_now(), held_by=files.held_by)
        close_association(ledger, association, outcome="released", at=utc_now())
        contents = study_contents(ledger, instances[0].study_instance_uid)
        routed = [
            RoutedJob(
                "cine",
                package,
                tuple(one.series_instance_uid for one in contents.series),
                priority=50,
                deadline_s=600,
                maximum_attempts=3,
                timeout_s=timeouts_s.get(package, DEFAULT_TIMEOUT_S),
            )
            for package in configuration.routes["cine"].analyses
        ]
        if not create_jobs(ledger, contents, routed, reason="test", now=utc_now()):
            raise RuntimeError("no job was made")


def _stored(files: InstanceFiles, path: Path, association: str) -> ReceivedInstance:
    content, header = path.read_bytes(), dcmread(path, stop_before_pixels=True)
    begin = decode_file_meta(content).length
    syntax = str(header.file_meta.TransferSyntaxUID)
    stored = files.store(content[begin:], file_meta=content[:begin], transfer_syntax_uid=syntax)
    return ReceivedInstance(
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        study_instance_uid=str(header.StudyInstanceUID),
        transfer_syntax_uid=syntax,
        digest=stored.digest,
        path=stored.path,
        size=stored.size,
        association_id=association,
        calling_ae_title="MR1",
        modality="MR",
        series_description=str(header.get("SeriesDescription", "")),
        study_description="",
        manufacturer="",
        body_part_examined="",
    )
