"""Who may use the console: accounts, sessions, invitations, tokens of programs, and log-ins that failed.

Of every secret the ledger holds a digest only; passwords are hashed before they come here.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, joinedload

from storage.ledger import Ledger, LedgerError, record_event
from storage.schema import (
    AccountRole,
    AccountRow,
    ApiTokenRow,
    ConsoleSessionRow,
    InvitationRow,
    LogInFailureRow,
)

__all__ = [
    "NAME_PATTERN",
    "Account",
    "ApiToken",
    "ConsoleSession",
    "Invitation",
    "LogInFailures",
    "account_named",
    "accounts",
    "admit",
    "change_role",
    "close_session",
    "create_token",
    "disable_account",
    "enable_account",
    "has_administrator",
    "invitation",
    "invite",
    "log_in_failures",
    "note_log_in_failure",
    "open_session",
    "redeem_invitation",
    "replace_password_hash",
    "revoke_token",
    "secret_digest",
    "session_of",
    "set_notice",
    "take_notice",
    "token_of",
    "tokens",
]

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,39}"
"""Of accounts and of programs."""
SEEN_EVERY = dt.timedelta(minutes=1)
"""How exactly the ledger knows when a session was last used: a write for each request would hold up the receivers."""


@dataclass(frozen=True, slots=True)
class Account:
    """One person who may log in."""

    id: int
    name: str
    role: AccountRole
    password_hash: str
    """Empty where there is no password."""
    by_provider: bool
    """Whether an identity provider says who this is, and what they may do."""
    created_at: dt.datetime
    disabled_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """One console session that is valid."""

    account: Account
    digest: str
    csrf: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """One link that lets a person choose a password."""

    name: str | None
    role: AccountRole
    by: str
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ApiToken:
    """One program that may use the REST API."""

    name: str
    role: AccountRole
    by: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class LogInFailures:
    """Log-ins that failed of late."""

    of_name: int
    """Of this name, from anywhere."""
    of_address: int
    """From this address, under any name."""
    of_both: int
    since: dt.datetime | None
    """The oldest that is counted."""


def secret_digest(secret: str) -> str:
    """What the ledger keeps of a secret: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def accounts(ledger: Ledger) -> tuple[Account, ...]:
    """All accounts, by name."""
    with ledger.reading() as session:
        return tuple(map(_account, session.scalars(select(AccountRow).order_by(AccountRow.name))))


def account_named(ledger: Ledger, name: str) -> Account | None:
    """The account of a name, if it may log in."""
    with ledger.reading() as session:
        row = session.scalar(select(AccountRow).where(AccountRow.name == name, AccountRow.disabled_at.is_(None)))
        return None if row is None else _account(row)


def has_administrator(ledger: Ledger) -> bool:
    """Whether there is an administrator who may log in."""
    with ledger.reading() as session:
        return _administrators(session) > 0


def replace_password_hash(ledger: Ledger, account: Account, password_hash: str) -> None:
    """Keep a hash of the same password by newer parameters, unless the password has changed meanwhile."""
    with ledger.transaction() as session:
        row = session.get(AccountRow, account.id, with_for_update=True)
        if row is not None and row.password_hash == account.password_hash:
            row.password_hash = password_hash


