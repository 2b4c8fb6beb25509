"""Invitations: links with which people choose a password."""

from __future__ import annotations

import datetime as dt
import platform
import secrets

from dicom_node.config import Configuration
from storage.accounts import invite, secret_digest
from storage.ledger import Ledger, utc_now
from storage.schema import AccountRole

__all__ = ["INVITATION_HOLDS", "new_invitation"]

INVITATION_HOLDS = dt.timedelta(days=3)


def new_invitation(
    configuration: Configuration, ledger: Ledger, *, name: str | None, role: AccountRole, by: str
) -> str:
    """A link with which a person chooses a password, once; an earlier one to the same name holds no longer.

    Parameters
    ----------
    name
        For whom; none lets the person choose a name.
    by
        Who invites.
    """
    token, now = secrets.token_urlsafe(32), utc_now()
    invite(ledger, secret_digest(token), name=name, role=role, by=by, expires_at=now + INVITATION_HOLDS, now=now)
    console = configuration.console
    anywhere = console.address in ("", "0.0.0.0", "::")
    host = platform.node() if anywhere else f"[{console.address}]" if ":" in console.address else console.address
    scheme = "http" if console.certificate is None else "https"
    return f"{scheme}://{host}:{console.port}/invitation/{token}"
