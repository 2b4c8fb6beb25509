"""Bytes made in a forked process come back; what goes wrong there is told without its text."""

from __future__ import annotations

import os
import signal

import pytest

from dicom_node.errors import ProcessingFailureError
from dicom_node.results.apart import made_apart


def test_the_bytes_come_back_and_this_process_goes_on_meanwhile() -> None:
    here = os.getpid()
    reading, writing = os.pipe()

    def make() -> bytes:
        told = os.read(reading, 5)
        return told + f" {os.getpid() != here}".encode() + b"\0" * 1_000_000

    made = made_apart(make, "a thing")
    # Only while the other process runs can it be told this.
    os.write(writing, b"hello")
    assert made() == b"hello True" + b"\0" * 1_000_000
    os.close(reading)
    os.close(writing)


def test_several_at_once_keep_to_themselves() -> None:
    waiting = [made_apart(lambda number=number: bytes([number]) * 10, "a thing") for number in range(4)]
    assert [made() for made in waiting] == [bytes([number]) * 10 for number in range(4)]


def test_a_failure_is_told_by_type_and_place_and_not_by_its_text() -> None:
    def fail() -> bytes:
        raise ValueError("Doe^Jane")

    made = made_apart(fail, "the PDF")
    with pytest.raises(
        ProcessingFailureError, match=r"makes the PDF failed: ValueError at test_results_apart\.py:\d+"
    ) as raised:
        made()
    assert "Doe" not in str(raised.value)


def test_a_process_that_is_killed_is_an_error_and_no_wait_without_end() -> None:
    def die() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(ProcessingFailureError, match=r"was ended \(exit code -9\)"):
        made_apart(die, "the PDF")()