def admit(ledger: Ledger, *, issuer: str, subject: str, name: str, role: AccountRole, now: dt.datetime) -> Account:
    """Return the account of a person whom an identity provider proved, created the first time; its role is set anew.

    Parameters
    ----------
    issuer, subject
        Who it is: a subject is never given to another person by the same issuer.
    name
        Of the account, when it is opened; the account keeps it.

    Raises
    ------
    LedgerError
        Another person has an account of this name, or the person is let in no more.
    """
    digest = secret_digest(f"{issuer}\n{subject}")
    with ledger.transaction() as session:
        rows = session.scalars(select(AccountRow).order_by(AccountRow.id).with_for_update()).all()
        row = next((one for one in rows if one.provider_subject == digest), None)
        if row is None:
            if any(one.name == name for one in rows):
                raise LedgerError(f"the name {name} is taken: somebody else has an account of this name here")
            row = AccountRow(name=name, role=role, password_hash="", provider_subject=digest, created_at=now)
            session.add(row)
            session.flush()
            _event(session, "account opened", name, now, role=role.value, by="identity provider")
        elif row.disabled_at is not None:
            raise LedgerError(f"{row.name} is let in no more: an administrator of this console can let you in again")
        elif row.role is not role:
            row.role = role
            _end_sessions(session, row)
            _event(session, "account changed", row.name, now, role=role.value, by="identity provider")
        return _account(row)


def enable_account(ledger: Ledger, name: str, *, by: str, now: dt.datetime) -> None:
    """Enable the disabled account of a person whom an identity provider proves.

    Raises
    ------
    LedgerError
        There is no such account, or it has a password: an invitation opens it.
    """
    with ledger.transaction() as session:
        row = _locked(session, name)
        if row.provider_subject is None:
            raise LedgerError(f"{name} has a password here: invite them again")
        row.disabled_at = None
        _event(session, "account enabled", name, now, by=by)


def change_role(ledger: Ledger, name: str, role: AccountRole, *, by: str, now: dt.datetime) -> None:
    """Give an account another role; its sessions end.

    Raises
    ------
    LedgerError
        There is no such account, no administrator would be left, or an identity provider says the role.
    """
    with ledger.transaction() as session:
        row = _locked(session, name)
        if row.provider_subject is not None:
            raise LedgerError(f"the identity provider says what {name} may do: change it there")
        if row.role is AccountRole.ADMINISTRATOR and role is not AccountRole.ADMINISTRATOR:
            _keep_an_administrator(session, row)
        row.role = role
        _end_sessions(session, row)
        _event(session, "account changed", name, now, role=role.value, by=by)


def disable_account(ledger: Ledger, name: str, *, by: str, now: dt.datetime) -> None:
    """Disable an account and end its sessions; an invitation to the same name opens the account again.

    One that an identity provider proves is let in again by :func:`enable_account`.

    Raises
    ------
    LedgerError
        There is no such account, or no administrator would be left.
    """
    with ledger.transaction() as session:
        row = _locked(session, name)
        if row.role is AccountRole.ADMINISTRATOR:
            _keep_an_administrator(session, row)
        row.disabled_at = row.disabled_at or now
        _end_sessions(session, row)
        _event(session, "account disabled", name, now, by=by)


def invite(
    ledger: Ledger,
    digest: str,
    *,
    name: str | None,
    role: AccountRole,
    by: str,
    expires_at: dt.datetime,
    now: dt.datetime,
) -> None:
    """Keep an invitation; an earlier one to the same name holds no longer.

    Raises
    ------
    LedgerError
        An identity provider proves who has this name, so there is no password to choose.
    """
    with ledger.transaction() as session:
        proven = AccountRow.name == name, AccountRow.provider_subject.is_not(None)
        if session.scalar(select(AccountRow.id).where(*proven)) is not None:
            raise LedgerError(f"{name} logs in by the identity provider, and has no password here")
        same = InvitationRow.name.is_(None) if name is None else InvitationRow.name == name
        session.execute(delete(InvitationRow).where(same | (InvitationRow.expires_at <= now)))
        session.add(InvitationRow(digest=digest, name=name, role=role, by=by, expires_at=expires_at))
        _event(session, "account invited", name or "anybody", now, role=role.value, by=by)


def invitation(ledger: Ledger, digest: str, *, now: dt.datetime) -> Invitation | None:
    """An invitation that still holds."""
    with ledger.reading() as session:
        row = session.get(InvitationRow, digest)
        if row is None or row.expires_at <= now:
            return None
        return Invitation(row.name, row.role, row.by, row.expires_at)


