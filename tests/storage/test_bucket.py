"""Instance files in a bucket of a real S3 server: what is kept where, at every moment."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from interop.ports import wait_until
from ledger_rows import DELIVERED, NOW, a_result, associate, claim, route
from s3_server import S3Server, running_s3
from sqlalchemy import delete, select, update

from dicom_node.network.file_meta import digest_of_file, encode_file_meta
from dicom_node.uploader import Uploader
from storage.backup import back_up, restore
from storage.bucket import Bucket, BucketError
from storage.bucket_files import CACHE, UNUSED_S, BucketFiles
from storage.bucket_sweep import part_of_the_day, sweep_bucket, sweep_front
from storage.deletion import delete_study
from storage.files import INCOMING, INSTANCES, QUARANTINE, RESULTS, InstanceFiles, StoredFile
from storage.identity import IdentityError, bind
from storage.instances import ReceivedInstance, Reception, close_association, record_instances
from storage.jobs import claim_job, complete_job, create_jobs, put_job_off, study_contents
from storage.ledger import Ledger, open_ledger
from storage.overview import job_overviews
from storage.replacement import replace_instance
from storage.retention import Swept
from storage.schema import InstanceRow, JobState, QuarantineRow, ReleasedFileRow
from storage.uploads import (
    HeldByHost,
    await_uploaded,
    begin_uploads,
    end_uploads,
    held_by_hosts,
    studies_being_uploaded,
    uploads_due,
)

MR = "1.2.840.10008.5.1.4.1.1.4"
SYNTAX = "1.2.840.10008.1.2.1"
GRACE = dt.timedelta(hours=6)
LATER = NOW + dt.timedelta(hours=1)
FAR = dt.timedelta(days=2)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3() as one:
        yield one


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """On SQLite, unless a test asks for another."""
    url = str(request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url"))
    with closing(open_ledger(url)) as opened:
        yield opened


@pytest.fixture
def name() -> str:
    return f"b{uuid.uuid4().hex[:12]}"


@pytest.fixture
def bucket(server: S3Server, name: str) -> Iterator[Bucket]:
    yield server.bucket(name)
    server.gate.bytes_until_shut = None
    server.gate.shut()
    server.gate.open()


@dataclass
class Node:
    """One host with its disk, and the ledger and the bucket of all."""

    ledger: Ledger
    files: BucketFiles
    server: S3Server

    def __post_init__(self) -> None:
        self.uploader = Uploader(self.ledger, self.files)
        self.association = associate(self.ledger)

    def store(self, number: int, folder: str = INSTANCES) -> StoredFile:
        meta = encode_file_meta(MR, f"1.2.3.1.{number}", SYNTAX)
        return self.files.store(f"image {number}".encode(), file_meta=meta, transfer_syntax_uid=SYNTAX, folder=folder)

    def instance(self, number: int, stored: StoredFile) -> ReceivedInstance:
        return ReceivedInstance(
            sop_class_uid=MR,
            sop_instance_uid=f"1.2.3.1.{number}",
            series_instance_uid="1.2.3.1",
            study_instance_uid="1.2.3",
            transfer_syntax_uid=SYNTAX,
            digest=stored.digest,
            path=stored.path,
            size=stored.size,
            association_id=self.association,
            calling_ae_title="MR1",
            modality="MR",
            series_description="cine",
            study_description="",
            manufacturer="",
            body_part_examined="",
            facts={"planes": [1.5]},
        )

    def receive(self, number: int, at: dt.datetime = NOW) -> StoredFile:
        stored = self.store(number)
        record_instances(self.ledger, [self.instance(number, stored)], at=at, held_by=self.files.held_by)
        return stored

    def objects(self) -> dict[str, bytes]:
        place = self.files.bucket.place
        found = self.server.contents(place.bucket)
        return {key.removeprefix(f"{place.prefix}/"): content for key, content in found.items()}

    def holders(self) -> list[str | None]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(InstanceRow.held_by).order_by(InstanceRow.id)))

    def released(self) -> set[str]:
        with self.ledger.reading() as session:
            return set(session.scalars(select(ReleasedFileRow.path)))

    def delete(self) -> None:
        close_association(self.ledger, self.association, outcome="released", at=NOW)
        delete_study(self.ledger, "1.2.3", reason="test", by="test", now=NOW)
        self.association = associate(self.ledger)


@pytest.fixture
def node(ledger: Ledger, bucket: Bucket, server: S3Server, tmp_path: Path) -> Iterator[Node]:
    files = BucketFiles(tmp_path / "one", bucket, "one")
    bind(ledger, files, now=NOW)
    made = Node(ledger, files, server)
    yield made
    made.uploader.close()


@pytest.fixture
def other(node: Node, tmp_path: Path) -> Iterator[Node]:
    """Another host of the same node."""
    files = BucketFiles(tmp_path / "other", node.files.bucket, "other")
    bind(node.ledger, files, now=NOW)
    made = Node(node.ledger, files, node.server)
    yield made
    made.uploader.close()


# -- the bucket --------------------------------------------------------------------------------------------------------


def test_a_bucket_does_the_few_things_that_files_need(bucket: Bucket, tmp_path: Path) -> None:
    one, copy = tmp_path / "one", tmp_path / "copy"
    one.write_bytes(b"content")
    assert (bucket.identity(), bucket.size_of("instances/ab/x.dcm"), bucket.changed_at("x")) == (None, None, None)
    bucket.put("instances/ab/x.dcm", one)
    bucket.put("instances/ab/x.dcm", one)
    assert bucket.size_of("instances/ab/x.dcm") == 7
    # A folder is nothing of its own.
    assert bucket.size_of("instances/ab") is None
    ((found, at),) = bucket.names("instances/")
    assert (found, at) == ("instances/ab/x.dcm", bucket.changed_at("instances/ab/x.dcm"))
    assert abs((dt.datetime.now(dt.UTC) - at).total_seconds()) < 600
    bucket.get(found, copy)
    assert copy.read_bytes() == b"content"
    bucket.move(found, "unexplained/x.dcm")
    assert [name for name, _ in bucket.names("instances/")] == []
    assert [name for name, _ in bucket.names("unexplained/")] == ["unexplained/x.dcm"]
    bucket.remove("unexplained/x.dcm")
    bucket.remove("unexplained/x.dcm")
    with pytest.raises(FileNotFoundError):
        bucket.get("unexplained/x.dcm", tmp_path / "new")
    bucket.take_identity("a" * 32)
    assert bucket.identity() == "a" * 32


def test_a_bucket_that_is_away_or_absent_is_no_bucket_without_the_object(
    bucket: Bucket, server: S3Server, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    bucket.put("x", file)
    absent = server.bucket("absent", made=False)
    refused = Bucket(replace(bucket.place, endpoint=f"http://127.0.0.1:{server.gate.port}/nothing"))
    server.gate.shut()
    for one, opened in ((bucket, False), (absent, True)):
        if opened:
            server.gate.open()
        for ask in (one.identity, lambda one=one: one.put("x", file), lambda one=one: one.size_of("x")):
            with pytest.raises(BucketError) as raised:
                ask()
            assert SECRETS.isdisjoint(str(raised.value).split())
        with pytest.raises(BucketError):
            one.get("x", tmp_path / "new")
        with pytest.raises(BucketError):
            list(one.names("instances/"))
    with pytest.raises(BucketError):
        refused.put("x", file)
    assert bucket.size_of("x") == 7
    assert "not a secret" not in repr(bucket.place)


SECRETS = {"node", "secret"}


def test_what_breaks_off_is_not_there(bucket: Bucket, server: S3Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(4_000_000))
    bucket.identity()
    server.gate.bytes_until_shut = 1_000_000
    with pytest.raises(BucketError):
        bucket.put("large", large)
    server.gate.open()
    assert bucket.size_of("large") is None
    bucket.put("large", large)
    files = BucketFiles(tmp_path / "files", bucket, "one")
    server.gate.bytes_back_until_shut = 1_000_000
    with pytest.raises(BucketError):
        files.readable("large")
    server.gate.open()
    assert list((files.root / INCOMING).iterdir()) == []
    assert files.readable("large").read_bytes() == large.read_bytes()
    assert files.readable("large").stat().st_mode & 0o007 == 0


# -- on the way into it ------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_held_by_its_host_until_it_is_in_the_bucket(node: Node, other: Node) -> None:
    stored = [node.receive(number) for number in range(3)]
    assert node.holders() == ["one"] * 3
    assert held_by_hosts(node.ledger) == (HeldByHost("one", 3, NOW),)
    assert studies_being_uploaded(node.ledger) == {"1.2.3"}
    assert not any(name.startswith(INSTANCES) for name in node.objects())
    assert node.files.readable(stored[0].path) == node.files.absolute(stored[0].path)
    with pytest.raises(FileNotFoundError):
        other.files.readable(stored[0].path)
    assert not await_uploaded(node.ledger, 0.2, but_of="other")
    assert await_uploaded(node.ledger, 0.2, but_of="one")
    assert other.uploader.upload() == 0
    assert node.uploader.upload() == 3
    assert node.holders() == [None] * 3
    assert studies_being_uploaded(node.ledger) == frozenset()
    held = node.objects()
    for one in stored:
        assert held[one.path] == node.files.absolute(one.path).read_bytes()
        assert other.files.readable(one.path).read_bytes() == held[one.path]
        assert node.files.size_of(one.path) == other.files.size_of(one.path) == one.size
    assert node.uploader.upload() == 0


def test_an_upload_that_was_cut_off_anywhere_is_done_again(node: Node) -> None:
    stored = node.receive(1)
    due = uploads_due(node.ledger, "one", limit=10)
    begin_uploads(node.ledger, due)
    node.files.upload(stored.path)
    # Here its process was killed.
    assert node.holders() == ["one"]
    again = Uploader(node.ledger, BucketFiles(node.files.root, node.files.bucket, "one"))
    assert again.upload() == 1
    again.close()
    assert node.holders() == [None]
    assert node.objects()[stored.path] == node.files.readable(stored.path).read_bytes()


def test_a_bucket_that_is_away_holds_up_nobody_and_loses_nothing(node: Node, server: S3Server) -> None:
    server.gate.shut()
    stored = [node.receive(number) for number in range(3)]
    assert node.uploader.upload() == 0
    assert node.holders() == ["one"] * 3
    # What came in here can be read here.
    assert all(node.files.readable(one.path).exists() for one in stored)
    with pytest.raises(BucketError):
        node.store(7, RESULTS)
    assert list((node.files.root / INCOMING).iterdir()) == []
    server.gate.open()
    wait_until(lambda: node.uploader.upload() == 3, seconds=60, what="the bucket has all", every=0.2)
    assert set(node.holders()) == {None}
    assert {one.path for one in stored} <= node.objects().keys()


def test_what_is_not_on_the_disk_holds_up_no_other(node: Node) -> None:
    gone, there = node.receive(1), node.receive(2)
    node.files.absolute(gone.path).unlink()
    assert node.uploader.upload() == 1
    assert node.holders() == ["one", None]
    assert there.path in node.objects()
    # Sent again it is uploaded, by whichever host took it then.
    assert node.uploader.upload() == 0


def test_a_host_that_is_gone_is_stood_in_for_by_one_that_was_sent_the_same(node: Node, other: Node) -> None:
    stored = node.receive(1)
    again = other.store(1)
    assert record_instances(other.ledger, [other.instance(1, again)], at=LATER, held_by="other") == [
        Reception.DUPLICATE
    ]
    assert other.holders() == ["one"]
    assert other.uploader.upload_for_others() == 1
    assert other.holders() == [None]
    assert stored.path in other.objects()


def test_an_instance_that_came_anew_during_its_upload_is_uploaded_again(node: Node) -> None:
    stored = node.receive(1)
    due = uploads_due(node.ledger, "one", limit=10)
    begin_uploads(node.ledger, due)
    node.files.upload(stored.path)
    node.delete()
    node.receive(1, at=LATER)
    end_uploads(node.ledger, due)
    assert node.holders() == ["one"]


def test_results_and_quarantine_are_in_the_bucket_at_once(node: Node, other: Node) -> None:
    result, aside = node.store(1, RESULTS), node.store(2, QUARANTINE)
    assert {result.path, aside.path} <= node.objects().keys()
    assert [str(path) for path in node.files.front_paths()] == []
    assert node.files.readable(result.path).is_relative_to(node.files.root / CACHE)
    assert other.files.readable(result.path).read_bytes() == node.objects()[result.path]
    assert other.files.holds_in_quarantine(aside.digest)
    assert not other.files.holds_in_quarantine(result.digest)


def test_what_is_replaced_goes_to_quarantine_from_the_bucket(node: Node, other: Node) -> None:
    first = node.receive(1)
    node.uploader.upload()
    meta = encode_file_meta(MR, "1.2.3.1.1", SYNTAX)
    second = other.files.store(b"corrected", file_meta=meta, transfer_syntax_uid=SYNTAX)
    assert replace_instance(other.ledger, other.files, other.instance(1, second), by="MR1", now=LATER)
    assert other.holders() == ["other"]
    with other.ledger.reading() as session:
        (kept,) = session.scalars(select(QuarantineRow.path))
    assert node.files.readable(kept).read_bytes() == node.objects()[first.path]


# -- out of it ---------------------------------------------------------------------------------------------------------


def test_copies_are_kept_within_a_bound_but_for_those_in_use(node: Node, other: Node) -> None:
    stored = [node.receive(number) for number in range(4)]
    node.uploader.upload()
    copies = [other.files.readable(one.path) for one in stored]
    assert other.files.evict(0) == 0
    for age, copy in enumerate(reversed(copies)):
        used = time.time() - UNUSED_S - 60 * (age + 1)
        os.utime(copy, (used, used))
    # Whoever asks uses it.
    assert other.files.readable(stored[0].path) == copies[0]
    assert other.files.evict(sum(one.size for one in stored)) == 0
    assert other.files.evict(2 * stored[0].size) == 2
    assert [copy.exists() for copy in copies] == [True, False, False, True]
    assert other.files.evict(0) == 1
    assert other.files.readable(stored[1].path).read_bytes() == node.objects()[stored[1].path]


def test_what_was_uploaded_leaves_the_front_after_a_while(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = node.receive(1)
    node.uploader.upload()
    node.uploader.clear()
    assert node.files.absolute(stored.path).exists()
    old = time.time() - 2 * UNUSED_S
    os.utime(node.files.absolute(stored.path), (old, old))
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 2 * UNUSED_S)
    node.uploader.clear()
    assert not node.files.absolute(stored.path).exists()
    assert node.files.readable(stored.path).read_bytes() == node.objects()[stored.path]


def test_the_object_of_a_study_that_was_removed_is_removed(node: Node) -> None:
    stored, result = node.receive(1), node.store(9, RESULTS)
    node.uploader.upload()
    node.files.absolute(stored.path).unlink()
    with node.ledger.transaction() as session:
        session.add(ReleasedFileRow(path=result.path, at=NOW))
    node.delete()
    now = dt.datetime.now(dt.UTC)
    # Young objects are left alone: their commit may still come.
    assert sweep_bucket(node.ledger, node.files, grace=GRACE, now=now) == Swept(0, 0)
    assert {stored.path, result.path} <= node.objects().keys()
    assert sweep_bucket(node.ledger, node.files, grace=GRACE, now=now + FAR) == Swept(2, 0)
    assert {stored.path, result.path}.isdisjoint(node.objects())
    assert node.released() == set()
    with pytest.raises(FileNotFoundError):
        node.files.readable(stored.path)


def test_what_came_again_is_not_removed(node: Node) -> None:
    stored = node.receive(1)
    node.uploader.upload()
    node.delete()
    node.receive(1, at=LATER)
    assert node.released() == {stored.path}
    now = dt.datetime.now(dt.UTC) + FAR
    assert sweep_bucket(node.ledger, node.files, grace=GRACE, now=now) == Swept(0, 0)
    assert node.released() == set()
    assert node.uploader.upload() == 1
    assert stored.path in node.objects()


@pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)
def test_an_upload_waits_for_the_sweep_that_removes_its_name(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep has looked, the image comes again, and only then the sweep removes: what is uploaded stays."""
    stored = node.receive(1)
    node.uploader.upload()
    node.delete()
    began, may_end = threading.Event(), threading.Event()
    remove = node.files.bucket.remove

    def slowly(name: str) -> None:
        began.set()
        assert may_end.wait(60)
        remove(name)

    monkeypatch.setattr(node.files.bucket, "remove", slowly)
    now = dt.datetime.now(dt.UTC) + FAR
    sweep = threading.Thread(target=sweep_bucket, args=(node.ledger, node.files), kwargs={"grace": GRACE, "now": now})
    sweep.start()
    assert began.wait(60)
    sqlite = node.ledger.engine.dialect.name == "sqlite"
    if not sqlite:
        # SQLite has one writer, which the sweep is now.
        node.receive(1, at=LATER)
    upload = threading.Thread(target=lambda: (node.receive(1, at=LATER) if sqlite else None, node.uploader.upload()))
    upload.start()
    upload.join(0.5)
    assert upload.is_alive()
    may_end.set()
    upload.join(60)
    sweep.join(60)
    assert node.holders() == [None]
    assert stored.path in node.objects()


