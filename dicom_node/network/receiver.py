"""The receiver: the node's SCP, one process of its own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION
from pynetdicom.presentation import PresentationContext, PresentationContextTuple

from dicom_node import metrics
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration, DataPath, PeerPermission, TlsSettings
from dicom_node.deliver.reports import answer_report, destinations_of, record_report
from dicom_node.errors import (
    NodeError,
    NotAuthorisedError,
    OutOfResourcesError,
    SopClassNotSupportedError,
    classify,
)
from dicom_node.hosts import owner_name
from dicom_node.instance_files import instance_files
from dicom_node.network.admission import Admitted, HostResolver, Refused, Rejection, admit, counted_under, take_place
from dicom_node.network.capabilities import supported_contexts
from dicom_node.network.commitment import CommitmentReport
from dicom_node.network.commitment_scp import CommitmentService
from dicom_node.network.direct import DirectAssociation, StoreCommand
from dicom_node.network.listening_ports import ListeningPorts, open_listening_ports
from dicom_node.network.pending import Endpoint
from dicom_node.network.performed_step import PerformedStepService
from dicom_node.network.places import Places
from dicom_node.network.query_scp import QueryService
from dicom_node.network.reception import SETTLED_S, IncomingInstance, InstanceReceiver, StoreRequest
from dicom_node.network.refusals import Refusals
from dicom_node.network.retrieve_scp import RetrieveService
from dicom_node.network.services import Caller, Service, serve_requests
from dicom_node.network.tls import expires_at, server_context
from dicom_node.network.transport import (
    AssociationRequest,
    EventHandlers,
    application_entity,
    listening,
    prompt_socket,
)
from dicom_node.network.typed import content, request_of
from dicom_node.network.watermarks import Watermarks
from storage.files import InstanceFiles
from storage.instances import close_abandoned_associations, close_association, open_association
from storage.journal import Journal
from storage.ledger import Ledger, open_ledger, utc_now

__all__ = ["serve_receiver"]

_log = structlog.get_logger(__name__)

_SWEEP_S = 0.5
LEFT_S = 60.0
"""How long a receiver files what the process before had acknowledged before it opens its port all the same."""


@dataclass(slots=True)
class _AssociationRecord:
    """One admitted association."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    peers: tuple[str, ...]
    """Entries of section ``peers`` that it holds a place of."""
    permissions: frozenset[PeerPermission]
    ledger_id: str | None = None
    """Correlation id; none until the first object comes, so that echoes and probes leave no trace in the ledger."""
    outcome: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _AssociationRecords:
    """The associations that are open now, and their rows in the ledger."""

    def __init__(self, ledger: Ledger, receiver: str, places: Places, instances: InstanceReceiver) -> None:
        self._ledger, self._receiver, self._places, self._instances = ledger, receiver, places, instances
        self._open: dict[Association, _AssociationRecord] = {}
        self._lock = threading.Lock()

    def begin(self, association: Association, record: _AssociationRecord) -> None:
        with self._lock:
            self._open[association] = record
        metrics.ASSOCIATIONS_ACCEPTED.inc()

    def forget(self, record: _AssociationRecord) -> None:
        """Give back the place of an association that did not start."""
        with self._lock:
            self._open = {association: other for association, other in self._open.items() if other is not record}
        self._places.leave(counted_under(record.peers, record.address))

    def of(self, association: Association) -> _AssociationRecord:
        with self._lock:
            return self._open[association]

    def correlation_id(self, record: _AssociationRecord) -> str:
        """Id of an association in the ledger, which knows of it from now on.

        Raises
        ------
        KeyError
            It has ended: nobody would tell the ledger, and its studies would never be complete.
        """
        with record.lock:
            if record.ledger_id is None:
                if record.outcome is not None:
                    raise KeyError(record.outcome)
                record.ledger_id = open_association(
                    self._ledger,
                    calling_ae_title=record.calling_ae_title,
                    called_ae_title=record.called_ae_title,
                    address=record.address,
                    at=utc_now(),
                    receiver=self._receiver,
                )
            return record.ledger_id

    def end(self, association: Association, outcome: str, *, patience_s: float = SETTLED_S) -> None:
        """Record the end, once all its images are filed; when the ledger is down, :meth:`sweep` tries again."""
        with self._lock:
            record = self._open.pop(association, None)
        if record is None:
            return
        # Its first object may be on the way into the ledger, in another thread.
        with record.lock:
            first = record.outcome is None
            if record.outcome is None:
                record.outcome = outcome
        if first:
            self._places.leave(counted_under(record.peers, record.address))
            metrics.ASSOCIATIONS_ENDED.labels(outcome).inc()
        if record.ledger_id is None:
            return
        journal = self._instances.journal
        if journal is not None and not journal.settle(record.ledger_id, patience_s):
            # Its studies are not complete before; nor may their series be forgotten.
            with self._lock:
                self._open[association] = record
            return
        self._instances.commit.forget(record.ledger_id)
        try:
            close_association(self._ledger, record.ledger_id, outcome=record.outcome, at=utc_now())
        except Exception as error:  # noqa: BLE001 - the ledger may be down; the sweep repeats this
            _log.warning("end of association not recorded yet", association=record.ledger_id, what=classify(error).what)
            with self._lock:
                self._open[association] = record
            return
        _log.info("association ended", association=record.ledger_id, outcome=record.outcome)

    def sweep(self) -> None:
        """End the associations whose end raised no event or could not be recorded."""
        with self._lock:
            records = list(self._open.items())
        begun = [(association, record) for association, record in records if association.ident is not None]
        # Asked for after the identifiers: a thread has its own for a moment before it counts as alive, but is among
        # these from its start to its end.
        running = set(threading.enumerate())
        ended = [
            (association, record.outcome or "connection lost")
            for association, record in begun
            if record.outcome is not None or association not in running
        ]
        for association, outcome in ended:
            self.end(association, outcome, patience_s=0)