def redeem_invitation(ledger: Ledger, digest: str, *, name: str, password_hash: str, now: dt.datetime) -> Account:
    """Make the account of an invitation, or give it its new password and role; the link holds no longer.

    Raises
    ------
    LedgerError
        The invitation does not hold, is for another name, or the name that was chosen is taken.
    """
    with ledger.transaction() as session:
        row = session.get(InvitationRow, digest, with_for_update=True)
        if row is None or row.expires_at <= now:
            raise LedgerError("this link was used already, or is too old: ask for another")
        if row.name not in (None, name):
            raise LedgerError("this link is for another name")
        account = session.scalar(select(AccountRow).where(AccountRow.name == name).with_for_update())
        if account is not None and row.name is None:
            raise LedgerError(f"the name {name} is taken: choose another")
        if account is not None and account.provider_subject is not None:
            raise LedgerError(f"{name} logs in by the identity provider, and has no password here")
        if account is None:
            account = AccountRow(name=name, role=row.role, password_hash=password_hash, created_at=now)
            session.add(account)
        else:
            account.role, account.password_hash, account.disabled_at = row.role, password_hash, None
            _end_sessions(session, account)
        session.flush()
        _event(session, "account opened", name, now, role=row.role.value, by=row.by)
        session.delete(row)
        return _account(account)


def open_session(ledger: Ledger, account: Account, digest: str, csrf: str, *, now: dt.datetime) -> None:
    """Open a session for a person who has logged in; failures of the name are forgotten."""
    with ledger.transaction() as session:
        session.add(
            ConsoleSessionRow(digest=digest, account_id=account.id, csrf=csrf, began_at=now, seen_at=now, notice=None)
        )
        session.execute(delete(LogInFailureRow).where(LogInFailureRow.name_digest == secret_digest(account.name)))


def session_of(
    ledger: Ledger, digest: str, *, now: dt.datetime, idle: dt.timedelta, longest: dt.timedelta
) -> ConsoleSession | None:
    """The session of a token, if it has neither been idle nor lasted too long; it counts as used now."""
    with ledger.reading() as session:
        row = session.get(ConsoleSessionRow, digest, options=[joinedload(ConsoleSessionRow.account)])
        if row is None or row.account.disabled_at is not None:
            return None
        over = row.seen_at + idle <= now or row.began_at + longest <= now
        stale = row.seen_at + SEEN_EVERY <= now
        found = ConsoleSession(_account(row.account), row.digest, row.csrf)
    if over:
        close_session(ledger, digest)
        return None
    if stale:
        with ledger.transaction() as session:
            seen = session.get(ConsoleSessionRow, digest)
            if seen is None:
                return None
            seen.seen_at = max(seen.seen_at, now)
    return found


def close_session(ledger: Ledger, digest: str) -> None:
    """End a session: a person has logged out, or the session is over."""
    with ledger.transaction() as session:
        session.execute(delete(ConsoleSessionRow).where(ConsoleSessionRow.digest == digest))


def set_notice(ledger: Ledger, digest: str, notice: str) -> None:
    """Keep a notice for the next page of a session."""
    with ledger.transaction() as session:
        row = session.get(ConsoleSessionRow, digest)
        if row is not None:
            row.notice = notice


def take_notice(ledger: Ledger, digest: str) -> str:
    """Take the notice for this page, once; empty where there is none."""
    with ledger.reading() as session:
        if not session.scalar(select(ConsoleSessionRow.notice).where(ConsoleSessionRow.digest == digest)):
            return ""
    with ledger.transaction() as session:
        row = session.get(ConsoleSessionRow, digest, with_for_update=True)
        if row is None:
            return ""
        notice, row.notice = row.notice, None
        return notice or ""


def note_log_in_failure(ledger: Ledger, name: str, address: str, *, now: dt.datetime, kept: dt.timedelta) -> None:
    """Record a failed log-in; those older than ``kept`` are forgotten."""
    with ledger.transaction() as session:
        session.execute(delete(LogInFailureRow).where(LogInFailureRow.at <= now - kept))
        session.add(LogInFailureRow(name_digest=secret_digest(name), address=address[:64], at=now))


