"""Deliveries to web PACS: Orthanc as it is, and a server that answers as no server should."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop.fixtures import require
from interop.orthanc import DICOM_WEB_PLUGIN
from interop.ports import free_port, wait_until
from network.certificates import Authority
from network.objects import data_set_bytes
from network.running_node import configuration
from sqlalchemy import select
from structlog.testing import capture_logs
from web.web_orthanc import PASSWORD, USER, WebOrthanc

from deliver.results_due import files_of, overview, result_objects, results_due, rounds_until, states
from deliver.web_pacs import Asked, Said, WebPacs, store_response, web_pacs
from dicom_node.config import Configuration, DeliveryPolicy, DestinationProfile, ResultSettings, Secret, WebDestination
from dicom_node.deliver.deliver import Deliverer
from storage.deliveries import Selection, requeue_deliveries
from storage.ledger import Ledger, open_ledger
from storage.schema import DeliveryState, EventRow, OutageRow

COMMITTED, DEAD, QUEUED = DeliveryState.COMMITTED, DeliveryState.DEAD, DeliveryState.QUEUED
AWAITING, NOT_ACCEPTED = DeliveryState.AWAITING_COMMITMENT, DeliveryState.NOT_ACCEPTED
NOT_VERIFIED = DeliveryState.NOT_VERIFIED


class Bench:
    """A deliverer that has results for a web PACS."""

    def __init__(self, node: Configuration, ledger: Ledger, deliverer: Deliverer) -> None:
        self.node, self.ledger, self.deliverer = node, ledger, deliverer

    def deliver(self) -> list[DeliveryState]:
        self.deliverer.deliver_once("pacs")
        return states(self.ledger)

    def rounds_until(self, *wanted: DeliveryState) -> None:
        rounds_until(self.deliverer, *wanted)

    def events(self, kind: str) -> list[EventRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(EventRow).where(EventRow.kind == kind)))

    def errors(self) -> list[str | None]:
        return [one.error for one in overview(self.ledger)]


@contextmanager
def bench(
    folder: Path,
    root: str,
    *,
    count: int = 3,
    service: dict[str, object] | None = None,
    policy: dict[str, object] | None = None,
    **profile: object,
) -> Iterator[Bench]:
    web = WebDestination(url=root, **(service or {}))  # type: ignore[arg-type]
    values = {"first_delay_s": 0.05, "maximum_delay_s": 0.2, "maximum_attempts": 6, "response_timeout_s": 5}
    node = configuration(
        folder,
        results=ResultSettings(destinations={"pacs": DestinationProfile(web=web, **profile)}),  # type: ignore[arg-type]
        delivery=DeliveryPolicy(**{**values, **(policy or {})}),  # type: ignore[arg-type]
    )
    ledger = open_ledger(node.storage.database)
    try:
        yield Bench(node, ledger, results_due(node, ledger, result_objects(count)))
    finally:
        ledger.close()


@pytest.fixture
def pacs() -> Iterator[WebPacs]:
    with web_pacs() as running:
        yield running


@pytest.fixture
def b(tmp_path: Path, pacs: WebPacs) -> Iterator[Bench]:
    with bench(tmp_path, pacs.root) as made:
        yield made


@pytest.fixture
def password(tmp_path: Path) -> Secret:
    file = tmp_path / "login"
    file.write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    return Secret(file=file)


@pytest.mark.peers
def test_orthanc_gets_results_byte_for_byte_and_shows_them(tmp_path: Path, password: Secret) -> None:
    require("Orthanc", DICOM_WEB_PLUGIN)
    with (
        WebOrthanc(tmp_path / "orthanc", password=True) as orthanc,
        bench(tmp_path, orthanc.root, count=7, service={"basic": password, "maximum_request_mb": 0.005}) as b,
    ):
        assert b.deliver() == [COMMITTED] * 7
        assert {event.detail["how"] for event in b.events("delivery committed")} == {"found by QIDO-RS"}
        there = orthanc.fetch(tmp_path / "fetched")
        assert {data_set_bytes(path) for path in there.values()} == {
            data_set_bytes(path) for path in files_of(b.deliverer)
        }
        for one in overview(b.ledger):
            (sent,) = (
                path for path in files_of(b.deliverer) if path.read_bytes() == orthanc.file(one.sop_instance_uid)
            )
            assert sent.stat().st_size > 0


@pytest.mark.peers
def test_orthanc_down_then_up_then_with_another_password(tmp_path: Path, password: Secret) -> None:
    require("Orthanc", DICOM_WEB_PLUGIN)
    orthanc = WebOrthanc(tmp_path / "orthanc", password=True)
    policy = {"maximum_attempts": 1000}
    with bench(tmp_path, orthanc.root, service={"basic": password}, policy=policy) as b:
        assert b.deliver() == [QUEUED] * 3
        assert all("does not answer: ConnectError" in (error or "") for error in b.errors())
        assert password.file is not None
        right = password.file.read_text(encoding="utf-8")
        password.file.write_text("node:wrong", encoding="utf-8")
        with orthanc:
            wait_until(
                lambda: b.deliver() == [QUEUED] * 3 and all("401" in (error or "") for error in b.errors()),
                seconds=20,
                what="refused for its password",
            )
            assert "check the credentials" in (b.errors()[0] or "")
            password.file.write_text(right, encoding="utf-8")
            b.rounds_until(COMMITTED)
            assert len(orthanc.sop_instance_uids()) == 3


def test_a_round_is_one_store_and_one_query(b: Bench, pacs: WebPacs) -> None:
    assert b.deliver() == [COMMITTED] * 3
    assert [one.method for one in pacs.asked] == ["POST", "GET"]
    post = pacs.asked[0]
    assert post.path == "/dicom-web/studies"
    assert post.headers["accept"] == "application/dicom+json"
    assert int(post.headers["content-length"]) == len(post.body)
    assert sorted(pacs.held.values()) == sorted(path.read_bytes() for path in files_of(b.deliverer))


def test_without_commitment_nothing_is_looked_up(tmp_path: Path, pacs: WebPacs) -> None:
    with bench(tmp_path, pacs.root, storage_commitment=False) as b:
        assert b.deliver() == [NOT_VERIFIED] * 3
        assert [one.method for one in pacs.asked] == ["POST"]
        assert {event.detail["commitment"] for event in b.events("delivery sent")} == {"not asked"}


def test_each_instance_has_its_own_fate(tmp_path: Path, pacs: WebPacs) -> None:
    with bench(tmp_path, pacs.root, count=6) as b:
        uids = [one.sop_instance_uid for one in overview(b.ledger)]

        def partly(asked: Asked) -> Said:
            files = asked.files()
            pacs.held.update({uid: files[uid] for uid in uids[:2]})
            refused = {uids[2]: 0xA700, uids[3]: 0xC000, uids[4]: 0x0122}
            return Said(202, store_response({uids[0]: None, uids[1]: 0xB000}, refused))

        pacs.on_store = partly
        with capture_logs() as logs:
            assert b.deliver() == [COMMITTED, COMMITTED, QUEUED, DEAD, NOT_ACCEPTED, QUEUED]
        assert [entry["remark"] for entry in logs if entry["event"] == "delivered with a remark"] == ["warning B000"]
        errors = b.errors()
        assert "cannot store it now: status A700" in (errors[2] or "")
        assert "refuses it: status C000" in (errors[3] or "")
        assert "the answer leaves it out" in (errors[5] or "")
        pacs.on_store = pacs.store
        b.rounds_until(COMMITTED, DEAD, NOT_ACCEPTED)
        # Each is due at a time of its own: together in one request, or one after the other.
        assert [uid for request in pacs.stores()[1:] for uid in sorted(request.files())] in (
            sorted([uids[2], uids[5]]),
            [uids[2], uids[5]],
            [uids[5], uids[2]],
        )


@pytest.mark.parametrize("status", [400, 409])
def test_one_object_that_spoils_a_request_is_found(tmp_path: Path, pacs: WebPacs, status: int) -> None:
    with bench(tmp_path, pacs.root, count=8) as b:
        spoiler = overview(b.ledger)[5].sop_instance_uid

        def refuse(asked: Asked) -> Said:
            return Said(status, b"no") if spoiler in asked.files() else pacs.store(asked)

        pacs.on_store = refuse
        assert b.deliver() == [COMMITTED] * 5 + [DEAD] + [COMMITTED] * 2
        assert f"HTTP status {status}" in (b.errors()[5] or "")
        assert len(pacs.stores()) == 7


def test_a_request_that_is_too_large_is_divided(tmp_path: Path, pacs: WebPacs) -> None:
    def limited(asked: Asked) -> Said:
        return Said(413) if len(asked.body) > 10_000 else pacs.store(asked)

    pacs.on_store = limited
    with bench(tmp_path, pacs.root, count=8) as b:
        assert b.deliver() == [COMMITTED] * 8
        assert max(len(one.files()) for one in pacs.stores() if len(one.body) <= 10_000) > 1


def test_all_refused_is_a_dead_letter_each(b: Bench, pacs: WebPacs) -> None:
    pacs.on_store = lambda asked: Said(409, store_response({}, dict.fromkeys(asked.files(), 0xA900)))
    assert b.deliver() == [DEAD] * 3
    assert len(pacs.stores()) == 1
    assert requeue_deliveries(b.ledger, Selection("pacs", "summary"), now=dt.datetime.now(dt.UTC)) == 3
    pacs.on_store = pacs.store
    b.rounds_until(COMMITTED, DEAD)
    assert states(b.ledger) == [COMMITTED] * 3


@pytest.mark.parametrize("said", [Said(500), Said(403), Said(404), Said(0), Said(202)])
def test_what_may_pass_is_tried_again(b: Bench, pacs: WebPacs, said: Said) -> None:
    pacs.on_store = lambda _asked: said
    assert b.deliver() == [QUEUED] * 3
    assert len(pacs.stores()) == 1
    pacs.on_store = pacs.store
    b.rounds_until(COMMITTED)


def test_it_comes_back_when_it_was_told_to(tmp_path: Path, pacs: WebPacs) -> None:
    pacs.on_store = lambda _asked: Said(503, None, {"Retry-After": "120"})
    policy = {"maximum_delay_s": 600}
    with bench(tmp_path, pacs.root, count=1, policy=policy) as b:
        before = dt.datetime.now(dt.UTC)
        assert b.deliver() == [QUEUED]
        with b.ledger.reading() as session:
            due = session.scalars(select(OutageRow.retry_at)).one()
        assert 119 < (due - before).total_seconds() < 125


@pytest.mark.parametrize("value", ["99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "١٢"])
def test_nobody_can_make_it_wait_for_ever(b: Bench, pacs: WebPacs, value: str) -> None:
    pacs.on_store = lambda _asked: Said(503, None, {"Retry-After": value.encode().decode("latin-1")})
    b.deliver()
    with b.ledger.reading() as session:
        for due in session.scalars(select(OutageRow.retry_at)).all():
            assert (due - dt.datetime.now(dt.UTC)).total_seconds() <= b.node.delivery.maximum_delay_s
    pacs.on_store = pacs.store
    b.rounds_until(COMMITTED)


@pytest.mark.parametrize("status", [302, 307])
def test_redirects_are_not_followed(tmp_path: Path, pacs: WebPacs, status: int) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with web_pacs() as elsewhere, bench(tmp_path, pacs.root, service={"token": {"file": token}}) as b:
        pacs.on_store = lambda _asked: Said(status, None, {"Location": f"{elsewhere.root}/studies"})
        assert b.deliver() == [QUEUED] * 3
        assert "redirects are not followed" in (b.errors()[0] or "")
        assert "s3cret" not in str(b.errors())
        assert pacs.asked[0].headers["authorization"] == "Bearer s3cret"
        assert elsewhere.asked == []


def test_a_secret_that_is_missing_is_named_and_nothing_is_sent_without_it(
    tmp_path: Path, pacs: WebPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(tmp_path, pacs.root, service={"token": Secret(environment="PACS_TOKEN")}) as b:
        monkeypatch.delenv("PACS_TOKEN", raising=False)
        assert b.deliver() == [QUEUED] * 3
        assert "environment variable PACS_TOKEN" in (b.errors()[0] or "")
        assert pacs.asked == []
        monkeypatch.setenv("PACS_TOKEN", "abc")
        b.rounds_until(COMMITTED)


def test_an_answer_that_was_lost_does_not_send_twice(b: Bench, pacs: WebPacs) -> None:
    def store_and_hang_up(asked: Asked) -> Said:
        pacs.store(asked)
        return Said(0)

    pacs.on_store = store_and_hang_up
    assert b.deliver() == [QUEUED] * 3
    b.rounds_until(COMMITTED)
    assert len(pacs.stores()) == 1


def test_a_service_that_refuses_duplicates_has_them(b: Bench, pacs: WebPacs) -> None:
    def refuse(asked: Asked) -> Said:
        pacs.store(asked)
        return Said(409, store_response({}, dict.fromkeys(asked.files(), 0x0111)))

    pacs.on_store = refuse
    assert b.deliver() == [COMMITTED] * 3


def test_what_is_shown_late_is_committed_late(tmp_path: Path, pacs: WebPacs) -> None:
    shown_at = time.monotonic() + 1.0
    pacs.on_query = lambda asked: pacs.query(asked) if time.monotonic() > shown_at else Said(200, [])
    with bench(tmp_path, pacs.root) as b:
        assert b.deliver() == [COMMITTED] * 3
        assert len(pacs.stores()) == 1


def test_what_is_not_shown_is_sent_again_and_dies_in_the_end(tmp_path: Path, pacs: WebPacs) -> None:
    pacs.on_query = lambda _asked: Said(204)
    with bench(tmp_path, pacs.root, count=1, commitment_timeout_s=0.05, policy={"maximum_attempts": 3}) as b:
        assert b.deliver() == [AWAITING]
        b.rounds_until(DEAD)
        assert "the destination does not show the object" in (b.errors()[0] or "")
        assert len(pacs.stores()) == 3


def test_what_is_shown_at_the_last_moment_counts(tmp_path: Path, pacs: WebPacs) -> None:
    pacs.on_query = lambda _asked: Said(200, [])
    with bench(tmp_path, pacs.root, count=1, commitment_timeout_s=0.05, policy={"maximum_attempts": 1}) as b:
        assert b.deliver() == [AWAITING]
        pacs.on_query = pacs.query
        time.sleep(0.1)
        b.rounds_until(COMMITTED)
        (event,) = b.events("delivery committed")
        assert event.detail["how"] == "found by QIDO-RS; storage commitment never came"


def test_a_service_without_queries_is_asked_for_metadata(b: Bench, pacs: WebPacs) -> None:
    pacs.on_query = lambda asked: Said(404) if "offset" in asked.path else pacs.query(asked)
    assert b.deliver() == [COMMITTED] * 3
    assert sum(one.path.endswith("/metadata") for one in pacs.asked) == 3


def test_a_service_that_cannot_be_asked_is_recorded_and_closed_as_sent(b: Bench, pacs: WebPacs) -> None:
    pacs.on_query = lambda _asked: Said(501)
    assert b.deliver() == [NOT_VERIFIED] * 3
    (event,) = b.events("commitment not offered")
    assert "storage_commitment: false" in event.detail["remedy"]


def test_pages_are_followed_and_a_server_that_knows_no_pages_is_no_loop(tmp_path: Path, pacs: WebPacs) -> None:
    def two_at_a_time(asked: Asked) -> Said:
        said = pacs.query(asked)
        assert isinstance(said.body, list)
        return Said(200, said.body[:2])

    pacs.on_query = two_at_a_time
    with bench(tmp_path, pacs.root, count=5) as b:
        assert b.deliver() == [COMMITTED] * 5
        assert len(pacs.asked) == 4
    first = {"00080018": {"vr": "UI", "Value": ["1.2.3"]}}
    pacs.on_query = lambda _asked: Said(200, [first])
    (tmp_path / "again").mkdir()
    with bench(tmp_path / "again", pacs.root, count=1, commitment_timeout_s=600) as b:
        assert b.deliver() == [AWAITING]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b'{"00081198": 7}', b'{"00081199": {"vr": "SQ", "Value": [{}]}}', b"\xff\xfe"],
)
def test_an_answer_that_cannot_be_read_is_judged_by_its_status_and_what_is_there(
    b: Bench, pacs: WebPacs, body: bytes
) -> None:
    def store(asked: Asked) -> Said:
        pacs.store(asked)
        return Said(200, body)

    pacs.on_store = store
    b.rounds_until(COMMITTED)
    assert len(pacs.stores()) == 1


def test_an_answer_in_xml_is_read(b: Bench, pacs: WebPacs) -> None:
    kept, lost, other = (one.sop_instance_uid for one in overview(b.ledger))

    def item(uid: str, reason: str = "") -> str:
        return (
            f'<Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}</Value></DicomAttribute>'
            f"{reason}</Item>"
        )

    reason = '<DicomAttribute tag="00081197" vr="US"><Value number="1">49152</Value></DicomAttribute>'
    xml = (
        "<?xml version='1.0'?><NativeDicomModel xmlns='http://dicom.nema.org/PS3.19/models/NativeDICOM'>"
        f'<DicomAttribute tag="00081199" vr="SQ">{item(kept)}{item(other)}</DicomAttribute>'
        f'<DicomAttribute tag="00081198" vr="SQ">{item(lost, reason)}</DicomAttribute></NativeDicomModel>'
    )

    def store(asked: Asked) -> Said:
        pacs.store(asked)
        del pacs.held[lost]
        return Said(202, xml.encode(), {"Content-Type": "application/dicom+xml; charset=utf-8"})

    pacs.on_store = store
    assert b.deliver() == [COMMITTED, DEAD, COMMITTED]


def test_a_slow_service_is_given_up(tmp_path: Path, pacs: WebPacs) -> None:
    def sleep(_asked: Asked) -> Said:
        time.sleep(1.5)
        return Said(200)

    pacs.on_store = sleep
    with bench(tmp_path, pacs.root, count=1, policy={"response_timeout_s": 0.3}) as b:
        assert b.deliver() == [QUEUED]
        assert "ReadTimeout" in (b.errors()[0] or "")


def test_a_pacs_that_wants_a_certificate_gets_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    theirs, ours = authority.signs("pacs"), authority.signs("node")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    tls.load_cert_chain(theirs.certificate, theirs.key)
    tls.verify_mode = ssl.CERT_REQUIRED
    service: dict[str, object] = {"trusted": authority.certificate}
    with web_pacs(tls) as pacs:
        with bench(tmp_path, pacs.root, service=service) as b:
            assert b.deliver() == [QUEUED] * 3
            assert pacs.asked == []
        service |= {"certificate": ours.certificate, "key": ours.key}
        (tmp_path / "with").mkdir()
        with bench(tmp_path / "with", pacs.root, service=service) as b:
            assert b.deliver() == [COMMITTED] * 3
        missing = {**service, "key": tmp_path / "absent"}
        (tmp_path / "without").mkdir()
        with bench(tmp_path / "without", pacs.root, service=missing) as b:
            assert b.deliver() == [QUEUED] * 3
            assert "a certificate cannot be used" in (b.errors()[0] or "")


def test_nobody_listening_is_said(tmp_path: Path) -> None:
    with bench(tmp_path, f"http://127.0.0.1:{free_port()}", count=1) as b:
        assert b.deliver() == [QUEUED]
        assert "ConnectError" in (b.errors()[0] or "")