def test_what_nothing_explains_is_set_aside_and_not_deleted(node: Node, other: Node) -> None:
    known, unknown = node.receive(1), node.store(2, QUARANTINE)
    node.uploader.upload()
    now = dt.datetime.now(dt.UTC)
    assert sweep_bucket(node.ledger, node.files, grace=GRACE, now=now) == Swept(0, 0)
    assert sweep_bucket(node.ledger, node.files, grace=GRACE, now=now + FAR) == Swept(0, 1)
    assert {known.path, f"unexplained/{unknown.path}"} <= node.objects().keys()
    assert [str(path) for path in node.files.unexplained_paths()] == [f"unexplained/{unknown.path}"]
    # On the disk of a host, what came with no commit.
    lost = other.store(3)
    assert sweep_front(other.ledger, other.files, grace=GRACE, now=now + FAR) == Swept(0, 1)
    assert (other.files.root / "unexplained" / lost.path).exists()


def test_a_day_of_sweeps_sees_each_object_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = [node.store(number, QUARANTINE).path for number in range(6)]
    known = node.receive(7)
    node.uploader.upload()
    now = dt.datetime.now(dt.UTC) + FAR
    hours = [now + dt.timedelta(hours=hour) for hour in range(24)]
    parts = [part_of_the_day(hour) for hour in hours]
    assert sorted(shard for part in parts for shard in part) == [f"{number:02x}" for number in range(256)]
    assert max(map(len, parts)) == 11
    listed: list[str] = []
    names = Bucket.names
    monkeypatch.setattr(Bucket, "names", lambda bucket, below: listed.append(below) or names(bucket, below))
    moved = []
    for hour, part in zip(hours, parts, strict=True):
        # An hour whose turn nothing is has nothing to ask for: listing nothing takes as long.
        if due := [shard for shard in part if any(f"/{shard}/" in path for path in [*unknown, known.path])]:
            moved.append(sweep_bucket(node.ledger, node.files, grace=GRACE, now=hour, shards=due).set_aside)
    assert sum(moved) == len(unknown)
    assert all(below.count("/") == 2 for below in listed), "no whole folder is listed"
    assert {known.path, *(f"unexplained/{path}" for path in unknown)} <= node.objects().keys()


