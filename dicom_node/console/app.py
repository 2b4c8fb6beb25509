"""The console's application: its routes, what it says of errors, and what every answer carries."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.console.access import ForbiddenError, NotLoggedInError
from dicom_node.console.api import api_router
from dicom_node.console.identity_provider import IdentityProvider
from dicom_node.console.log_in import log_in_router
from dicom_node.console.node import Node
from dicom_node.console.now import NowBoard
from dicom_node.console.pages import pages_router
from dicom_node.console.rendering import Renderer, problem_page
from dicom_node.errors import NodeError, classify, raised_at
from dicom_node.plain_words import field_in_plain_words
from storage.ledger import LedgerError

__all__ = ["console_application"]

_log = structlog.get_logger(__name__)

LARGEST_BODY = 1 << 20
"""Bytes; no form of the console is larger."""
_HEADERS = {
    # Nothing from elsewhere, and no script that is not a file of the console.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def console_application(node: Node) -> FastAPI:
    """The console of a node."""
    application = FastAPI(title="dicom-node console", docs_url=None, redoc_url=None, openapi_url=None)
    application.state.node = node
    application.state.renderer = renderer = Renderer()
    application.state.board = NowBoard(node, renderer)
    settings = node.configuration.console.identity_provider
    application.state.provider = None if settings is None else IdentityProvider(settings)
    application.include_router(log_in_router())
    application.include_router(api_router())
    application.include_router(pages_router())
    application.mount("/static", StaticFiles(directory=Path(__file__).with_name("static")), name="static")
    application.add_middleware(_Envelope)

    @application.exception_handler(NotLoggedInError)
    def not_logged_in(request: Request, _error: NotLoggedInError) -> Response:
        if _is_api(request):
            return JSONResponse({"detail": "log in, or bring a token"}, 401, {"WWW-Authenticate": "Bearer"})
        if request.headers.get("x-live"):
            return Response(status_code=401)
        asked = request.url.path if request.method == "GET" else "/"
        if asked != "/" and request.url.query:
            # A link in a report system finds a study by what it knows: its accession number.
            asked += f"?{request.url.query}"
        query = f"?next={quote(asked, safe='/')}" if asked != "/" else ""
        return RedirectResponse(f"/log-in{query}", 303)

    @application.exception_handler(ForbiddenError)
    def forbidden(request: Request, error: ForbiddenError) -> Response:
        return _problem(request, 403, str(error))

    @application.exception_handler(LedgerError)
    def refused_by_the_ledger(request: Request, error: LedgerError) -> Response:
        return _problem(request, 404 if request.method == "GET" else 409, str(error))

    @application.exception_handler(NodeError)
    def refused(request: Request, error: NodeError) -> Response:
        return _problem(request, 409, str(error))

    @application.exception_handler(OSError)
    def not_readable_or_writable(request: Request, error: OSError) -> Response:
        _log.error("request failed", what=str(classify(error)), place=raised_at(error))
        return _problem(request, 507, str(classify(error)))

    @application.exception_handler(HTTPException)
    def not_there(request: Request, error: HTTPException) -> Response:
        words = {404: "there is no such page", 405: "this cannot be done here"}
        return _problem(request, error.status_code, words.get(error.status_code, str(error.detail)))

    @application.exception_handler(RequestValidationError)
    def not_understood(request: Request, error: RequestValidationError) -> Response:
        return _problem(request, 422, "; ".join(field_in_plain_words(one) for one in error.errors()))

    @application.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        # Its text may quote a data set.
        _log.error("request failed", what="unforeseen failure", place=raised_at(error))
        return _problem(request, 500, "this failed for a reason that nobody foresaw; the log says where")

    return application


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _problem(request: Request, status: int, sentence: str) -> Response:
    if _is_api(request):
        return JSONResponse({"detail": sentence}, status)
    return problem_page(request, status, sentence)


class _Envelope:
    """What holds for every request and answer: no body beyond a form's size, and the headers that browsers obey."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        left = LARGEST_BODY

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"no form of the console is larger than {LARGEST_BODY} bytes")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                static = str(scope["path"]).startswith("/static/")
                headers["cache-control"] = "no-cache" if static else "no-store"
            await send(message)

        await self._application(scope, counted, with_headers)
