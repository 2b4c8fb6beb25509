"""C-FIND as SCU: which objects a peer holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.errors import DeliveryRefusedError, PeerUnavailableError
from dicom_node.network.capabilities import UNCOMPRESSED
from dicom_node.network.sender import PEER_TROUBLE
from dicom_node.network.sop_classes import StudyRootQueryRetrieveInformationModelFind

__all__ = ["find_context", "find_images", "find_series", "held_instances", "offers"]

_PENDING = (0xFF00, 0xFF01)


def find_context() -> PresentationContext:
    """Study Root Query (PS3.4 C.6.2)."""
    return build_context(StudyRootQueryRetrieveInformationModelFind, list(UNCOMPRESSED))


def offers(association: Association, sop_class_uid: str) -> bool:
    """Whether the peer accepted a context of this SOP class."""
    return any(context.abstract_syntax == sop_class_uid for context in association.accepted_contexts)


def find_series(association: Association, study_instance_uid: str) -> tuple[str, ...]:
    """Series Instance UIDs of a study that a peer holds.

    Raises
    ------
    PeerUnavailableError
        The association broke off.
    DeliveryRefusedError
        The peer does not offer queries, or fails this one.
    """
    found = _find(association, "SERIES", "SeriesInstanceUID", StudyInstanceUID=study_instance_uid)
    return tuple(dict.fromkeys(found))


def find_images(association: Association, study_instance_uid: str, series_instance_uid: str) -> tuple[str, ...]:
    """SOP Instance UIDs of a series that a peer holds; raises as :func:`find_series` does."""
    found = _find(
        association,
        "IMAGE",
        "SOPInstanceUID",
        StudyInstanceUID=study_instance_uid,
        SeriesInstanceUID=series_instance_uid,
    )
    return tuple(dict.fromkeys(found))


def held_instances(association: Association, series: Iterable[tuple[str, str]]) -> frozenset[str] | None:
    """SOP Instance UIDs that a peer holds of some series.

    Parameters
    ----------
    association
        Open, with :func:`find_context` among the contexts offered.
    series
        Study and Series Instance UID of each series to look into.

    Returns
    -------
    frozenset of str or None
        ``None`` when the peer does not offer queries or fails this one: then nothing is known.

    Raises
    ------
    PeerUnavailableError
        The association broke off.
    """
    try:
        return frozenset[str]().union(*(find_images(association, *one) for one in series))
    except DeliveryRefusedError:
        return None


def _find(association: Association, level: str, wanted: str, **above: str) -> Iterator[str]:
    """Values of a level's unique key in all matches."""
    subject = association.acceptor.ae_title
    if not offers(association, StudyRootQueryRetrieveInformationModelFind):
        raise DeliveryRefusedError("does not offer queries", subject=subject, remedy="enable C-FIND at the peer")
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    for keyword, value in {**above, wanted: ""}.items():
        setattr(keys, keyword, value)
    try:
        for response, match in association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind):
            status = response.get("Status")
            if status in _PENDING and match is not None:
                value = str(match.get(wanted) or "")
                if value:
                    yield value
            elif status != 0x0000:
                if not association.is_established or status is None:
                    raise PeerUnavailableError("the association broke off", subject=subject)
                raise DeliveryRefusedError(
                    f"fails the query: status {status:04X}", subject=subject, remedy="see the peer's log"
                )
    except PEER_TROUBLE as error:
        raise PeerUnavailableError("the association broke off", subject=subject) from error
