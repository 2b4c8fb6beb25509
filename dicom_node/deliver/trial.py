"""A destination tested in full, with an object that is marked as a test and rejected afterwards.

A DICOM destination: C-ECHO; which of the SOP classes of results it takes, in which transfer syntaxes, and whether it
offers queries and storage commitment; a test object stored (C-STORE), its commitment asked for (N-ACTION) and reported
(N-EVENT-REPORT, on the same association or another), and a note that rejects it (IHE RAD IOCM). A web service: the same
by STOW-RS and a query. A receiver of messages: whether it can be reached, as no message can be taken back.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.config import Configuration, DestinationProfile, Peer, WebDestination
from dicom_node.deliver.reports import answer_report, record_report
from dicom_node.errors import NodeError
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.commitment import (
    INSTANCE,
    REQUEST_COMMITMENT,
    CommitmentReport,
    SopReference,
    action_information,
)
from dicom_node.network.query import find_context, held_instances, offers
from dicom_node.network.sender import (
    PEER_TROUBLE,
    DicomFile,
    ScuSettings,
    associated,
    echo,
    read_dicom_file,
    store_contexts,
    store_file,
)
from dicom_node.network.sop_classes import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind
from dicom_node.plain_json import jsonable
from dicom_node.results.connection_test import connection_test_object
from dicom_node.results.part10 import part10_file
from dicom_node.results.rejection import REJECTION_SERIES, RejectedObject, RejectionReason, rejection_note
from storage.ledger import Ledger, utc_now
from storage.trials import begin_trial, end_trial, last_trials

__all__ = ["RESULT_CLASSES", "NegotiatedClass", "Trial", "TrialStep", "try_destination"]

RESULT_CLASSES: tuple[UID, ...] = (
    SegmentationStorage,
    Comprehensive3DSRStorage,
    BasicTextSRStorage,
    KeyObjectSelectionDocumentStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
    MRImageStorage,
    ParametricMapStorage,
)
"""What results and rejection notes are."""
SAME_ASSOCIATION_S = 1.0
REPORT_S = 20.0
"""How long a test waits for the report of storage commitment; what comes later is still noted."""
_ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class TrialStep:
    """One thing that was tested."""

    what: str
    well: bool
    words: str


@dataclass(frozen=True, slots=True)
class NegotiatedClass:
    """What a destination said to one SOP class."""

    name: str
    uid: str
    accepted: tuple[str, ...]
    """Names of the transfer syntaxes that it takes."""
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a test found."""

    steps: tuple[TrialStep, ...]
    negotiated: tuple[NegotiatedClass, ...] = ()

    @property
    def well(self) -> bool:
        """Whether everything was as it should be."""
        return all(step.well for step in self.steps)


def try_destination(configuration: Configuration, ledger: Ledger, destination: str, *, by: str) -> Trial:
    """Test a destination; what was found is kept in the ledger until the next test.

    Parameters
    ----------
    destination
        One of ``results.destinations``.
    by
        Who tests.
    """
    profile = configuration.results.destinations[destination]
    transaction, study, series, instance = (str(generate_uid(prefix=None)) for _ in range(4))
    begin_trial(ledger, destination, transaction, instance, by=by, now=utc_now())
    at = utc_now().astimezone()
    image = connection_test_object(instance, study, series, at)
    note = rejection_note(
        image,
        [RejectedObject(str(image.SOPClassUID), instance, series)],
        RejectionReason.RETENTION,
        sentence="A test of the connection has ended: this object shows nobody and need not be kept.",
        series_number=REJECTION_SERIES,
        at=at,
    )
    with tempfile.TemporaryDirectory() as folder:
        test, rejection = Path(folder) / "test.dcm", Path(folder) / "note.dcm"
        test.write_bytes(part10_file(image))
        rejection.write_bytes(note.content)
        files = read_dicom_file(test), read_dicom_file(rejection)
        trial = _Task(configuration, ledger, destination, profile, transaction, image, *files).run()
    end_trial(ledger, transaction, jsonable(trial) | {"well": trial.well})
    return trial