def test_the_front_is_swept_of_what_the_bucket_has_and_of_nothing_else(node: Node, other: Node) -> None:
    uploaded, waiting, removed = (node.receive(number) for number in (1, 2, 3))
    again = other.store(1)
    node.uploader.upload()
    with node.ledger.transaction() as session:
        session.execute(update(InstanceRow).where(InstanceRow.path == waiting.path).values(held_by="one"))
        session.execute(delete(InstanceRow).where(InstanceRow.path == removed.path))
        session.add(ReleasedFileRow(path=removed.path, at=NOW))
    node.files.bucket.remove(uploaded.path)
    now = dt.datetime.now(dt.UTC) + FAR
    assert sweep_front(node.ledger, node.files, grace=GRACE, now=now) == Swept(2, 0)
    assert [str(path) for path in node.files.front_paths()] == [waiting.path]
    # A row was not believed: the bucket had lost it, and this host had not.
    assert uploaded.path in node.objects()
    assert sweep_front(other.ledger, other.files, grace=GRACE, now=now) == Swept(1, 0)
    assert not other.files.absolute(again.path).exists()
    assert node.released() == {removed.path}


# -- which belongs to which --------------------------------------------------------------------------------------------


def test_a_node_gets_a_bucket_and_uploads_what_it_has(
    ledger: Ledger, bucket: Bucket, server: S3Server, tmp_path: Path
) -> None:
    before = InstanceFiles(tmp_path / "one")
    bind(ledger, before, now=NOW)
    files = BucketFiles(tmp_path / "one", bucket, "one")
    node = Node(ledger, files, server)
    stored = before.store(b"image 1", file_meta=encode_file_meta(MR, "1.2.3.1.1", SYNTAX), transfer_syntax_uid=SYNTAX)
    aside = before.store(b"odd", file_meta=b"", transfer_syntax_uid=SYNTAX, folder=QUARANTINE)
    record_instances(ledger, [node.instance(1, stored)], at=NOW)
    with ledger.transaction() as session:
        session.add(QuarantineRow(digest=aside.digest, path=aside.path, reason="test", at=NOW))
    with pytest.raises(IdentityError, match="not the bucket of this ledger"):
        bind(ledger, BucketFiles(tmp_path / "two", bucket, "two"), now=NOW)
    bind(ledger, files, now=NOW)
    bind(ledger, files, now=NOW)
    assert node.holders() == ["one"]
    assert node.uploader.upload() == 1
    now = dt.datetime.now(dt.UTC) + FAR
    assert sweep_front(ledger, files, grace=GRACE, now=now) == Swept(2, 0)
    assert {stored.path, aside.path} <= node.objects().keys()
    node.uploader.close()
    with pytest.raises(IdentityError, match="are in s3"):
        bind(ledger, before, now=NOW)
    bind(ledger, BucketFiles(tmp_path / "two", bucket, "two"), now=NOW)


