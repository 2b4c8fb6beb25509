"""What people and programs ask of the log, and the answer: for the page and for the REST API."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dicom_node.audit.messages import log_used
from dicom_node.console.access import Person
from dicom_node.console.log import LEVELS, LogPage, LogQuery, PlaceInLog, kept_processes, search_log
from dicom_node.console.node import Node
from dicom_node.errors import OutOfResourcesError
from dicom_node.finding import named_studies
from storage.finding import study_identifiers
from storage.ledger import utc_now

__all__ = ["LogAnswer", "LogOrder", "Moment", "Word", "answered", "tell_of_reading"]

MOST_STUDIES = 20
"""Of those that a text names."""


def _given(value: Any) -> Any:
    # A field of a form that was left empty was not filled in.
    return None if value == "" else value


def _aware(at: dt.datetime | None) -> dt.datetime | None:
    return at.replace(tzinfo=dt.UTC) if at is not None and at.tzinfo is None else at


def _level(value: str) -> str:
    if value and value not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return value


def _place(value: str) -> str:
    if value:
        try:
            PlaceInLog.read(value)
        except (ValueError, OverflowError):
            raise ValueError("is not a place that a page of the log ended at") from None
    return value


Moment = Annotated[dt.datetime | None, BeforeValidator(_given), AfterValidator(_aware)]
"""ISO 8601; in UTC unless it says otherwise; left empty, none."""
Word = Annotated[str, Field(max_length=200)]


class LogOrder(BaseModel):
    """Which lines of the log are wanted; what is empty asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    since: Moment = None
    """ISO 8601; in UTC unless it says otherwise."""
    until: Moment = None
    """ISO 8601; in UTC unless it says otherwise."""
    level: Annotated[str, AfterValidator(_level)] = ""
    """The least that is wanted: debug, info, warning, error or critical."""
    host: Word = ""
    process: Word = ""
    """Name of a process as its lines tell it, such as receiver-0."""
    event: Word = ""
    """A part of what happened."""
    about: Word = ""
    """An identifier: whatever `GET /studies` finds a study by, which brings its associations, jobs and results along;
    or any other that stands in the log, such as that of an association, a job or an object."""
    find: Word = ""
    """A part of anything in the line."""
    before: Annotated[str, AfterValidator(_place)] = ""
    """As `older` of the page before."""
    limit: int = Field(default=200, ge=1, le=1000)


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """Lines of the log, and what of the log is not here."""

    kept: bool
    """False where the log goes to standard error alone: ``log.directory`` is not set."""
    page: LogPage
    processes: tuple[tuple[str, str], ...]
    """Hosts and names of the processes whose logs are here."""
    hosts_elsewhere: tuple[str, ...]
    """Hosts of this node whose logs are not here: they keep them on a disk of their own."""
    studies: tuple[str, ...]
    """StudyInstanceUIDs of the studies that ``about`` names."""


def answered(node: Node, order: LogOrder) -> LogAnswer:
    """Search the log.

    Raises
    ------
    OutOfResourcesError
        Its folder cannot be read.
    """
    directory = node.configuration.log.directory
    nothing = LogPage((), "", None, ())
    if directory is None:
        return LogAnswer(False, nothing, (), (), ())
    text = order.about.strip()
    studies = named_studies(node.ledger, node.files, text, limit=MOST_STUDIES) if text else ()
    query = LogQuery(
        since=order.since,
        until=order.until,
        level=order.level,
        host=order.host,
        role=order.process,
        event=order.event.strip(),
        text=order.find.strip(),
        about=_identifiers(node, text, studies) if text else {},
    )
    before = PlaceInLog.read(order.before) if order.before else None
    try:
        page = search_log(directory, query, before=before, limit=order.limit) if directory.exists() else nothing
        processes = kept_processes(directory)
    except OSError as error:
        raise OutOfResourcesError(
            f"cannot be read: {error.strerror}",
            subject=f"log.directory {directory}",
            remedy="give the console read access",
        ) from error
    hosts = {host for host, _ in processes}
    return LogAnswer(True, page, processes, tuple(one for one in node.configuration.hosts if one not in hosts), studies)


def _identifiers(node: Node, text: str, studies: tuple[str, ...]) -> dict[str, frozenset[str]]:
    found = [study_identifiers(node.ledger, uid) for uid in studies]
    return {
        "": frozenset({text, *studies}).union(
            *(one.associations | one.correlation_ids | one.results | one.transactions for one in found)
        ),
        # A number alone means many things.
        "job": frozenset(str(job) for one in found for job in one.jobs),
    }


def tell_of_reading(node: Node, person: Person, log: Path | None, name: str) -> None:
    """Write into the audit trail that somebody read a log."""
    if log is not None:
        uri = f"file://{node.trail.node.host}{log.absolute()}"
        node.trail.record(log_used(person.participant, node.trail.node, uri=uri, name=name, at=utc_now()))
