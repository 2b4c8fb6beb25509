"""Derived UIDs: the same input gives the same identifier, so a retry after a crash sends no twin."""

from __future__ import annotations

import uuid

__all__ = ["derive_uid"]

_NAMESPACE = uuid.UUID("6f0b3a52-2c0e-5b53-9a3f-51f1b7d5a9c4")
_SEPARATOR = "\x1f"


def derive_uid(*parts: str) -> str:
    """UID ``2.25.<integer>`` (PS3.5 B.2) of the UUIDv5 of the parts.

    Parts are joined by the ASCII unit separator, which no UID, digest or name contains, so that different lists of
    parts never collide.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, _SEPARATOR.join(parts)).int}"