def test_strangers_are_refused(node: Node, server: S3Server, name: str, tmp_path: Path) -> None:
    node.receive(1)
    node.uploader.upload()
    mistyped = server.bucket(f"{name}-2")
    with pytest.raises(IdentityError, match="not the bucket of this ledger"):
        bind(node.ledger, BucketFiles(node.files.root, mistyped, "one"), now=NOW)
    with closing(open_ledger(f"sqlite:///{tmp_path}/lost.sqlite")) as new:
        with pytest.raises(IdentityError, match="belongs to another ledger"):
            bind(new, node.files, now=NOW)
        bind(new, BucketFiles(tmp_path / "new", mistyped, "one"), now=NOW)
    with pytest.raises(IdentityError, match="do not belong to one node"):
        bind(node.ledger, BucketFiles(node.files.root, mistyped, "one"), now=NOW)
    server.gate.shut()
    # A host that was bound starts without its bucket, a new one does not.
    bind(node.ledger, node.files, now=NOW)
    for files in (
        BucketFiles(tmp_path / "two", node.files.bucket, "two"),
        BucketFiles(node.files.root, mistyped, "one"),
    ):
        with pytest.raises(BucketError):
            bind(node.ledger, files, now=NOW)
    server.gate.open()
    with pytest.raises(IdentityError):
        sweep_bucket(node.ledger, BucketFiles(node.files.root, mistyped, "one"), grace=GRACE, now=NOW)


