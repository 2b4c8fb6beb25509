"""The web application: what every service of it has in common."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from dicom_node.errors import raised_at

__all__ = ["web_application"]

_log = structlog.get_logger(__name__)


def web_application(routers: Iterable[APIRouter]) -> FastAPI:
    """One application of several services, each a router of its own that decides whom it lets in."""
    # No pages about the services: they would be there for everybody.
    application = FastAPI(title="dicom-node", docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        application.include_router(router)

    @application.exception_handler(Exception)
    async def failed(_request: Request, error: Exception) -> JSONResponse:
        # Its text may quote a data set.
        _log.error("request failed", what="unforeseen failure", place=raised_at(error))
        return JSONResponse({"detail": "unforeseen failure"}, 500)

    return application
