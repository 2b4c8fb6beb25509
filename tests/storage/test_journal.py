"""The journal: what is acknowledged is whole in a segment until it is filed, whatever becomes of process and disk."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interop.ports import wait_until
from ledger_rows import NOW, an_instance, associate
from sqlalchemy import select

from storage.files import InstanceFiles
from storage.filing import Filing, file_left_segments
from storage.group_commit import GroupCommit
from storage.instances import ReceivedInstance, close_association
from storage.journal import (
    FIRST,
    JOURNAL,
    SEGMENTS,
    Journal,
    JournalledInstance,
    await_filed,
    left_segments,
    read_segment,
    unfiled,
)
from storage.ledger import Ledger, open_ledger
from storage.schema import Association, InstanceRow, QuarantineRow

META = b"\0" * 128 + b"DICM"
SYNTAX = "1.2.840.10008.1.2.1"
SIZE = 1 << 18


def image(association: str, number: int, content: bytes | None = None) -> tuple[ReceivedInstance, bytes]:
    """An instance, and its data set."""
    data = b"image %d " % number * (number % 7 + 1) if content is None else content
    digest = hashlib.sha256(SYNTAX.encode() + b"\0" + data).hexdigest()
    return replace(an_instance(association, number, digest=digest), size=len(META) + len(data), facts={}), data


@dataclass
class Files:
    """Takes what is filed, once it may; or fails."""

    filed: list[ReceivedInstance] = field(default_factory=list)
    may: threading.Event = field(default_factory=threading.Event)
    fails: threading.Event = field(default_factory=threading.Event)
    counted: list[tuple[int, int, int]] = field(default_factory=list)

    def file(self, batch: Sequence[JournalledInstance]) -> None:
        wait_until(lambda: self.may.is_set() or self.fails.is_set(), seconds=120, what="it may be filed")
        if self.fails.is_set():
            raise OSError("not now")
        self.filed += [one.instance for one in batch]

    def count(self, *counts: int) -> None:
        self.counted.append(counts)  # type: ignore[arg-type]


@contextmanager
def journal_of(files: InstanceFiles, taker: Files, size: int = SIZE) -> Iterator[Journal]:
    """A journal that has its segments."""
    one = Journal(files, "receiver-0", size, taker.file, taker.count)
    try:
        assert not one.append(*with_meta(image("a", 10**6)))
        wait_until(lambda: len(segments(files)) == SEGMENTS, seconds=60, what="segments are made")
        yield one
    finally:
        if not taker.may.is_set():
            taker.fails.set()
        one.close()


def with_meta(one: tuple[ReceivedInstance, bytes]) -> tuple[ReceivedInstance, bytes, bytes]:
    return one[0], META, one[1]


def segments(files: InstanceFiles) -> list[Path]:
    return sorted((files.root / JOURNAL).glob("*")) if (files.root / JOURNAL).exists() else []


def append(journal: Journal, images: Sequence[tuple[ReceivedInstance, bytes]]) -> None:
    """Write all of them, waiting for the first until the segments are ready."""
    wait_until(lambda: journal.append(*with_meta(images[0])), seconds=60, what="the journal takes an image")
    assert all(journal.append(*with_meta(one)) for one in images[1:])


@pytest.fixture
def killed(tmp_path: Path) -> tuple[InstanceFiles, list[tuple[ReceivedInstance, bytes]]]:
    """What a process left that was killed with 40 images acknowledged."""
    files, taker = InstanceFiles(tmp_path / "at work"), Files()
    images = [image(f"association {number % 3}", number) for number in range(40)]
    with journal_of(files, taker) as journal:
        append(journal, images)
        left = InstanceFiles(tmp_path / "left")
        shutil.copytree(files.root / JOURNAL, left.root / JOURNAL)
    return left, images


def read(content: bytes) -> list[tuple[ReceivedInstance, bytes]]:
    """What is read from a segment of this content."""
    view = mmap.mmap(-1, len(content))
    view[:] = content
    return [(one.instance, bytes(one.content[len(META) :])) for one in read_segment(view)]


def written(left: InstanceFiles) -> bytes:
    """The one segment that holds anything."""
    (content,) = (data for path in segments(left) if read(data := path.read_bytes()))
    return content


def test_what_a_killed_process_left_is_read_whole_and_in_order(
    killed: tuple[InstanceFiles, list[tuple[ReceivedInstance, bytes]]],
) -> None:
    left, images = killed
    found = left_segments(left)
    assert [(one.instance, bytes(one.content)) for _, records in found for one in records] == [
        (instance, META + data) for instance, data in images
    ]
    # Who has them holds their locks.
    assert left_segments(left) == []
    for segment, records in found:
        for one in records:
            one.content.release()
        segment.leave()
    assert sum(len(records) for _, records in left_segments(left)) == len(images)


def test_a_torn_end_is_cut_at_any_byte(killed: tuple[InstanceFiles, list[tuple[ReceivedInstance, bytes]]]) -> None:
    left, images = killed
    whole = written(left)
    ends = [0]
    for _, data in images:
        ends.append(whole.index(META + data, ends[-1]) + len(META) + len(data))

    @settings(max_examples=120, deadline=None)
    @given(st.integers(0, ends[-1] - 1), st.integers(1, 255), st.booleans())
    def damaged(at: int, change: int, cut: bool) -> None:
        content = bytearray(whole)
        if cut:
            content[at:] = bytes(len(content) - at)
        else:
            content[at] ^= change
        found = read(bytes(content))
        # Exactly what ends before the damage, or more where zeros are what was there anyway; never anything else.
        before = sum(end <= at for end in ends[1:]) if at >= FIRST else 0
        assert found == images[: len(found)]
        if bytes(content) == whole:
            assert len(found) == len(images)
        elif cut or at >= FIRST:
            assert len(found) >= before
            assert len(found) == before or cut
        elif at < 24:
            assert found == []

    damaged()


def test_a_segment_that_is_cut_short_is_read_to_its_end(
    killed: tuple[InstanceFiles, list[tuple[ReceivedInstance, bytes]]],
) -> None:
    left, images = killed
    whole = written(left)
    lengths = [len(read(whole[:size])) for size in range(FIRST, FIRST + 40_000, 211)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-1] == len(images)


def test_records_of_an_earlier_use_do_not_count(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    taker.may.set()
    with journal_of(files, taker, size=SEGMENTS * 40_000) as journal:
        # So much that each segment is written over several times.
        images = [image("a", number, bytes([number]) * 4000) for number in range(60)]
        for one in images:
            wait_until(lambda one=one: journal.append(*with_meta(one)), seconds=60, what="there is room")  # type: ignore[misc]
        assert journal.settle("a", 60)
        assert [one.sop_instance_uid for one in taker.filed] == [one.sop_instance_uid for one, _ in images]
        newest = [[one.instance for one in read_segment(_view(path))] for path in segments(files)]
        assert all(one in taker.filed for records in newest for one in records)
        assert max(len(records) for records in newest) < 10
    assert segments(files) == []
    assert taker.counted[-1] == (60, 60, 0)


def _view(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def test_what_was_filed_is_not_filed_again_by_the_next_process(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    taker.may.set()
    with journal_of(files, taker) as journal:
        append(journal, [image("a", number) for number in range(8)])
        assert journal.settle("a", 60)
        taker.may.clear()
        append(journal, [image("a", number) for number in range(8, 12)])
        left = InstanceFiles(tmp_path / "left")
        shutil.copytree(files.root / JOURNAL, left.root / JOURNAL)
    found = [one.instance for _, records in left_segments(left) for one in records]
    assert found == [image("a", number)[0] for number in range(8, 12)]


def test_it_takes_no_more_than_it_may_and_goes_on_when_it_is_filed(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    with journal_of(files, taker, size=SEGMENTS * 40_000) as journal:
        images = [image("a", number, bytes([number]) * 8000) for number in range(40)]
        append(journal, images[:1])
        taken = 1 + sum(1 for _ in itertools.takewhile(lambda one: journal.append(*with_meta(one)), images[1:]))
        assert 1 <= taken <= SEGMENTS * 40_000 // 8000
        assert journal.holds("a")
        assert not journal.settle("a", 0)
        assert not await_filed(files.root, 0)
        assert unfiled(files.root) == (taken, sum(one.size for one, _ in images[:taken]))
        assert sum(len(records) for records in map(read, map(Path.read_bytes, segments(files)))) == taken
        taker.may.set()
        assert journal.settle("a", 60)
        assert not journal.holds("a")
        assert unfiled(files.root) == (0, 0)
        assert await_filed(files.root, 0)
        assert [one for one, _ in images[:taken]] == taker.filed
        append(journal, images[taken : taken + 1])


def test_an_instance_is_not_taken_twice_before_it_is_filed(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    with journal_of(files, taker) as journal:
        append(journal, [image("a", 1)])
        assert not journal.append(*with_meta(image("b", 1, b"other bytes")))
        assert not journal.settle_instance(image("a", 1)[0].sop_instance_uid, 0)
        taker.may.set()
        assert journal.settle_instance(image("a", 1)[0].sop_instance_uid, 60)
        append(journal, [image("b", 1, b"other bytes")])


def test_it_takes_nothing_while_it_cannot_be_filed_and_goes_on_after_that(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    taker.may.set()
    with journal_of(files, taker) as journal:
        append(journal, [image("a", 0)])
        taker.fails.set()
        # Until it is noticed, at the next attempt.
        numbers = itertools.count(1)
        wait_until(
            lambda: not journal.append(*with_meta(image("a", next(numbers)))), seconds=60, what="it takes no more"
        )
        last = next(numbers)
        assert not journal.append(*with_meta(image("a", last)))
        taker.fails.clear()
        assert journal.settle("a", 60)
        assert {one.sop_instance_uid for one in taker.filed} == {
            image("a", number)[0].sop_instance_uid for number in range(last - 1)
        }
        append(journal, [image("a", last)])


def test_a_flush_that_fails_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    taker.may.set()
    told: list[OSError] = []
    with journal_of(files, taker) as journal:
        journal._broke = told.append
        append(journal, [image("a", 1)])
        assert not told

        def broken(_descriptor: int) -> None:
            raise OSError(5, os.strerror(5))

        with monkeypatch.context() as disk:
            disk.setattr(os, "fdatasync", broken)
            assert not journal.append(*with_meta(image("a", 2)))
        # What the disk holds since then nobody knows.
        assert not journal.append(*with_meta(image("a", 3)))
    assert [error.errno for error in told] == [5], "said once"


def test_many_that_wait_share_a_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    taker.may.set()
    with journal_of(files, taker, size=1 << 22) as journal:
        append(journal, [image("a", 10**5)])
        begun, go_on, flushes = threading.Event(), threading.Event(), []
        flush = os.fdatasync

        def counted(descriptor: int) -> None:
            # The thread that files flushes how far it has come, at moments of its own.
            if threading.current_thread().name != "journal":
                flushes.append(descriptor)
                begun.set()
                assert go_on.wait(60)
            flush(descriptor)

        monkeypatch.setattr(os, "fdatasync", counted)
        threads = [threading.Thread(target=journal.append, args=with_meta(image("a", number))) for number in range(20)]
        threads[0].start()
        assert begun.wait(60)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(journal._waiting) == 19, seconds=60, what="all others wait")
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert len(flushes) == 2
        assert journal.settle("a", 60)
        assert len(taker.filed) == 21


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")) as one:
        yield one


def held(ledger: Ledger) -> list[InstanceRow]:
    with ledger.reading() as session:
        return list(session.scalars(select(InstanceRow).order_by(InstanceRow.sop_instance_uid)))


def test_what_is_left_is_filed_once_however_often(tmp_path: Path, ledger: Ledger) -> None:
    files, taker = InstanceFiles(tmp_path / "files"), Files()
    association = associate(ledger)
    images = [image(association, number) for number in range(30)]
    with journal_of(files, taker) as journal:
        append(journal, images)
        left = InstanceFiles(tmp_path / "left")
        shutil.copytree(files.root / JOURNAL, left.root / JOURNAL)
        again = tmp_path / "again"
        shutil.copytree(files.root / JOURNAL, again)
    for turn in range(3):
        assert file_left_segments(ledger, left, "node/start") == (30 if turn < 2 else 0)
        assert sorted(row.path for row in held(ledger)) == sorted(one.path for one, _ in images)
        for one, data in images:
            assert left.absolute(one.path).read_bytes() == META + data
        assert segments(left) == []
        assert list(left.incoming_paths()) == []
        if turn == 0:
            # As if it had died before the segments were removed.
            shutil.copytree(again, left.root / JOURNAL, dirs_exist_ok=True)


def test_what_the_process_before_left_comes_first(tmp_path: Path) -> None:
    files, taker = InstanceFiles(tmp_path), Files()
    with journal_of(files, taker) as journal:
        append(journal, [image("a", number) for number in range(10)])
    # It ended without filing them.
    assert len(segments(files)) == 1
    second = Files()
    journal = Journal(files, "receiver-0", SIZE, second.file, second.count)
    try:
        assert journal.left == 10
        assert second.counted[0] == (10, 0, sum(image("a", number)[0].size for number in range(10)))
        assert not journal.settle_left(0)
        second.may.set()
        assert journal.settle_left(60)
        append(journal, [image("a", 11)])
        assert journal.settle("a", 60)
    finally:
        journal.close()
    assert [one.sop_instance_uid for one in second.filed] == [
        image("a", number)[0].sop_instance_uid for number in (*range(10), 11)
    ]
    assert segments(files) == []


def test_an_association_that_the_ledger_lost_is_opened_anew(tmp_path: Path, ledger: Ledger) -> None:
    files, taker = InstanceFiles(tmp_path / "files"), Files()
    with journal_of(files, taker) as journal:
        append(journal, [image("f" * 32, number) for number in range(5)])
    assert file_left_segments(ledger, files, "node/start") == 5
    assert len(held(ledger)) == 5
    with ledger.reading() as session:
        (association,) = session.scalars(select(Association))
    assert association.outcome == "receiver died"
    assert {row.association_id for row in held(ledger)} == {association.id}


def test_a_conflict_is_kept_aside_and_a_duplicate_is_nothing_new(tmp_path: Path, ledger: Ledger) -> None:
    files = InstanceFiles(tmp_path / "files")
    commit = GroupCommit(ledger)
    association = associate(ledger)
    first, other = image(association, 1), image(association, 1, b"other bytes")
    batch = [JournalledInstance(one, memoryview(META + data)) for one, data in (first, first, other)]
    for _ in range(2):
        Filing(ledger, files, commit, "node/receiver-0").file(batch)
    commit.close()
    close_association(ledger, association, outcome="released", at=NOW)
    assert [row.digest for row in held(ledger)] == [first[0].digest]
    with ledger.reading() as session:
        (aside,) = session.scalars(select(QuarantineRow))
    assert files.absolute(aside.path).read_bytes() == META + b"other bytes"
