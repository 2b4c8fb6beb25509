"""Passwords: what they must be, and Argon2id (RFC 9106) of them."""

from __future__ import annotations

import functools
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["LONGEST", "SHORTEST", "hashed", "matches", "needs_new_hash", "password_mistake"]

SHORTEST, LONGEST = 12, 200
"""Characters (NIST SP 800-63B: length, and no rules of composition)."""

_hasher = PasswordHasher()
# Each hash takes 64 MiB: a flood of log-ins must not take the memory of the analyses.
_at_once = threading.Semaphore(2)


def password_mistake(password: str, name: str) -> str:
    """What is wrong with a password that somebody chose; empty where nothing is."""
    if len(password) < SHORTEST:
        return f"a password has at least {SHORTEST} characters: several words are easy to remember"
    if len(password) > LONGEST:
        return f"a password has at most {LONGEST} characters"
    if len(set(password)) < 5 or name.lower() in password.lower():
        return "this password is easy to guess: it repeats itself, or holds the name"
    return ""


def hashed(password: str) -> str:
    """Argon2id of a password, with its salt and parameters."""
    with _at_once:
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Whether a password is the one of a hash; takes as long where there is no hash."""
    with _at_once:
        try:
            return (
                _hasher.verify(password_hash or _no_password(), password[: LONGEST + 1]) and password_hash is not None
            )
        except (VerificationError, InvalidHashError):
            return False


def needs_new_hash(password_hash: str) -> bool:
    """Whether a hash was made with weaker parameters than those of now."""
    return _hasher.check_needs_rehash(password_hash)


@functools.cache
def _no_password() -> str:
    return _hasher.hash(secrets.token_urlsafe(32))