@dataclass(frozen=True, slots=True)
class _Acceptance:
    """An admitted request, counted among the open associations."""

    record: _AssociationRecord
    records: _AssociationRecords
    contexts: tuple[PresentationContext, ...]
    services: Callable[[Caller], Mapping[type, Service]]

    def begin(self, association: Association) -> Sequence[PresentationContext]:
        record = self.record
        correlation_id = functools.partial(self.records.correlation_id, record)
        serve_requests(
            association,
            self.services(Caller(record.calling_ae_title.strip(), record.address, record.permissions, correlation_id)),
        )
        self.records.begin(association, record)
        return self.contexts

    def withdraw(self) -> None:
        self.records.forget(self.record)


class _PeerAdmission:
    """Admits peers of the configuration, each to what it may do."""

    def __init__(
        self,
        configuration: Configuration,
        resolve: Callable[[str], frozenset[str]],
        records: _AssociationRecords,
        places: Places,
        refusals: Refusals,
        services: Callable[[Caller], Mapping[type, Service]],
    ) -> None:
        self._allowed = configuration, resolve
        self._records, self._places, self._refusals = records, places, refusals
        self._services = services

    def renew(self, configuration: Configuration, resolve: Callable[[str], frozenset[str]]) -> None:
        """Admit by another configuration; associations that are open go on."""
        self._allowed = configuration, resolve

    def admit(self, request: AssociationRequest) -> _Acceptance | Rejection:
        configuration, resolve = self._allowed
        decision = admit(
            configuration,
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=request.address,
            certificate=request.certificate,
            resolve=resolve,
        )
        if isinstance(decision, Admitted):
            decision = take_place(configuration, decision, request.address, self._places) or decision
        if isinstance(decision, Refused):
            self._refusals.tell(decision.reason, request.address, decision.why)
            return decision.rejection
        contexts = supported_contexts(decision.permissions, commitment=configuration.node.commitment)
        record = _AssociationRecord(
            request.calling_ae_title, request.called_ae_title, request.address, decision.peers, decision.permissions
        )
        return _Acceptance(record, self._records, contexts, self._services)


