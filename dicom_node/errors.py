"""The one error taxonomy of the node.

Every error knows two things that others act on: the DIMSE status that a peer gets for it (PS3.7 annex C, PS3.4 B.2.3)
and whether trying again can help. The receiver, the runner and the deliverer read those two fields instead of deciding
anew. ``storage`` and ``pipelines`` raise exceptions of their own; :func:`classify` is the one place that translates
them.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from typing import ClassVar

__all__ = [
    "CannotUnderstandError",
    "ConfigurationError",
    "DataSetMismatchError",
    "DeliveryRefusedError",
    "ExecutionTimeoutError",
    "GateError",
    "NodeError",
    "NotAcceptedError",
    "NotAuthorisedError",
    "OrderRefusedError",
    "OutOfResourcesError",
    "PeerFailedError",
    "PeerOutOfResourcesError",
    "PeerUnavailableError",
    "ProcessingFailureError",
    "SopClassNotSupportedError",
    "classify",
    "raised_at",
]


class NodeError(Exception):
    """Root of the taxonomy.

    Parameters
    ----------
    what
        What happened, in one sentence.
    subject
        Which object it happened to: a UID, an AE title, a file; never patient data.
    remedy
        What somebody can do about it.
    """

    dimse_status: ClassVar[int] = 0x0110
    """Status that a DIMSE peer gets; 0110 is Processing failure (PS3.7 C.5.1)."""
    retryable: ClassVar[bool] = False
    """Whether the same attempt can succeed later without anybody changing anything."""
    retry_after_s: float = 0.0
    """How long to wait at least, when the peer said so."""

    def __init__(self, what: str, *, subject: str = "", remedy: str = "") -> None:
        self.what, self.subject, self.remedy = what, subject, remedy
        super().__init__(": ".join(part for part in (subject, what) if part) + (f" ({remedy})" if remedy else ""))


class ConfigurationError(NodeError):
    """The configuration cannot be used."""


class OutOfResourcesError(NodeError):
    """No room, no ledger, no write access: A700, the sender should keep the object and try again."""

    dimse_status = 0xA700
    retryable = True


class SopClassNotSupportedError(NodeError):
    """The request names another SOP class than its presentation context (0122)."""

    dimse_status = 0x0122


class DataSetMismatchError(NodeError):
    """The data set does not match its SOP class (A900)."""

    dimse_status = 0xA900


class NotAuthorisedError(NodeError):
    """The peer may not do this (0124)."""

    dimse_status = 0x0124


class CannotUnderstandError(NodeError):
    """The data set cannot be parsed or lacks an identifier (C000)."""

    dimse_status = 0xC000


class ProcessingFailureError(NodeError):
    """A step failed for a reason nobody foresaw; one more attempt is fair."""

    retryable = True


class OrderRefusedError(NodeError):
    """A message about orders is not taken.

    Parameters
    ----------
    condition
        Why, by HL7 table 0357.
    rejects
        Whether its content is not at fault (AR): it is of another kind, or the node cannot take it at present. Else AE.
    """

    def __init__(self, what: str, *, condition: str, rejects: bool = False) -> None:
        super().__init__(what)
        self.condition, self.rejects = condition, rejects


class ExecutionTimeoutError(NodeError):
    """A job outlived its deadline and was killed."""

    retryable = True


class GateError(NodeError):
    """A result object failed the conformance gate and was quarantined."""


class PeerUnavailableError(NodeError):
    """A peer cannot be reached, rejects the association or the request for now, or breaks off.

    It says nothing of any object: whatever is meant for the peer waits for as long as it takes.
    """

    retryable = True

    def __init__(self, what: str, *, subject: str = "", remedy: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(what, subject=subject, remedy=remedy)
        self.retry_after_s = retry_after_s


class PeerOutOfResourcesError(PeerUnavailableError):
    """A peer is there but has no room for the object at present (A7xx, 0213): it is offered again until there is."""


class PeerFailedError(PeerUnavailableError):
    """A peer was reached and fails over the object (0110, a connection that breaks off over it): the attempt counts."""


class DeliveryRefusedError(NodeError):
    """A peer refuses the object for good (A9xx, Cxxx): dead letter at once."""


class NotAcceptedError(DeliveryRefusedError):
    """A peer does not take objects of this kind (negotiation, 0122): neither a failure nor a dead letter."""


_NO_ROOM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.ENOENT,
    errno.EMFILE,
    errno.ENFILE,
}


def classify(error: BaseException) -> NodeError:
    """Translate any exception into the taxonomy; the original stays its ``__cause__``.

    Database errors and operating system errors that mean "no room or no access at the moment" become
    :class:`OutOfResourcesError`; whatever is unknown becomes :class:`ProcessingFailureError`.
    """
    if isinstance(error, NodeError):
        return error
    translated: NodeError
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        translated = OutOfResourcesError(
            f"storage cannot be written: {error.strerror}",
            remedy="free space or restore access to the storage directory",
        )
    elif type(error).__module__.startswith(("sqlalchemy", "sqlite3", "psycopg")):
        translated = OutOfResourcesError(
            f"the ledger did not accept the transaction: {type(error).__name__}",
            remedy="check that the ledger database is reachable and not locked",
        )
    else:
        # Its text can quote a data set, and this stands in the ledger and in reports.
        translated = ProcessingFailureError(f"failed with {raised_at(error)}", remedy="see the log")
    translated.__cause__ = error
    return translated


def raised_at(error: BaseException) -> str:
    """Type and place of an exception for the log; its text may quote a data set."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
