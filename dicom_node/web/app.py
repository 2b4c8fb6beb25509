"""The web application: what every service of it has in common."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI

__all__ = ["web_application"]


def web_application(routers: Iterable[APIRouter]) -> FastAPI:
    """One application of several services, each a router of its own that decides whom it lets in."""
    # No pages about the services: they would be there for everybody.
    application = FastAPI(title="dicom-node", docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        application.include_router(router)
    return application
