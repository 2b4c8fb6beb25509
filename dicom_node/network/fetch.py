"""Query/Retrieve as SCU: bring from a peer what it holds of a study and this node does not.

By C-GET the images come on the association of the request and are taken in as any other image is, with the peer as
calling AE; by C-MOVE the peer sends them to the receiver of this node. Nothing is fetched twice: what the ledger holds
is left out.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node.config import Configuration, Peer, PeerPermission
from dicom_node.errors import ConfigurationError, DeliveryRefusedError, PeerUnavailableError
from dicom_node.hosts import owner_name
from dicom_node.instance_files import instance_files
from dicom_node.network.capabilities import UNCOMPRESSED, storage_contexts
from dicom_node.network.query import find_context, find_images, find_series, offers
from dicom_node.network.reception import SETTLED_S, InstanceReceiver, StoreRequest
from dicom_node.network.sender import PEER_TROUBLE, ScuSettings, associated
from dicom_node.network.sop_classes import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from dicom_node.network.typed import abstract_syntax, content, request_of
from dicom_node.network.watermarks import Watermarks
from storage.files import InstanceFiles
from storage.holdings import held_instances
from storage.instances import close_abandoned_associations, close_association, open_association
from storage.journal import await_filed
from storage.ledger import Ledger, utc_now

__all__ = ["FetchedSeries", "Way", "fetch_study"]

_log = structlog.get_logger(__name__)

_PENDING, _SUCCESS, _SOME_FAILED = 0xFF00, 0x0000, 0xB000
_GET, _MOVE = StudyRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelMove

UIDS_A_REQUEST = 100
"""Of single images: longer lists are more than some peers read."""


class Way(enum.StrEnum):
    """Retrieval service that images are fetched by."""

    GET = "get"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class FetchedSeries:
    """One series and what became of it."""

    series_instance_uid: str
    at_peer: int
    """Images that the peer holds."""
    held_before: int
    fetched: int
    missing: tuple[str, ...]
    """SOP Instance UIDs that the peer holds and did not bring."""


def fetch_study(
    configuration: Configuration,
    ledger: Ledger,
    peer: Peer,
    study_instance_uid: str,
    *,
    series_instance_uids: Collection[str] = (),
    way: Way = Way.GET,
) -> tuple[FetchedSeries, ...]:
    """Fetch what is missing of a study.

    Parameters
    ----------
    series_instance_uids
        Only these series; all of the study unless given.

    Returns
    -------
    tuple of FetchedSeries
        In the order the peer lists them; none when it does not hold the study.

    Raises
    ------
    PeerUnavailableError
        The peer cannot be reached or breaks off; what came until then is kept.
    DeliveryRefusedError
        It does not offer the service, or fails the request.
    ConfigurationError
        The peer may not send to this node.
    """
    if PeerPermission.SEND not in peer.may:
        raise ConfigurationError("may not send to this node", subject=peer.ae_title, remedy="add send to its may")
    settings = ScuSettings.of(configuration)
    with associated(peer, [find_context()], settings) as association:
        wanted = series_instance_uids or find_series(association, study_instance_uid)
        there = {uid: find_images(association, study_instance_uid, uid) for uid in wanted}
    before = _held(ledger, study_instance_uid)
    requests = list(_requests(study_instance_uid, there, before))
    if requests and way is Way.MOVE:
        _move(peer, settings, requests)
    elif requests:
        _get(configuration, ledger, peer, settings, requests)
    if requests:
        # What came by C-MOVE may be in a receiver's journal still.
        await_filed(configuration.storage.directory, SETTLED_S)
    after = _held(ledger, study_instance_uid)
    return tuple(
        FetchedSeries(
            series_instance_uid=uid,
            at_peer=len(images),
            held_before=len(before.intersection(images)),
            fetched=len(after.intersection(images)) - len(before.intersection(images)),
            missing=tuple(image for image in images if image not in after),
        )
        for uid, images in there.items()
        if images
    )


def _held(ledger: Ledger, study_instance_uid: str) -> set[str]:
    with ledger.reading() as session:
        return {one.sop_instance_uid for one in held_instances(session, study_instance_uids=[study_instance_uid])}


def _requests(study_instance_uid: str, there: Mapping[str, Sequence[str]], held: set[str]) -> Iterator[Dataset]:
    """Identifiers: a series of which nothing is held at SERIES level, single images at IMAGE level."""
    for series_instance_uid, images in there.items():
        missing = [image for image in images if image not in held]
        if not missing:
            continue
        keys = Dataset()
        keys.StudyInstanceUID, keys.SeriesInstanceUID = study_instance_uid, series_instance_uid
        keys.QueryRetrieveLevel = "SERIES"
        if len(missing) == len(images):
            yield keys
            continue
        for start in range(0, len(missing), UIDS_A_REQUEST):
            single = Dataset(keys)
            single.QueryRetrieveLevel = "IMAGE"
            single.SOPInstanceUID = missing[start : start + UIDS_A_REQUEST]
            yield single


def _move(peer: Peer, settings: ScuSettings, requests: Sequence[Dataset]) -> None:
    with associated(peer, [build_context(_MOVE, list(UNCOMPRESSED))], settings) as association:
        for keys in requests:
            _follow(association, "C-MOVE", association.send_c_move(keys, settings.ae_title, _MOVE))


def _get(
    configuration: Configuration, ledger: Ledger, peer: Peer, settings: ScuSettings, requests: Sequence[Dataset]
) -> None:
    node, storage = configuration.node, configuration.storage
    files = instance_files(configuration, durable=storage.durable)
    watermarks = Watermarks(
        files.free_bytes, low_watermark_mb=storage.low_watermark_mb, high_watermark_mb=storage.high_watermark_mb
    )
    instances = InstanceReceiver(ledger, files, watermarks, configuration.conflict_answer)
    storing = storage_contexts()
    contexts = [build_context(_GET, list(UNCOMPRESSED)), *storing]
    roles = [build_role(abstract_syntax(context), scp_role=True) for context in storing]
    with _alone(files):
        name = owner_name(configuration, "fetch")
        # Of a fetch that was killed: the study would wait for its end for ever.
        close_abandoned_associations(ledger, name, at=utc_now())
        association_id = open_association(
            ledger,
            calling_ae_title=peer.ae_title,
            called_ae_title=node.ae_title,
            address=peer.host,
            at=utc_now(),
            receiver=name,
        )

        def store(event: evt.Event) -> int:
            request = request_of(event, C_STORE)
            return instances.receive(
                StoreRequest(
                    sop_class_uid=str(request.AffectedSOPClassUID),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID),
                    transfer_syntax_uid=str(event.context.transfer_syntax),
                    association_id=association_id,
                    calling_ae_title=peer.ae_title,
                ),
                (content(request.DataSet),),
            ).status

        outcome = "broken off"
        try:
            with associated(peer, contexts, settings, ((evt.EVT_C_STORE, store),), roles) as association:
                if not offers(association, _GET):
                    raise DeliveryRefusedError("does not offer C-GET", subject=peer.ae_title, remedy="fetch --by move")
                for keys in requests:
                    _follow(association, "C-GET", association.send_c_get(keys, _GET))
            outcome = "released"
        finally:
            close_association(ledger, association_id, outcome=outcome, at=utc_now())


def _follow(association: Association, service: str, responses: Iterator[tuple[Dataset, Dataset | None]]) -> None:
    """Wait for the end of a retrieval; single images that failed show in the ledger, by their absence."""
    subject = association.acceptor.ae_title
    try:
        for response, _ in responses:
            status = response.get("Status")
            if status is None:
                raise PeerUnavailableError(f"did not answer {service} in time or broke off", subject=subject)
            if status not in (_PENDING, _SUCCESS, _SOME_FAILED):
                remedy = "make this node known at the peer, with its port" if status == 0xA801 else "see the peer's log"
                raise DeliveryRefusedError(f"fails {service}: status {status:04X}", subject=subject, remedy=remedy)
    except PEER_TROUBLE as error:
        raise PeerUnavailableError("the association broke off", subject=subject) from error


@contextlib.contextmanager
def _alone(files: InstanceFiles) -> Iterator[None]:
    """One fetch at a time: the next waits."""
    with (files.root / ".fetch.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
