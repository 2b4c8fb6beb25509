"""Studies in the ledger and the files of a console under test, as receiver, worker and deliverer would leave them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ledger_rows import close_versions, route
from network.objects import MR, encoded, mr_image
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select

from console.running_console import RunningConsole
from dicom_node.config import ConflictAnswer
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.reception import InstanceReceiver, StoreRequest
from dicom_node.network.watermarks import Watermarks
from dicom_node.schedule.completeness import study_reading
from storage.deliveries import claim_deliveries, delivery_failed, delivery_sent
from storage.files import RESULTS
from storage.instances import close_association, open_association
from storage.jobs import Outcome, ResultRecord, claim_job, complete_job, create_jobs
from storage.ledger import utc_now
from storage.schema import InstanceRow, Verdict

STUDY, SERIES = "1.2.3", "1.2.3.1"
NAME, PATIENT_ID = "Πατρίκιος", "P1"
PARAGRAPH = "Left ventricle: ejection fraction 52 % (normal 48 to 68) & mass 91 g."
FOUND = Outcome(
    Verdict.DELIVERED,
    key_numbers=("LV ejection fraction 52 % (50 to 55)",),
    summary={"seconds": {}, "results": ["summary"], "rejected": []},
)


def receive(
    console: RunningConsole, *, count: int = 3, ended: bool = True, accession: str = "", description: str = ""
) -> str:
    """Receive images of the study in one association; its correlation id."""
    images = [mr_image(study=STUDY, series=SERIES, seed=one) for one in range(count)]
    for image in images:
        image.AccessionNumber = accession
        if description:
            image.SeriesDescription = description
    return _receive(console, images, ended)


def receive_otherwise(console: RunningConsole, count: int) -> None:
    """Receive some of the images again with other pixels under the same UIDs: they are put aside."""
    with console.ledger.reading() as session:
        held = session.scalars(select(InstanceRow.path).order_by(InstanceRow.id).limit(count)).all()
    images = [dcmread(console.files.absolute(path)) for path in held]
    for image in images:
        image.PixelData = image.PixelData[::-1]
    _receive(console, images, True)


def _receive(console: RunningConsole, images: Sequence[Dataset], ended: bool) -> str:
    files, ledger = console.files, console.ledger
    watermarks = Watermarks(files.free_bytes, low_watermark_mb=0, high_watermark_mb=0)
    receiver = InstanceReceiver(ledger, files, watermarks, lambda _sender: ConflictAnswer.ACCEPT)
    association = open_association(
        ledger, calling_ae_title="MR1", called_ae_title="NODE", address="10.0.0.9", at=utc_now(), receiver="n/r"
    )
    for image in images:
        syntax = str(image.file_meta.TransferSyntaxUID)
        request = StoreRequest(MR, str(image.SOPInstanceUID), syntax, association, "MR1")
        assert receiver.receive(request, (encoded(image),)).status == 0
    receiver.commit.close()
    if ended:
        close_association(ledger, association, outcome="released", at=utc_now())
    return association


def analyse(console: RunningConsole, outcome: Outcome = FOUND, *, names_patient: bool = True) -> int:
    """Schedule the study, and make one page of results of it; the number of the job."""
    ledger, files = console.ledger, console.files
    contents = study_reading(ledger, console.configuration, STUDY).contents
    created = create_jobs(ledger, contents, [route(series=(SERIES,))], reason="quiet for 20 s", now=utc_now())
    assert created
    job = claim_job(ledger, "w", utc_now())
    assert job is not None
    page = mr_image(study=STUDY, series="1.2.3.900", seed=job.id, side=64)
    page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    page.BurnedInAnnotation = "YES" if names_patient else "NO"
    page.PhotometricInterpretation, page.SamplesPerPixel, page.PlanarConfiguration = "RGB", 3, 0
    page.BitsAllocated = page.BitsStored = 8
    page.HighBit = 7
    page.PixelData = np.full((64, 64, 3), (200, 30, 30), np.uint8).tobytes()
    page["PixelData"].VR = "OB"
    syntax = str(page.file_meta.TransferSyntaxUID)
    meta = encode_file_meta(SecondaryCaptureImageStorage, str(page.SOPInstanceUID), syntax)
    stored = files.store(encoded(page), file_meta=meta, transfer_syntax_uid=syntax, folder=RESULTS)
    record = ResultRecord(
        role="summary",
        sop_class_uid=SecondaryCaptureImageStorage,
        sop_instance_uid=str(page.SOPInstanceUID),
        series_instance_uid="1.2.3.900",
        series_description="AI ventricular function summary - RESEARCH",
        path=stored.path,
        digest=stored.digest,
        size=stored.size,
        destinations=("pacs",),
    )
    assert complete_job(ledger, job, [record], outcome, now=utc_now())
    close_versions(ledger, utc_now(), paragraph=PARAGRAPH)
    return job.id


def deliver(console: RunningConsole, *, error: str = "") -> None:
    """Deliver what waits, or let the PACS refuse it for good."""
    claimed = claim_deliveries(console.ledger, "pacs", 99, "d", utc_now(), 60)
    for one in claimed:
        if error:
            delivery_failed(console.ledger, one.id, error, None, now=utc_now())
        else:
            delivery_sent(console.ledger, [one.id], None, None, now=utc_now())


def name_in_the_files(console: RunningConsole) -> bool:
    """Whether the images themselves do name the patient: else that no page does proves nothing."""
    paths = console.files.root.glob("instances/*/*.dcm")
    return any(NAME in str(dcmread(path).PatientName) for path in paths)