@dataclass(frozen=True, slots=True)
class _Task:
    configuration: Configuration
    ledger: Ledger
    destination: str
    profile: DestinationProfile
    transaction: str
    image: Dataset
    file: DicomFile
    note: DicomFile

    def run(self) -> Trial:
        if self.profile.peer is not None:
            return self._dimse(self.configuration.peers[self.profile.peer])
        if self.profile.web is not None:
            return Trial(tuple(_told(self._web(self.profile.web))))
        return Trial(tuple(_told(self._reached())))

    # -- DICOM ---------------------------------------------------------------------------------------------------------

    def _dimse(self, peer: Peer) -> Trial:
        settings = ScuSettings.of(self.configuration)
        answer = echo(peer, settings)
        if answer.error is not None:
            return Trial((TrialStep("C-ECHO", False, str(answer.error)),))
        steps = [TrialStep("C-ECHO", True, f"answered in {1000 * answer.seconds:.0f} ms")]
        negotiated: list[NegotiatedClass] = []
        steps += _told(self._objects(peer, settings, negotiated))
        return Trial(tuple(steps), tuple(negotiated))

    def _objects(self, peer: Peer, settings: ScuSettings, negotiated: list[NegotiatedClass]) -> Iterator[TrialStep]:
        reports: queue.Queue[threading.Thread] = queue.Queue()

        def record(report: CommitmentReport, _requestor: str) -> None:
            record_report(self.ledger, self.configuration.delivery, report, frozenset({self.destination}))
            reports.put(threading.current_thread())

        commits = stored = False
        with associated(peer, _contexts(), settings, ((evt.EVT_N_EVENT_REPORT, answer_report(record)),)) as association:
            negotiated += _negotiated(association)
            yield _kinds(negotiated)
            finds = offers(association, StudyRootQueryRetrieveInformationModelFind)
            yield TrialStep("Query", True, "offered (C-FIND)" if finds else "not offered")
            outcome = store_file(association, self.file)
            stored = outcome.error is None
            yield TrialStep("Test object", stored, _stored(outcome.warning) if stored else str(outcome.error))
            if stored and self.profile.storage_commitment:
                commits = yield from self._commitment(association)
                if commits:
                    with contextlib.suppress(queue.Empty):
                        # A release before the answer to the report is out would cut it off.
                        reports.get(timeout=SAME_ASSOCIATION_S).join()
        if commits:
            yield self._reported(peer)
        if stored:
            with associated(peer, [*store_contexts([self.note]), find_context()], settings) as association:
                if finds:
                    yield self._found(held_instances(association, [self._series()]))
                if self.profile.rejection_notes:
                    yield self._rejected(store_file(association, self.note).error)

    def _commitment(self, association: Association) -> Generator[TrialStep, None, bool]:
        if not offers(association, StorageCommitmentPushModel):
            remedy = "not offered: enable it there, or set storage_commitment: false for this destination"
            yield TrialStep("Storage commitment", False, remedy)
            return False
        reference = SopReference(self.file.sop_class_uid, self.file.sop_instance_uid)
        try:
            response, _ = association.send_n_action(
                action_information(self.transaction, [reference]),
                REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                INSTANCE,
            )
            status = response.get("Status")
        except PEER_TROUBLE:
            status = None
        taken = status == 0x0000
        said = "no answer" if status is None else f"status {status:04X}"
        yield TrialStep("Storage commitment", taken, "the request was taken" if taken else f"not taken: {said}")
        return taken

    def _reported(self, peer: Peer) -> TrialStep:
        patience_s = min(REPORT_S, self.profile.commitment_timeout_s)
        give_up = time.monotonic() + patience_s
        while True:
            trial = last_trials(self.ledger)[self.destination]
            if trial.reported_at is not None:
                well = trial.report == "committed"
                return TrialStep("Commitment report", well, "committed" if well else f"not committed: {trial.report}")
            if time.monotonic() >= give_up:
                node = self.configuration.node
                return TrialStep(
                    "Commitment report",
                    False,
                    f"none within {patience_s:.0f} s: check that {peer.ae_title} knows {node.ae_title} by the address "
                    f"of this machine and port {node.port}; what comes later is noted here",
                )
            time.sleep(_ASK_AGAIN_S)

    # -- the others ----------------------------------------------------------------------------------------------------

    def _web(self, service: WebDestination) -> Iterator[TrialStep]:
        # Imported here: loads an HTTP client.
        from dicom_node.web.client import DicomWebClient

        with DicomWebClient(service, self.configuration.delivery.response_timeout_s) as client:
            client.ask()
            yield TrialStep("Connection", True, "answered, and lets this node in")
            warning, error = client.store([self.file])[self.file.sop_instance_uid]
            yield TrialStep("Test object", error is None, _stored(warning) if error is None else str(error))
            if error is not None:
                return
            if self.profile.storage_commitment:
                yield self._found(client.held_instances({self._series(): [self.file.sop_instance_uid]}))
            if self.profile.rejection_notes:
                yield self._rejected(client.store([self.note])[self.note.sop_instance_uid][1])

    def _reached(self) -> Iterator[TrialStep]:
        timeout_s = self.configuration.delivery.response_timeout_s
        if self.profile.hl7 is not None:
            from dicom_node.deliver.mllp import MllpConnection

            with MllpConnection(self.profile.hl7, timeout_s):
                pass
            yield TrialStep("Connection", True, "the receiver takes connections; no message was sent")
        else:
            from dicom_node.deliver.fhir_destination import ask

            assert self.profile.fhir is not None
            ask(self.profile.fhir, timeout_s)
            yield TrialStep("Connection", True, "answered, and lets this node in; nothing was written")

    # -- what both kinds of archive tell -------------------------------------------------------------------------------

    def _series(self) -> tuple[str, str]:
        return str(self.image.StudyInstanceUID), str(self.image.SeriesInstanceUID)

    def _found(self, held: frozenset[str] | None) -> TrialStep:
        if held is None:
            return TrialStep("Found there", True, "the destination cannot be asked")
        there = self.file.sop_instance_uid in held
        return TrialStep("Found there", there, "the test object is listed" if there else "it does not list the object")

    def _rejected(self, error: NodeError | None) -> TrialStep:
        where = f"patient {self.image.PatientID}"
        if error is None:
            return TrialStep("Rejected again", True, f"a rejection note was stored; what stays is under {where}")
        return TrialStep("Rejected again", False, f"{error}; delete it there by hand, {where}")


