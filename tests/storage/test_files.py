"""Instance files: whole or absent, and removed only when old and unnamed."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import resource
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.files import QUARANTINE, RESULTS, InstanceFiles

META = b"\0" * 128 + b"DICM"
SYNTAX = "1.2.840.10008.1.2.1"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(st.binary(max_size=200), max_size=5))
def test_what_is_stored_is_what_came(files: InstanceFiles, parts: list[bytes]) -> None:
    data = b"".join(parts)
    whole = files.store(data, file_meta=META, transfer_syntax_uid=SYNTAX)
    in_parts = files.store(iter(parts), file_meta=META, transfer_syntax_uid=SYNTAX)
    assert whole == in_parts
    assert whole.digest == hashlib.sha256(SYNTAX.encode() + b"\0" + data).hexdigest()
    assert files.absolute(whole.path).read_bytes() == META + data
    assert whole.size == len(META) + len(data)
    assert whole.path == f"instances/{whole.digest[:2]}/{whole.digest}.dcm"


def test_digest_tells_transfer_syntaxes_apart_but_not_file_meta(files: InstanceFiles) -> None:
    first = files.store(b"abc", file_meta=META, transfer_syntax_uid=SYNTAX)
    other_meta = files.store(b"abc", file_meta=META + b"x", transfer_syntax_uid=SYNTAX)
    other_syntax = files.store(b"abc", file_meta=META, transfer_syntax_uid="1.2.840.10008.1.2")
    assert first.digest == other_meta.digest != other_syntax.digest


def test_results_and_quarantine_have_places_of_their_own(files: InstanceFiles) -> None:
    result = files.store(b"r", file_meta=META, transfer_syntax_uid=SYNTAX, folder=RESULTS)
    aside = files.store(b"r", file_meta=META, transfer_syntax_uid=SYNTAX, folder=QUARANTINE)
    assert (result.path.split("/")[0], aside.path.split("/")[0]) == ("results", "quarantine")
    assert result.digest == aside.digest
    assert {str(path) for path in files.stored_paths()} == {result.path, aside.path}


def test_a_source_that_breaks_off_leaves_nothing(files: InstanceFiles) -> None:
    def broken() -> Iterator[bytes]:
        yield b"begin"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        files.store(broken(), file_meta=META, transfer_syntax_uid=SYNTAX)
    assert list(files.stored_paths()) == list(files.incoming_paths()) == []


def test_a_write_that_finds_no_room_is_an_os_error_and_leaves_nothing(files: InstanceFiles) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.store(b"x" * 5000, file_meta=META, transfer_syntax_uid=SYNTAX)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(files.stored_paths()) == list(files.incoming_paths()) == []


def test_what_was_written_at_the_very_time_is_not_older(files: InstanceFiles) -> None:
    stored = files.store(b"abc", file_meta=META, transfer_syntax_uid=SYNTAX)
    at = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    os.utime(files.absolute(stored.path), (at.timestamp(), at.timestamp()))
    assert not files.remove_if_older(stored.path, at)
    assert not files.set_aside_if_older(stored.path, at)
    assert files.set_aside_if_older(stored.path, at + dt.timedelta(seconds=1))


def test_only_old_files_are_removed(files: InstanceFiles) -> None:
    stored = files.store(b"abc", file_meta=META, transfer_syntax_uid=SYNTAX)
    now = dt.datetime.now(dt.UTC)
    assert not files.remove_if_older(stored.path, now - dt.timedelta(hours=1))
    old = (now - dt.timedelta(hours=2)).timestamp()
    os.utime(files.absolute(stored.path), (old, old))
    # Stored once more, it is young again.
    files.store(b"abc", file_meta=META, transfer_syntax_uid=SYNTAX)
    assert not files.remove_if_older(stored.path, now - dt.timedelta(hours=1))
    os.utime(files.absolute(stored.path), (old, old))
    assert files.remove_if_older(stored.path, now - dt.timedelta(hours=1))
    assert not files.remove_if_older(stored.path, now)
    assert files.free_bytes() > 0
