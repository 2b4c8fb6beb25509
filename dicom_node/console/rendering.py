"""Pages as HTML: the templates, and what each page knows of its reader."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from dicom_node.console.access import CSRF_FIELD, Person, node_of
from dicom_node.console.actions import ACTIONS
from dicom_node.console.node import Node
from dicom_node.console.words import environment
from dicom_node.implementation import SOFTWARE_VERSION
from storage.accounts import take_notice
from storage.schema import AccountRole

__all__ = ["Notice", "Region", "Renderer", "problem_page"]

_MENU = (
    ("/", "Now", AccountRole.VIEWER),
    ("/studies", "Studies", AccountRole.VIEWER),
    ("/deliveries", "Deliveries", AccountRole.VIEWER),
    ("/rules", "Rules", AccountRole.VIEWER),
    ("/models", "Models", AccountRole.VIEWER),
    ("/audit", "Audit", AccountRole.OPERATOR),
    ("/log", "Log", AccountRole.OPERATOR),
    ("/accounts", "Accounts", AccountRole.ADMINISTRATOR),
)
_NEEDED = {action.name: action.role for action in ACTIONS}


class Notice:
    """What came of the last form: how it is kept in the session, and read from there."""

    DONE, PROBLEM = "done", "problem"

    @staticmethod
    def kept(kind: str, sentence: str) -> str:
        """The text that the session keeps of it."""
        return f"{kind}:{sentence}"

    @staticmethod
    def read(kept: str) -> tuple[str, str]:
        """Read kind and sentence from the session; both empty where there is nothing."""
        kind, _, sentence = kept.partition(":")
        return kind, sentence


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a page that is the same for all its readers."""

    html: Markup
    tag: str
    """Another one where the text is another one."""

    def answer(self, known: str | None) -> Response:
        """To whoever asks for this part alone; nothing to those who have it.

        Parameters
        ----------
        known
            Header ``If-None-Match`` of the request (RFC 9110 13.1.2).
        """
        tag = f'"{self.tag}"'
        headers = {"ETag": tag}
        return Response(status_code=304, headers=headers) if known == tag else HTMLResponse(self.html, headers=headers)


class Renderer:
    """Draws the templates of one application."""

    def __init__(self) -> None:
        self._templates = environment()

    def page(self, request: Request, template: str, person: Person, **context: Any) -> HTMLResponse:
        """A page for somebody who is logged in."""
        node = node_of(request)
        kind, sentence = "", ""
        if person.session is not None:
            kind, sentence = Notice.read(take_notice(node.ledger, person.session.digest))
        return self._response(
            template,
            200,
            person,
            node,
            {
                "menu": [(path, title) for path, title, role in _MENU if person.may(role)],
                "notice_kind": kind,
                "notice": sentence,
                "may": lambda action: person.may(_NEEDED[action]),
                "csrf_field": CSRF_FIELD,
                "here": request.url.path,
                "back": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
                **context,
            },
        )

    def region(self, template: str, **context: Any) -> Region:
        """A part of a page that is the same for all its readers."""
        text = self._templates.get_template(template).render(context)
        return Region(Markup(text), hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32])

    def public_page(self, request: Request, template: str, status: int, **context: Any) -> HTMLResponse:
        """A page for somebody who is not logged in."""
        return self._response(template, status, None, node_of(request), context)

    def _response(
        self, template: str, status: int, person: Person | None, node: Node, context: dict[str, Any]
    ) -> HTMLResponse:
        about = {"person": person, "node": node.configuration.node.ae_title, "software": SOFTWARE_VERSION}
        return HTMLResponse(self._templates.get_template(template).render(about | context), status)


def problem_page(request: Request, status: int, sentence: str) -> HTMLResponse:
    """A page that says what is wrong."""
    renderer: Renderer = request.app.state.renderer
    return renderer.public_page(request, "problem.html", status, sentence=sentence)
