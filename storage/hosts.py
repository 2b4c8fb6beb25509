"""Which hosts of a node without a common directory serve, and how they are, as each says in the ledger."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, select, update

from storage.ledger import Ledger, absent_insert
from storage.schema import HostRow

__all__ = ["HeardHost", "HostWatch", "beat", "heard_hosts"]


@dataclass(frozen=True, slots=True)
class HeardHost:
    """What a host said of itself last."""

    name: str
    at: dt.datetime
    """When, by its own clock."""
    processes: tuple[dict[str, Any], ...]
    """How its processes are, in the words of whoever wrote them; none before it has said."""
    free_mb: float | None
    """Free space where it takes images in; none before it has said."""


def beat(
    ledger: Ledger,
    host: str,
    now: dt.datetime,
    *,
    processes: Sequence[Mapping[str, Any]] | None = None,
    free_mb: float | None = None,
) -> None:
    """Say that a host serves.

    Parameters
    ----------
    processes
        How its processes are, as JSON; ``None`` where that has not changed since it was said last.
    free_mb
        Free space where it takes images in.
    """
    table = cast(Table, HostRow.__table__)
    said: dict[str, Any] = {} if processes is None else {"processes": [dict(one) for one in processes]}
    if free_mb is not None:
        said["free_mb"] = free_mb
    with ledger.transaction() as session:
        session.execute(absent_insert(session.get_bind().dialect.name, table), {"name": host, "beat": 0, "at": now})
        session.execute(update(HostRow).where(HostRow.name == host).values(beat=HostRow.beat + 1, at=now, **said))


def heard_hosts(ledger: Ledger) -> tuple[HeardHost, ...]:
    """All hosts that have ever said that they serve, by name."""
    with ledger.reading() as session:
        rows = session.execute(select(HostRow).order_by(HostRow.name)).scalars()
        return tuple(HeardHost(row.name, row.at, tuple(row.processes or ()), row.free_mb) for row in rows)


class HostWatch:
    """Tells which hosts have said for their time that they serve, by a clock that nobody sets.

    Parameters
    ----------
    silent_s
        A host that says nothing for so long serves no more.
    clock
        Seconds; goes up evenly.
    """

    def __init__(self, silent_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s, self._clock = silent_s, clock
        self._seen: dict[str, tuple[int | None, float]] = {}
        """By host: what it said last, and since when."""

    def silent(self, ledger: Ledger, hosts: Collection[str]) -> frozenset[str]:
        """Those of some hosts that serve no more; call it several times in ``silent_s``."""
        with ledger.reading() as session:
            beats = {row.name: row.beat for row in session.execute(select(HostRow.name, HostRow.beat))}
        now = self._clock()
        for host in hosts:
            # One that has never said anything may be about to.
            count, since = self._seen.get(host, (beats.get(host), now))
            self._seen[host] = (beats.get(host), since if count == beats.get(host) else now)
        return frozenset(host for host in hosts if now - self._seen[host][1] >= self._silent_s)
