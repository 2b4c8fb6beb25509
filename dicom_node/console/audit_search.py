"""What people and programs ask of the audit trail and of the ledger's events, and the answer: for page and REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicom_node.console.audit import AuditPage, AuditQuery, PlaceInTrail, search_trail
from dicom_node.console.log_search import Moment, Word
from dicom_node.console.node import Node
from dicom_node.errors import OutOfResourcesError
from storage.overview import EventPage, search_events

__all__ = ["AuditAnswer", "AuditOrder", "AuditPageOrder", "EventsOrder", "events_answered", "trail_answered"]


def _place(value: str) -> str:
    if value:
        PlaceInTrail.read(value)
    return value


Place = Annotated[str, AfterValidator(_place)]


class _Order(BaseModel):
    """What both searches can be asked; what is empty asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    find: Word = ""
    """A part of anything that is shown."""
    since: Moment = None
    """ISO 8601; in UTC unless it says otherwise."""
    until: Moment = None
    """ISO 8601; in UTC unless it says otherwise."""
    limit: int = Field(default=200, ge=1, le=1000)


class AuditOrder(_Order):
    """Which messages of the audit trail are wanted."""

    before: Place = ""
    """As `older` of the page of newer ones."""
    after: Place = ""
    """As `newer` of the page of older ones; comes before `before`."""


class EventsOrder(_Order):
    """Which events of the ledger are wanted."""

    before: int | None = Field(default=None, ge=0)
    """As `older` of the page of newer ones."""
    after: int | None = Field(default=None, ge=0)
    """As `newer` of the page of older ones; comes before `before`."""


class AuditPageOrder(AuditOrder):
    """What the page shows: both, each turned over by itself."""

    events_before: int | None = Field(default=None, ge=0)
    events_after: int | None = Field(default=None, ge=0)

    def of_events(self) -> EventsOrder:
        """Which events the page shows."""
        asked = self.model_dump(include={"find", "since", "until", "limit"})
        return EventsOrder(**asked, before=self.events_before, after=self.events_after)


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    """Messages of the audit trail."""

    kept: bool
    """False where there is no trail: ``audit.file`` is not set."""
    page: AuditPage


def trail_answered(node: Node, order: AuditOrder) -> AuditAnswer:
    """Search the audit trail.

    Raises
    ------
    OutOfResourcesError
        Its folder cannot be read.
    """
    file = node.configuration.audit.file
    if file is None:
        return AuditAnswer(False, AuditPage((), "", "", None, ()))
    try:
        page = search_trail(
            file,
            AuditQuery(order.find.strip(), order.since, order.until),
            before=PlaceInTrail.read(order.before) if order.before else None,
            after=PlaceInTrail.read(order.after) if order.after else None,
            limit=order.limit,
        )
    except OSError as error:
        raise OutOfResourcesError(
            f"cannot be read: {error.strerror}",
            subject=f"audit.file {file}",
            remedy="give the console read access to its folder",
        ) from error
    return AuditAnswer(True, page)


def events_answered(node: Node, order: EventsOrder) -> EventPage:
    """Search the events of the ledger."""
    return search_events(
        node.ledger,
        text=order.find.strip(),
        since=order.since,
        until=order.until,
        before=order.before,
        after=order.after,
        limit=order.limit,
    )
