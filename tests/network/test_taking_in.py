"""What becomes of one object that a peer sends, without the network: status, comment, ledger, files, counters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ledger_rows import associate
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from structlog.testing import capture_logs

from dicom_node import metrics
from dicom_node.config import ConflictAnswer
from dicom_node.errors import CannotUnderstandError
from dicom_node.network.reception import InstanceReceiver, StoreRequest, StoreResponse
from dicom_node.network.watermarks import Watermarks
from network.objects import MR, encoded, mr_image
from storage.files import INCOMING, INSTANCES, KEPT_IN_MEMORY, QUARANTINE, InstanceFiles
from storage.ledger import Ledger, open_ledger
from storage.schema import InstanceRow, QuarantineRow, SeriesRow, StudyRow

SYNTAX = "1.2.840.10008.1.2.1"
MEGABYTE = 1_000_000


@dataclass
class Node:
    """A receiver with its storage; ``free`` is what the disk has left, ``conflicts`` the answer by AE title."""

    folder: Path
    ledger: Ledger
    free: int = 1000 * MEGABYTE
    looked: int = 0
    conflicts: dict[str, ConflictAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = InstanceFiles(self.folder / "files")
        watermarks = Watermarks(self._free_bytes, low_watermark_mb=100, high_watermark_mb=200)
        self.receiver = InstanceReceiver(
            self.ledger, self.files, watermarks, lambda title: self.conflicts.get(title, ConflictAnswer.ACCEPT)
        )
        self.association = associate(self.ledger)

    def _free_bytes(self) -> int:
        self.looked += 1
        return self.free

    def request(self, image: Dataset, title: str = "MR1", **other: str) -> StoreRequest:
        values = {"sop_class_uid": MR, "sop_instance_uid": str(image.SOPInstanceUID), "transfer_syntax_uid": SYNTAX}
        return StoreRequest(**{**values, "association_id": self.association, "calling_ae_title": title, **other})

    def take(self, image: Dataset, title: str = "MR1", **other: str) -> StoreResponse:
        return self.receiver.receive(self.request(image, title, **other), (encoded(image),))

    def names(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.files.root / folder).rglob("*") if path.is_file())

    def quarantined(self) -> list[QuarantineRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(QuarantineRow).order_by(QuarantineRow.id)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as ledger:
        one = Node(tmp_path, ledger)
        yield one
        one.receiver.commit.close()


def count(metric: object, *labels: str) -> float:
    one = metric.labels(*labels) if labels else metric  # type: ignore[attr-defined]
    return float(one._value.get())


def test_what_is_taken_stands_in_the_ledger_as_it_was_sent(node: Node) -> None:
    image = mr_image()
    image.SeriesDescription, image.StudyDescription = "cine SAX", "Herz"
    image.Manufacturer, image.BodyPartExamined = "MADE", "HEART"
    before = [count(metrics.INSTANCES_RECEIVED, "new"), count(metrics.RECEIVED_BYTES)]
    assert node.take(image) == StoreResponse(0x0000, "")
    with node.ledger.reading() as session:
        ((instance, series, study),) = session.execute(
            select(InstanceRow, SeriesRow, StudyRow)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        ).all()
        assert (instance.sop_class_uid, instance.sop_instance_uid) == (MR, image.SOPInstanceUID)
        assert (instance.transfer_syntax_uid, instance.association_id) == (SYNTAX, node.association)
        assert (series.series_instance_uid, series.calling_ae_title) == (image.SeriesInstanceUID, "MR1")
        assert (series.modality, series.series_description) == ("MR", "cine SAX")
        assert (series.study_description, series.manufacturer, series.body_part_examined) == ("Herz", "MADE", "HEART")
        assert study.study_instance_uid == image.StudyInstanceUID
        path = node.files.absolute(instance.path)
        assert (path.stem, path.stat().st_size) == (instance.digest, instance.size)
    assert path.read_bytes().endswith(encoded(image))
    meta = dcmread(path).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (MR, image.SOPInstanceUID)
    assert (meta.TransferSyntaxUID, meta.SourceApplicationEntityTitle) == (SYNTAX, "MR1")
    assert [count(metrics.INSTANCES_RECEIVED, "new"), count(metrics.RECEIVED_BYTES)] == [
        before[0] + 1,
        before[1] + path.stat().st_size,
    ]
    assert node.names(INCOMING) == []
    assert node.take(image) == StoreResponse(0x0000, "")
    assert node.names(INSTANCES) == [path]


@pytest.mark.parametrize(
    ("answer", "status", "comment"),
    [
        (ConflictAnswer.ACCEPT, 0x0000, ""),
        (ConflictAnswer.REFUSE, 0xC000, "other bytes are held under this SOP Instance UID"),
        (ConflictAnswer.REPLACE, 0x0000, ""),
    ],
)
def test_other_bytes_are_answered_by_who_sends_them(
    node: Node, answer: ConflictAnswer, status: int, comment: str
) -> None:
    node.conflicts["MR2"] = answer
    first, other = mr_image(), mr_image(seed=1)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(other, keyword, getattr(first, keyword))
    assert node.take(first).status == 0
    with capture_logs() as log:
        assert node.take(other, "MR2") == StoreResponse(status, comment)
    kept = other if answer is ConflictAnswer.REPLACE else first
    with node.ledger.reading() as session:
        (present,) = session.scalars(select(InstanceRow).where(InstanceRow.removed_at.is_(None)))
    assert node.files.absolute(present.path).read_bytes().endswith(encoded(kept))
    (held,) = node.quarantined()
    gone = first if answer is ConflictAnswer.REPLACE else other
    assert node.files.absolute(held.path).read_bytes().endswith(encoded(gone))
    assert held.sop_instance_uid == first.SOPInstanceUID
    if answer is not ConflictAnswer.REPLACE:
        assert (held.reason, held.association_id) == (
            "other bytes are held under this SOP Instance UID",
            node.association,
        )
    (said,) = [one for one in log if one["log_level"] == "warning"]
    assert (
        said["event"]
        == {
            ConflictAnswer.ACCEPT: "conflicting duplicate quarantined, first kept",
            ConflictAnswer.REFUSE: "instance refused",
            ConflictAnswer.REPLACE: "instance replaced, the first quarantined",
        }[answer]
    )
    assert (said["sop_instance_uid"], said["association"]) == (first.SOPInstanceUID, node.association)
    assert said["calling_ae_title"] == "MR2"


def test_without_room_nothing_is_written(node: Node) -> None:
    node.free = 99 * MEGABYTE
    before = count(metrics.STORE_REFUSALS, "no room"), count(metrics.STORE_RESPONSES, "A700")
    with capture_logs() as log:
        assert node.take(mr_image()) == StoreResponse(0xA700, "the disk is nearly full")
    assert node.names("") == []
    assert (count(metrics.STORE_REFUSALS, "no room"), count(metrics.STORE_RESPONSES, "A700")) == (
        before[0] + 1,
        before[1] + 1,
    )
    (said,) = log
    assert (said["status"], said["what"], said["calling_ae_title"]) == ("A700", "the disk is nearly full", "MR1")
    assert "high_watermark_mb" in said["remedy"]
    # Between the watermarks it stays closed.
    node.free = 150 * MEGABYTE
    assert node.take(mr_image()).status == 0xA700
    node.free = 300 * MEGABYTE
    assert node.take(mr_image()).status == 0


def test_room_is_looked_for_again_while_a_large_object_comes(node: Node) -> None:
    incoming = node.receiver.begin(node.request(mr_image()))
    looked = node.looked
    for _ in range(8):
        incoming.write(bytes(MEGABYTE))
    # Once at the beginning, then for eight megabytes not again.
    assert node.looked == looked + 1
    node.free = 99 * MEGABYTE
    for _ in range(2):
        incoming.write(bytes(MEGABYTE))
    assert node.names(INCOMING) == []
    assert incoming.finish() == StoreResponse(0xA700, "the disk is nearly full")


def test_a_part_that_would_fill_the_disk_is_not_written(node: Node) -> None:
    node.free = 101 * MEGABYTE
    incoming = node.receiver.begin(node.request(mr_image()))
    incoming.write(bytes(2 * MEGABYTE))
    assert node.names(INCOMING) == []
    assert incoming.finish().status == 0xA700


def test_the_first_failure_decides_and_what_comes_after_it_is_let_go(node: Node) -> None:
    image = mr_image()
    error = CannotUnderstandError("is of no use", subject="1.2.3", remedy="send another")
    incoming = node.receiver.refuse(node.request(image), error)
    incoming.write(encoded(image))
    assert incoming.finish() == StoreResponse(0xC000, "is of no use")
    assert node.names("") == []
    assert node.quarantined() == []


def test_what_breaks_off_is_removed(node: Node) -> None:
    incoming = node.receiver.begin(node.request(mr_image()))
    incoming.write(bytes(KEPT_IN_MEMORY))
    assert node.names(INCOMING) == []
    incoming.write(b"half")
    assert len(node.names(INCOMING)) == 1
    incoming.abandon()
    incoming.abandon()
    assert node.names("") == []


def test_what_cannot_be_parsed_is_quarantined_with_the_reason(node: Node) -> None:
    before = count(metrics.STORE_REFUSALS, "not understood"), count(metrics.OBJECTS_QUARANTINED)
    response = node.receiver.receive(node.request(mr_image()), (b"\0" * 4000,))
    assert response.status == 0xC000
    (held,) = node.quarantined()
    assert response.comment == held.reason[:64]
    assert held.path.startswith(QUARANTINE)
    assert (count(metrics.STORE_REFUSALS, "not understood"), count(metrics.OBJECTS_QUARANTINED)) == (
        before[0] + 1,
        before[1] + 1,
    )
    assert node.names(INSTANCES) == node.names(INCOMING) == []


def test_what_is_not_what_the_request_says_is_quarantined_too(node: Node) -> None:
    image = mr_image()
    before = count(metrics.STORE_REFUSALS, "mismatch")
    assert node.take(image, sop_instance_uid="1.2.3").status == 0xA900
    assert node.take(image, study_instance_uid="1.2.3").status == 0xA900
    assert len(node.quarantined()) == 2
    assert count(metrics.STORE_REFUSALS, "mismatch") == before + 2


def test_storage_that_is_away_is_told_from_a_ledger_that_is(node: Node) -> None:
    before = count(metrics.STORE_REFUSALS, "storage"), count(metrics.STORE_REFUSALS, "ledger")
    (node.files.root / INCOMING).rename(node.folder / "elsewhere")
    assert node.take(mr_image()).status == 0xA700
    (node.folder / "elsewhere").rename(node.files.root / INCOMING)
    with node.ledger.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE instance RENAME TO away")
    assert node.take(mr_image()).status == 0xA700
    assert (count(metrics.STORE_REFUSALS, "storage"), count(metrics.STORE_REFUSALS, "ledger")) == (
        before[0] + 1,
        before[1] + 1,
    )


def test_what_nobody_foresaw_tells_the_peer_and_the_log_no_text(node: Node) -> None:
    class Broken(bytes):
        def __len__(self) -> int:
            raise ArithmeticError("DOE^JOHN")

    before = count(metrics.STORE_REFUSALS, "unforeseen")
    with capture_logs() as log:
        response = node.receiver.receive(node.request(mr_image()), (Broken(b"x"),))
    assert response == StoreResponse(0x0110, "unforeseen failure")
    (said,) = [one for one in log if one["event"] == "instance refused"]
    assert "test_taking_in.py" in str(said["place"])
    assert "DOE" not in str(log)
    assert count(metrics.STORE_REFUSALS, "unforeseen") == before + 1
