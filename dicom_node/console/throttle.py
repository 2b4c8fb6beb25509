"""How log-ins that fail slow the next: by name and address together, by address, and by name."""

from __future__ import annotations

import datetime as dt

from storage.accounts import log_in_failures
from storage.ledger import Ledger

__all__ = ["WINDOW", "wait_s"]

WINDOW = dt.timedelta(minutes=15)
OF_BOTH, OF_ADDRESS, OF_NAME = 5, 30, 60
"""Failures within the window. Of a name alone there may be more: a stranger must not lock a colleague out at once."""


def wait_s(ledger: Ledger, name: str, address: str, *, now: dt.datetime) -> int:
    """Seconds until this name may be tried from this address again; 0 where it may be now."""
    failures = log_in_failures(ledger, name, address, since=now - WINDOW)
    over = failures.of_both >= OF_BOTH or failures.of_address >= OF_ADDRESS or failures.of_name >= OF_NAME
    if not over or failures.since is None:
        return 0
    return max(1, round((failures.since + WINDOW - now).total_seconds()))