def log_in_failures(ledger: Ledger, name: str, address: str, *, since: dt.datetime) -> LogInFailures:
    """Log-ins that failed since then."""
    of_name = LogInFailureRow.name_digest == secret_digest(name)
    of_address = LogInFailureRow.address == address[:64]
    with ledger.reading() as session:
        row = session.execute(
            select(
                func.count().filter(of_name),
                func.count().filter(of_address),
                func.count().filter(of_name & of_address),
                func.min(LogInFailureRow.at).filter(of_name | of_address),
            )
            .select_from(LogInFailureRow)
            .where(LogInFailureRow.at > since)
        ).one()
        return LogInFailures(*row)


def tokens(ledger: Ledger) -> tuple[ApiToken, ...]:
    """Programs that may use the REST API, by name."""
    with ledger.reading() as session:
        return tuple(map(_token, session.scalars(select(ApiTokenRow).order_by(ApiTokenRow.name))))


def token_of(ledger: Ledger, digest: str) -> ApiToken | None:
    """The program that has a token."""
    with ledger.reading() as session:
        row = session.scalar(select(ApiTokenRow).where(ApiTokenRow.digest == digest))
        return None if row is None else _token(row)


def create_token(ledger: Ledger, name: str, digest: str, role: AccountRole, *, by: str, now: dt.datetime) -> None:
    """Create the token of a program.

    Raises
    ------
    LedgerError
        There is one of this name.
    """
    with ledger.transaction() as session:
        if session.get(ApiTokenRow, name) is not None:
            raise LedgerError(f"there is a token named {name}: revoke it first, or choose another name")
        session.add(ApiTokenRow(name=name, digest=digest, role=role, by=by, created_at=now))
        _event(session, "token created", name, now, role=role.value, by=by)


def revoke_token(ledger: Ledger, name: str, *, by: str, now: dt.datetime) -> None:
    """Revoke the token of a program.

    Raises
    ------
    LedgerError
        There is none of this name.
    """
    with ledger.transaction() as session:
        row = session.get(ApiTokenRow, name, with_for_update=True)
        if row is None:
            raise LedgerError(f"there is no token named {name}")
        session.delete(row)
        _event(session, "token revoked", name, now, by=by)


def _locked(session: Session, name: str) -> AccountRow:
    # All of them, in one order: two administrators who disable each other must not both succeed.
    rows = session.scalars(select(AccountRow).order_by(AccountRow.id).with_for_update()).all()
    found = next((row for row in rows if row.name == name), None)
    if found is None:
        raise LedgerError(f"there is no account named {name}")
    return found


def _keep_an_administrator(session: Session, leaving: AccountRow) -> None:
    if leaving.disabled_at is None and _administrators(session) <= 1:
        raise LedgerError(f"{leaving.name} is the last administrator: make somebody else one first")


def _administrators(session: Session) -> int:
    count = session.scalar(
        select(func.count())
        .select_from(AccountRow)
        .where(AccountRow.role == AccountRole.ADMINISTRATOR, AccountRow.disabled_at.is_(None))
    )
    return count or 0


def _end_sessions(session: Session, row: AccountRow) -> None:
    session.execute(delete(ConsoleSessionRow).where(ConsoleSessionRow.account_id == row.id))


def _account(row: AccountRow) -> Account:
    by_provider = row.provider_subject is not None
    return Account(row.id, row.name, row.role, row.password_hash, by_provider, row.created_at, row.disabled_at)


def _token(row: ApiTokenRow) -> ApiToken:
    return ApiToken(row.name, row.role, row.by, row.created_at)


def _event(session: Session, kind: str, subject: str, at: dt.datetime, **detail: Any) -> None:
    record_event(session, kind, subject, at=at, **detail)
