"""The node as a department runs it: a configuration file and ``dicom-node serve`` as a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from interop.ports import free_port, wait_until
from interop.tools import script
from storage.ledger import Ledger, open_ledger
from storage.overview import delivery_overviews, job_overviews, study_overviews
from storage.schema import ENDED, DeliveryState, JobState

AE_TITLE = "DICOMNODE"
START_S = 300
"""Loading the models takes seconds on an idle machine."""
STOP_S = 60
JOB_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.SUPERSEDED})
DELIVERY_ENDS = ENDED | {DeliveryState.DEAD}


@dataclass(frozen=True)
class Destination:
    """Where the results go."""

    ae_title: str
    port: int


class NodeUnderTest:
    """One node on the loopback interface; use it as a context.

    Parameters
    ----------
    folder
        Empty folder for its configuration, its state and its log.
    destination
        The PACS.
    scanner
        AE title that may send images.
    port
        Where it listens; a free port unless given.
    quiet_time_s
        Silence after which an unrecognised study counts as complete.
    analyses
        Packages that its one route asks for.
    series
        The one rule of that route.
    execution
        Further settings of execution.
    """

    def __init__(
        self,
        folder: Path,
        destination: Destination,
        *,
        scanner: str,
        port: int | None = None,
        quiet_time_s: float = 5,
        analyses: Sequence[str] = ("ventricular_function",),
        series: Mapping[str, Any] | None = None,
        execution: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.configuration_file = folder / "config.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        settings = self._settings(destination, scanner, quiet_time_s)
        settings["routes"]["cine"] |= {"analyses": list(analyses), "series": [dict(series or {"modality": "MR"})]}
        settings["execution"] |= execution or {}
        self.configuration_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    @property
    def configuration(self) -> Configuration:
        """The configuration as the node reads it."""
        return load_configuration(self.configuration_file, {})

    @property
    def log(self) -> Path:
        """Its log, all processes together."""
        return self.folder / "node.log"

    def __enter__(self) -> NodeUnderTest:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self.stop()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        output = self.folder / "node.out"
        with self.log.open("ab") as log, output.open("wb") as out:
            command = [str(script("dicom-node")), "serve", "--config", str(self.configuration_file)]
            self._process = subprocess.Popen(command, stdout=out, stderr=log, cwd=self.folder)
        try:
            wait_until(lambda: self._said_ready(output), seconds=START_S, what=f"the node is ready, see {self.log}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        """Ask it to stop (SIGTERM); its exit code."""
        if self._process is None:
            raise RuntimeError("the node is not running")
        self._process.terminate()
        try:
            return self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process = None

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Its ledger, opened beside it."""
        opened = open_ledger(self.configuration.storage.database)
        try:
            yield opened
        finally:
            opened.close()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``dicom-node`` with this configuration."""
        return subprocess.run(
            [script("dicom-node"), *arguments, "--config", self.configuration_file],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def asked(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        answer = self.command(*arguments, "--json")
        if answer.returncode != 0:
            raise ChildProcessError(f"dicom-node {' '.join(arguments)} ended with {answer.returncode}: {answer.stderr}")
        return json.loads(answer.stdout)

    def wait_until_delivered(self, studies: Collection[str], *, seconds: float) -> None:
        """Wait until every study has jobs, and all its jobs and deliveries came to an end.

        Raises
        ------
        TimeoutError
            With how far each study has come.
        """
        deadline = time.monotonic() + seconds
        with self.ledger() as ledger:
            while True:
                progress = {uid: _progress(ledger, uid) for uid in studies}
                if all(ended for ended, _ in progress.values()):
                    return
                if time.monotonic() > deadline:
                    far = "; ".join(f"{uid}: {words}" for uid, (_, words) in progress.items())
                    raise TimeoutError(f"not delivered within {seconds:g} s: {far}; see {self.log}")
                time.sleep(0.5)

    def _said_ready(self, output: Path) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ChildProcessError(f"the node ended at its start: {self.log.read_text(errors='replace')[-2000:]}")
        return "ready" in output.read_text(encoding="utf-8").split()

    def _settings(self, destination: Destination, scanner: str, quiet_time_s: float) -> dict[str, Any]:
        return {
            "node": {"ae_title": AE_TITLE, "address": "127.0.0.1", "port": self.port},
            "peers": {
                "scanner": {"ae_title": scanner, "may": ["send"]},
                "pacs": {
                    "ae_title": destination.ae_title,
                    "host": "127.0.0.1",
                    "port": destination.port,
                    "may": ["send", "receive"],
                },
            },
            "routes": {"cine": {"destinations": ["pacs"]}},
            "storage": {
                "database": "sqlite:///var/ledger.sqlite",
                "directory": "var/instances",
                "low_watermark_mb": 50,
                "high_watermark_mb": 100,
            },
            # A loaded machine of CI runs the tests several at once: a job that is killed for it proves nothing.
            "execution": {"quiet_time_s": quiet_time_s, "incomplete_quiet_time_s": quiet_time_s, "job_timeout_s": 900},
            "results": {"destinations": {"pacs": {"peer": "pacs"}}},
            "delivery": {"first_delay_s": 0.5, "maximum_delay_s": 5},
        }


def _progress(ledger: Ledger, study_instance_uid: str) -> tuple[bool, str]:
    known = {study.study_instance_uid for study in study_overviews(ledger, limit=1000)}
    if study_instance_uid not in known:
        return False, "not received"
    (study,) = study_overviews(ledger, study_instance_uid=study_instance_uid)
    jobs = job_overviews(ledger, study_instance_uid=study_instance_uid)
    deliveries = delivery_overviews(ledger, study_instance_uid=study_instance_uid)
    ended = (
        study.instances_waiting == 0
        and bool(jobs)
        and all(job.state in JOB_ENDS for job in jobs)
        and all(delivery.state in DELIVERY_ENDS for delivery in deliveries)
    )
    states = Counter(job.state.value for job in jobs), Counter(delivery.state.value for delivery in deliveries)
    return ended, f"{study.instances} instances, {study.instances_waiting} waiting, jobs and deliveries {states}"
