"""What the pages tell of studies and deliveries, and what becomes of what people do there."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime as dt
import errno
import html
import io
import re
import time
from pathlib import Path

import pytest
import requests
from audit.reading import read_trail
from ledger_rows import NOW
from PIL import Image
from sqlalchemy import select, update

from console.held_studies import FOUND, NAME, PARAGRAPH, STUDY, analyse, deliver, name_in_the_files, receive
from console.running_console import PASSWORD, RunningConsole, Visitor, console_node, console_thread
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import BucketSettings, Host, HostRole, ParagraphSettings
from dicom_node.console.api import assessments_csv
from dicom_node.console.node import Node
from dicom_node.console.now import FRESH_S, NowBoard, NowView
from dicom_node.console.rendering import Renderer
from dicom_node.console.words import environment
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.plain_json import jsonable
from dicom_node.process_states import ProcessState, described, exclusive_service, states_file, write_states
from pipelines.models.registry import list_models
from storage.assessments import Assessment, assessments
from storage.closing import FRONT_PAGE
from storage.deliveries import claim_deliveries, destination_unreachable, destinations_with_work
from storage.hosts import beat
from storage.instances import CONFLICT, QuarantinedObject, close_association, record_quarantine
from storage.jobs import Outcome
from storage.ledger import record_event, utc_now
from storage.overview import delivery_overviews, job_overviews, quarantine_overviews, result_overviews, study_overviews
from storage.schema import (
    AccountRole,
    AssessmentResult,
    DeliveryState,
    EventRow,
    JobRow,
    JobState,
    StudyRow,
    Verdict,
)

VIEWER, OPERATOR, ADMINISTRATOR = AccountRole
GERMAN = ParagraphSettings(language="german")
REFUSED = "A900: data set does not match its SOP class"


def words(page: str) -> str:
    """A page as it reads, without its markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).replace("&#39;", "'").split())


def fresh(person: Visitor, said: str = "") -> str:
    """The page Now as it reads, once the last look at the node is too old to be shown again and images are read.

    What was read of a study under the same UID, in another test, is shown for some seconds: until ``said`` is there.
    """
    for _ in range(60):
        time.sleep(FRESH_S + 0.1)
        text = words(person.get("/").text)
        if "its images are being read" not in text and said in text:
            break
    return text


