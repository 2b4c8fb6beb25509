"""Invitations: links with which people choose a password."""

from __future__ import annotations

import datetime as dt
import platform
import secrets

from dicom_node.config import Configuration, ConsoleSettings
from storage.accounts import invite, secret_digest
from storage.ledger import Ledger, utc_now
from storage.schema import AccountRole

__all__ = ["INVITATION_HOLDS", "new_invitation"]

INVITATION_HOLDS = dt.timedelta(days=3)


def new_invitation(
    configuration: Configuration, ledger: Ledger, *, name: str | None, role: AccountRole, by: str
) -> str:
    """A link with which a person chooses a password, once; an earlier one to the same name holds no longer.

    It leads to where browsers reach the console: the ``url`` of an identity provider's section; or else, where a proxy
    does TLS (``without_tls``), this machine by https:// at its usual port, as the console's cookies go by TLS alone.

    Parameters
    ----------
    name
        For whom; none lets the person choose a name.
    by
        Who invites.
    """
    token, now = secrets.token_urlsafe(32), utc_now()
    invite(ledger, secret_digest(token), name=name, role=role, by=by, expires_at=now + INVITATION_HOLDS, now=now)
    return f"{_address(configuration.console)}/invitation/{token}"


def _address(console: ConsoleSettings) -> str:
    if console.identity_provider is not None:
        return console.identity_provider.url
    anywhere = console.address in ("", "0.0.0.0", "::")
    host = platform.node() if anywhere else f"[{console.address}]" if ":" in console.address else console.address
    if console.certificate is not None:
        return f"https://{host}:{console.port}"
    return f"https://{host}" if console.without_tls else f"http://{host}:{console.port}"
