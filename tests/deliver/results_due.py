"""A ledger with results that wait to be delivered, their files on disk."""

from __future__ import annotations

from pathlib import Path

from interop.ports import wait_until
from ledger_rows import DELIVERED, receive_and_schedule
from network.objects import SECONDARY_CAPTURE, encoded, mr_image
from pydicom.dataset import Dataset

from dicom_node.config import Configuration
from dicom_node.deliver.deliver import Deliverer
from dicom_node.network.file_meta import encode_file_meta
from storage.files import RESULTS, InstanceFiles
from storage.jobs import ResultRecord, claim_job, complete_job
from storage.ledger import Ledger, utc_now
from storage.overview import DeliveryOverview, delivery_overviews
from storage.schema import DeliveryState

STUDY = "1.2.3"


def result_objects(count: int) -> list[Dataset]:
    """Secondary captures of one series of the study."""
    objects = []
    for seed in range(count):
        one = mr_image(study=STUDY, series="1.2.3.900", seed=seed)
        one.SOPClassUID = SECONDARY_CAPTURE
        objects.append(one)
    return objects


def results_due(
    configuration: Configuration, ledger: Ledger, objects: list[Dataset], *destinations: str, study: str = STUDY
) -> Deliverer:
    """Record the objects as results of a finished job, due at the destinations."""
    files = InstanceFiles(configuration.storage.directory)
    (job_id,) = receive_and_schedule(ledger, study)
    job = claim_job(ledger, "w", utc_now())
    assert job is not None
    assert job.id == job_id
    records = []
    for one in objects:
        syntax = str(one.file_meta.TransferSyntaxUID)
        meta = encode_file_meta(str(one.SOPClassUID), str(one.SOPInstanceUID), syntax)
        stored = files.store(encoded(one), file_meta=meta, transfer_syntax_uid=syntax, folder=RESULTS)
        records.append(
            ResultRecord(
                role="summary",
                sop_class_uid=str(one.SOPClassUID),
                sop_instance_uid=str(one.SOPInstanceUID),
                series_instance_uid=str(one.SeriesInstanceUID),
                series_description="cine",
                path=str(stored.path),
                digest=stored.digest,
                size=stored.size,
                destinations=destinations or ("pacs",),
            )
        )
    complete_job(ledger, job, records, DELIVERED, now=utc_now())
    return Deliverer(configuration, ledger, files, "test")


def rounds_until(deliverer: Deliverer, *wanted: DeliveryState, seconds: float = 300) -> None:
    """Make rounds, as the serving loop does, until all deliveries are in one of some states."""
    ledger = deliverer.ledger

    def settled() -> bool:
        for destination in deliverer.destinations_with_work():
            deliverer.deliver_once(destination)
        return set(states(ledger)) <= set(wanted)

    wait_until(settled, seconds=seconds, what=f"{wanted}; deliveries are {overview(ledger)}")


def states(ledger: Ledger) -> list[DeliveryState]:
    """State of every delivery."""
    return [one.state for one in overview(ledger)]


def overview(ledger: Ledger) -> list[DeliveryOverview]:
    """Every delivery in the order made."""
    return sorted(delivery_overviews(ledger), key=lambda one: one.id)


def files_of(deliverer: Deliverer) -> list[Path]:
    """Result files on disk."""
    return sorted(deliverer.files.root.glob("results/*/*.dcm"))
