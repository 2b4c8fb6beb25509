"""The configuration read again while the node runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import yaml
from crash_analysis import cheap_analysis
from crash_parts import write_cine
from interop.ports import free_port, wait_until
from own_packages import crash_packages
from pydicom import dcmread
from pynetdicom import AE

from dicom_node import node
from dicom_node.config import Configuration, Peer
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError
from dicom_node.network.sender import ScuSettings, echo
from dicom_node.reloading import Reloading, reloaded
from storage.ledger import open_ledger
from storage.overview import job_overviews, study_overviews
from storage.schema import JobState

_spawn = multiprocessing.get_context("spawn")


def parsed(**sections: Any) -> Configuration:
    return Configuration.model_validate(sections)


SCANNER = {"scanner": {"ae_title": "MR1"}}
PACS = {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 104, "may": ["receive"]}}


def test_what_can_change_changes_and_what_cannot_is_named() -> None:
    running = parsed(node={"port": 104}, peers=SCANNER, execution={"quiet_time_s": 20, "slots_per_device": 1})
    written = parsed(
        node={"port": 11113},
        peers={**SCANNER, **PACS},
        routes={"cine": {"destinations": ["pacs"]}},
        results={"destinations": {"pacs": {"peer": "pacs"}}},
        execution={"quiet_time_s": 5, "slots_per_device": 2},
        storage={"retention_days": 3, "directory": "elsewhere"},
    )
    result = reloaded(running, written)
    assert set(result.changed) == {"peers", "routes", "results", "execution.quiet_time_s", "storage.retention_days"}
    assert set(result.at_next_start) == {"node.port", "execution.slots_per_device", "storage.directory"}
    taken = result.configuration
    assert (taken.node, taken.storage.directory) == (running.node, running.storage.directory)
    assert (taken.execution.quiet_time_s, taken.execution.slots_per_device) == (5, 1)
    assert (taken.peers, taken.routes, taken.results) == (written.peers, written.routes, written.results)
    assert reloaded(taken, taken) == type(result)(taken, (), ())


def test_what_needs_what_cannot_change_is_refused_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    running = parsed(peers=SCANNER)
    tls = {"certificate": "n.crt", "key": "n.key", "trusted": "t.crt"}
    written = parsed(node={"tls": tls}, peers={"scanner": {"ae_title": "MR1", "tls": True}})
    with pytest.raises(ConfigurationError, match=r"peers\.scanner\.tls.*next start \(node\.tls\)"):
        reloaded(running, written)
    renewed: list[Configuration] = []
    reloading = Reloading(running, renewed.append, lambda: written)
    reloading.reload()
    assert renewed == []
    assert reloading.running == running


def _serve(config: Path, log: Path, ready: Event) -> None:
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 2)
    read = lambda: load_configuration(config, {})  # noqa: E731
    node.serve(read(), process=cheap_analysis, on_ready=ready.set, reread=read)


class RunningNode:
    """A node that reads ``config.yaml`` of a folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.config, self.log = folder / "config.yaml", folder / "node.log"
        self.write(settings)
        ready = _spawn.Event()
        self.process = _spawn.Process(target=_serve, args=(self.config, self.log, ready))
        self.process.start()
        assert ready.wait(300), self.log.read_text()

    def write(self, settings: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump(settings))

    def hang_up(self, says: str) -> dict[str, Any]:
        """SIGHUP, and the line of the log that answers it."""
        assert self.process.pid is not None
        before = len(self.lines())
        os.kill(self.process.pid, signal.SIGHUP)
        wait_until(lambda: any(says in one["event"] for one in self.lines()[before:]), seconds=60, what=says)
        return next(one for one in self.lines()[before:] if says in one["event"])

    def lines(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        return [json.loads(one) for one in text[: text.rfind("\n") + 1].splitlines() if one.startswith("{")]


@pytest.fixture
def analyses(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    with crash_packages(tmp_path / "packages") as names:
        yield names


def test_a_running_node_takes_up_a_changed_configuration_and_loses_nothing(
    tmp_path: Path, analyses: tuple[str, ...]
) -> None:
    port = free_port()
    settings: dict[str, Any] = {
        "node": {"ae_title": "NODE", "address": "127.0.0.1", "port": port},
        "peers": {"scanner": {"ae_title": "MR1"}},
        "routes": {"cine": {"analyses": list(analyses[:1]), "destinations": []}},
        "storage": {"low_watermark_mb": 0, "high_watermark_mb": 0},
        "execution": {"quiet_time_s": 3600, "complete_quiet_time_s": 3600, "incomplete_quiet_time_s": 3600},
    }
    running = RunningNode(tmp_path, settings)
    here = Peer(ae_title="NODE", host="127.0.0.1", port=port)
    try:
        assert not echo(here, ScuSettings("MR2")).reachable
        images = [dcmread(path) for path in write_cine(tmp_path / "cine", "cine")]
        scanner = AE("MR1")
        scanner.add_requested_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
        association = scanner.associate("127.0.0.1", port, ae_title="NODE")
        assert association.is_established
        for image in images[:10]:
            assert association.send_c_store(image).Status == 0x0000

        # A mistake: nothing changes, and the log says where it is.
        running.write({**settings, "peers": {"scanner": {"ae_title": "MR1", "port": "many"}}})
        said = running.hang_up("not reloaded")
        assert f"{running.config}:" in said["error"]
        assert "peers.scanner.port" in said["error"]
        assert not echo(here, ScuSettings("MR2")).reachable

        settings["peers"]["second"] = {"ae_title": "MR2"}
        settings["execution"]["complete_quiet_time_s"] = 0.3
        settings["node"]["maximum_pdu"] = 65536
        running.write(settings)
        said = running.hang_up("configuration reloaded")
        assert set(said["changed"]) == {"peers", "execution.complete_quiet_time_s"}
        wait_until(
            lambda: any(one.get("keys") == ["node.maximum_pdu"] for one in running.lines()), seconds=10, what="told"
        )
        wait_until(lambda: echo(here, ScuSettings("MR2")).reachable, seconds=20, what="the second peer is let in")

        # The association that was open all the time goes on.
        for image in images[10:]:
            assert association.send_c_store(image).Status == 0x0000
        association.release()
        ledger = open_ledger(load_configuration(running.config, {}).storage.database)

        def ended() -> bool:
            return {one.state for one in job_overviews(ledger)} == {JobState.SUCCEEDED}

        wait_until(ended, seconds=120, what="the study is analysed after the shorter silence")
        (study,) = study_overviews(ledger)
        assert (study.instances, study.instances_waiting) == (len(images), 0)
        ledger.close()
        # A process that dies begins its next life with what was reloaded.
        killed = [one["pid"] for one in running.lines() if one.get("process") == "receiver-0" and "pid" in one][-1]
        os.kill(killed, signal.SIGKILL)
        time.sleep(1)
        for _ in range(4):
            wait_until(lambda: echo(here, ScuSettings("MR2")).reachable, seconds=60, what="still let in")
    finally:
        running.process.terminate()
        running.process.join(60)
        assert running.process.exitcode == 0
