"""Transactions to a FHIR server."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from dicom_node.audit.messages import Participant
from dicom_node.config import FhirDestination
from dicom_node.deliver.fhir_bundle import transaction
from dicom_node.deliver.lease import RoundLease
from dicom_node.deliver.messages import deliver_messages
from dicom_node.deliver.round import DeliveryItem, Round
from dicom_node.deliver.study_report import StudyReport
from dicom_node.errors import (
    ConfigurationError,
    DeliveryRefusedError,
    NodeError,
    PeerFailedError,
    PeerUnavailableError,
)
from dicom_node.web.client import NOT_NOW, http_client, retry_after_s
from storage.deliveries import Delivery

__all__ = ["FhirDestinationClient", "ask"]

_MEDIA_TYPE = "application/fhir+json"
_ISSUE_TYPES = """
business-rule code-invalid conflict deleted duplicate exception expired extension forbidden incomplete informational
invalid invariant lock-error login multiple-matches no-store not-found not-supported processing required security
structure suppressed throttled timeout too-costly too-long transient unknown value
"""
_ISSUES = frozenset(_ISSUE_TYPES.split())
"""Kinds of issues (FHIR R4, IssueType)."""


@dataclass(frozen=True, slots=True)
class FhirDestinationClient:
    """Sends to a FHIR server."""

    round: Round
    server: FhirDestination
    found_by: str = "nothing: what a server took is put again under the same identifiers"

    def deliver(self, items: Sequence[DeliveryItem], lease: RoundLease) -> None:
        """Post one transaction after the other, see :class:`~dicom_node.deliver.round.DestinationClient`."""
        host = urlsplit(self.server.url).hostname or ""
        deliver_messages(
            self.round, items, Participant(host, "", host), self._send, lease, "taken by the server (transaction)"
        )

    def held(self, deliveries: Collection[Delivery]) -> frozenset[str]:  # noqa: ARG002
        """Nothing: what was not answered is put again, under the same identifiers."""
        return frozenset()

    def _send(self, report: StudyReport) -> None:
        body = transaction(report, self.server).model_dump_json(exclude_none=True)
        response = _request(self.server, self.round.policy.response_timeout_s, "POST", "", body)
        if not response.is_success:
            raise _refused(self.server, response)


def ask(server: FhirDestination, response_timeout_s: float) -> None:
    """Ask a server what it can do (CapabilityStatement); changes nothing there.

    Raises
    ------
    PeerUnavailableError
        It cannot be reached, or does not let this node in.
    """
    response = _request(server, response_timeout_s, "GET", "/metadata", None)
    # One without that page still says that it is there.
    if not response.is_success and (error := _refused(server, response)).retryable:
        raise error


def _request(
    server: FhirDestination, response_timeout_s: float, method: str, path: str, body: str | None
) -> httpx.Response:
    headers = {"Accept": _MEDIA_TYPE, **({} if body is None else {"Content-Type": _MEDIA_TYPE})}
    try:
        with http_client(server, httpx.Timeout(response_timeout_s, connect=server.connect_timeout_s)) as client:
            return client.request(method, f"{server.url}{path}", content=body, headers=headers)
    except ConfigurationError as error:
        raise PeerUnavailableError(error.what, subject=error.subject, remedy=error.remedy) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, OSError) as error:
        raise PeerUnavailableError(
            f"cannot be reached: {type(error).__name__}",
            subject=server.url,
            remedy="check the URL and the certificates of this destination, and that the server runs",
        ) from error
    except httpx.HTTPError as error:
        raise PeerFailedError(f"broke off: {type(error).__name__}", subject=server.url, remedy="see its log") from error


def _refused(server: FhirDestination, response: httpx.Response) -> NodeError:
    status = response.status_code
    what = f"answered {status}{_issue(response)}"
    if status in NOT_NOW:
        remedy = "check the credentials and the URL of this destination"
        return PeerUnavailableError(what, subject=server.url, remedy=remedy, retry_after_s=retry_after_s(response))
    if status >= 500 or status < 400:
        return PeerFailedError(what, subject=server.url, retry_after_s=retry_after_s(response))
    return DeliveryRefusedError(what, subject=server.url, remedy="see the log of the server, then requeue")


def _issue(response: httpx.Response) -> str:
    """Kind of the first issue of an OperationOutcome; its text, or what else a server says instead, may quote patient
    data, which no ledger holds.
    """
    try:
        code = json.loads(response.content)["issue"][0]["code"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return f" ({code})" if isinstance(code, str) and code in _ISSUES else ""