def _told(steps: Iterator[TrialStep]) -> Iterator[TrialStep]:
    """The steps, and the error that ended them."""
    try:
        yield from steps
    except NodeError as error:
        yield TrialStep("Connection", False, str(error))


def _contexts() -> list[PresentationContext]:
    # One transfer syntax a context: else the peer chooses one and says nothing of the other.
    contexts = [build_context(one, syntax) for one in RESULT_CLASSES for syntax in UNCOMPRESSED]
    return [*contexts, find_context(), build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))]


def _negotiated(association: Association) -> list[NegotiatedClass]:
    taken = {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts}
    return [
        NegotiatedClass(
            one.name,
            str(one),
            tuple(syntax.name for syntax in UNCOMPRESSED if (str(one), str(syntax)) in taken),
            tuple(syntax.name for syntax in UNCOMPRESSED if (str(one), str(syntax)) not in taken),
        )
        for one in RESULT_CLASSES
    ]


def _kinds(negotiated: list[NegotiatedClass]) -> TrialStep:
    refused = [one.name for one in negotiated if not one.accepted]
    if not refused:
        return TrialStep("Negotiation", True, f"takes all {len(negotiated)} kinds of results")
    return TrialStep("Negotiation", False, f"does not take: {', '.join(refused)}")


def _stored(warning: str) -> str:
    return f"stored, with a warning: {warning}" if warning else "stored"
