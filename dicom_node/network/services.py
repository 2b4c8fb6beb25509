"""Requests that pynetdicom's events cannot serve: those for which the node becomes a requestor on the association.

A report of storage commitment, and the C-STORE sub-operations of C-GET, go to the peer on the association on which it
asked. They are sent from the thread that serves the association, so that no message is cut in two by another, and what
the peer requests meanwhile is served in its turn instead of being taken for an answer.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE
from pynetdicom.presentation import PresentationContext

from dicom_node.config import PeerPermission
from dicom_node.network.typed import replace_method

__all__ = ["Caller", "Service", "await_idle", "decoded", "encoded", "exchange", "is_ending", "serve_requests"]

_log = structlog.get_logger(__name__)

_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Caller:
    """Who opened an association, and what it may do."""

    ae_title: str
    address: str
    permissions: frozenset[PeerPermission]
    correlation_id: Callable[[], str]
    """Of the association; made known to the ledger when first asked for."""


Service = Callable[[Association, Any, PresentationContext], None]
"""Serves one request to its end, every response included: association, request primitive, presentation context."""


def serve_requests(association: Association, services: Mapping[type, Service]) -> None:
    """Serve requests of these primitives by functions of this node, and all others as before.

    Parameters
    ----------
    association
        Accepted by this node.
    services
        By DIMSE primitive (``N_ACTION``, ``C_GET``, …).
    """
    otherwise = association._serve_request

    def serve(request: Any, context_id: int) -> None:
        service = services.get(type(request))
        context = association._accepted_cx.get(context_id)
        if service is None or context is None or not request.is_valid_request:
            otherwise(request, context_id)
            return
        association.dimse.cancel_req = {}
        # Tells the send_* methods, which a service may call, that nobody else takes messages off the queue.
        association._is_paused = True
        try:
            service(association, request, context)
        except Exception as error:  # noqa: BLE001 - one association must not take the receiver along
            _log.error("service failed", request=type(request).__name__, error=type(error).__name__)
            association.abort(block=False)
        association._is_paused = False

    replace_method(association, "_serve_request", serve)


def decoded(data: io.BytesIO | None, context: PresentationContext) -> Dataset:
    """The data set of a message; empty where there is none."""
    syntax = context.transfer_syntax[0]
    return Dataset() if data is None else decode(data, syntax.is_implicit_VR, syntax.is_little_endian)


def encoded(dataset: Dataset, context: PresentationContext) -> io.BytesIO:
    """A data set for a message.

    Raises
    ------
    ValueError
        A value of it cannot be encoded.
    """
    syntax = context.transfer_syntax[0]
    data = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    if data is None:
        raise ValueError("the data set cannot be encoded")
    return io.BytesIO(data)


def is_ending(association: Association) -> bool:
    """Whether the peer has asked for the release, aborted, or is gone; the reactor takes it from there."""
    waiting = association.dul.peek_next_pdu()
    return isinstance(waiting, A_RELEASE | A_ABORT | A_P_ABORT) or not association.dul.is_alive()


def await_idle(association: Association, quiet_s: float, patience_s: float) -> bool:
    """Serve what comes until nothing has come for ``quiet_s``.

    Returns
    -------
    bool
        False when the association ends, or is not quiet within ``patience_s``.
    """
    until = time.monotonic() + patience_s
    quiet_at = time.monotonic() + quiet_s
    while time.monotonic() < min(quiet_at, until):
        if is_ending(association):
            return False
        context_id, message = association.dimse.get_msg(block=False)
        if message is None or context_id is None:
            time.sleep(_POLL_S)
        else:
            association._serve_request(message, context_id)
            quiet_at = time.monotonic() + quiet_s
    return quiet_at <= until


def exchange(association: Association, request: Any, context_id: int, patience_s: float) -> Any | None:
    """Send a request from within a service and wait for its response, serving what crosses it.

    Returns
    -------
    DIMSE primitive or None
        The response; ``None`` when none came in time or the association ends.
    """
    association.dimse.send_msg(request, context_id)
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        number, message = association.dimse.get_msg(block=False)
        if message is None or number is None:
            if is_ending(association):
                return None
            time.sleep(_POLL_S)
        elif isinstance(message, type(request)) and message.is_valid_response:
            return message
        else:
            association._serve_request(message, number)
    return None