def test_what_renews_itself_is_sent_alone_and_only_when_it_has_changed(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    whole, part = person.get("/"), person.get("/", **{"X-Live": "1"})
    assert part.text.strip().startswith("<div data-live")
    assert part.text.strip() in whole.text
    assert person.csrf() not in part.text
    tags = [part.headers["ETag"]]

    def renewed() -> requests.Response:
        time.sleep(FRESH_S + 0.1)
        answer = person.get("/", **{"X-Live": "1", "If-None-Match": tags[-1]})
        tags.append(answer.headers["ETag"])
        return answer

    # Nothing has happened, but that others may write on the same disk: whoever has it gets nothing.
    unchanged = renewed()
    for _ in range(20):
        if unchanged.status_code == 304:
            break
        unchanged = renewed()
    tag = tags[-1]
    assert (unchanged.status_code, unchanged.text, tags[-2]) == (304, "", tag)
    assert person.get("/", **{"X-Live": "1", "If-None-Match": '"another"'}).status_code == 200
    receive(console, ended=False)
    time.sleep(FRESH_S + 0.1)
    changed = person.get("/", **{"X-Live": "1", "If-None-Match": tag})
    assert changed.status_code == 200
    assert "receiving" in changed.text
    # It is for those who are logged in.
    assert console.stranger().get("/", **{"X-Live": "1", "If-None-Match": tag}).status_code == 401


def test_now_tells_of_a_study_from_its_arrival_to_its_delivery(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    association = receive(console, ended=False)
    arriving = fresh(person, said="1 association still open")
    assert f"{STUDY} receiving 3" in arriving
    assert "1 association still open" in arriving
    close_association(console.ledger, association, outcome="released", at=utc_now())
    analyse(console)
    analysed = fresh(person)
    assert "Nothing is coming in." in analysed
    assert "ventricular_function delivered" in analysed
    assert "1 on the way" in analysed
    deliver(console)
    assert "nothing waits for it" in fresh(person)


def test_now_says_first_what_is_wrong_and_what_to_do(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    analyse(console)
    claimed = claim_deliveries(console.ledger, "pacs", 9, "d", utc_now(), 60)
    destination_unreachable(
        console.ledger,
        "pacs",
        [one.id for one in claimed],
        "connection refused",
        retry_at=lambda _tries: utc_now() + dt.timedelta(minutes=5),
        now=utc_now(),
    )
    told = fresh(person)
    assert "Not all is well: the node is not running" in told
    assert "Start it: dicom-node serve." in told
    assert "Pacs cannot be reached since" in told
    assert "cannot be reached: connection refused" in told
    assert person.do("pause", destination="pacs", reason="the PACS is being moved").startswith("done:")
    assert "Nothing is sent to pacs: operator paused it" in fresh(person)


def test_a_queued_job_and_a_running_one_tell_when_they_are_ready(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    job = analyse(console)
    started = utc_now()
    with console.ledger.transaction() as session:
        took = {"started_at": NOW, "ended_at": NOW + dt.timedelta(seconds=90)}
        session.execute(update(JobRow).where(JobRow.id == job).values(**took))
        closing = session.scalars(select(JobRow).where(JobRow.id != job)).one()
        closing.package, closing.state, closing.started_at = "ventricular_function_again", JobState.QUEUED, None
    assert "waits for a worker" in fresh(person)
    with console.ledger.transaction() as session:
        running = session.get_one(JobRow, closing.id)
        running.package, running.state, running.started_at = "ventricular_function", JobState.RUNNING, started
        running.study_version = 2
    expected = started + dt.timedelta(seconds=90)
    assert f"about {expected:%Y-%m-%d %H:%M:%S} UTC" in fresh(person)


def test_many_readers_of_now_cost_one_look(console: RunningConsole) -> None:
    node = Node(console.configuration, console.ledger, console.files, None)  # type: ignore[arg-type]
    board = NowBoard(node, Renderer())
    assert board.view() is board.view()


def test_a_study_tells_its_receipt_and_its_verdicts(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    analyse(console)
    deliver(console)
    told = words(person.get(f"/studies/{STUDY}").text)
    assert "3 received, 3 kept, 0 kept aside; 0 of 1 result committed." in told
    assert "delivered, not verified" in told
    assert "LV ejection fraction 52 % (50 to 55)" in told
    assert "left out" in told
    assert "wanted at least 10 (it is not a cine)" in told
    assert "study complete" in told
    assert "quiet for 20 s, routes cine, packages ventricular_function" in told


def test_the_paragraph_for_the_report_is_there_to_be_pasted_unless_it_was_rejected(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    job = analyse(console)
    page = person.get(f"/studies/{STUDY}").text
    pasted = re.search(r"<textarea[^>]*readonly[^>]*>\n?(.*?)</textarea>", page, re.DOTALL)
    assert pasted is not None
    assert html.unescape(pasted[1]) == PARAGRAPH
    assert 'lang="en"' in pasted[0]
    assert "Not to be used as it is" not in page
    person.do("assess", job=str(job), result="rejected")
    page = words(person.get(f"/studies/{STUDY}").text)
    assert "Not to be used as it is: a radiologist rejected ventricular_function." in page
    with console.working_by(
        console.configuration.model_copy(
            update={"results": console.configuration.results.model_copy(update={"paragraph": GERMAN})}
        )
    ):
        assert 'lang="de"' in person.get(f"/studies/{STUDY}").text


def test_a_link_in_a_report_system_finds_the_study_also_through_the_log_in(console: RunningConsole) -> None:
    receive(console)
    link = "/studies?find=MR1"
    visitor = console.stranger()
    asked = visitor.get(link)
    assert asked.status_code == 303
    form = visitor.get(asked.headers["location"])
    target = html.unescape(re.search(r'name="next" value="([^"]*)"', form.text)[1])  # type: ignore[index]
    assert target == link
    answer = visitor.log_in(console.account(VIEWER), PASSWORD, next=target)
    assert answer.headers["location"] == link
    assert visitor.get(link).headers["location"] == f"/studies/{STUDY}"


def test_what_quality_control_found_stands_beside_the_numbers(console: RunningConsole) -> None:
    receive(console)
    found = [{"check": "slice spacing", "grade": "POOR", "sentence": "Slices are 14 mm apart."}]
    analyse(console, dataclasses.replace(FOUND, summary={**(FOUND.summary or {}), "quality": found}))
    told = words(console.person(VIEWER).get(f"/studies/{STUDY}").text)
    assert "What quality control found poor slice spacing: Slices are 14 mm apart." in told


def test_events_that_say_the_same_of_many_objects_are_told_together(console: RunningConsole) -> None:
    receive(console)
    analyse(console)
    with console.ledger.transaction() as session:
        study_id = session.scalar(select(StudyRow.id))
        for number in range(30):
            detail = {"destination": "pacs", "how": "reported"}
            record_event(
                session,
                "delivery committed",
                f"2.25.{number}",
                at=utc_now(),
                correlation_id="c",
                study_id=study_id,
                **detail,
            )
    page = console.person(VIEWER).get(f"/studies/{STUDY}").text
    assert page.count("delivery committed") == 1
    assert "30 times" in page
    assert all(f"2.25.{number}<" in page for number in range(30))


def test_a_declined_study_says_why(console: RunningConsole) -> None:
    receive(console)
    analyse(console, Outcome(Verdict.DECLINED, ("There is no short-axis cine stack.",)))
    told = words(console.person(VIEWER).get(f"/studies/{STUDY}").text)
    assert "declined There is no short-axis cine stack." in told


def test_studies_are_found_by_what_people_have_at_hand(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    assert STUDY in person.get("/studies").text
    for text in (STUDY, "1.2", "P1", "MR1"):
        assert person.get(f"/studies?find={text}").headers["location"] == f"/studies/{STUDY}", text
    assert "No study is known by that." in person.get("/studies?find=nobody").text
    assert person.get("/studies/9.9.9").status_code == 404
    assert (
        requests.get(f"{console.root}/api/v1/studies/9.9.9", headers=console.token(VIEWER), timeout=60).status_code
        == 404
    )


def test_no_page_names_a_patient(console: RunningConsole) -> None:
    person = console.person(ADMINISTRATOR)
    receive(console)
    analyse(console)
    assert name_in_the_files(console)
    person.get("/studies?find=P1")
    paths = ["/", "/studies", f"/studies/{STUDY}", "/deliveries", "/audit", "/accounts"]
    paths += ["/api/v1/now", f"/api/v1/studies/{STUDY}", "/api/v1/studies", "/api/v1/events", "/api/v1/audit"]
    for path in paths:
        answer = person.get(path)
        assert answer.status_code == 200, path
        assert NAME not in answer.text, path


def test_pages_that_name_the_patient_are_shown_to_nobody_unless_it_is_set(console: RunningConsole) -> None:
    person = console.person(ADMINISTRATOR)
    receive(console)
    analyse(console)
    (page,) = person.get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
    path = f"/studies/{STUDY}/pages/{page['id']}.png"
    assert person.get(path).status_code == 403
    assert "<img" not in person.get(f"/studies/{STUDY}").text
    assert "Pages of results that name the patient are not shown to administrators: 1." in words(
        person.get(f"/studies/{STUDY}").text
    )


def test_pages_that_name_nobody_are_shown(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    analyse(console, names_patient=False)
    (page,) = person.get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
    answer = person.get(f"/studies/{STUDY}/pages/{page['id']}.png")
    assert answer.headers["content-type"] == "image/png"
    shown = Image.open(io.BytesIO(answer.content))
    assert (shown.size, shown.getpixel((5, 5))) == ((64, 64), (200, 30, 30))
    assert f'<img src="/studies/{STUDY}/pages/{page["id"]}.png"' in person.get(f"/studies/{STUDY}").text
    assert person.get(f"/studies/{STUDY}/pages/{page['id'] + 1}.png").status_code == 404


def test_a_page_whose_file_is_damaged_is_told_as_such_and_the_rest_is_shown(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    analyse(console, names_patient=False)
    (page,) = person.get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
    (held,) = [one for one in result_overviews(console.ledger, STUDY) if one.id == page["id"]]
    path = console.files.readable(held.path)
    content = path.read_bytes()
    for damaged in (content[:-100], content[: len(content) // 3], b"\0" * len(content)):
        path.chmod(0o600)
        path.write_bytes(damaged)
        answer = person.get(f"/studies/{STUDY}/pages/{page['id']}.png")
        assert answer.status_code == 404
        assert "was removed, or cannot be read" in answer.text
        assert person.get(f"/studies/{STUDY}").status_code == 200


def test_pages_that_name_the_patient_are_shown_from_the_role_that_is_set(tmp_path: Path) -> None:
    with console_thread(console_node(tmp_path, patients_for="operator")) as console:
        receive(console)
        analyse(console)
        operator, viewer = console.person(OPERATOR), console.person(VIEWER)
        (page,) = viewer.get(f"/api/v1/studies/{STUDY}").json()["jobs"][0]["pictures"]
        path = f"/studies/{STUDY}/pages/{page['id']}.png"
        assert [viewer.get(path).status_code, operator.get(path).status_code] == [403, 200]
        assert f'src="{path}"' in operator.get(f"/studies/{STUDY}").text
        assert f'src="{path}"' not in viewer.get(f"/studies/{STUDY}").text


def test_dead_letters_are_told_with_the_answer_and_sent_again_or_given_up(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    job = analyse(console)
    deliver(console, error=REFUSED)
    assert REFUSED in words(person.get("/deliveries").text)
    assert person.do("send-again", job=str(job), reason="mended there") == "done: 1 delivery queued."
    (again,) = delivery_overviews(console.ledger)
    assert (again.state, again.failed_attempts, again.error) == (DeliveryState.QUEUED, 0, None)
    assert REFUSED not in person.get("/deliveries").text
    deliver(console, error=REFUSED)
    assert person.do("dismiss", destination="pacs", reason="sent by hand") == "done: 1 delivery given up."
    (given_up,) = delivery_overviews(console.ledger)
    assert (given_up.state, given_up.error) == (DeliveryState.DISMISSED, "sent by hand")
    assert person.do("dismiss", destination="pacs", reason="once more").startswith("problem: there is nothing")
    # Whoever thinks otherwise later asks for it: by the study, and not for a destination with all its years.
    assert "Also what somebody gave up" in person.get(f"/studies/{STUDY}").text
    for asked in ({"study": STUDY}, {"destination": "pacs", "given_up": "true"}):
        assert person.do("send-again", reason="wanted again", **asked).startswith("problem: there is nothing")
    assert person.do("send-again", study=STUDY, given_up="true", reason="wanted again") == "done: 1 delivery queued."
    (wanted,) = delivery_overviews(console.ledger)
    assert (wanted.state, wanted.error) == (DeliveryState.QUEUED, None)
    deliver(console, error=REFUSED)
    assert person.do("dismiss", study=STUDY, reason="sent by hand") == "done: 1 delivery given up."
    assert person.do("dismiss", reason="of everything").startswith("problem: say which deliveries")
    assert audited(console) == [
        *("results sent again: mended there", "deliveries dismissed: sent by hand"),
        *("results sent again: wanted again", "deliveries dismissed: sent by hand"),
    ]


def test_a_dead_letter_can_be_sent_again_from_the_page_that_lists_it_first(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    analyse(console)
    assert "Send dead letters again" not in person.get("/deliveries").text
    deliver(console, error=REFUSED)
    page = person.get("/deliveries").text
    assert REFUSED in words(page)
    assert "Send dead letters again" in page


def test_delivered_results_are_sent_again_by_study_and_never_to_a_whole_destination(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    analyse(console)
    deliver(console)
    assert person.do("send-again", destination="pacs", reason="all of it").startswith("problem: there is nothing")
    assert person.do("send-again", study=STUDY, reason="lost there") == "done: 1 delivery queued."


def test_a_paused_destination_gets_nothing_until_it_is_resumed(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    analyse(console)
    assert destinations_with_work(console.ledger, utc_now()) == ("pacs",)
    assert person.do("pause", destination="pacs", reason="the PACS is being moved").startswith("done:")
    assert destinations_with_work(console.ledger, utc_now()) == ()
    assert claim_deliveries(console.ledger, "pacs", 9, "d", utc_now(), 60) == []
    assert "operator paused it" in words(person.get("/deliveries").text)
    assert person.do("pause", destination="pacs", reason="the PACS is being moved").startswith("problem:")
    assert person.do("pause", destination="elsewhere", reason="not there").startswith("problem: elsewhere: no such")
    assert person.do("resume", destination="pacs").startswith("done:")
    assert person.do("resume", destination="pacs").startswith("problem:")
    assert len(claim_deliveries(console.ledger, "pacs", 9, "d", utc_now(), 60)) == 1


def test_a_destination_that_does_not_answer_fails_its_test_in_words(console: RunningConsole) -> None:
    said = console.person(OPERATOR).do("test-destination", destination="pacs")
    assert said.startswith("problem: ")
    assert "PACS" in said


def test_a_job_runs_again_and_says_so(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    job = analyse(console)
    assert person.do("run-again", job=str(job), reason="other weights") == f"done: Job {job} is queued again."
    (first,) = [one for one in job_overviews(console.ledger) if one.id == job]
    assert (first.state, first.attempts) == (JobState.QUEUED, 0)
    assert person.do("run-again", job=str(job), reason="once more").startswith(f"problem: job {job} is queued")
    assert person.do("run-again", job="999", reason="which is it").startswith("problem: no job 999")
    assert person.do("run-again", job=str(job), reason="").startswith("problem: reason:")
    assert audited(console) == [f"job {job} run again: other weights"]


def test_a_study_is_deleted_with_a_reason(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    association = receive(console, ended=False)
    assert person.do("delete-study", study=STUDY, reason="wrong node").startswith("problem:")
    close_association(console.ledger, association, outcome="released", at=utc_now())
    assert person.do("delete-study", study=STUDY).startswith("problem: reason:")
    done = person.do("delete-study", study=STUDY, reason="  sent to the\n wrong node ", reject="none")
    assert done == "done: 3 instances and 0 results deleted."
    assert study_overviews(console.ledger)[0].instances == 0
    with console.ledger.reading() as session:
        (event,) = session.scalars(select(EventRow).where(EventRow.kind == "study deleted"))
        assert (event.detail["by"], event.detail["reason"]) == ("operator", "sent to the wrong node")
    file = console.configuration.audit.file
    assert file is not None
    (told,) = [one for one in read_trail(file) if one.event == "110105"]
    assert told.studies == [STUDY]
    assert told.root.find("ActiveParticipant").get("UserID") == "operator"
    assert told.root.find("ActiveParticipant").get("NetworkAccessPointID") == "127.0.0.1"


def test_a_quarantined_object_is_dropped(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    association = receive(console)
    digest = "ab" * 32
    aside = QuarantinedObject(digest, f"quarantine/ab/{digest}.dcm", "cannot be understood", "1.2.9", association)
    record_quarantine(console.ledger, aside, at=utc_now())
    (one,) = quarantine_overviews(console.ledger)
    assert "cannot be understood" in person.get("/deliveries").text
    assert "3 kept, 1 kept aside" in words(person.get(f"/studies/{STUDY}").text)
    assert person.do("take-in", number=str(one.id), reason="is it there").startswith("problem:")
    assert person.do("drop", number=str(one.id), reason="noise") == f"done: Object {one.id} dropped."
    assert quarantine_overviews(console.ledger) == ()


def test_now_says_what_is_kept_aside_and_leads_to_it(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    association = receive(console)

    def keep_aside(digest: str, reason: str) -> None:
        aside = QuarantinedObject(digest, f"quarantine/{digest}.dcm", reason, "1.2.9", association)
        record_quarantine(console.ledger, aside, at=utc_now())

    directory = console.configuration.storage.directory
    write_states(states_file(directory, "supervisor"), [ProcessState("deliverer", 1, True, 0, None, utc_now())])
    with exclusive_service(directory):
        keep_aside("ab" * 32, "cannot be understood")
        assert "1 object is kept aside: Deliveries says why." in fresh(person)
        keep_aside("cd" * 32, CONFLICT)
        assert "Not all is well: 1 object(s) of the last 7 days came with other content" in fresh(person)
        assert '<a href="/deliveries#quarantine">Kept aside</a>' in person.get("/").text


def test_now_tells_of_the_processes_of_every_host_and_of_a_silent_one_what_to_do(console: RunningConsole) -> None:
    roles = {"near": Host(roles=frozenset({HostRole.CONSOLE})), "far": Host(roles=frozenset({HostRole.EXECUTOR}))}
    storage = console.configuration.storage.model_copy(update={"bucket": BucketSettings(url="s3://images/node")})
    settings = console.configuration.node.model_copy(update={"host": "near"})
    configuration = console.configuration.model_copy(update={"hosts": roles, "storage": storage, "node": settings})
    now = utc_now()
    states = [ProcessState("executor", 7, True, 0, None, now), ProcessState("cpu/0", None, False, 1, "SIGKILL", now)]

    def told() -> tuple[str, NowView]:
        node = Node(configuration, console.ledger, console.files, AuditTrail.of(configuration, "console"))
        with contextlib.closing(NowBoard(node, Renderer())) as board:
            return words(str(board.region().html)), board.view()

    beat(console.ledger, "far", now, processes=described(states), free_mb=12_000.0)
    with exclusive_service(storage.directory, "near"):
        page, view = told()
        assert "process far/executor well ready" in page
        assert "disk of host far well 12.0 GB free, images are accepted" in page
        assert "process far/cpu/0 unwell waits to be started again (SIGKILL)" in page
        assert view.status.silent_hosts == ()
        beat(console.ledger, "far", now - dt.timedelta(minutes=5))
        page, view = told()
    assert "Not all is well: host far has said nothing since" in page
    assert "or does not reach the ledger; what to do: start it there: dicom-node serve" in page
    assert "Start it there: dicom-node serve; if it runs, dicom-node doctor there and its log say" in page
    assert "process far/executor unwell not known, as its host is silent; last told: ready" in page
    assert [one["name"] for one in jsonable(view)["status"]["silent_hosts"]] == ["far"]


def test_a_radiologist_judges_results_and_the_verdicts_are_exported(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    job = analyse(console)
    assert person.do("assess", job=str(job), result="accepted").startswith(
        "done: Kept: results of ventricular_function"
    )
    comment = "=the base was cut"
    assert person.do("assess", job=str(job), result="corrected", comment=comment).startswith("done:")
    assert person.do("assess", job=str(job), result="perhaps").startswith("problem: result")
    assert "corrected by viewer" in words(person.get(f"/studies/{STUDY}").text)
    given = assessments(console.ledger, study_instance_uid=STUDY)
    assert [one.result for one in given] == [AssessmentResult.ACCEPTED, AssessmentResult.CORRECTED]
    answer = person.get("/api/v1/assessments.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    head, first, second = csv.reader(io.StringIO(answer.text))
    assert head[0] == "StudyInstanceUID"
    assert first[:5] == [STUDY, "1", "cine", "ventricular_function", "accepted"]
    # No spreadsheet takes it for a formula.
    assert second[5] == f"'{comment}"
    assert len(audited(console)) == 2


def test_what_made_no_results_is_not_judged(console: RunningConsole) -> None:
    receive(console)
    job = analyse(console, Outcome(Verdict.DECLINED, ("No cine.",)))
    said = console.person(VIEWER).do("assess", job=str(job), result="accepted")
    assert said == f"problem: job {job} made no results that could be judged"
    assert console.person(OPERATOR).do("assess", job="999", result="accepted") == "problem: no job 999 in the ledger"


def test_a_front_page_is_not_judged_but_what_it_lists(console: RunningConsole) -> None:
    receive(console)
    job = analyse(console)
    front = next(one.id for one in job_overviews(console.ledger) if one.package == FRONT_PAGE)
    person = console.person(VIEWER)
    assert person.get(f"/studies/{STUDY}").text.count('action="/do/assess"') == 1
    said = person.do("assess", job=str(front), result="rejected")
    assert said == f"problem: job {front} made a front page, which is no answer: judge what it lists"
    assert person.do("assess", job=str(job), result="rejected").startswith("done:")


def test_comments_of_any_kind_survive_the_table() -> None:
    one = Assessment("1.2", 1, "cine", "motion", AssessmentResult.REJECTED, 'a "quoted", line', "=ann()", NOW)
    (_, row) = csv.reader(io.StringIO(assessments_csv((one,))))
    assert row[5] == one.comment
    # Names come from other systems, too.
    assert row[6] == "'=ann()"


def test_the_audit_page_finds_what_was_done_and_by_whom(console: RunningConsole) -> None:
    person = console.person(OPERATOR)
    receive(console)
    analyse(console)
    deliver(console, error=REFUSED)
    person.do("dismiss", study=STUDY, reason="sent by hand")
    for text in ("sent by hand", "operator", "SENT BY", STUDY):
        told = words(person.get(f"/audit?find={text}").text)
        assert "DICOM Instances Accessed" in told, text
        assert "deliveries dismissed: sent by hand" in told, text
    nothing = words(person.get("/audit?find=no such word").text)
    assert nothing.count("Nothing was found.") == 2
    told = person.get("/api/v1/audit?find=by hand").json()
    assert (told["kept"], told["page"]["entries"][0]["who"][0]) == (True, "operator (127.0.0.1)")


def test_a_program_does_and_asks_what_people_do_and_ask(console: RunningConsole) -> None:
    receive(console)
    job = analyse(console)
    deliver(console, error=REFUSED)
    headers = console.token(OPERATOR)

    def call(action: str, **order: object) -> requests.Response:
        url = f"{console.root}/api/v1/actions/{action}"
        return requests.post(url, json=order, headers=headers, timeout=60)

    assert call("send-again", job=job, reason="mended").json() == {"sentence": "1 delivery queued.", "secret": ""}
    assert call("send-again", job=job, reason="mended").status_code == 409
    assert call("send-again", job=job).status_code == 422
    assert call("send-again", job="x", reason="mended").status_code == 422
    listed = requests.get(
        f"{console.root}/api/v1/deliveries?state=queued&destination=pacs", headers=headers, timeout=60
    ).json()
    assert (listed["total"], listed["deliveries"][0]["job_id"]) == (1, job)
    described = requests.get(f"{console.root}/api/v1/openapi.json", headers=headers, timeout=60).json()
    assert "/api/v1/actions/send-again" in described["paths"]
    order = described["components"]["schemas"]["DeliveriesOrder"]
    assert set(order["properties"]) == {"destination", "job", "study", "waiting", "given_up", "reason"}
    (event,) = [one for one in audited(console) if "mended" in one]
    assert event == "results sent again: mended"


def test_rules_are_told_in_words_and_tried_on_a_study_before_they_are_used(console: RunningConsole) -> None:
    person, viewer = console.person(OPERATOR), console.person(VIEWER)
    receive(console)
    assert "textarea" not in viewer.get("/rules").text
    assert viewer.post("/rules", {"csrf": viewer.csrf(), "find": STUDY, "text": "{}"}).status_code == 403
    told = words(person.get("/rules").text)
    assert "Series of modality MR, and at least 10 cardiac phases at one slice position" in told
    assert "Analyses: ventricular_function. Results go to pacs." in told

    def tried(text: str, find: str = STUDY) -> str:
        answer = person.post("/rules", {"csrf": person.csrf(), "find": find, "text": text})
        assert answer.status_code == 200
        return words(answer.text)

    present = tried("cine: {destinations: [pacs]}")
    assert "left out left out: rule 1: minimum_phases" in present
    edited = tried("cine: {series: [{series_description: 'ci.*', minimum_phases: null}], destinations: [pacs]}")
    assert "taken taken by rule 1" in edited
    assert "rule 1, holds: series_description is 'cine', matches 'ci.*'" in edited
    assert "no destination named 'elsewhere'" in tried("cine: {destinations: [elsewhere]}")
    assert "no analysis is named 'unheard-of'" in tried("cine: {analyses: [unheard-of], destinations: [pacs]}")
    assert "routes: is not YAML at line 1" in tried("cine: [")
    assert "not a regular expression" in tried("cine: {series: [{manufacturer: '('}], destinations: [pacs]}")
    assert "names no study" in tried("cine: {destinations: [pacs]}", find="nobody")
    for mistake, sentence in (
        ("cine: {priority: high, destinations: [pacs]}", "cine.priority: must be a whole number, not 'high'"),
        (
            "cine: {priorty: 1, destinations: [pacs]}",
            "cine.priorty: there is no such key here: did you mean 'priority'?",
        ),
        ("cine: 7", "cine: must be a section with keys of its own, not 7"),
        ("[cine]", "routes: must be a section with keys of its own"),
    ):
        assert sentence in tried(mistake)
    # What is in use stays as it is.
    assert console.configuration.routes["cine"].series[0].minimum_phases == 10
    assert person.post("/rules", {"find": STUDY, "text": "{}"}).status_code == 403
    headers, url = console.token(OPERATOR), f"{console.root}/api/v1/routes"
    assert requests.get(url, headers=headers, timeout=60).json()["cine"]["destinations"] == ["pacs"]
    order = {"study": STUDY, "routes": "cine: {series: [{minimum_phases: null}], destinations: [pacs]}"}
    (route,) = requests.post(f"{url}/try", json=order, headers=headers, timeout=60).json()
    assert [one["taken"] for one in route["series"]] == [True]
    assert requests.post(f"{url}/try", json={**order, "routes": "x"}, headers=headers, timeout=60).status_code == 409


def test_models_are_shown_with_their_figures_and_what_radiologists_said(console: RunningConsole) -> None:
    person = console.person(VIEWER)
    receive(console)
    job = analyse(console)
    for result in ("rejected", "accepted"):
        person.do("assess", job=str(job), result=result)
    told = words(person.get("/models").text)
    assert "accepted rejected corrected ventricular_function 1 0 0" in told
    for card in list_models():
        assert f"{card.name} {card.version}" in told
    assert len(person.get("/api/v1/models").json()) == len(list_models())


def test_unforeseen_failures_tell_nothing_of_what_they_were_about(
    console: RunningConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = console.person(VIEWER)
    monkeypatch.setattr("dicom_node.console.pages.read_study", lambda *_: 1 / 0)
    answer = person.get(f"/studies/{STUDY}")
    assert answer.status_code == 500
    assert "division" not in answer.text


def test_a_full_disk_is_told_with_what_to_do_by_page_and_program(
    console: RunningConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    person, token = console.person(OPERATOR), console.token(OPERATOR)
    receive(console)
    monkeypatch.setattr("dicom_node.console.actions.delete_everywhere", full)
    told = "storage cannot be written: No space left on device"
    done = person.do("delete-study", study=STUDY, reason="wrong node")
    assert done.startswith(f"problem: {told}")
    assert "free space" in done
    order = {"study": STUDY, "reason": "wrong node"}
    answer = requests.post(f"{console.root}/api/v1/actions/delete-study", json=order, headers=token, timeout=60)
    assert answer.status_code == 507
    assert told in answer.json()["detail"]


def audited(console: RunningConsole) -> list[str]:
    """What the audit trail says of instances that people changed."""
    file = console.configuration.audit.file
    assert file is not None
    return [
        one.root.findtext("EventIdentification/EventOutcomeDescription")
        for one in read_trail(file)
        if one.event == "110103" and one.action != "R"
    ]


def test_times_in_sentences_are_shown_in_the_zone_of_the_reader() -> None:
    sentence = "pacs <1> away since 2026-11-29 12:21:39+01:00; the next call is at 2026-11-29 11:21:42+00:00"
    shown = environment().from_string("{{ sentence|timed }}").render(sentence=sentence)
    first = '<time datetime="2026-11-29T11:21:39+00:00">2026-11-29 11:21:39 UTC</time>'
    second = '<time datetime="2026-11-29T11:21:42+00:00">2026-11-29 11:21:42 UTC</time>'
    assert shown == f"pacs &lt;1&gt; away since {first}; the next call is at {second}"


@pytest.mark.parametrize("path", ["/", "/rules", "/models"])
def test_every_page_says_which_version_of_the_software_made_it(console: RunningConsole, path: str) -> None:
    page = console.person(AccountRole.OPERATOR).get(path).text
    assert f"<footer>dicom-node {SOFTWARE_VERSION} ·" in page
