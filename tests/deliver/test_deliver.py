"""Deliveries against the small PACS: until committed, or a dead letter that says why."""

from __future__ import annotations

import dataclasses
import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop.orthanc import AE_TITLE, Modality, Orthanc
from interop.ports import free_port, wait_until
from ledger_rows import close_versions
from network.objects import data_set_bytes
from network.running_node import NODE, configuration, destination_sections, pacs_peer, receiver_thread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import evt
from sqlalchemy import select
from structlog.testing import capture_logs

from deliver.results_due import STUDY, files_of, overview, result_objects, results_due, rounds_until, states
from dicom_node.config import Configuration, DeliveryPolicy, NodeSettings
from dicom_node.deliver.deliver import Deliverer, serve_deliverer
from dicom_node.network.pacs import CommitmentAnswer, Pacs, PacsSettings
from storage.deliveries import Selection, claim_deliveries, dismiss_deliveries, requeue_deliveries
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import outages
from storage.retention import expire_studies
from storage.schema import DeliveryState, EventRow

# A thread of pynetdicom that dies leaves its peer without an answer.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

COMMITTED, DEAD, QUEUED = DeliveryState.COMMITTED, DeliveryState.DEAD, DeliveryState.QUEUED
AWAITING, NOT_VERIFIED = DeliveryState.AWAITING_COMMITMENT, DeliveryState.NOT_VERIFIED
NOT_ACCEPTED = DeliveryState.NOT_ACCEPTED


class Bench:
    """A PACS, and a deliverer that has results for it."""

    def __init__(self, pacs: Pacs, node: Configuration, ledger: Ledger, deliverer: Deliverer) -> None:
        self.pacs, self.node, self.ledger, self.deliverer = pacs, node, ledger, deliverer

    def rounds_until(self, *wanted: DeliveryState) -> None:
        rounds_until(self.deliverer, *wanted)

    def events(self, kind: str) -> list[EventRow]:
        with self.ledger.reading() as session:
            return list(session.scalars(select(EventRow).where(EventRow.kind == kind)))


@contextmanager
def bench(
    folder: Path,
    *,
    count: int = 3,
    answer: CommitmentAnswer = CommitmentAnswer.SAME_ASSOCIATION,
    delay_s: float = 0,
    queries: bool = True,
    **profile: object,
) -> Iterator[Bench]:
    settings = PacsSettings(
        folder / "pacs", free_port(), commitment=answer, commitment_delay_s=delay_s, queries=queries
    )
    with Pacs(settings) as pacs:
        node = configuration(folder, **destination_sections(pacs_peer(settings.port), **profile))
        ledger = open_ledger(node.storage.database)
        try:
            yield Bench(pacs, node, ledger, results_due(node, ledger, result_objects(count)))
        finally:
            ledger.close()


def test_results_are_committed_on_the_association_that_brought_them(tmp_path: Path) -> None:
    with bench(tmp_path, count=5) as b:
        assert b.deliverer.deliver_once("pacs") == 5
        assert states(b.ledger) == [COMMITTED] * 5
        assert {data_set_bytes(path) for path in b.pacs.held().values()} == {
            data_set_bytes(path) for path in files_of(b.deliverer)
        }
        assert [event.detail["how"] for event in b.events("delivery committed")] == ["reported"] * 5
        assert len({one.transaction_uid for one in overview(b.ledger)}) == 1


