"""What each package came to, in every command that tells of jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from crash_parts import write_cine
from ledger_rows import a_result, claim, close_versions, receive_and_schedule, retry_at_once, route

from dicom_node import cli
from dicom_node.commands.terminal import console
from pipelines.cine.facts import instance_facts
from storage.jobs import Outcome, complete_job, fail_job
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import InstanceRow, JobRow, Verdict

Run = Callable[..., tuple[int, str, str]]
SENTENCE = "AI report: kept back by the gate (IOD: test)"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "config.yaml").write_text("storage: {low_watermark_mb: 0, high_watermark_mb: 0}\n")
    opened = open_ledger(f"sqlite:///{tmp_path}/var/ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def run(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    monkeypatch.setattr(console, "_width", 400)
    monkeypatch.setattr(console, "_height", 100)

    def ran(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dicom-node", *words, "--config", str(tmp_path / "config.yaml")])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    yield ran
    structlog.reset_defaults()


@pytest.fixture
def partial(ledger: Ledger) -> int:
    """A study with a package that the gate kept something back of; gives its job."""
    receive_and_schedule(ledger)
    job = claim(ledger)
    complete_job(ledger, job, [a_result(1)], Outcome(Verdict.PARTIAL, (SENTENCE,)), now=utc_now())
    close_versions(ledger, utc_now())
    return job.id


def test_a_partial_job_is_shown_as_such_everywhere(run: Run, partial: int) -> None:
    for command in (("jobs",), ("studies",)):
        _, out, _ = run(*command)
        assert "partial" in out, command
        assert "ventricular_function" in out, command
    assert SENTENCE in " ".join(run("jobs")[1].split())
    document = json.loads(run("jobs", "--json")[1])["jobs"]
    assert [(one["package"], one["verdict"]) for one in document] == [
        ("front_page", "delivered"),
        ("ventricular_function", "partial"),
    ]
    assert document[1]["sentences"] == [SENTENCE]
    assert json.loads(run("studies", "--json")[1])[0]["verdicts"] == {"ventricular_function": "partial"}
    assert json.loads(run("status", "--json")[1])["ledger"]["verdicts"] == {"delivered": 1, "partial": 1}
    assert "came to partial" in run("status")[1]


def test_explain_tells_what_each_package_came_to_and_why(
    run: Run, ledger: Ledger, partial: int, tmp_path: Path
) -> None:
    facts = instance_facts(write_cine(tmp_path / "cine", "a")[0]).to_json()
    with ledger.transaction() as session:
        session.query(InstanceRow).update({"facts": facts})
    _, out, _ = run("explain", "1.2.3")
    assert "partial" in out
    assert SENTENCE in " ".join(out.split())
    document = json.loads(run("explain", "1.2.3", "--json")[1])
    assert [one["verdict"] for one in document["jobs"]] == ["delivered", "partial"]


def test_a_retry_concerns_one_package(run: Run, ledger: Ledger) -> None:
    receive_and_schedule(ledger, routed=route(attempts=1))
    job = claim(ledger)
    fail_job(ledger, job, "no room", retryable=False, retry_at=retry_at_once(), now=utc_now())
    close_versions(ledger, utc_now())
    status, _, _ = run("jobs", "--retry", str(job.id))
    assert status == 0
    states = {one["package"]: one["state"] for one in json.loads(run("jobs", "--json")[1])["jobs"]}
    assert states == {"ventricular_function": "queued", "front_page": "succeeded"}


def test_a_retry_without_its_files_says_so(run: Run, ledger: Ledger, partial: int) -> None:
    with ledger.transaction() as session:
        session.query(JobRow).update({"inputs_removed_at": utc_now()})
    status, _, err = run("jobs", "--retry", str(partial))
    assert status != 0
    assert f"the files that job {partial} read were removed: send the study again" in " ".join(err.split())
