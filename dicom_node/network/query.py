"""C-FIND as SCU: which objects a peer holds."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.errors import PeerUnavailableError
from dicom_node.network.capabilities import UNCOMPRESSED

__all__ = ["find_context", "held_instances", "offers"]

_PENDING = (0xFF00, 0xFF01)


def find_context() -> PresentationContext:
    """Study Root Query (PS3.4 C.6.2)."""
    return build_context(StudyRootQueryRetrieveInformationModelFind, list(UNCOMPRESSED))


def offers(association: Association, sop_class_uid: str) -> bool:
    """Whether the peer accepted a context of this SOP class."""
    return any(context.abstract_syntax == sop_class_uid for context in association.accepted_contexts)


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
    if not offers(association, StudyRootQueryRetrieveInformationModelFind):
        return None
    held: set[str] = set()
    for study_instance_uid, series_instance_uid in series:
        keys = Dataset()
        keys.QueryRetrieveLevel = "IMAGE"
        keys.StudyInstanceUID = study_instance_uid
        keys.SeriesInstanceUID = series_instance_uid
        keys.SOPInstanceUID = ""
        try:
            for response, match in association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind):
                status = response.get("Status")
                if status in _PENDING and match is not None:
                    held.add(str(match.get("SOPInstanceUID", "")))
                elif status != 0x0000:
                    if not association.is_established:
                        raise PeerUnavailableError("the association broke off", subject=series_instance_uid)
                    return None
        except RuntimeError as error:
            raise PeerUnavailableError("the association broke off", subject=series_instance_uid) from error
    return frozenset(held)