def serve_receiver(
    configuration: Configuration,
    stop_event: threading.Event,
    *,
    name: str = "receiver",
    ports: ListeningPorts | None = None,
    row: int = 0,
    ready: Callable[[], None] = lambda: None,
    renewed: Callable[[], Configuration | None] = lambda: None,
) -> None:
    """Receive until told to stop.

    Parameters
    ----------
    configuration
        Of the node.
    stop_event
        Set to end; open associations then get ``node.drain_s`` to finish.
    name
        Of this process, the same after a restart: it closes what it left open before a restart. The processes of
        ``node.receiver_processes`` differ in name and row.
    ports
        Shared with other processes; closed here at the end. Its own unless given.
    row
        Where this process counts its associations.
    ready
        Called once, when the port is open.
    renewed
        Gives the configuration when it changed: who is admitted, watermarks and answers to conflicts follow it, and
        associations that are open go on.

    Raises
    ------
    OSError
        The port is taken, or the storage directory cannot be made.
    sqlalchemy.exc.SQLAlchemyError
        The ledger cannot be reached.
    """
    node, storage = configuration.node, configuration.storage
    ledger = open_ledger(storage.database, durable=storage.durable)
    trail = AuditTrail.of(configuration, name)
    opened = ports or open_listening_ports(configuration)
    try:
        receiver = owner_name(configuration, name)
        files = instance_files(configuration, durable=storage.durable)
        files.make_folders()
        watermarks = Watermarks(
            files.free_bytes, low_watermark_mb=storage.low_watermark_mb, high_watermark_mb=storage.high_watermark_mb
        )
        instances = InstanceReceiver(ledger, files, watermarks, lambda sender: configuration.conflict_answer(sender))
        places = Places(opened.places, row)
        journal = _journal(configuration, instances, places, receiver, name)
        # What the process before had acknowledged, before its associations are closed and their studies complete.
        abandoned = _close_abandoned(ledger, receiver, journal, LEFT_S)
        records = _AssociationRecords(ledger, receiver, places, instances)
        refusals = Refusals(
            lambda reason: metrics.CONNECTIONS_REFUSED.labels(reason).inc(),
            lambda _reason, address, why: trail.node_authentication_failed(address=address, description=why),
        )
        forgotten = threading.Event()
        resolve = _resolver(configuration, forgotten)
        begin = _begin_store(instances, records)

        def services(caller: Caller) -> dict[type, Service]:
            commitment = CommitmentService(ledger, files, caller, node.commitment)
            retrieval = RetrieveService(configuration, ledger, files, caller, trail)
            # Whoever asks is told of all that any process of this node had acknowledged before.
            return {
                N_ACTION: _settled(commitment.serve, opened),
                C_GET: _settled(retrieval.get, opened),
                C_MOVE: _settled(retrieval.move, opened),
            }

        admission = _PeerAdmission(configuration, resolve, records, places, refusals, services)
        entity = application_entity(
            node.ae_title,
            maximum_pdu=node.maximum_pdu,
            network_timeout_s=node.network_timeout_s,
            acse_timeout_s=node.acse_timeout_s,
            dimse_timeout_s=node.network_timeout_s,
        )
        # The admission policy decides; pynetdicom's limit knows this process alone.
        entity.maximum_associations = 1_000_000
        # Identifiers are taken as they come, leading zeros and all; a warning for each would be all that the log held.
        with (
            disable_value_validation(),
            listening(
                entity,
                _endpoints(opened, node.tls),
                _handlers(lambda: configuration, ledger, files, trail, begin, records, opened),
                admission,
                association_class=(
                    functools.partial(DirectAssociation, begin_store=begin)
                    if node.data_path is DataPath.DIRECT
                    else Association
                ),
                refusals=refusals,
                places=places,
                grace_s=node.drain_s,
            ) as pending,
        ):
            _log.info(
                "receiving",
                ae_title=node.ae_title,
                address=node.address,
                port=node.port,
                abandoned_associations=abandoned,
            )
            ready()
            while not stop_event.wait(_SWEEP_S):
                if not pending.is_open:
                    raise RuntimeError("the thread that accepts connections has ended")
                if abandoned is None:
                    abandoned = _close_abandoned(ledger, receiver, journal, 0)
                records.sweep()
                changed = renewed()
                if changed is not None:
                    configuration = changed
                    watermarks.move(changed.storage.low_watermark_mb, changed.storage.high_watermark_mb)
                    forgotten.set()
                    forgotten = threading.Event()
                    admission.renew(changed, _resolver(changed, forgotten))
        forgotten.set()
        if journal is not None:
            journal.close()
        records.sweep()
        refusals.close()
        instances.commit.close()
        _log.info("receiver stopped")
    finally:
        opened.close()
        trail.close()
        ledger.close()


def _journal(
    configuration: Configuration, instances: InstanceReceiver, places: Places, receiver: str, name: str
) -> Journal | None:
    """The journal of this process, with what the process before has left in it.

    Several hosts have none: what is in the segment of a host that is gone, no other one would file.
    """
    storage = configuration.storage
    if not storage.durable or not storage.journal_mb or configuration.hosts:
        return None

    def count(acknowledged: int, filed: int, unfiled_bytes: int) -> None:
        places.journalled(acknowledged, filed)
        metrics.JOURNAL_BYTES.set(unfiled_bytes)

    return instances.keep_journal(name, receiver, storage.journal_mb * 1_000_000, count)


def _close_abandoned(ledger: Ledger, receiver: str, journal: Journal | None, patience_s: float) -> int | None:
    """Close what this process left open before it was restarted; ``None`` while its images are not filed."""
    if journal is not None and not journal.settle_left(patience_s):
        return None
    return close_abandoned_associations(ledger, receiver, at=utc_now())


def _settled(service: Service, ports: ListeningPorts) -> Service:
    """The same service, once all that was acknowledged before is in the ledger."""

    def serve(association: Association, request: object, context: PresentationContext) -> None:
        ports.places.await_filed(SETTLED_S)
        service(association, request, context)

    return serve