def test_every_report_on_the_same_association_is_answered_before_the_release(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b, capture_logs() as logs:
        b.deliverer.deliver_once("pacs")
        for number in range(9):
            results_due(b.node, b.ledger, result_objects(1), study=f"1.2.4.{number}")
            b.deliverer.deliver_once("pacs")
        b.pacs.__exit__(None, None, None)
        assert states(b.ledger) == [COMMITTED] * 10
    # A report without its answer makes the PACS try a new association, for which it has no address.
    assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == []


def test_results_are_committed_on_a_new_association_to_the_receiver(tmp_path: Path) -> None:
    port = free_port()
    settings = PacsSettings(
        tmp_path / "pacs",
        free_port(),
        commitment=CommitmentAnswer.NEW_ASSOCIATION,
        callers={NODE: pacs_peer(port, NODE)},
    )
    node = configuration(tmp_path, port=port, **destination_sections(pacs_peer(settings.port)))
    with Pacs(settings), receiver_thread(node) as receiver:
        deliverer = results_due(node, receiver.ledger, result_objects(3))
        deliverer.deliver_once("pacs")
        wait_until(lambda: states(receiver.ledger) == [COMMITTED] * 3, seconds=20, what="commitment arrives")
        assert overview(receiver.ledger)[0].failed_attempts == 0


def test_a_report_for_a_node_whose_receiver_is_down_comes_by_asking_again(tmp_path: Path) -> None:
    with bench(tmp_path, answer=CommitmentAnswer.NEVER, commitment_timeout_s=2) as b:
        b.deliverer.deliver_once("pacs")
        assert states(b.ledger) == [AWAITING] * 3
        stored = {uid: path.stat().st_mtime_ns for uid, path in b.pacs.held().items()}
        time.sleep(2.1)
        b.pacs.__exit__(None, None, None)
        with Pacs(dataclasses.replace(b.pacs.settings, commitment=CommitmentAnswer.SAME_ASSOCIATION)):
            b.rounds_until(COMMITTED)
        # Found by query: asked for commitment again, not sent again.
        assert {uid: path.stat().st_mtime_ns for uid, path in b.pacs.held().items()} == stored
        assert len({event.detail["transaction_uid"] for event in b.events("delivery sent")}) > 1


def test_what_a_query_does_not_find_after_the_time_out_is_sent_again(tmp_path: Path) -> None:
    with bench(tmp_path, answer=CommitmentAnswer.NEVER, commitment_timeout_s=2) as b:
        b.deliverer.deliver_once("pacs")
        assert states(b.ledger) == [AWAITING] * 3
        b.pacs.__exit__(None, None, None)
        # It comes back from a backup that is older than the delivery, apart from one object.
        for lost in list(b.pacs.held().values())[1:]:
            lost.unlink()
        (kept,) = (path for path in b.pacs.held().values() if path.exists())
        written = kept.stat().st_mtime_ns
        time.sleep(2.1)
        mended = dataclasses.replace(b.pacs.settings, commitment=CommitmentAnswer.SAME_ASSOCIATION)
        with Pacs(mended) as again:
            b.rounds_until(COMMITTED)
            assert len(again.held()) == 3
        assert kept.stat().st_mtime_ns == written


def test_without_a_commitment_ever_being_held_counts_in_the_end(tmp_path: Path) -> None:
    with bench(tmp_path, count=1, answer=CommitmentAnswer.NEVER, commitment_timeout_s=0.05) as b:
        b.rounds_until(COMMITTED, DEAD)
        (event,) = b.events("delivery committed")
        assert event.detail["how"] == "found by C-FIND; storage commitment never came"


def test_without_commitment_and_without_query_it_is_sent_again_and_dies(tmp_path: Path) -> None:
    with bench(tmp_path, count=1, answer=CommitmentAnswer.NEVER, queries=False, commitment_timeout_s=0.05) as b:
        b.rounds_until(DEAD)
        (one,) = overview(b.ledger)
        assert one.failed_attempts == b.node.delivery.maximum_attempts
        assert "never came, and the destination cannot be asked whether it holds the object" in (one.error or "")


def test_a_late_report_still_counts(tmp_path: Path) -> None:
    port = free_port()
    settings = PacsSettings(
        tmp_path / "pacs", free_port(), commitment_delay_s=1.5, callers={NODE: pacs_peer(port, NODE)}
    )
    sections = destination_sections(pacs_peer(settings.port), commitment_timeout_s=0.1)
    sections["delivery"] = DeliveryPolicy(first_delay_s=600)
    node = configuration(tmp_path, port=port, **sections)
    with Pacs(settings), receiver_thread(node) as receiver:
        deliverer = results_due(node, receiver.ledger, result_objects(1))
        deliverer.deliver_once("pacs")
        time.sleep(0.2)
        assert deliverer.deliver_once("pacs") == 1
        assert states(receiver.ledger) == [QUEUED]
        wait_until(lambda: states(receiver.ledger) == [COMMITTED], seconds=20, what="late commitment")


def test_an_object_that_the_pacs_lost_is_sent_again(tmp_path: Path) -> None:
    with bench(tmp_path, count=2, delay_s=0.3, commitment_timeout_s=30) as b:

        def lost() -> None:
            wait_until(lambda: len(b.pacs.held()) == 2, seconds=20, what="both are stored")
            next(iter(b.pacs.held().values())).unlink()

        lose = threading.Thread(target=lost)
        lose.start()
        b.deliverer.deliver_once("pacs")
        lose.join()
        after = overview(b.ledger)
        assert sorted(one.state for one in after) == [COMMITTED, QUEUED]
        assert [one.error for one in after if one.error] == [
            "the destination did not commit it: no such object instance"
        ]
        b.rounds_until(COMMITTED)
        assert all(path.exists() for path in b.pacs.held().values())


def test_a_full_pacs_is_tried_again_until_it_has_room(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        b.pacs.maximum_objects = 1
        b.deliverer.deliver_once("pacs")
        assert sorted(states(b.ledger)) == [COMMITTED, QUEUED, QUEUED]
        assert [one.error for one in overview(b.ledger) if one.error] != []
        assert all("A700" in one.error for one in overview(b.ledger) if one.error)
        b.pacs.maximum_objects = None
        b.rounds_until(COMMITTED)


def test_a_pacs_that_is_down_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    with bench(tmp_path, count=2) as b:
        b.pacs.__exit__(None, None, None)
        for _ in range(3 * b.node.delivery.maximum_attempts):
            wait_until(b.deliverer.destinations_with_work, seconds=20, what="the next call is due")
            assert b.deliverer.deliver_once("pacs") == 2
            assert states(b.ledger) == [QUEUED] * 2
        assert [one.failed_attempts for one in overview(b.ledger)] == [0, 0]
        assert all("cannot be reached" in (one.error or "") for one in overview(b.ledger))
        (outage,) = outages(b.ledger)
        assert (outage.destination, outage.attempts, outage.waiting) == (
            "pacs",
            3 * b.node.delivery.maximum_attempts,
            2,
        )
        assert len(b.events("destination unreachable")) == 1
        with Pacs(b.pacs.settings):
            b.rounds_until(COMMITTED)
        assert outages(b.ledger) == ()
        assert len(b.events("destination reached again")) == 1


def test_an_outage_is_over_when_the_pacs_answers_that_it_holds_all(tmp_path: Path) -> None:
    with bench(tmp_path, count=2) as b:
        b.rounds_until(COMMITTED)
        b.pacs.__exit__(None, None, None)
        assert requeue_deliveries(b.ledger, Selection("pacs"), now=utc_now(), states=(COMMITTED,)) == 2
        assert b.deliverer.deliver_once("pacs") == 2
        assert len(outages(b.ledger)) == 1
        # A PACS with the same objects: nothing is stored again, it only says that they are there.
        with Pacs(b.pacs.settings):
            b.rounds_until(COMMITTED)
        assert outages(b.ledger) == ()


def test_nothing_is_sent_to_a_destination_before_the_end_of_its_pause(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b:
        b.pacs.__exit__(None, None, None)
        slow = b.node.model_copy(update={"delivery": DeliveryPolicy(first_delay_s=3600, maximum_delay_s=3600)})
        deliverer = dataclasses.replace(b.deliverer, configuration=slow)
        deliverer.deliver_once("pacs")
        results_due(b.node, b.ledger, result_objects(1), study="1.2.4")
        assert deliverer.destinations_with_work() == ()
        assert deliverer.deliver_once("pacs") == 0
        with Pacs(b.pacs.settings):
            # An operator who knows that it is back need not wait.
            assert requeue_deliveries(b.ledger, Selection("pacs"), now=utc_now(), states=(QUEUED,)) == 2
            b.rounds_until(COMMITTED)


def test_an_object_over_which_the_pacs_breaks_off_stops_no_other(tmp_path: Path) -> None:
    with bench(tmp_path, count=4) as b:
        poison = overview(b.ledger)[0].sop_instance_uid
        b.pacs.__exit__(None, None, None)
        pacs = Pacs(b.pacs.settings)
        store = pacs._store

        def breaks_off(event: evt.Event) -> int:
            if str(event.request.AffectedSOPInstanceUID) == poison:
                event.assoc.abort()
                return 0x0110
            return store(event)

        pacs._store = breaks_off  # type: ignore[method-assign]
        with pacs:
            b.rounds_until(COMMITTED, DEAD)
        assert states(b.ledger) == [DEAD, COMMITTED, COMMITTED, COMMITTED]
        assert overview(b.ledger)[0].failed_attempts == b.node.delivery.maximum_attempts


def test_without_an_answer_to_a_query_in_an_outage_nothing_dies(tmp_path: Path) -> None:
    with bench(tmp_path, count=1, answer=CommitmentAnswer.NEVER, commitment_timeout_s=0.05) as b:
        once = b.node.model_copy(update={"delivery": b.node.delivery.model_copy(update={"maximum_attempts": 1})})
        deliverer = dataclasses.replace(b.deliverer, configuration=once)
        deliverer.deliver_once("pacs")
        assert states(b.ledger) == [AWAITING]
        b.pacs.__exit__(None, None, None)
        time.sleep(0.1)
        assert deliverer.deliver_once("pacs") == 1
        assert states(b.ledger) == [AWAITING]


def test_a_kind_that_the_pacs_does_not_take_is_no_failure_and_stops_nothing(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b:
        b.pacs.__exit__(None, None, None)
        with Pacs(dataclasses.replace(b.pacs.settings, labelmaps=False)):
            (labelmap,) = result_objects(1)
            labelmap.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
            results_due(b.node, b.ledger, [labelmap], study="1.2.4")
            b.deliverer.deliver_once("pacs")
            first, second = overview(b.ledger)
            assert (first.state, second.state, second.failed_attempts) == (COMMITTED, NOT_ACCEPTED, 0)
            assert "does not take" in (second.error or "")
            # Alone, so that the association itself offers nothing that is accepted.
            results_due(b.node, b.ledger, [*_other_labelmap()], study="1.2.5")
            b.deliverer.deliver_once("pacs")
            assert states(b.ledger) == [COMMITTED, NOT_ACCEPTED, NOT_ACCEPTED]
        close_versions(b.ledger, utc_now())
        later = utc_now() + dt.timedelta(days=400)
        assert set(expire_studies(b.ledger, retention=dt.timedelta(days=14), now=later)) == {STUDY, "1.2.4", "1.2.5"}


def _other_labelmap() -> list[Dataset]:
    other = result_objects(9)[8]
    other.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    return [other]


def test_a_dead_letter_that_was_dismissed_lets_the_study_go(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b:
        files_of(b.deliverer)[0].unlink()
        b.deliverer.deliver_once("pacs")
        assert states(b.ledger) == [DEAD]
        close_versions(b.ledger, utc_now())
        later = utc_now() + dt.timedelta(days=400)
        assert expire_studies(b.ledger, retention=dt.timedelta(days=14), now=later) == ()
        done = dismiss_deliveries(b.ledger, Selection("pacs"), reason="not wanted there", by="ada", now=utc_now())
        assert (done, states(b.ledger)) == (1, [DeliveryState.DISMISSED])
        (event,) = b.events("delivery dismissed")
        assert event.detail == {"destination": "pacs", "reason": "not wanted there", "by": "ada"}
        assert expire_studies(b.ledger, retention=dt.timedelta(days=14), now=later) == (STUDY,)


def test_a_pacs_that_does_not_offer_commitment_is_recorded_and_not_asked_for_ever(tmp_path: Path) -> None:
    with bench(tmp_path, answer=CommitmentAnswer.NOT_OFFERED) as b:
        b.deliverer.deliver_once("pacs")
        assert states(b.ledger) == [NOT_VERIFIED] * 3
        assert len(b.pacs.held()) == 3
        (event,) = b.events("commitment not offered")
        assert event.subject == "pacs"
        assert all(one.transaction_uid is None for one in overview(b.ledger))


def test_a_destination_that_is_not_to_be_asked_is_not_asked(tmp_path: Path) -> None:
    with bench(tmp_path, answer=CommitmentAnswer.NEVER, storage_commitment=False) as b:
        b.deliverer.deliver_once("pacs")
        assert states(b.ledger) == [NOT_VERIFIED] * 3
        assert b.events("commitment not offered") == []


def test_a_lost_result_file_is_a_dead_letter_of_its_own(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        files_of(b.deliverer)[0].unlink()
        b.deliverer.deliver_once("pacs")
        assert sorted(states(b.ledger)) == [COMMITTED, COMMITTED, DEAD]
        (dead,) = (one for one in overview(b.ledger) if one.state is DEAD)
        assert "cannot be read" in (dead.error or "")


def test_a_destination_that_left_the_configuration_is_said_to_have(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b:
        results_due(b.node, b.ledger, result_objects(1), "archive", study="1.2.4")
        assert b.deliverer.destinations_with_work() == ("archive", "pacs")
        b.deliverer.deliver_once("archive")
        assert "archive is not in results.destinations" in (overview(b.ledger)[1].error or "")


def test_serving_delivers_to_one_destination_while_another_hangs(tmp_path: Path) -> None:
    hanging = socket.create_server(("127.0.0.1", 0))
    settings = PacsSettings(tmp_path / "pacs", free_port(), commitment=CommitmentAnswer.SAME_ASSOCIATION)
    sections = destination_sections(pacs_peer(settings.port))
    sections["peers"] = {**sections["peers"], "tar-pit": pacs_peer(hanging.getsockname()[1])}  # type: ignore[dict-item]
    results = sections["results"]
    assert hasattr(results, "destinations")
    pacs_profile = results.destinations["pacs"]
    both = {"pacs": pacs_profile, "tar-pit": pacs_profile.model_copy(update={"peer": "tar-pit"})}
    sections["results"] = results.model_copy(update={"destinations": both})  # type: ignore[attr-defined]
    node = configuration(tmp_path, **sections)
    node = node.model_copy(update={"node": NodeSettings(**{**node.node.model_dump(), "acse_timeout_s": 3})})
    ledger = open_ledger(node.storage.database)
    stop, ready = threading.Event(), threading.Event()
    results_due(node, ledger, result_objects(2), "tar-pit", "pacs")
    with Pacs(settings):
        thread = threading.Thread(target=serve_deliverer, args=(node, stop), kwargs={"ready": ready.set})
        thread.start()
        assert ready.wait(30)
        try:
            wait_until(
                lambda: [o.state for o in overview(ledger) if o.destination == "pacs"] == [COMMITTED] * 2,
                seconds=30,
                what="the honest destination is served",
            )
        finally:
            stop.set()
            thread.join(30)
            hanging.close()
            ledger.close()
    assert not thread.is_alive()


def test_what_a_dead_deliverer_was_sending_is_sent_by_its_successor(tmp_path: Path) -> None:
    with bench(tmp_path) as b:
        owner = f"{NODE}:{b.node.node.port}/deliverer"
        assert len(claim_deliveries(b.ledger, "pacs", 10, owner, utc_now(), 600)) == 3
        stop = threading.Event()
        thread = threading.Thread(target=serve_deliverer, args=(b.node, stop))
        thread.start()
        try:
            wait_until(lambda: states(b.ledger) == [COMMITTED] * 3, seconds=30, what="delivered by the successor")
        finally:
            stop.set()
            thread.join(30)


def test_the_small_pacs_keeps_what_it_held_over_a_restart(tmp_path: Path) -> None:
    with bench(tmp_path, count=1) as b:
        b.deliverer.deliver_once("pacs")
        held = b.pacs.held()
        b.pacs.__exit__(None, None, None)
        with Pacs(b.pacs.settings) as again:
            assert again.held() == held
            assert str(dcmread(next(iter(held.values()))).StudyInstanceUID) == STUDY


@pytest.mark.peers
@pytest.mark.parametrize("knows_us", [True, False])
def test_orthanc_commits(tmp_path: Path, dcmtk: None, knows_us: bool) -> None:
    port = free_port()
    modalities = (Modality(NODE, port),) if knows_us else ()
    with Orthanc(tmp_path / "orthanc", modalities) as orthanc:
        sections = destination_sections(pacs_peer(orthanc.dicom_port, AE_TITLE), commitment_timeout_s=20)
        node = configuration(tmp_path, port=port, **sections)
        with receiver_thread(node) as receiver:
            deliverer = results_due(node, receiver.ledger, result_objects(4))
            deliverer.deliver_once("pacs")
            if knows_us:
                wait_until(lambda: states(receiver.ledger) == [COMMITTED] * 4, seconds=30, what="Orthanc commits")
                assert overview(receiver.ledger)[0].failed_attempts == 0
            assert len(orthanc.sop_instance_uids()) == 4
