"""``dicom-node status``: what it says of a node that runs, does not run, or is not well."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from ledger_rows import associate

from dicom_node import cli
from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.network.listening_ports import no_listening_ports
from dicom_node.node import node_roles
from dicom_node.process_states import (
    ProcessState,
    exclusive_service,
    forget_states,
    read_states,
    states_file,
    write_states,
)
from storage.instances import CONFLICT, QuarantinedObject, record_quarantine
from storage.ledger import open_ledger, utc_now
from storage.overview import CONFLICT_AGE

Run = Callable[[], tuple[int, dict[str, object], str]]
LOW = "storage: {low_watermark_mb: 0, high_watermark_mb: 0}\n"
FULL = "storage: {low_watermark_mb: 900000000, high_watermark_mb: 900000000}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    def ran() -> tuple[int, dict[str, object], str]:
        said = []
        for option in (["--json"], []):
            monkeypatch.setattr(
                "sys.argv", ["dicom-node", "status", "--config", str(tmp_path / "config.yaml"), *option]
            )
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            said.append((int(stopped.value.code or 0), capsys.readouterr().out))
        (status, document), (again, words) = said
        assert status == again
        return status, json.loads(document), words

    (tmp_path / "var" / "instances").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(LOW)
    yield ran
    structlog.reset_defaults()


def state(
    name: str = "receiver-0", *, failed_starts: int = 0, ready: bool = True, since: dt.datetime | None = None
) -> ProcessState:
    pid = os.getpid() if ready else None
    since = since or dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return ProcessState(name, pid, ready, failed_starts, "exit code 1", since)


def test_a_node_that_does_not_run_is_said_to_be_down_first(run: Run) -> None:
    status, document, words = run()
    assert status == ExitCode.FAILED
    assert (document["running"], document["well"]) == (False, False)
    assert words.startswith("Not running.")
    assert "dicom-node serve" in words


def test_all_is_well(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    write_states(states_file(directory, "supervisor"), [state()])
    write_states(states_file(directory, "executor"), [state("cpu/0")])
    with exclusive_service(directory) as other:
        assert other is None
        status, document, words = run()
    assert status == ExitCode.OK
    assert document["well"] is True
    assert "all is well" in words.splitlines()[0]
    assert "cpu/0" in words
    assert run()[0] == ExitCode.FAILED


def test_what_is_in_quarantine_is_said_and_a_late_correction_is_an_alarm(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    write_states(states_file(directory, "supervisor"), [state()])
    ledger = open_ledger(load_configuration(tmp_path / "config.yaml").storage.database)
    association = associate(ledger)

    def keep_aside(digit: str, reason: str, days_ago: int) -> None:
        aside = QuarantinedObject(digit * 64, f"quarantine/{digit}.dcm", reason, "1.2.3", association)
        record_quarantine(ledger, aside, at=utc_now() - dt.timedelta(days=days_ago))

    with exclusive_service(directory):
        keep_aside("a", "the data set is cut short", 0)
        keep_aside("b", CONFLICT, CONFLICT_AGE.days + 1)
        status, document, words = run()
        assert (status, document["alarms"]) == (ExitCode.OK, [])
        assert "2 objects; dicom-node quarantine list" in " ".join(words.split())
        keep_aside("c", CONFLICT, CONFLICT_AGE.days - 1)
        status, document, words = run()
    ledger.close()
    assert (status, document["well"]) == (ExitCode.FAILED, False)
    said = " ".join(words.split())
    assert "1 object(s) of the last 7 days came with other content under UIDs that are held" in said
    assert "accept takes them in and drop deletes them" in said


def test_a_node_that_still_starts_is_not_well_and_calls_nobody(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    now = dt.datetime.now(dt.UTC)
    with exclusive_service(directory):
        # The lock is held before anything is started.
        status, document, words = run()
        assert (status, document["well"], document["starting"]) == (ExitCode.FAILED, False, ["supervisor"])
        write_states(states_file(directory, "supervisor"), [state(), state("executor", ready=False, since=now)])
        status, document, words = run()
        assert (status, document["starting"], document["alarms"]) == (ExitCode.FAILED, ["executor"], [])
        assert "but not ready yet: executor." in words.splitlines()[0]
        write_states(states_file(directory, "executor"), [state("cpu/0", ready=False, since=now), state("cpu/1")])
        write_states(states_file(directory, "supervisor"), [state(), state("executor")])
        status, document, words = run()
        assert (status, document["starting"], document["alarms"]) == (ExitCode.FAILED, ["cpu/0"], [])
        write_states(states_file(directory, "executor"), [state("cpu/0"), state("cpu/1")])
        assert run()[0] == ExitCode.OK


def test_a_process_that_never_gets_ready_is_an_alarm(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    write_states(states_file(directory, "executor"), [state("ray/0", ready=False)])
    with exclusive_service(directory):
        status, _, words = run()
    assert status == ExitCode.FAILED
    assert "process ray/0 is not ready since 202" in " ".join(words.split())


def test_workers_of_an_executor_that_died_are_ready_no_more(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    configuration = Configuration.model_validate({"storage": {"directory": str(directory)}})
    (executor,) = (
        one for one in node_roles(configuration, no_listening_ports(configuration)) if one.name == "executor"
    )
    write_states(states_file(directory, "supervisor"), [state()])
    write_states(states_file(directory, "executor"), [state("cpu/0")])
    assert executor.on_death is not None
    executor.on_death("killed by SIGKILL")
    assert [one.name for one in read_states(directory)] == ["receiver-0"]
    forget_states(directory)
    assert read_states(directory) == ()


def test_storage_that_is_closed_is_an_alarm(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(FULL)
    with exclusive_service(tmp_path / "var" / "instances"):
        status, document, words = run()
    assert status == ExitCode.FAILED
    assert document["accepts_images"] is False
    assert "A700" in words


def test_workers_that_cannot_start_are_an_alarm(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    write_states(states_file(directory, "executor"), [state("cuda:0/0", failed_starts=7, ready=False)])
    with exclusive_service(directory):
        status, _, words = run()
    assert status == ExitCode.FAILED
    assert "cuda:0/0 cannot start: it died 7 times" in " ".join(words.split())


def test_states_survive_a_file_that_was_cut_short(tmp_path: Path) -> None:
    states_file(tmp_path, "executor").write_text('[{"name": "cp')
    write_states(states_file(tmp_path, "supervisor"), [state()])
    assert [one.name for one in read_states(tmp_path)] == ["receiver-0"]


def test_a_second_service_learns_who_was_first(tmp_path: Path) -> None:
    with exclusive_service(tmp_path) as first, exclusive_service(tmp_path) as second:
        assert (first, second) == (None, os.getpid())
    with exclusive_service(tmp_path) as again:
        assert again is None