def _resolver(configuration: Configuration, stop: threading.Event) -> HostResolver:
    resolver = HostResolver(peer.host for peer in configuration.peers.values())
    resolver.keep_looking_up(stop)
    return resolver


def _endpoints(ports: ListeningPorts, tls: TlsSettings | None) -> tuple[Endpoint, ...]:
    endpoints = [] if ports.plain is None else [Endpoint(ports.plain)]
    if ports.secure is not None and tls is not None:
        endpoints.append(Endpoint(ports.secure, server_context(tls)))
        metrics.CERTIFICATE_EXPIRES.labels("dicom").set(expires_at(tls).timestamp())
    return tuple(endpoints)


def _begin_store(instances: InstanceReceiver, records: _AssociationRecords) -> Callable[..., IncomingInstance]:
    """What begins with a C-STORE request, on either data path."""

    def begin(association: Association, context: PresentationContextTuple, command: StoreCommand) -> IncomingInstance:
        association_id, calling_ae_title = "", ""
        failure: NodeError | None = None
        try:
            record = records.of(association)
            calling_ae_title = record.calling_ae_title
            association_id = records.correlation_id(record)
        except KeyError:
            # Aborted by this node for what came before, while this was on its way.
            failure = OutOfResourcesError(
                "the association has ended", subject=command.sop_instance_uid, remedy="send it again"
            )
        except Exception as error:  # noqa: BLE001 - a peer must get a status whatever happens
            failure = OutOfResourcesError(classify(error).what, remedy=classify(error).remedy)
            failure.__cause__ = error
        else:
            if PeerPermission.SEND not in record.permissions:
                failure = NotAuthorisedError(
                    "this peer may not send", subject=command.sop_instance_uid, remedy="let it, in section peers"
                )
        if command.sop_class_uid != context.abstract_syntax:
            failure = SopClassNotSupportedError(
                "the SOP class is not that of the presentation context",
                subject=command.sop_instance_uid,
                remedy="correct the sender",
            )
        request = StoreRequest(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=str(context.transfer_syntax),
            association_id=association_id,
            calling_ae_title=calling_ae_title,
        )
        return instances.begin(request) if failure is None else instances.refuse(request, failure)

    return begin


def _handlers(
    current: Callable[[], Configuration],
    ledger: Ledger,
    files: InstanceFiles,
    trail: AuditTrail,
    begin: Callable[..., IncomingInstance],
    records: _AssociationRecords,
    ports: ListeningPorts,
) -> EventHandlers:
    node = current().node
    queries = QueryService(ledger, files, node.ae_title, node.maximum_matches)
    steps = PerformedStepService(ledger)

    def stored(event: evt.Event) -> Dataset:
        request = request_of(event, C_STORE)
        # Without one it is no valid request, and pynetdicom raises no event.
        assert request.MessageID is not None
        incoming = begin(
            event.assoc,
            event.context,
            StoreCommand(request.MessageID, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)),
        )
        if request.DataSet is not None:
            incoming.write(request.DataSet.getbuffer())
        # Without a data set it is one that cannot be understood.
        return _status(*incoming.finish())

    def queried(event: evt.Event) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        record = records.of(event.assoc)
        request = request_of(event, C_FIND)
        trail.queried(
            calling_ae_title=record.calling_ae_title,
            address=record.address,
            sop_class_uid=str(request.AffectedSOPClassUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            identifier=content(request.Identifier),
        )
        ports.places.await_filed(SETTLED_S)
        return queries.find(event)

    def take_down(report: CommitmentReport, ae_title: str) -> None:
        configuration = current()
        record_report(ledger, configuration.delivery, report, destinations_of(configuration, ae_title))

    take_report = answer_report(take_down)

    def reported(event: evt.Event) -> tuple[int, Dataset | None]:
        if PeerPermission.RECEIVE not in records.of(event.assoc).permissions:
            return NotAuthorisedError.dimse_status, None
        return take_report(event)

    def echoed(_event: evt.Event) -> int:
        metrics.ECHOES.inc()
        return 0x0000

    def ended(outcome: str, event: evt.Event) -> None:
        records.end(event.assoc, outcome)

    return (
        *prompt_socket(node.network_timeout_s),
        (evt.EVT_C_ECHO, echoed),
        (evt.EVT_C_STORE, stored),
        (evt.EVT_C_FIND, queried),
        (evt.EVT_N_CREATE, steps.create),
        (evt.EVT_N_SET, steps.set),
        (evt.EVT_N_EVENT_REPORT, reported),
        (evt.EVT_RELEASED, functools.partial(ended, "released")),
        (evt.EVT_ABORTED, functools.partial(ended, "aborted")),
    )


def _status(status: int, comment: str) -> Dataset:
    response = Dataset()
    response.Status = status
    if comment:
        response.ErrorComment = comment[:64]
    return response