def test_a_backup_has_what_is_in_the_bucket_and_is_restored_into_another(
    node: Node, server: S3Server, name: str, tmp_path: Path
) -> None:
    uploaded = node.receive(1)
    node.uploader.upload()
    node.files.absolute(uploaded.path).unlink()
    (node.files.root / CACHE / uploaded.path).unlink()
    waiting = node.receive(2)
    close_association(node.ledger, node.association, outcome="released", at=NOW)
    assert create_jobs(node.ledger, study_contents(node.ledger, "1.2.3"), [route()], reason="test", now=NOW)
    made = node.store(100, RESULTS)
    result = replace(a_result(1), path=made.path, digest=made.digest, size=made.size)
    assert complete_job(node.ledger, claim(node.ledger), [result], DELIVERED, now=NOW)
    clock = lambda: NOW  # noqa: E731
    record = back_up(
        node.ledger, node.files, tmp_path / "backup", digest_of=digest_of_file, software="test", clock=clock
    )
    assert (record.files, record.missing, record.damaged) == (3, (), ())
    assert (tmp_path / "backup" / "files" / uploaded.path).read_bytes() == node.objects()[uploaded.path]
    into = server.bucket(f"{name}-2")
    files = BucketFiles(tmp_path / "restored", into, "two")
    url = f"sqlite:///{tmp_path}/restored.sqlite"
    assert restore(tmp_path / "backup", url, files, digest_of=digest_of_file, clock=clock).files == 3
    with closing(open_ledger(url)) as ledger:
        bind(ledger, files, now=NOW)
        there = Node(ledger, files, server)
        assert there.holders() == [None, None]
        assert {uploaded.path, waiting.path, made.path} <= there.objects().keys()
        assert list(files.front_paths()) == []
        there.uploader.close()


def test_a_job_that_waits_for_the_bucket_has_used_up_no_attempt(node: Node) -> None:
    node.receive(1)
    close_association(node.ledger, node.association, outcome="released", at=NOW)
    create_jobs(node.ledger, study_contents(node.ledger, "1.2.3"), [route(attempts=1)], reason="test", now=NOW)
    for _ in range(3):
        job = claim(node.ledger)
        assert put_job_off(node.ledger, job, "the bucket is away", until=NOW, now=NOW)
        assert not put_job_off(node.ledger, job, "the bucket is away", until=NOW, now=NOW)
    (before,) = job_overviews(node.ledger)
    assert (before.state, before.attempts) == (JobState.QUEUED, 0)
    assert put_job_off(node.ledger, claim(node.ledger), "the bucket is away", until=LATER, now=NOW)
    assert claim_job(node.ledger, "w", NOW) is None
    assert complete_job(node.ledger, claim(node.ledger, at=LATER), [], DELIVERED, now=LATER)
