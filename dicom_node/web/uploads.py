"""The requests that bring instances: each stands in the ledger as an association of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from dicom_node import metrics
from dicom_node.errors import classify
from storage.instances import close_association, open_association
from storage.ledger import Ledger, utc_now

__all__ = ["Uploads"]

_log = structlog.get_logger(__name__)


class Uploads:
    """Opens and closes the associations of uploads; for use from several threads.

    Parameters
    ----------
    server
        Name of this process in the ledger.
    ae_title
        Of this node.
    ending
        Called with the id of each upload that ends.
    """

    def __init__(self, ledger: Ledger, server: str, ae_title: str, ending: Callable[[str], None]) -> None:
        self._ledger, self._server, self._ae_title, self._ending = ledger, server, ae_title, ending
        self._ended: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, peer: str, address: str) -> str:
        """Id of the association of an upload that begins, see :func:`~storage.instances.open_association`."""
        association_id = open_association(
            self._ledger,
            calling_ae_title=peer,
            called_ae_title=self._ae_title,
            address=address,
            at=utc_now(),
            receiver=self._server,
        )
        metrics.ASSOCIATIONS_ACCEPTED.inc()
        return association_id

    def end(self, association_id: str, outcome: str) -> None:
        """Record the end of an upload; when the ledger is down, :meth:`sweep` tries again."""
        self._ending(association_id)
        metrics.ASSOCIATIONS_ENDED.labels(outcome).inc()
        self._close(association_id, outcome)

    def _close(self, association_id: str, outcome: str) -> None:
        try:
            close_association(self._ledger, association_id, outcome=outcome, at=utc_now())
        except Exception as error:  # noqa: BLE001 - the ledger may be down; the sweep repeats this
            _log.warning("end of upload not recorded yet", association=association_id, what=classify(error).what)
            with self._lock:
                self._ended[association_id] = outcome

    def sweep(self) -> None:
        """Record the ends that the ledger has missed."""
        with self._lock:
            missed, self._ended = self._ended, {}
        for association_id, outcome in missed.items():
            self._close(association_id, outcome)
