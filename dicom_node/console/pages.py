"""The pages, and the forms on them."""

import itertools
from collections import Counter
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ValidationError

from dicom_node.console.access import Administrator, Operator, Person, Viewer, caller_who_may, local_path, node_of
from dicom_node.console.actions import ACTIONS, Action
from dicom_node.console.audit_search import AuditPageOrder, events_answered, trail_answered
from dicom_node.console.configuration import unread_changes
from dicom_node.console.drift import YEAR, chart, drift
from dicom_node.console.log import LEVELS
from dicom_node.console.log_search import LogOrder, answered, tell_of_reading
from dicom_node.console.node import Node
from dicom_node.console.pictures import may_see_patients, picture
from dicom_node.console.rendering import Notice, Region, Renderer
from dicom_node.console.rules import (
    changed_lines,
    compared_over_the_last_month,
    edited_routes,
    rule_in_words,
    taken_by,
    written_routes,
)
from dicom_node.console.site_agreement import site_agreement
from dicom_node.console.study import read_study
from dicom_node.errors import ConfigurationError, NodeError, classify, raised_at
from dicom_node.finding import named_studies
from dicom_node.plain_words import field_in_plain_words
from dicom_node.reloading import Reloaded
from pipelines.models.registry import list_models
from storage.accounts import accounts, set_notice, tokens
from storage.assessments import assessments
from storage.figures import ended_jobs
from storage.ledger import LedgerError, utc_now
from storage.overview import (
    backlog,
    count_deliveries,
    delivery_overviews,
    outages,
    quarantine_overviews,
    study_overviews,
)
from storage.paused import paused_destinations
from storage.routes_versions import routes_version, routes_versions
from storage.schema import AccountRole, AssessmentResult, DeliveryState
from storage.trials import last_trials

__all__ = ["pages_router"]

_log = structlog.get_logger(__name__)

Text = Annotated[str, Query(max_length=200)]
ON_THE_WAY = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT)
NOT_DELIVERED = (DeliveryState.DEAD, DeliveryState.NOT_ACCEPTED)
LISTED = 100
SAVE_ROUTES = next(action for action in ACTIONS if action.name == "save-routes")


