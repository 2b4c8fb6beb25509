"""The node as a user agent of a DICOMweb service: STOW-RS, and QIDO-RS to see what is there.

Not dicomweb-client: it writes each data set anew, holds the whole request in memory, follows redirects with what it
carries, and raises on 409 what the server says of each instance.
"""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType

import httpx

from dicom_node.config import HttpService, WebDestination
from dicom_node.errors import (
    CannotUnderstandError,
    ConfigurationError,
    DeliveryRefusedError,
    NodeError,
    NotAcceptedError,
    PeerFailedError,
    PeerUnavailableError,
)
from dicom_node.network.sender import SLOWEST_LINK_BYTES_PER_S, DicomFile, EchoResult, judge_store_status
from dicom_node.web.multipart import MediaType, MultipartWriter
from dicom_node.web.store_response import DICOM_JSON, StoreOutcome, read_store_response

__all__ = ["NOT_NOW", "DicomWebClient", "ask", "http_client", "retry_after_s"]

LONGEST_ANSWER_S = 90.0
"""To a large request, whose answer may take longer than ``delivery.response_timeout_s``."""
_PAGE = 1000
_DUPLICATE = 0x0111
NOT_NOW = frozenset({401, 403, 404, 407, 408, 421, 425, 429, 502, 503, 504, 507})
"""Refusals that end when somebody mends an account, a path, a gateway or a load, not the instances."""


class DicomWebClient:
    """Speaks with one service; use it as a context.

    Parameters
    ----------
    service
        Address, credentials and certificates.
    response_timeout_s
        For an answer, once the request is sent.

    Raises
    ------
    PeerUnavailableError
        A secret or a certificate cannot be read.
    """

    def __init__(self, service: WebDestination, response_timeout_s: float) -> None:
        self._url, self._response_timeout_s = service.url, response_timeout_s
        self._connect_timeout_s = service.connect_timeout_s
        try:
            self._http = http_client(service, self._timeout(0))
        except (ConfigurationError, OSError) as error:
            what = error.what if isinstance(error, ConfigurationError) else f"a certificate cannot be used: {error}"
            subject = error.subject if isinstance(error, ConfigurationError) else self._url
            raise PeerUnavailableError(what, subject=subject, remedy="correct the destination's section") from error

    def __enter__(self) -> DicomWebClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def ask(self) -> None:
        """Test the address, the certificates and the credentials; changes nothing there.

        Raises
        ------
        PeerUnavailableError
            The service cannot be reached, or does not let this node in.
        """
        response = self._send("GET", "/studies", headers={"Accept": DICOM_JSON}, params={"limit": 1})
        # A service without queries still says that it is there.
        if not response.is_success and (error := self._refused(response)).retryable:
            raise error

    def store(
        self, files: Sequence[DicomFile], progress: Callable[[], None] = lambda: None
    ) -> dict[str, tuple[str, NodeError | None]]:
        """Store files in one request, byte for byte.

        Parameters
        ----------
        progress
            Called while the request is sent.

        Returns
        -------
        dict
            By SOP Instance UID: a warning, or ``""``; and an error unless it was stored.

        Raises
        ------
        PeerUnavailableError
            The service cannot be reached, breaks off, or refuses the request for now.
        DeliveryRefusedError
            It refuses the request as a whole.
        """
        body = MultipartWriter([file.path for file in files], progress)
        response = self._send(
            "POST",
            "/studies",
            size=body.content_length,
            headers={
                "Content-Type": body.content_type,
                "Content-Length": str(body.content_length),
                "Accept": DICOM_JSON,
            },
            content=body,
        )
        outcome = _outcome(response)
        if response.status_code not in (200, 202) and not (outcome and outcome.instances):
            raise self._refused(response)
        return _by_instance(files, outcome, complete=response.status_code == 200)

    def held_instances(self, instances: Mapping[tuple[str, str], Collection[str]]) -> frozenset[str] | None:
        """Which of some instances the service holds.

        Parameters
        ----------
        instances
            SOP Instance UIDs by Study and Series Instance UID.

        Returns
        -------
        frozenset of str or None
            ``None`` when the service offers neither queries nor metadata: then nothing is known.

        Raises
        ------
        PeerUnavailableError
            The service cannot be reached, or refuses the request for now.
        """
        held: set[str] = set()
        for (study, series), wanted in instances.items():
            path = f"/studies/{study}/series/{series}/instances"
            found = self._queried(path, wanted)
            if found is None:
                found = self._described(path, wanted)
            if found is None:
                return None
            held |= found
        return frozenset(held)

    def _queried(self, path: str, wanted: Collection[str]) -> set[str] | None:
        """QIDO-RS (PS3.18 10.6), page by page: a server may give fewer than it was asked for."""
        found: set[str] = set()
        offset = 0
        while True:
            response = self._send(
                "GET", path, headers={"Accept": DICOM_JSON}, params={"limit": _PAGE, "offset": offset}
            )
            if response.status_code == 204:
                return found.intersection(wanted)
            if response.status_code != 200:
                # 404 may say that there is no such series, or that there are no queries.
                self._raise_if_for_now(response)
                return None
            page = _sop_instance_uids(response)
            if page is None:
                return None
            if found.issuperset(page) or found.union(page).issuperset(wanted):
                return found.union(page).intersection(wanted)
            found.update(page)
            offset += len(page)

    def _described(self, path: str, wanted: Iterable[str]) -> set[str] | None:
        """WADO-RS metadata (PS3.18 10.4.1.1.2), for servers without queries of this kind."""
        found: set[str] = set()
        for sop_instance_uid in wanted:
            response = self._send("GET", f"{path}/{sop_instance_uid}/metadata", headers={"Accept": DICOM_JSON})
            if response.status_code == 200:
                found.add(sop_instance_uid)
            elif response.status_code not in (404, 410):
                self._raise_if_for_now(response)
                return None
        return found

    def _raise_if_for_now(self, response: httpx.Response) -> None:
        error = self._refused(response)
        if error.retryable and response.status_code not in (404, 501):
            raise error

    def _send(self, method: str, path: str, *, size: int = 0, **request: object) -> httpx.Response:
        try:
            return self._http.request(method, self._url + path, timeout=self._timeout(size), **request)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            broke_off = isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError))
            kind = PeerFailedError if broke_off else PeerUnavailableError
            # What breaks the protocol is quoted in the text of the exception.
            why = "" if isinstance(error, httpx.RemoteProtocolError) else f": {error}"
            raise kind(
                f"does not answer: {type(error).__name__}{why}",
                subject=self._url,
                remedy="check the URL, the certificates and whether it runs",
            ) from error

    def _timeout(self, size: int) -> httpx.Timeout:
        longer = min(self._response_timeout_s + size / SLOWEST_LINK_BYTES_PER_S, LONGEST_ANSWER_S)
        return httpx.Timeout(max(self._response_timeout_s, longer), connect=self._connect_timeout_s)

    def _refused(self, response: httpx.Response) -> NodeError:
        status = response.status_code
        # In the standard's words: its own may be any.
        what = f"HTTP status {status} {httpx.codes.get_reason_phrase(status)}".strip()
        if response.is_redirect:
            return PeerUnavailableError(
                f"{what}: redirects are not followed",
                subject=self._url,
                remedy="give the URL that it redirects to, if you trust it",
            )
        if status in (401, 403, 407):
            return PeerUnavailableError(what, subject=self._url, remedy="check the credentials of this destination")
        if status in NOT_NOW:
            return PeerUnavailableError(what, subject=self._url, retry_after_s=retry_after_s(response))
        if status >= 500 or status < 400:
            return PeerFailedError(what, subject=self._url, retry_after_s=retry_after_s(response))
        if status == 415:
            return NotAcceptedError(what, subject=self._url, remedy="enable the media type at the service")
        return DeliveryRefusedError(what, subject=self._url, remedy="see the log of the service, then requeue")


