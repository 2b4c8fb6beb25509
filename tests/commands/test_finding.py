"""Studies are found by what people have at hand, and what lists show of them is whole."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from network.objects import mr_image
from sqlalchemy import select

from commands.test_corrections import Node
from dicom_node import cli
from dicom_node.commands.terminal import ExitCode, console
from storage.ledger import open_ledger, record_event, utc_now
from storage.schema import StudyRow

Run = Callable[..., tuple[int, str, str]]
LONG = "1.2.840.113619.2.55.3.604688119.971.1449756284.467.1234567890"
OTHER = "1.2.840.113619.2.55.3.604688119.999.1"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    node = Node(tmp_path)
    for uid, patient, accession, sender in ((LONG, "P1", "A77", "MR1"), (OTHER, "P2", "A78", "MR2")):
        image = mr_image(study=uid)
        image.PatientID, image.AccessionNumber = patient, accession
        node.receive(image, sender=sender)

    def ran(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dicom-node", *arguments, "--config", str(node.config)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    monkeypatch.setattr(console, "_width", 80)
    yield ran
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "uid"),
    [(LONG, LONG), (LONG[:45], LONG), ("P1", LONG), ("A77", LONG), ("P2", OTHER), ("A78", OTHER), (OTHER[:41], OTHER)],
)
def test_explain_takes_what_people_have_at_hand(run: Run, text: str, uid: str) -> None:
    status, out, err = run("explain", text, "--json")
    assert status == ExitCode.OK, err
    assert json.loads(out)["study"]["study_instance_uid"] == uid


def test_what_names_several_studies_or_none_is_said(run: Run) -> None:
    status, _, err = run("explain", "1.2.840")
    assert status == ExitCode.FAILED
    assert "names several studies" in err
    status, _, err = run("explain", "nobody")
    assert status == ExitCode.FAILED
    assert "no study nobody" in err


def test_wildcards_of_the_database_are_letters(run: Run) -> None:
    assert run("explain", "1.2.840%")[0] == ExitCode.FAILED
    assert json.loads(run("studies", "--find", "_", "--json")[1]) == []


def test_studies_are_searched_and_tell_who_sent_them(run: Run) -> None:
    assert [one["study_instance_uid"] for one in json.loads(run("studies", "--find", "MR2", "--json")[1])] == [OTHER]
    everything = json.loads(run("studies", "--json")[1])
    assert {one["study_instance_uid"]: one["senders"] for one in everything} == {LONG: ["MR1"], OTHER: ["MR2"]}


def test_uids_are_whole_at_eighty_columns(run: Run) -> None:
    out = run("studies")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert LONG in out
    assert OTHER in out


def test_explain_tells_who_sent_it(run: Run) -> None:
    out = run("explain", LONG)[1]
    assert "from MR1" in out
    assert "reception" in out


def test_explain_puts_events_that_are_alike_together_and_shows_every_one_on_request(run: Run, tmp_path: Path) -> None:
    with closing(open_ledger(f"sqlite:///{tmp_path}/var/ledger.sqlite")) as ledger, ledger.transaction() as session:
        study = session.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == LONG))
        for number in range(30):
            at = utc_now() + dt.timedelta(seconds=number)
            record_event(
                session, "delivery sent", f"2.25.{number}", at=at, study_id=study, destination="pacs", of=["a"]
            )
    out = run("explain", LONG)[1]
    assert out.count("delivery sent") == 1
    assert "30 alike" in out
    assert "destination pacs" in out
    assert "['a']" not in out
    assert "--all shows every event" in out
    assert run("explain", LONG, "--all")[1].count("delivery sent") == 30
