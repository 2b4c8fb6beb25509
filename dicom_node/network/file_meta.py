"""File Meta Information (PS3.10 7.1), encoded by hand: the data set behind it stays exactly as it was received."""

from __future__ import annotations

import importlib.metadata
import struct
import uuid

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME", "encode_file_meta"]

IMPLEMENTATION_CLASS_UID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'network.dicom-node.invalid').int}"
IMPLEMENTATION_VERSION_NAME = f"DICOMNODE_{importlib.metadata.version('dicom-node')}"[:16]


def encode_file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Preamble, prefix and File Meta Information of a Part 10 file.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        Of the data set that follows.
    source_ae_title
        The peer that sent it, if known.
    """
    elements = (
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", _uid(sop_class_uid)),
        _element(0x0003, b"UI", _uid(sop_instance_uid)),
        _element(0x0010, b"UI", _uid(transfer_syntax_uid)),
        _element(0x0012, b"UI", _uid(IMPLEMENTATION_CLASS_UID)),
        _element(0x0013, b"SH", _text(IMPLEMENTATION_VERSION_NAME)),
        _element(0x0016, b"AE", _text(source_ae_title)) if source_ae_title else b"",
    )
    body = b"".join(elements)
    return b"\x00" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHL", 0x0002, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def _uid(value: str) -> bytes:
    encoded = value.encode("ascii")
    return encoded + b"\x00" * (len(encoded) % 2)


def _text(value: str) -> bytes:
    encoded = value.encode("ascii")
    return encoded + b" " * (len(encoded) % 2)