def ask(service: WebDestination, response_timeout_s: float) -> EchoResult:
    """Test whether a service answers and admits this node, as C-ECHO tests a DICOM peer."""
    started = time.monotonic()
    error: NodeError | None = None
    try:
        with DicomWebClient(service, response_timeout_s) as client:
            client.ask()
    except NodeError as failure:
        error = failure
    return EchoResult(time.monotonic() - started, error)


def http_client(service: HttpService, timeout: httpx.Timeout) -> httpx.Client:
    """A client of a service that is configured; use it as a context.

    What is configured is all that counts: no proxies and no password files from the environment. Redirects are not
    followed, least of all with credentials or images.

    Raises
    ------
    ConfigurationError
        A secret cannot be read.
    OSError
        A certificate cannot be used.
    """
    return httpx.Client(
        verify=_client_context(service),
        headers=_credentials(service),
        follow_redirects=False,
        trust_env=False,
        timeout=timeout,
    )


def _client_context(service: HttpService) -> ssl.SSLContext:
    """What a service must prove, and this node's certificate, if it has one."""
    context = ssl.create_default_context(cafile=service.trusted)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if service.certificate is not None:
        context.load_cert_chain(service.certificate, service.key)
    return context


def _credentials(service: HttpService) -> dict[str, str]:
    """Headers that prove who this node is."""
    if service.token is not None:
        return {"Authorization": f"Bearer {service.token.read()}"}
    if service.basic is not None:
        return {"Authorization": f"Basic {base64.b64encode(service.basic.read().encode('utf-8')).decode('ascii')}"}
    return {}


def _outcome(response: httpx.Response) -> StoreOutcome | None:
    """What the response says of each instance; ``None`` when it cannot be read."""
    try:
        media_type = MediaType.of(response.headers.get("Content-Type", "")).name
        return read_store_response(response.content, media_type)
    except CannotUnderstandError:
        return None


def _by_instance(
    files: Sequence[DicomFile], outcome: StoreOutcome | None, *, complete: bool
) -> dict[str, tuple[str, NodeError | None]]:
    said = {one.sop_instance_uid: one for one in outcome.instances} if outcome else {}
    # 200 without a word on any instance says that all are stored (PS3.18 10.5.3.1).
    silence_is_consent = complete and not said and not (outcome and outcome.other_failures)
    answers: dict[str, tuple[str, NodeError | None]] = {}
    for file in files:
        uid = file.sop_instance_uid
        one = said.get(uid)
        if one is None:
            missing = None if silence_is_consent else PeerFailedError("the answer leaves it out", subject=uid)
            answers[uid] = "", missing
        elif one.failure_reason is None:
            answers[uid] = f"warning {one.warning_reason:04X}" if one.warning_reason else "", None
        elif one.failure_reason == _DUPLICATE:
            # The UID of a result comes from its content: what is there is this, from an attempt whose answer was lost.
            answers[uid] = "it was there already", None
        else:
            warning, error = judge_store_status(one.failure_reason, uid)
            # A warning among the failures.
            answers[uid] = "", error or PeerFailedError(f"did not store it: {warning}", subject=uid)
    return answers


def _sop_instance_uids(response: httpx.Response) -> list[str] | None:
    try:
        return [str(match["00080018"]["Value"][0]) for match in response.json()]
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def retry_after_s(response: httpx.Response) -> float:
    """How long the service asks to wait (Retry-After), seconds; 0 when it does not say."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    aware = at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)
    return max(0.0, (aware - dt.datetime.now(dt.UTC)).total_seconds())
