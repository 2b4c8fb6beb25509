"""``dicom-node doctor``: what it finds, and what to do about it."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import yaml
from interop.ports import free_port
from network.certificates import Authority
from network.running_node import ReceiverProcess, configuration

from dicom_node import cli, doctor, node
from dicom_node.commands.terminal import ExitCode
from dicom_node.config_file import load_configuration
from dicom_node.doctor import Finding, Level, examine
from dicom_node.process_states import exclusive_service
from pipelines.models.registry import list_models, model_folders
from storage.ledger import open_ledger, record_event, utc_now

Found = Callable[..., list[Finding]]
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Examine a node with changed settings; findings about one thing, or all."""

    def examined(about: str = "", *, now: dt.datetime = NOW, peers: bool = False, **sections: object) -> list[Finding]:
        settings: dict[str, object] = {
            "node": {"ae_title": "NODE", "address": "127.0.0.1", "port": free_port()},
            "routes": {"cine": {"destinations": []}},
            "storage": {"low_watermark_mb": 0, "high_watermark_mb": 0},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, **sections}))
        configuration = load_configuration(tmp_path / "config.yaml", {})
        return [one for one in examine(configuration, now=now, call_peers=peers) if about in one.about]

    return examined


def levels(findings: list[Finding]) -> list[Level]:
    return [one.level for one in findings]


def test_every_examination_speaks_and_nothing_is_changed(found: Found, tmp_path: Path) -> None:
    findings = found()
    assert {one.about for one in findings} == {
        "configuration", "disk", "clock", "permissions", "ports", "ledger", "models", "validator"
    }  # fmt: skip
    assert not [one for one in findings if one.level is Level.BROKEN]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_disk_below_the_watermark_is_broken(found: Found) -> None:
    storage = {"low_watermark_mb": 900_000_000, "high_watermark_mb": 900_000_000}
    (finding,) = found("disk", storage=storage)
    assert finding.level is Level.BROKEN
    assert "A700" in finding.sentence


