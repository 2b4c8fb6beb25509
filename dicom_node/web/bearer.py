"""Who calls: bearer tokens (RFC 6750), of which this node knows only the digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import NoReturn

from fastapi import HTTPException, Request

from dicom_node import metrics
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import PeerPermission, WebSettings

__all__ = ["caller_who_may"]

_CHALLENGE = 'Bearer realm="dicom-node"'


def caller_who_may(
    permission: PeerPermission, web: WebSettings, trail: AuditTrail
) -> Callable[[Request], Awaitable[str]]:
    """A dependency of a service: the name of the peer that calls, or 401 or 403, each a security alert.

    Nothing of a request's body has been read when it refuses.
    """

    def refuse(request: Request, status: int, why: str, headers: dict[str, str] | None = None) -> NoReturn:
        trail.node_authentication_failed(address=request.client.host if request.client else "", description=why)
        metrics.WEB_REQUESTS_REFUSED.labels(str(status)).inc()
        raise HTTPException(status, why, headers)

    async def caller(request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("latin-1")).hexdigest()
        # Every digest is compared, whichever matches.
        names = [name for name, peer in web.peers.items() if hmac.compare_digest(peer.token_sha256, digest)]
        if scheme.lower() != "bearer" or not names:
            refuse(request, 401, "a bearer token of one of web.peers is needed", {"WWW-Authenticate": _CHALLENGE})
        (name,) = names
        if permission not in web.peers[name].may:
            refuse(request, 403, f"{name} may not {permission} (web.peers.{name}.may)")
        return name

    return caller
