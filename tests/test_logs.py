"""The log of a process goes to its standard error, and nothing breaks off when that cannot be written."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys

PROGRAM = """
import structlog, sys
from dicom_node.logs import configure_logging

configure_logging(json=True, role="receiver")
for number in range(2000):
    structlog.get_logger().warning("instance refused", number=number)
sys.stdout.write("went on")
"""


def test_a_log_on_a_full_disk_ends_nothing() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - the device that has no room for anything
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert done.stdout == "went on"


def test_a_log_that_failed_says_so(monkeypatch) -> None:
    class Stream(io.StringIO):
        has_room = False

        def write(self, text: str) -> int:
            if not self.has_room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    import structlog

    from dicom_node.logs import configure_logging

    before = structlog.get_config()
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        configure_logging(json=True)
        log = structlog.get_logger()
        log.info("lost")
        log.info("lost as well")
        stream.has_room = True
        log.info("written")
    finally:
        structlog.configure(**before)
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["event"], json.loads(line)["log_failures"]) == ("written", 2)