def test_a_port_that_is_taken_is_broken_and_a_node_that_listens_is_well(found: Found, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        section = {"address": "127.0.0.1", "port": other.getsockname()[1]}
        assert levels(found("ports", node=section)) == [Level.BROKEN]
        (tmp_path / "var" / "instances").mkdir(parents=True)
        with exclusive_service(tmp_path / "var" / "instances"):
            assert levels(found("ports", node=section)) == [Level.WELL]
            (deaf,) = found("ports")
    assert deaf.level is Level.BROKEN
    assert "does not listen" in deaf.sentence


def test_a_log_that_could_not_be_written_is_broken_and_one_without_room_a_warning(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found("log") == []
    (to_come,) = found("log", log={"directory": "log"})
    assert (to_come.level, "which the first start makes" in to_come.sentence) == (Level.WELL, True)
    (tmp_path / "log").mkdir(mode=0o750)
    (tmp_path / "log" / "node.web.log.1").write_bytes(bytes(3_000_000))
    (kept,) = found("log", log={"directory": "log"})
    assert (kept.level, "3 MB are taken" in kept.sentence) == (Level.WELL, True)
    with monkeypatch.context() as nearly_full:
        nearly_full.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
        (crowded,) = found("log", log={"directory": "log"})
    assert (crowded.level, "kept_files" in crowded.remedy) == (Level.WARNING, True)
    (tmp_path / "file").touch()
    (no_folder,) = found("log", log={"directory": "file/log"})
    assert (no_folder.level, "is no folder" in no_folder.sentence) == (Level.BROKEN, True)
    # Root may write everywhere, whatever the modes: asked as somebody else.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "log")
    (closed,) = found("log", log={"directory": "log"})
    assert (closed.level, "cannot be written" in closed.sentence) == (Level.BROKEN, True)
    (below,) = found("log", log={"directory": "log/ours"})
    assert (below.level, "cannot be made" in below.sentence) == (Level.BROKEN, True)
    # The messages of the trail go into the same folder.
    (trail,) = found("audit", audit={"file": "log/audit.log"})
    assert (trail.level, "cannot be written" in trail.sentence) == (Level.BROKEN, True)


def test_log_and_audit_trail_are_not_for_everybody(found: Found, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o755)
    (tmp_path / "audit.log").touch(0o644)
    sections = {"log": {"directory": "log"}, "audit": {"file": "audit.log"}}
    assert [one.sentence.rpartition("/")[2] for one in found("permissions", **sections)] == ["log", "audit.log"]
    (tmp_path / "log").chmod(0o750)
    (tmp_path / "audit.log").chmod(0o640)
    assert levels(found("permissions", **sections)) == [Level.WELL]
    assert levels(found("audit", **sections)) == [Level.WELL]


def test_the_port_and_the_key_of_the_console_are_looked_at(found: Found, tmp_path: Path) -> None:
    own = Authority(tmp_path).signs("node")
    own.key.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as other:
        console = {"address": "127.0.0.1", "port": other.getsockname()[1]}
        console |= {"certificate": str(own.certificate), "key": str(own.key)}
        assert [(one.sentence.split()[0], one.level) for one in found("ports", console=console)] == [
            ("node.port", Level.WELL),
            ("console.port", Level.BROKEN),
        ]
    assert any("private key" in one.sentence for one in found("permissions", console=console))


@pytest.mark.parametrize(("days", "level"), [(365, Level.WELL), (10, Level.WARNING)])
def test_certificates_are_told_before_they_expire(found: Found, tmp_path: Path, days: int, level: Level) -> None:
    authority = Authority(tmp_path)
    own = authority.signs("node", days=days)
    tls = {"certificate": str(own.certificate), "key": str(own.key), "trusted": str(authority.certificate)}
    section = {"ae_title": "NODE", "address": "127.0.0.1", "port": free_port(), "tls": tls}
    findings = found("certificates", node=section)
    assert levels(findings) == [level, Level.WELL]
    own.key.chmod(0o644)
    assert any("private key" in one.sentence for one in found("permissions", node=section))
    later = found("certificates", node=section, now=NOW + dt.timedelta(days=400))
    assert levels(later) == [Level.BROKEN]
    assert "expired" in later[0].sentence


def test_a_storage_directory_open_to_all_is_a_warning(found: Found, tmp_path: Path) -> None:
    directory = tmp_path / "var" / "instances"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    assert levels(found("permissions")) == [Level.WARNING]
    directory.chmod(0o750)
    assert levels(found("permissions")) == [Level.WELL]


def test_a_secret_that_is_not_there_is_broken(found: Found, tmp_path: Path) -> None:
    web = {"url": "https://pacs.example/dicom-web", "token": {"file": str(tmp_path / "token")}}
    (finding,) = found("permissions", results={"destinations": {"archive": {"web": web}}})
    assert finding.level is Level.BROKEN
    assert "results.destinations.archive.web.token" in finding.sentence


def test_what_the_ledger_can_be(found: Found, tmp_path: Path) -> None:
    assert levels(found("ledger")) == [Level.WELL]
    configuration = load_configuration(tmp_path / "config.yaml", {})
    node._prepare(configuration)
    sound, backup = found("ledger")
    assert (sound.level, backup.level) == (Level.WELL, Level.WARNING)
    assert "no backup" in backup.sentence
    ledger = open_ledger(configuration.storage.database)
    with ledger.transaction() as session:
        record_event(session, "backup made", "x", at=utc_now())
    assert levels(found("ledger", now=utc_now())) == [Level.WELL, Level.WELL]
    assert levels(found("ledger", now=utc_now() + dt.timedelta(days=8))) == [Level.WELL, Level.WARNING]
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    (behind,) = found("ledger")
    assert behind.level is Level.WARNING
    assert "migration" in behind.sentence
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert levels(found("ledger")) == [Level.BROKEN]
    ledger.close()
    (tmp_path / "var" / "ledger.sqlite").unlink()
    (lost,) = found("ledger")
    assert lost.level is Level.BROKEN
    assert "restore" in lost.remedy
    (down,) = found("ledger", storage={"database": f"postgresql+psycopg://n@127.0.0.1:{free_port()}/x"})
    assert down.level is Level.BROKEN


def test_weights_that_are_not_those_of_the_card_are_found(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = model_folders()
    assert [card for _, card in folders.values()] == list(list_models())
    name = next(iter(folders))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "weights.safetensors").write_bytes(b"not these")
    changed = {**folders, name: (tmp_path / "damaged", folders[name][1])}
    monkeypatch.setattr("pipelines.models.registry.model_folders", lambda: changed)
    damaged, summary = found("models")
    assert name in damaged.sentence
    assert f"{len(folders) - 1} of {len(folders)}" in summary.sentence


def test_a_clock_that_nobody_keeps_is_a_warning(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        state = 5

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def adjtimex(self, _timex: object) -> int:
            return self.state

    monkeypatch.setattr(doctor.ctypes, "CDLL", Libc)
    assert levels(found("clock")) == [Level.WARNING]
    Libc.state = 0
    assert levels(found("clock")) == [Level.WELL]


def test_one_examination_that_fails_does_not_hide_the_others(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[Finding]:
        raise RuntimeError("patient Smith")

    monkeypatch.setattr(doctor, "_clock", fails)
    findings = found()
    (clock,) = [one for one in findings if one.about == "clock"]
    assert clock.level is Level.BROKEN
    assert "Smith" not in clock.sentence
    assert findings[-1].about == "validator"


def test_the_command_calls_peers_and_its_exit_status_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["dicom-node", "doctor", "--config", str(tmp_path / "config.yaml"), *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    try:
        (tmp_path / "peer").mkdir()
        receiver = ReceiverProcess(configuration(tmp_path / "peer"))
        try:
            settings = {
                "node": {"ae_title": "MR1", "address": "127.0.0.1", "port": free_port()},
                "peers": {"other": {"ae_title": "NODE", "host": "127.0.0.1", "port": receiver.configuration.node.port}},
                "routes": {"cine": {"destinations": []}},
                "storage": {"low_watermark_mb": 0, "high_watermark_mb": 0},
            }
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
            status, said = run("--json")
            document = json.loads(said)
            assert (status, document["well"]) == (ExitCode.OK, True)
            assert any("answers C-ECHO" in one["sentence"] for one in document["findings"])
        finally:
            receiver.kill()
        status, said = run()
        assert status == ExitCode.FAILED
        assert "1 broken" in said
        assert "other (NODE)" in said
        assert run("--no-peers")[0] == ExitCode.OK
    finally:
        structlog.reset_defaults()
