"""The REST API: what the pages tell and do, as JSON, with the same rights; described by OpenAPI.

A program carries a bearer token of its own; a browser with a session may use it too, and then sends the session's CSRF
token in a header with whatever changes something.
"""

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.routing import BaseRoute

from dicom_node.console.access import Administrator, Operator, Person, Viewer, caller_who_may, node_of
from dicom_node.console.actions import ACTIONS, Action
from dicom_node.console.audit_search import AuditOrder, EventsOrder, events_answered, trail_answered
from dicom_node.console.configuration import unread_changes
from dicom_node.console.drift import YEAR, drift
from dicom_node.console.log_search import LogOrder, answered, tell_of_reading
from dicom_node.console.pictures import picture
from dicom_node.console.rules import compared_over_the_last_month, edited_routes, taken_by, written_routes
from dicom_node.console.site_agreement import site_agreement
from dicom_node.console.study import read_study
from dicom_node.finding import named_studies
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.plain_json import jsonable
from pipelines.models.registry import list_models
from storage.accounts import accounts, tokens
from storage.assessments import Assessment, assessments
from storage.deliveries import Selection
from storage.figures import ended_jobs
from storage.ledger import utc_now
from storage.overview import (
    count_deliveries,
    delivery_overviews,
    outages,
    quarantine_overviews,
    study_overviews,
)
from storage.paused import paused_destinations
from storage.routes_versions import routes_versions
from storage.schema import DeliveryState
from storage.trials import last_trials

__all__ = ["ROOT", "api_router", "assessments_csv"]