def pages_router() -> APIRouter:
    """All pages that need a session."""
    router = APIRouter()

    @router.get("/")
    def now(request: Request, person: Viewer) -> Response:
        region: Region = request.app.state.board.region()
        # What renews itself is fetched alone, and only by those who have not got it yet.
        if request.headers.get("x-live"):
            return region.answer(request.headers.get("if-none-match"))
        return _page(request, "now.html", person, region=region.html)

    @router.get("/studies")
    def studies(request: Request, person: Viewer, find: Text = "") -> Response:
        node, text = node_of(request), find.strip()
        if text:
            found = named_studies(node.ledger, node.files, text, limit=LISTED)
            if len(found) == 1:
                return RedirectResponse(f"/studies/{found[0]}", 303)
            listed = tuple(study_overviews(node.ledger, study_instance_uid=uid)[0] for uid in found)
        else:
            listed = study_overviews(node.ledger, limit=LISTED)
        return _page(request, "studies.html", person, studies=listed, find=text)

    @router.get("/studies/{study}")
    def study(request: Request, person: Viewer, study: str) -> Response:
        node = node_of(request)
        return _page(
            request,
            "study.html",
            person,
            study=read_study(node, person, study),
            patients_shown=may_see_patients(node, person),
            routes=tuple(node.configuration.routes),
            language=_language(node),
        )

    @router.get("/studies/{study}/pages/{result}.png")
    def page_of_results(request: Request, person: Viewer, study: str, result: int) -> Response:
        return Response(picture(node_of(request), person, study, result), media_type="image/png")

    @router.get("/deliveries")
    def deliveries(request: Request, person: Viewer) -> Response:
        node = node_of(request)
        return _page(
            request,
            "deliveries.html",
            person,
            # As fresh as the lists below it: what is dead there can be sent again here.
            backlog=backlog(node.ledger, now=utc_now()),
            destinations=node.configuration.results.destinations,
            peers=node.configuration.peers,
            outages={one.destination: one for one in outages(node.ledger)},
            paused={one.destination: one for one in paused_destinations(node.ledger)},
            trials=last_trials(node.ledger),
            dead=delivery_overviews(node.ledger, states=NOT_DELIVERED, limit=LISTED),
            dead_in_all=count_deliveries(node.ledger, NOT_DELIVERED),
            on_the_way=delivery_overviews(node.ledger, states=ON_THE_WAY, limit=LISTED),
            on_the_way_in_all=count_deliveries(node.ledger, ON_THE_WAY),
            quarantined=quarantine_overviews(node.ledger, limit=LISTED),
            state_of=DeliveryState,
        )

    @router.get("/rules")
    def rules(request: Request, person: Viewer, version: Annotated[int | None, Query(ge=1)] = None) -> Response:
        node = node_of(request)
        try:
            written = written_routes(node)
        except ConfigurationError as error:
            return _rules(request, person, "", problem=str(error))
        text = written.text if version is None else routes_version(node.ledger, version).text
        return _rules(request, person, text, began_with=written.digest, version=version or 0)

    # Trying changes nothing; sent like a form because edited routes are too long for an address. Not for viewers: a
    # comparison reads every study of a month.
    @router.post("/rules")
    def edit_rules(request: Request, person: Operator, fields: Annotated[dict[str, str], Depends(_fields)]) -> Response:
        # Browsers send the lines of a text with CRLF.
        text = fields["text"] = fields.get("text", "").replace("\r\n", "\n")
        node, find = node_of(request), fields.get("find", "").strip()
        typed = {
            "began_with": fields.get("began_with", ""),
            "find": find,
            "reason": fields.get("reason", ""),
            "typed": True,
        }
        try:
            if fields.get("what") == "save":
                done = SAVE_ROUTES.do(node, person, _order(SAVE_ROUTES.order, fields))
                return _back(request, person, "/rules", Notice.DONE, done.sentence)
            routes = edited_routes(node, text)
            if fields.get("what") == "compare":
                return _rules(request, person, text, **typed, compared=compared_over_the_last_month(node, routes))
            found = named_studies(node.ledger, node.files, find, limit=2) if find else ()
            if len(found) != 1:
                several = "several studies that this node knows: give more of the StudyInstanceUID"
                raise LedgerError(f"{find!r} names {several if found else 'no study that this node knows'}")
            explained = taken_by(node, found[0], routes)
        except ValidationError as error:
            return _rules(request, person, text, **typed, problem=field_in_plain_words(error.errors()[0]))
        except OSError:
            return _rules(request, person, text, **typed, problem="its files were removed, or cannot be read")
        except (NodeError, LedgerError) as error:
            return _rules(request, person, text, **typed, problem=str(error))
        return _rules(request, person, text, **typed, study=found[0], explained=explained)

    @router.get("/models")
    def models(request: Request, person: Viewer) -> Response:
        given = assessments(node_of(request).ledger)
        latest = {(one.study_instance_uid, one.study_version, one.route, one.package): one for one in given}
        judged: dict[str, Counter[AssessmentResult]] = {}
        for one in latest.values():
            judged.setdefault(one.package, Counter())[one.result] += 1
        rows = drift(ended_jobs(node_of(request).ledger, utc_now() - YEAR))
        scanners = sorted({row.scanner for row in rows if row.ejection_fractions})
        return _page(
            request,
            "models.html",
            person,
            cards=list_models(),
            judged=judged,
            results=tuple(AssessmentResult),
            drift=rows,
            charts=[drawn for scanner in scanners if (drawn := chart(rows, scanner)) is not None],
            shadow=site_agreement(node_of(request).ledger),
        )

    @router.get("/audit")
    def audit(request: Request, person: Operator, order: Annotated[AuditPageOrder, Query()]) -> Response:
        node = node_of(request)
        tell_of_reading(node, person, node.configuration.audit.file, "Security Audit Log")
        answer, events = trail_answered(node, order), events_answered(node, order.of_events())
        asked = {name: value for name, value in request.query_params.items() if value}

        def turned(prefix: str, older: str | int | None, newer: str | int | None) -> dict[str, str]:
            """Addresses of the pages that lie beside the shown one of two lists; the other list stays where it is."""
            places = {f"{prefix}before", f"{prefix}after"}
            kept = {name: value for name, value in asked.items() if name not in places}
            pages = {f"{prefix}before": older, f"{prefix}after": newer}
            return {
                words: f"/audit?{urlencode({**kept, name: place})}"
                for (name, place), words in zip(pages.items(), ("older", "newer"), strict=True)
                if place not in ("", None)
            } | ({"newest": f"/audit?{urlencode(kept)}"} if places & asked.keys() else {})

        return _page(
            request,
            "audit.html",
            person,
            order=order,
            answer=answer,
            events=events,
            turned=turned("", answer.page.older, answer.page.newer),
            events_turned=turned("events_", events.older, events.newer),
        )

    @router.get("/log")
    def log(request: Request, person: Operator, order: Annotated[LogOrder, Query()]) -> Response:
        node = node_of(request)
        tell_of_reading(node, person, node.configuration.log.directory, "Process log")
        answer = answered(node, order)
        asked = {name: value for name, value in request.query_params.items() if value and name != "before"}
        return _page(
            request,
            "log.html",
            person,
            order=order,
            answer=answer,
            levels=LEVELS,
            older=f"/log?{urlencode({**asked, 'before': answer.page.older})}" if answer.page.older else "",
            newest=f"/log?{urlencode(asked)}" if order.before else "",
        )

    @router.get("/accounts")
    def people(request: Request, person: Administrator) -> Response:
        node = node_of(request)
        return _page(
            request,
            "accounts.html",
            person,
            accounts=accounts(node.ledger),
            tokens=tokens(node.ledger),
            roles=tuple(AccountRole),
        )

    for action in ACTIONS:
        _add_form(router, action)
    return router


