"""What signals do to a process of the node."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

PROCESS = """
import sys
from dicom_node.logs import configure_logging
from dicom_node.roles import stop_on_signals
configure_logging(role="test")
stop = stop_on_signals()
print("ready", flush=True)
sys.exit(0 if stop.wait(60) else 3)
"""


def test_sighup_without_a_taker_is_said_and_sigterm_stops() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        said = json.loads(process.stdout.readline())
        assert "SIGHUP ignored" in said["event"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