ROOT = "/api/v1"
Text = Annotated[str, Query(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class RoutesTrial(BaseModel):
    """Routes to be tried."""

    routes: str
    """As section ``routes`` of ``config.yaml``."""
    study: str | None = None
    """One study; without it, all of the last month that are held."""


def api_router() -> APIRouter:
    """All paths of the REST API, as a router."""
    router = APIRouter(prefix=ROOT)

    @router.get("/now", summary="The node at this moment")
    def now(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        return _json(request.app.state.board.view())

    @router.get("/studies", summary="Studies received last, or those that a text names")
    def studies(request: Request, person: Viewer, find: Text = "", limit: Limit = 100) -> Response:  # noqa: ARG001
        node = node_of(request)
        if find.strip():
            found = named_studies(node.ledger, node.files, find.strip(), limit=limit)
            return _json([study_overviews(node.ledger, study_instance_uid=uid)[0] for uid in found])
        return _json(study_overviews(node.ledger, limit=limit))

    @router.get("/studies/{study}", summary="All that is known of one study")
    def study(request: Request, person: Viewer, study: str) -> Response:
        return _json(read_study(node_of(request), person, study))

    @router.get("/studies/{study}/pages/{result}.png", summary="One page of results as PNG")
    def page_of_results(request: Request, person: Viewer, study: str, result: int) -> Response:
        return Response(picture(node_of(request), person, study, result), media_type="image/png")

    @router.get("/deliveries", summary="Results on their way, or in given states")
    def deliveries(
        request: Request,
        person: Viewer,  # noqa: ARG001
        state: Annotated[list[DeliveryState] | None, Query()] = None,
        destination: Text = "",
        limit: Limit = 100,
    ) -> Response:
        ledger = node_of(request).ledger
        states = tuple(state or DeliveryState)
        chosen = Selection(destination or None)
        return _json(
            {
                "deliveries": delivery_overviews(ledger, states=states, selection=chosen, limit=limit),
                "total": count_deliveries(ledger, states, chosen),
                "outages": outages(ledger),
                "paused": paused_destinations(ledger),
                "tests": last_trials(ledger),
            }
        )

    @router.get("/quarantine", summary="Objects that were kept aside")
    def quarantine(request: Request, person: Viewer, limit: Limit = 100) -> Response:  # noqa: ARG001
        return _json(quarantine_overviews(node_of(request).ledger, limit=limit))

    @router.get("/assessments", summary="What radiologists said of results")
    def given(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        return _json(assessments(node_of(request).ledger))

    @router.get("/assessments.csv", summary="The same as a table")
    def given_as_table(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        content = assessments_csv(assessments(node_of(request).ledger))
        name = {"content-disposition": 'attachment; filename="assessments.csv"'}
        return Response(content, media_type="text/csv; charset=utf-8", headers=name)

    @router.get("/routes", summary="The routes in use")
    def routes(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        used = node_of(request).configuration.routes
        return JSONResponse({name: route.model_dump(mode="json") for name, route in used.items()})

    @router.get("/routes/text", summary="The same as they stand in the configuration file")
    def routes_as_written(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        return _json(written_routes(node_of(request)))

    @router.get("/routes/versions", summary="What they were, who wrote it and why")
    def versions_of_routes(request: Request, person: Operator, limit: Limit = 50) -> Response:  # noqa: ARG001
        return _json(routes_versions(node_of(request).ledger, limit=limit))

    @router.get("/configuration/changes", summary="Keys of the configuration file by which the node does not work yet")
    def changes_of_configuration(request: Request, person: Operator) -> Response:  # noqa: ARG001
        found = unread_changes(node_of(request))
        return _json({"changed": found.changed, "at_next_start": found.at_next_start})

    @router.post("/routes/try", summary="What routes would take of one study or of the last month; changes nothing")
    def try_routes(request: Request, person: Operator, order: RoutesTrial) -> Response:  # noqa: ARG001
        node = node_of(request)
        routes = edited_routes(node, order.routes)
        if order.study is None:
            return _json(compared_over_the_last_month(node, routes))
        return _json(taken_by(node, order.study, routes))

    @router.get("/models/drift", summary="What analyses came to, by scanner and month; a year back")
    def drift_by_month(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        return _json(drift(ended_jobs(node_of(request).ledger, utc_now() - YEAR)))

    @router.get("/models/agreement", summary="Predicted beside acquired late enhancement at this site")
    def agreement_here(request: Request, person: Viewer) -> Response:  # noqa: ARG001
        return _json(site_agreement(node_of(request).ledger))

    @router.get("/models", summary="Cards of the networks")
    def models(person: Viewer) -> Response:  # noqa: ARG001
        return JSONResponse([card.model_dump(mode="json") for card in list_models()])

    @router.get("/audit", summary="Messages of the audit trail, the newest first, a page at a time")
    def audit(request: Request, person: Operator, order: Annotated[AuditOrder, Query()]) -> Response:
        node = node_of(request)
        tell_of_reading(node, person, node.configuration.audit.file, "Security Audit Log")
        return _json(trail_answered(node, order))

    @router.get("/log", summary="Lines of the log of the node's processes, the newest first, a page at a time")
    def log(request: Request, person: Operator, order: Annotated[LogOrder, Query()]) -> Response:
        node = node_of(request)
        tell_of_reading(node, person, node.configuration.log.directory, "Process log")
        return _json(answered(node, order))

    @router.get("/events", summary="Events of the ledger, the newest first, a page at a time")
    def events(request: Request, person: Operator, order: Annotated[EventsOrder, Query()]) -> Response:  # noqa: ARG001
        return _json(events_answered(node_of(request), order))

    @router.get("/accounts", summary="Who may log in, and which programs have tokens")
    def people(request: Request, person: Administrator) -> Response:  # noqa: ARG001
        ledger = node_of(request).ledger
        shown = [
            {
                "name": one.name,
                "role": one.role,
                "by_provider": one.by_provider,
                "created_at": one.created_at,
                "disabled_at": one.disabled_at,
            }
            for one in accounts(ledger)
        ]
        return _json({"accounts": shown, "tokens": tokens(ledger)})

    for action in ACTIONS:
        _add_action(router, action)

    @router.get("/openapi.json", include_in_schema=False)
    def description(person: Viewer) -> Response:  # noqa: ARG001
        return JSONResponse(_openapi(router.routes))

    return router


def assessments_csv(given: tuple[Assessment, ...]) -> str:
    """Verdicts of radiologists as comma-separated values (RFC 4180)."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(["StudyInstanceUID", "version", "route", "package", "result", "comment", "by", "at"])
    for one in given:
        place = (one.study_instance_uid, one.study_version, one.route, one.package)
        said = (one.result.value, _as_text(one.comment), _as_text(one.by))
        writer.writerow([*place, *said, one.at.isoformat(timespec="seconds")])
    return table.getvalue()


def _as_text(words: str) -> str:
    """Words of other people, of which a spreadsheet makes no formula."""
    return f"'{words}" if words[:1] in ("=", "+", "-", "@") else words


def _add_action(router: APIRouter, action: Action) -> None:
    # This module's annotations are evaluated: the types of the order and of the caller are this function's own.
    Order = action.order
    caller = caller_who_may(action.role)

    def act(request: Request, person: Annotated[Person, Depends(caller)], order: Order) -> Response:  # type: ignore[valid-type]
        done = action.do(node_of(request), person, order)
        request.app.state.board.forget()
        return _json(done)

    act.__name__ = action.name.replace("-", "_")
    router.post(f"/actions/{action.name}", summary=action.title, description=f"Needs the role {action.role.value}.")(
        act
    )


def _openapi(routes: list[BaseRoute]) -> dict[str, Any]:
    described = get_openapi(title="dicom-node console", version=SOFTWARE_VERSION, routes=routes)
    components = described.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"token": []}]
    return described


def _json(value: Any) -> Response:
    return JSONResponse(jsonable(value))
