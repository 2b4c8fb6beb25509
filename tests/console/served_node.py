"""A node that runs, with a console, and a PACS that can go away."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from interop.ports import free_port
from test_toy_package import configured, environment

from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings


class Served:
    """A node that serves an analysis and a console, and a PACS that can go away."""

    def __init__(self, folder: Path, analysis: str, change: Callable[[dict[str, Any]], None]) -> None:
        self.port, self.pacs_port, self.console_port = free_port(), free_port(), free_port()
        settings: dict[str, Any] = configured(folder, self.port, self.pacs_port)
        # Four slices are less than a ventricle is long, and all that comes.
        settings["execution"] = {"quiet_time_s": 2, "incomplete_quiet_time_s": 2, "background_slots": 0}
        settings["peers"]["second-scanner"] = {"ae_title": "SCANNER2", "may": ["send"]}  # type: ignore[index]
        settings["routes"]["cine"]["analyses"] = [analysis]  # type: ignore[index]
        settings["console"] = {"port": self.console_port}
        settings["audit"] = {"file": str(folder / "audit.log")}
        settings["log"] = {"directory": str(folder / "log")}
        settings["delivery"] = {"first_delay_s": 0.5, "maximum_delay_s": 2}
        change(settings)
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.pacs_folder = folder / "pacs"

    def pacs(self) -> Pacs:
        callers = {"DICOMNODE": Peer(ae_title="DICOMNODE", host="127.0.0.1", port=self.port)}
        return Pacs(PacsSettings(self.pacs_folder, self.pacs_port, callers=callers))


@contextlib.contextmanager
def served_node(
    folder: Path, analysis: str = "toy", change: Callable[[dict[str, Any]], None] = lambda _settings: None
) -> Iterator[tuple[Served, str]]:
    """The node, and what it printed before it was ready.

    Parameters
    ----------
    change
        Makes its configuration another one.
    """
    served, log = Served(folder, analysis, change), folder / "node.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(served.config)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if line.strip() == "ready":
                    break
            assert "ready" in printed, log.read_text(encoding="utf-8")
            yield served, printed
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
