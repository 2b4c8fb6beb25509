"""STOW-RS, the store transaction of PS3.18 10.5: ``POST /dicom-web/studies`` and ``…/studies/{study}``.

Each part goes the way of a C-STORE request, through the same receiver, as soon as its last byte is there; the response
says of each what became of it. A body that breaks off or is malformed loses what was not whole yet, and nothing else.

====  ==================================================================================================
200   All stored: on disk, flushed, in the ledger
202   Some stored, the others failed
400   Not multipart as RFC 2046 wants it, and nothing was stored; or no part at all
401   No valid token (403: it may not send)
406   Neither application/dicom+json nor application/dicom+xml is acceptable
408   Nothing came for too long, and nothing was stored
409   None stored; the response says why
413   An instance exceeds ``web.maximum_object_mb``, and nothing was stored
415   Not multipart/related of application/dicom
503   Too many requests at once, no room on the disk, or the ledger is down: to be tried again
====  ==================================================================================================

Failure Reason of an instance: what its C-STORE status would be (A700, A900, C000, 0110), 0122 for a SOP class and C122
for a transfer syntax that is not taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from dicom_node import metrics
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import Configuration, PeerPermission
from dicom_node.errors import CannotUnderstandError, OutOfResourcesError, classify
from dicom_node.network.reception import InstanceReceiver
from dicom_node.web.arrival import Arrival
from dicom_node.web.bearer import caller_who_may
from dicom_node.web.multipart import DICOM, MediaType, MultipartReader, PartBegins, PartEnds
from dicom_node.web.store_response import (
    DICOM_JSON,
    DICOM_XML,
    StoredInstance,
    StoreOutcome,
    store_response_json,
    store_response_xml,
)
from dicom_node.web.uploads import Uploads

__all__ = ["ROOT", "StoreService", "stow_router"]

_log = structlog.get_logger(__name__)

ROOT = "/dicom-web"
AHEAD = 3
"""Instances of one request that are being taken in while the next one is read."""
TOLD = 10
"""Refused parts of one request that are logged one by one; of the rest only the number."""
_COME_AGAIN = {"Retry-After": "10"}
_MEGABYTE = 1_000_000
_OUT_OF_RESOURCES = OutOfResourcesError.dimse_status
_CANNOT_UNDERSTAND = CannotUnderstandError.dimse_status
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreService:
    """What the transactions of one process share."""

    instances: InstanceReceiver
    uploads: Uploads
    pool: Executor
    """Writes, flushes and commits: the event loop waits for no disk."""


class _Broken(Exception):  # noqa: N818 - an answer to the sender, not an error of this node
    """The rest of the body cannot be read."""

    def __init__(self, status: int, reason: int, what: str) -> None:
        self.status, self.reason, self.what = status, reason, what
        super().__init__(what)


@dataclass(slots=True)
class _Upload:
    """One transaction on its way."""

    peer: str
    address: str
    study_instance_uid: str | None
    association_id: str = ""
    """Empty before the first part begins: what brings nothing leaves no trace in the ledger."""
    instances: list[StoredInstance] = field(default_factory=list)
    other_failures: list[int] = field(default_factory=list)
    refused: int = 0
    """Parts whose refusal was told, or would have been."""

    def tell(self, event: str, **fields: object) -> None:
        """Log why a part is refused, as long as that is news: one request can bring a hundred thousand."""
        self.refused += 1
        if self.refused <= TOLD:
            _log.warning(event, **fields)

    def add(self, one: StoredInstance | int) -> None:
        if isinstance(one, int):
            self.other_failures.append(one)
        else:
            self.instances.append(one)

    @property
    def stored(self) -> int:
        return sum(one.failure_reason is None for one in self.instances)


def stow_router(configuration: Configuration, service: StoreService, trail: AuditTrail) -> APIRouter:
    """The store transaction as a router."""
    router = APIRouter(prefix=ROOT)
    web = configuration.web
    largest = int(web.maximum_object_mb * _MEGABYTE)
    at_once = asyncio.Semaphore(web.maximum_requests)
    sender = Depends(caller_who_may(PeerPermission.SEND, web, trail))

    async def store(request: Request, peer: str, study_instance_uid: str | None) -> Response:
        media_type = _acceptable(request.headers.get("accept", "*/*"))
        reader = _reader(request.headers.get("content-type", ""))
        if at_once.locked():
            metrics.WEB_REQUESTS_REFUSED.labels("503").inc()
            raise HTTPException(503, "too many requests at once", _COME_AGAIN)
        upload = _Upload(peer, request.client.host if request.client else "", study_instance_uid)
        async with at_once:
            pieces = _pieces(request, configuration.node.network_timeout_s)
            broken = await _store(service, upload, pieces, reader, largest)
        return _response(upload, broken, media_type)

    @router.post("/studies")
    async def store_instances(request: Request, peer: str = sender) -> Response:
        return await store(request, peer, None)

    @router.post("/studies/{study}")
    async def store_instances_of_study(request: Request, study: str, peer: str = sender) -> Response:
        return await store(request, peer, study)

    return router


def _acceptable(accept: str) -> str:
    wanted = {MediaType.of(one).name for one in accept.split(",")}
    if wanted & {"*/*", "application/*", DICOM_JSON, "application/json"}:
        return DICOM_JSON
    if DICOM_XML in wanted:
        return DICOM_XML
    raise HTTPException(406, f"the answer can be {DICOM_JSON} or {DICOM_XML}")


def _reader(content_type: str) -> MultipartReader:
    media_type = MediaType.of(content_type)
    if media_type.name != "multipart/related" or media_type.parameters.get("type", "").lower() != DICOM:
        raise HTTPException(415, f'the body must be multipart/related; type="{DICOM}" (PS3.18 10.5.2)')
    try:
        return MultipartReader(media_type.parameters.get("boundary", ""))
    except CannotUnderstandError as error:
        raise HTTPException(400, error.what) from error


async def _pieces(request: Request, patience_s: float) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(patience_s):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _Broken(408, _CANNOT_UNDERSTAND, f"nothing came for {patience_s:g} s") from error
        except ClientDisconnect as error:
            raise _Broken(400, _CANNOT_UNDERSTAND, "the connection broke off") from error
        yield piece


async def _store(
    service: StoreService, upload: _Upload, pieces: AsyncIterator[bytes], reader: MultipartReader, largest: int
) -> _Broken | None:
    """Take in all parts; afterwards the ledger knows that the upload is over."""
    broken: _Broken | None = None
    underway: deque[asyncio.Future[StoredInstance | int]] = deque()
    arriving: Arrival | None = None
    how = "aborted"
    try:
        async for piece in pieces:
            for found in reader.feed(piece):
                if isinstance(found, PartBegins):
                    if not upload.association_id:
                        upload.association_id = await _begun(service, upload)
                    arriving = Arrival(
                        service.instances,
                        upload.association_id,
                        upload.peer,
                        upload.study_instance_uid,
                        found.content_type,
                        upload.tell,
                    )
                elif arriving is None:
                    raise CannotUnderstandError("the body holds data outside of its parts")
                elif isinstance(found, PartEnds):
                    underway.append(_in_pool(service, arriving.finish))
                    arriving = None
                    if len(underway) > AHEAD:
                        upload.add(await _done(underway.popleft()))
                elif arriving.size + len(found) > largest:
                    raise _Broken(413, _OUT_OF_RESOURCES, f"an instance is larger than {largest} bytes")
                elif arriving.add(found):
                    await _done(_in_pool(service, arriving.write))
        if not reader.ended:
            raise CannotUnderstandError("the body ends before its closing delimiter")
        how = "released"
    except _Broken as error:
        broken = error
    except CannotUnderstandError as error:
        broken = _Broken(400, _CANNOT_UNDERSTAND, error.what)
    finally:
        # In the midst of a cancellation another one may come: each step is waited for, whatever does.
        left: list[asyncio.Future[Any]] = [*underway]
        if arriving is not None:
            left.append(_in_pool(service, arriving.abandon))
        cancelled = [await _wait(one) for one in left]
        for one in underway:
            upload.add(one.result())
        if upload.association_id:
            cancelled.append(await _wait(_in_pool(service, service.uploads.end, upload.association_id, how)))
        if (interruption := next(filter(None, cancelled), None)) is not None:
            raise interruption
    _log.info(
        "upload ended",
        association=upload.association_id,
        calling_ae_title=upload.peer,
        stored=upload.stored,
        failed=len(upload.instances) - upload.stored + len(upload.other_failures),
        what=broken and broken.what,
        not_told=max(0, upload.refused - TOLD),
    )
    return broken


async def _begun(service: StoreService, upload: _Upload) -> str:
    try:
        return await _done(_in_pool(service, service.uploads.begin, upload.peer, upload.address))
    except Exception as error:
        refused = classify(error)
        _log.warning("upload refused", what=refused.what, remedy=refused.remedy, calling_ae_title=upload.peer)
        raise _Broken(503, _OUT_OF_RESOURCES, "the ledger cannot be written") from error


def _in_pool(service: StoreService, work: Callable[..., _T], *arguments: object) -> asyncio.Future[_T]:
    return asyncio.get_running_loop().run_in_executor(service.pool, work, *arguments)


async def _done(work: asyncio.Future[_T]) -> _T:
    """What came of work in the pool; see :func:`_wait`."""
    cancelled = await _wait(work)
    if cancelled is not None:
        raise cancelled
    return work.result()


async def _wait(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for the end of work in the pool; returns the cancellation that came meanwhile, for whoever goes on.

    A request that is cancelled, as when the node stops and its disk does not answer, waits all the same: a thread
    cannot be stopped, and nobody else may touch the instance that it is at work on.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _response(upload: _Upload, broken: _Broken | None, media_type: str) -> Response:
    if broken is not None and not upload.stored:
        raise HTTPException(broken.status, broken.what, _COME_AGAIN if broken.status == 503 else None)
    if broken is not None:
        upload.add(broken.reason)
    if not upload.instances and not upload.other_failures:
        raise HTTPException(400, "the body holds no part")
    outcome = StoreOutcome(tuple(upload.instances), tuple(upload.other_failures))
    write = store_response_xml if media_type == DICOM_XML else store_response_json
    status = _status(outcome)
    return Response(write(outcome), status, _COME_AGAIN if status == 503 else None, media_type)


def _status(outcome: StoreOutcome) -> int:
    """HTTP status of a transaction whose body was read (PS3.18 10.5.3.1)."""
    failures = {one.failure_reason for one in outcome.instances if one.failure_reason is not None}
    failures.update(outcome.other_failures)
    stored = [one for one in outcome.instances if one.failure_reason is None]
    if stored:
        return 202 if failures or any(one.warning_reason for one in stored) else 200
    return 503 if failures == {_OUT_OF_RESOURCES} else 409
