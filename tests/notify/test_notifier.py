"""What people are told, and when: by a real mail server and a webhook."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from interop.ports import free_port
from ledger_rows import DELIVERED, claim, receive_and_schedule, retry_at_once
from network.certificates import Authority
from network.running_node import configuration
from sqlalchemy import select

from dicom_node import node
from dicom_node.config import Configuration, NotificationSettings, Secret
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError, PeerUnavailableError
from dicom_node.machine import serving_mistakes
from dicom_node.node_status import Alarm, Concern
from dicom_node.notify import notifier as notifier_module
from dicom_node.notify.channels import channels
from dicom_node.notify.notices import Notice, alarm_notices
from dicom_node.notify.notifier import STATE, Notifier
from dicom_node.notify.wording import body, read_notification_template, subject
from storage.holdings import describe_study
from storage.jobs import complete_job, fail_job
from storage.ledger import Ledger, open_ledger, utc_now
from storage.schema import StudyRow, Verdict

SENTENCE = "The short axis holds a single slice."


def settings(**changes: Any) -> NotificationSettings:
    hook = {"url": "http://127.0.0.1:1/hook"}
    return NotificationSettings.model_validate({"webhook": hook, "causes": ["failed", "declined"], **changes})


class Way:
    """A way that notes what it is given, or is away."""

    def __init__(self) -> None:
        self.messages: list[list[Notice]] = []
        self.away = False

    def __call__(self, notices: Sequence[Notice]) -> None:
        if self.away:
            raise PeerUnavailableError("is away")
        self.messages.append(list(notices))

    @property
    def sentences(self) -> list[str]:
        return [one.sentence for message in self.messages for one in message]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(configuration(tmp_path).storage.database)
    (tmp_path / "instances").mkdir()
    yield opened
    opened.close()


def a_node(tmp_path: Path, **changes: Any) -> Configuration:
    return configuration(tmp_path, notifications=settings(**changes))


def job(
    ledger: Ledger, study: str, at: dt.datetime, verdict: Verdict = Verdict.DECLINED, ef: float | None = None
) -> None:
    receive_and_schedule(ledger, study, at=at)
    numbers = [] if ef is None else [{"name": "LVEF_percent", "value": ef, "unit": "%"}]
    taken = claim(ledger, at=at)
    if verdict is Verdict.FAILED:
        fail_job(ledger, taken, "It was killed.", retryable=False, retry_at=retry_at_once(at), now=at)
    else:
        sentences = (SENTENCE,) if verdict is Verdict.DECLINED else ()
        outcome = replace(DELIVERED, verdict=verdict, sentences=sentences, summary={"reported": numbers})
        assert complete_job(ledger, taken, [], outcome, now=at)
    from storage.jobs import claim_job

    closing = claim_job(ledger, "closing", at)
    if closing is not None:
        assert complete_job(ledger, closing, [], DELIVERED, now=at)


def seconds(count: float) -> dt.timedelta:
    return dt.timedelta(seconds=count)


def test_what_ends_is_told_once_in_one_message_and_not_the_past(tmp_path: Path, ledger: Ledger) -> None:
    start = utc_now()
    job(ledger, "1.2.1", start - seconds(60))
    way = Way()
    notifier = Notifier(a_node(tmp_path), ledger, {"way": way})
    notifier.look(start)
    assert way.messages == []
    job(ledger, "1.2.2", start + seconds(1))
    job(ledger, "1.2.3", start + seconds(2), Verdict.FAILED)
    job(ledger, "1.2.4", start + seconds(3), Verdict.DELIVERED)
    notifier.look(start + seconds(20))
    (message,) = way.messages
    assert [one.cause for one in message] == ["declined", "failed"]
    assert SENTENCE in message[0].sentence
    assert "killed" in message[1].sentence
    assert not any("1.2." in one.sentence for one in message)
    # A restart, and nothing twice.
    again = Notifier(a_node(tmp_path), ledger, {"way": way})
    again.look(start + seconds(40))
    assert len(way.messages) == 1


def test_one_message_at_most_every_so_often(tmp_path: Path, ledger: Ledger) -> None:
    start, way = utc_now(), Way()
    notifier = Notifier(a_node(tmp_path, at_most_every_s=300), ledger, {"way": way})
    notifier.look(start)
    for number in range(5):
        job(ledger, f"1.2.{number}", start + seconds(10 * number))
        notifier.look(start + seconds(10 * number + 6))
    assert [len(message) for message in way.messages] == [1]
    notifier.look(start + seconds(400))
    assert [len(message) for message in way.messages] == [1, 4]


def test_a_way_that_is_away_loses_nothing_and_holds_up_no_other(tmp_path: Path, ledger: Ledger) -> None:
    start, here, away = utc_now(), Way(), Way()
    away.away = True
    notifier = Notifier(a_node(tmp_path, at_most_every_s=1), ledger, {"here": here, "away": away})
    notifier.look(start)
    job(ledger, "1.2.1", start + seconds(1))
    notifier.look(start + seconds(10))
    job(ledger, "1.2.2", start + seconds(11))
    notifier.look(start + seconds(700))
    assert [len(message) for message in here.messages] == [1, 1]
    # The node is started again meanwhile.
    notifier = Notifier(a_node(tmp_path, at_most_every_s=1), ledger, {"here": here, "away": away})
    away.away = False
    notifier.look(start + seconds(1400))
    assert [len(message) for message in away.messages] == [2]
    assert len(here.messages) == 2


def test_a_number_beyond_a_limit_is_told_by_rule(tmp_path: Path, ledger: Ledger) -> None:
    start, way = utc_now(), Way()
    rules = {"low-ef": {"number": "LVEF_percent", "below": 30}, "high-ef": {"number": "LVEF_percent", "above": 70}}
    notifier = Notifier(a_node(tmp_path, rules=rules, causes=[]), ledger, {"way": way})
    notifier.look(start)
    for number, ef in enumerate((30.0, 29.9, 55.0, 71.0, None)):
        job(ledger, f"1.2.{number}", start + seconds(1 + number), Verdict.DELIVERED, ef)
    job(ledger, "1.2.9", start + seconds(9))
    notifier.look(start + seconds(60))
    (message,) = way.messages
    assert [one.cause for one in message] == ["low-ef", "high-ef"]
    assert message[0].sentence.endswith("LVEF_percent is 29.9, below 30")


def test_the_patient_is_told_only_where_that_is_wanted(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.network.query_scp.describe_new_studies", lambda *_: None)
    start = utc_now()
    ways = {wanted: Way() for wanted in (True, False)}
    for wanted, way in ways.items():
        (tmp_path / "instances" / STATE).unlink(missing_ok=True)
        notifier = Notifier(a_node(tmp_path, patient=wanted), ledger, {"way": way})
        notifier.look(start)
        study = f"1.2.{int(wanted)}7"
        job(ledger, study, start + seconds(1))
        with ledger.reading() as session:
            row = session.scalar(select(StudyRow.id).where(StudyRow.study_instance_uid == study))
        assert row is not None
        attributes = {"PatientID": "P-77", "AccessionNumber": "A-88", "PatientName": "Doe^Jane"}
        describe_study(ledger, row, attributes)
        notifier.look(start + seconds(60))
    assert "study 1.2.17, patient ID P-77, accession number A-88" in ways[True].sentences[0]
    assert not any(word in " ".join(ways[False].sentences) for word in ("P-77", "A-88", "1.2.07"))
    assert "Doe" not in " ".join(ways[True].sentences)


def test_alarms_are_told_when_they_begin_again_while_they_last_and_when_they_end() -> None:
    now, day = utc_now(), dt.timedelta(days=1)
    two, three = (Alarm(f"{count} job(s) failed", "see", Concern.JOBS) for count in (2, 3))
    notices, told = alarm_notices([two], {}, day, now)
    assert [one.sentence for one in notices] == ["2 job(s) failed"]
    assert alarm_notices([three], told, day, now + seconds(60)) == ([], told)
    reminded, _ = alarm_notices([three], told, day, now + day)
    assert [one.sentence for one in reminded] == ["3 job(s) failed"]
    over, nothing = alarm_notices([], told, day, now + seconds(90))
    assert ([one.cause for one in over], nothing) == (["alarm over"], {})


def test_the_alarms_of_status_are_told(tmp_path: Path, ledger: Ledger) -> None:
    way = Way()
    Notifier(a_node(tmp_path, causes=["alarm"]), ledger, {"way": way}).look(utc_now())
    assert "the node is not running" in way.sentences


def test_a_file_of_what_was_told_that_is_damaged_stops_nothing(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "instances" / STATE).write_text('{"way": {"job": 3}}')
    way = Way()
    notifier = Notifier(a_node(tmp_path), ledger, {"way": way})
    notifier.look(utc_now())
    assert way.messages == []


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        self.mails.append(message_from_bytes(envelope.content or b""))
        return "250 taken"


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
def test_mail_is_taken_by_a_real_server(tmp_path: Path, security: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    authority = Authority(tmp_path)
    own = authority.signs("mail")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)
    options: dict[str, Any] = {}
    if security == "starttls":
        options = {"tls_context": context, "require_starttls": True}
    elif security == "tls":
        options = {"ssl_context": context}
    if security != "none":

        def admits(_server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: Any) -> AuthResult:
            return AuthResult(success=(data.login, data.password) == (b"node", b"secret"))

        options |= {"authenticator": admits, "auth_required": True, "auth_require_tls": security == "starttls"}
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    mail: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": free_port(),
        "security": security,
        "sender": "node@example.org",
        "recipients": ["one@example.org", "two@example.org"],
    }
    if security != "none":
        mail |= {"user": "node", "password": {"environment": "MAIL_PASSWORD"}, "trusted": authority.certificate}
    box = Mailbox()
    send = channels(NotificationSettings.model_validate({"email": mail}), "NODE")["email"]
    with pytest.raises(PeerUnavailableError, match="did not take"):
        send([Notice("failed", "nobody is there")])
    server = Controller(box, hostname="127.0.0.1", port=mail["port"], **options)
    server.start()
    try:
        send([Notice("failed", "job 3 failed: ungewöhnlich", "look"), Notice("low-ef", "LVEF_percent is 20.0")])
    finally:
        server.stop()
    (message,) = box.mails
    assert message["Subject"] == "NODE: 1 failed, 1 low-ef"
    assert message["To"] == "one@example.org, two@example.org"
    text = message.get_payload(decode=True).decode("utf-8")
    assert text.splitlines() == ["failed: job 3 failed: ungewöhnlich – look", "low-ef: LVEF_percent is 20.0"]


def test_a_webhook_gets_json_and_its_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "secret")
    got: list[tuple[str, Any]] = []
    statuses = [204, 500]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Authorization"], json.loads(body)))
            self.send_response(statuses.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = {"url": f"http://127.0.0.1:{server.server_port}/hook", "token": Secret(environment="HOOK_TOKEN")}
    send = channels(NotificationSettings.model_validate({"webhook": hook}), "NODE")["webhook"]
    try:
        send([Notice("alarm", "disk", "free it")])
        with pytest.raises(PeerUnavailableError, match="500"):
            send([Notice("alarm", "disk", "free it")])
    finally:
        server.shutdown()
        server.server_close()
    assert got[0] == (
        "Bearer secret",
        {
            "node": "NODE",
            "text": "alarm: disk – free it",
            "notices": [{"cause": "alarm", "sentence": "disk", "remedy": "free it"}],
        },
    )


GERMAN = """\
subject: "$node meldet: $counts"
opening: "Guten Tag,\\n"
notice: "- $cause: $sentence"
remedy: " ($remedy)"
closing: "\\nIhr Knoten $node"
causes: {alarm: Alarm, failed: gescheitert}
"""
ALARMS = [Notice("alarm", "disk", "free it"), Notice("alarm", "late"), Notice("low-ef", "LVEF_percent is 20.0")]


def test_the_words_are_the_departments_own(tmp_path: Path) -> None:
    usual = read_notification_template(settings())
    assert subject(usual, "NODE", ALARMS) == "NODE: 2 alarm, 1 low-ef"
    assert body(usual, "NODE", ALARMS[:1]) == "alarm: disk – free it"
    (tmp_path / "german.yaml").write_text(GERMAN, encoding="utf-8")
    own = read_notification_template(settings(template=tmp_path / "german.yaml"))
    assert subject(own, "NODE", ALARMS) == "NODE meldet: 2 Alarm, 1 low-ef"
    assert body(own, "NODE", ALARMS).splitlines() == [
        "Guten Tag,",
        "- Alarm: disk (free it)",
        "- Alarm: late",
        "- low-ef: LVEF_percent is 20.0",
        "",
        "Ihr Knoten NODE",
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('subject: "$patient"', r"subject: \$patient stands for nothing here"),
        ('subject: "costs $ 5"', "subject: a dollar sign that begins no name"),
        ("subjekt: x", "'subject' is missing"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "own.yaml").write_text(GERMAN.replace('subject: "$node meldet: $counts"', line), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=sentence):
        read_notification_template(settings(template=tmp_path / "own.yaml"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        channels(settings(template=tmp_path / "absent.yaml"), "NODE")
    mistakes = list(serving_mistakes(a_node(tmp_path, template=tmp_path / "own.yaml")))
    assert any(("notifications", "template") in one.keys for one in mistakes)


def test_a_node_that_notifies_has_a_process_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicom_node.network.listening_ports import open_listening_ports

    configured = a_node(tmp_path)
    ports = open_listening_ports(configured)
    try:
        assert "notifier" in [role.name for role in node.node_roles(configured, ports)]
    finally:
        ports.close()
    assert notifier_module.LOOK_EVERY_S > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"email": {"host": "h", "sender": "a@b", "recipients": []}}, "recipients"),
        ({"email": {"host": "h", "sender": "nobody", "recipients": ["a@b"]}}, "sender"),
        ({"email": {"host": "h", "sender": "a@b", "recipients": ["a@b"], "user": "x"}}, "belong together"),
        ({"rules": {"r": {"number": "LVEF_percent"}}}, "'below' or 'above'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NotificationSettings.model_validate(wrong)


def test_a_password_in_clear_text_is_refused_and_one_in_the_file_not_repeated(tmp_path: Path) -> None:
    mail = "host: h, sender: a@b, recipients: [a@b], user: x"
    for text, message in (
        (f"{mail}, security: none, password: {{environment: P}}", "clear text"),
        (f"{mail}, password: hunter2", "password"),
    ):
        (tmp_path / "config.yaml").write_text(f"notifications: {{email: {{{text}}}}}")
        with pytest.raises(ConfigurationError, match=message) as caught:
            load_configuration(tmp_path / "config.yaml", {})
        assert "hunter2" not in str(caught.value)