async def _fields(request: Request) -> dict[str, str]:
    return {key: value for key, value in (await request.form()).items() if isinstance(value, str)}


def _add_form(router: APIRouter, action: Action) -> None:
    caller = caller_who_may(action.role)

    # This module's annotations are evaluated: the caller is this function's own. A plain function runs in a thread.
    def form(
        request: Request,
        person: Annotated[Person, Depends(caller)],
        fields: Annotated[dict[str, str], Depends(_fields)],
    ) -> Response:
        node, back = node_of(request), local_path(fields.get("back") or "/")
        kind = Notice.PROBLEM
        try:
            done = action.do(node, person, _order(action.order, fields))
            request.app.state.board.forget()
        except ValidationError as error:
            sentence = field_in_plain_words(error.errors()[0])
        except (NodeError, LedgerError) as error:
            sentence = str(error)
        except OSError as error:
            _log.error("action failed", action=action.name, what=str(classify(error)), place=raised_at(error))
            sentence = str(classify(error))
        else:
            if done.secret:
                return _page(request, "secret.html", person, done=done, onward=back)
            kind, sentence = Notice.DONE, done.sentence
        return _back(request, person, back, kind, sentence)

    router.post(f"/do/{action.name}", response_model=None)(form)


def _order(kind: type[BaseModel], fields: dict[str, str]) -> BaseModel:
    # A field that was left empty was not given.
    return kind.model_validate({key: value for key, value in fields.items() if value.strip()})


def _back(request: Request, person: Person, path: str, kind: str, sentence: str) -> Response:
    """To the page that a form was on, which says what came of it."""
    if person.session is not None:
        set_notice(node_of(request).ledger, person.session.digest, Notice.kept(kind, sentence))
    return RedirectResponse(path, 303)


def _rules(request: Request, person: Person, text: str, **found: Any) -> Response:
    node = node_of(request)
    about = {
        "began_with": "",
        "find": "",
        "reason": "",
        "typed": False,
        "version": 0,
        "problem": "",
        "study": "",
        "explained": (),
        "compared": None,
    } | found
    versions = routes_versions(node.ledger) if person.may(AccountRole.OPERATOR) else ()
    return _page(
        request,
        "rules.html",
        person,
        routes=node.configuration.routes,
        text=text,
        in_words=rule_in_words,
        may_try=person.may(AccountRole.OPERATOR),
        can_save=node.file is not None,
        unread=_unread(node) if person.may(AccountRole.OPERATOR) else None,
        versions=[
            (one, changed_lines(before.text, one.text) if before else "")
            for one, before in itertools.zip_longest(versions, versions[1:])
        ],
        **about,
    )


def _unread(node: Node) -> Reloaded | str:
    """How the file differs from what the node works by, or why that cannot be told."""
    try:
        return unread_changes(node)
    except ConfigurationError as error:
        return str(error)


def _language(node: Node) -> str:
    """RFC 5646 tag of what paragraphs are written in; empty where a site's own template says it."""
    settings = node.configuration.results.paragraph
    return "" if settings.template is not None else {"english": "en", "german": "de"}[settings.language]


def _page(request: Request, template: str, person: Person, **context: Any) -> Response:
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, template, person, **context)
