"""The first PDU of a connection: whether it is an A-ASSOCIATE-RQ, as far as it has come, and the answers to it."""

from __future__ import annotations

from dicom_node.network.refusals import RefusalReason

__all__ = ["ABORT", "LONGEST_REQUEST", "FirstPduError", "ae_titles", "missing_bytes", "reject"]

HEADER = 6
"""Type, reserved, and four bytes of length (PS3.8 9.3.1)."""
SHORTEST_REQUEST = 68
"""Protocol version, both AE titles and the reserved fields (PS3.8 table 9-11)."""
LONGEST_REQUEST = 1 << 18
"""128 presentation contexts with all forty-five transfer syntaxes that pynetdicom knows take 150 kB."""

_ASSOCIATE_RQ, _ABORT = 0x01, 0x07
_OTHER_PDUS = range(0x02, 0x07)

ABORT = bytes((_ABORT, 0, 0, 0, 0, 4, 0, 0, 0, 0))
"""A-ABORT with service-user source: the answer in Sta2 to whatever is no A-ASSOCIATE-RQ (PS3.8 table 9-10, AA-1)."""


class FirstPduError(Exception):
    """The connection cannot become an association."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(str(reason))
        self.reason = reason

    @property
    def answer(self) -> bytes:
        """What the peer gets before the connection is closed; an A-ABORT is not answered (AA-2)."""
        return b"" if self.reason is RefusalReason.ABORTED else ABORT


def missing_bytes(received: bytes | bytearray) -> int:
    """How many more bytes may be read without reading beyond the first PDU; 0 when it is whole.

    Parameters
    ----------
    received
        What has come so far, from the first byte.

    Raises
    ------
    FirstPduError
        It is not going to be an A-ASSOCIATE-RQ of a credible length.
    """
    if received:
        kind = received[0]
        if kind == _ABORT:
            raise FirstPduError(RefusalReason.ABORTED)
        if kind in _OTHER_PDUS:
            raise FirstPduError(RefusalReason.UNEXPECTED_PDU)
        if kind != _ASSOCIATE_RQ:
            raise FirstPduError(RefusalReason.NOT_DICOM)
    if len(received) < HEADER:
        return HEADER - len(received)
    length = int.from_bytes(received[2:HEADER], "big")
    if not SHORTEST_REQUEST <= length <= LONGEST_REQUEST:
        raise FirstPduError(RefusalReason.PDU_LENGTH)
    return HEADER + length - len(received)


def ae_titles(request: bytes | bytearray) -> tuple[str, str]:
    """Calling and called AE title of a whole A-ASSOCIATE-RQ, without the padding.

    Raises
    ------
    FirstPduError
        A title is not ASCII.
    """
    try:
        called, calling = request[10:26].decode("ascii"), request[26:42].decode("ascii")
    except UnicodeDecodeError as error:
        raise FirstPduError(RefusalReason.PDU_CONTENT) from error
    return calling.strip(" \0"), called.strip(" \0")


def reject(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return bytes((0x03, 0, 0, 0, 0, 4, 0, result, source, reason))
