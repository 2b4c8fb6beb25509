"""Everything that the node counts and measures, for Prometheus.

Any process may import this module and write; it costs one import and a few microseconds a call. Where the numbers of
all processes come together is :mod:`dicom_node.exposition`; what a query of the ledger can tell is not here but there.

Values of labels come from this code, its enums and ``config.yaml``, never from a peer: an unknown one must not be able
to make a new time series, and no label holds patient data.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram, multiprocess, values

__all__ = [
    "ASSOCIATIONS_ACCEPTED",
    "ASSOCIATIONS_ENDED",
    "AUDIT_FILES_LOST",
    "AUDIT_MESSAGES",
    "AUDIT_MESSAGES_NOT_WRITTEN",
    "AUDIT_UNSENT_BYTES",
    "BUCKET_AWAY",
    "CERTIFICATE_EXPIRES",
    "COMMITMENT_SECONDS",
    "CONNECTIONS_REFUSED",
    "DELIVERIES",
    "ECHOES",
    "FLUSH_SECONDS",
    "INSTANCES_RECEIVED",
    "JOB_SECONDS",
    "JOURNAL_BYTES",
    "LEDGER_COMMIT_SECONDS",
    "OBJECTS_QUARANTINED",
    "ORDER_MESSAGES",
    "PROCESS_RESTARTS",
    "RECEIVED_BYTES",
    "STORAGE_CLOSED",
    "STORE_REFUSALS",
    "STORE_RESPONSES",
    "STORE_SECONDS",
    "TURNAROUND_SECONDS",
    "UPLOADS",
    "UPLOADS_WAITING",
    "WEB_REQUESTS_REFUSED",
    "process_died",
]

_SHARED = "PROMETHEUS_MULTIPROC_DIR" in os.environ
"""Whether the processes of a node share their numbers in that directory; else they stay in this process."""


def _file_name(role: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", role)


if _SHARED:
    # The name of the role, unlike a process id, is the same after a restart: counters go on where they were, and no
    # files of the dead pile up. Two lives of a role never overlap.
    _NAME = _file_name(multiprocessing.current_process().name)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _NAME)


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(f"dicom_node_{name}", text, labels)


def _gauge(name: str, text: str, mode: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(f"dicom_node_{name}", text, labels, multiprocess_mode=mode)  # type: ignore[arg-type]


def _histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    return Histogram(f"dicom_node_{name}", text, labels, buckets=tuple(buckets))


_QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SLOW = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1800, 3600)

# Connections and associations.
CONNECTIONS_REFUSED = _counter(
    "connections_refused_total",
    "Connections that did not become associations, by reason: probes and port scans, broken TLS handshakes, unknown "
    "peers, limits.",
    ("reason",),
)
WEB_REQUESTS_REFUSED = _counter(
    "web_requests_refused_total", "Web requests without a valid token (401) or permission (403).", ("status",)
)
ASSOCIATIONS_ACCEPTED = _counter("associations_accepted_total", "Associations accepted from peers.")
ASSOCIATIONS_ENDED = _counter(
    "associations_ended_total", "Accepted associations that ended: released, aborted, connection lost.", ("outcome",)
)
CERTIFICATE_EXPIRES = _gauge(
    "certificate_not_after_timestamp_seconds",
    "When the certificate of this node expires (node.tls); absent without TLS.",
    "livemin",
    # A gauge without a label is 0 in each process that never sets it, and 0 would be the least.
    ("service",),
)
ECHOES = _counter("echoes_total", "C-ECHO requests answered.")

# Reception.
INSTANCES_RECEIVED = _counter(
    "instances_received_total",
    "Instances received whole, by what the ledger made of them: new, duplicate, conflict.",
    ("outcome",),
)
RECEIVED_BYTES = _counter("received_bytes_total", "Bytes of the files of all instances received whole.")
STORE_RESPONSES = _counter(
    "store_responses_total", "Answers to requests to store an instance, by DIMSE status (PS3.4 B.2.3).", ("status",)
)
STORE_REFUSALS = _counter(
    "store_refusals_total", "Requests to store not answered with Success, by reason.", ("reason",)
)
STORE_SECONDS = _histogram("store_duration_seconds", "From the last byte of an instance to the answer.", _QUICK)
FLUSH_SECONDS = _histogram("flush_duration_seconds", "Flushing an instance file and its name to the disk.", _QUICK)
LEDGER_COMMIT_SECONDS = _histogram(
    "ledger_commit_duration_seconds",
    "Committing received instances to the ledger, the wait for its lock included.",
    _QUICK,
)
OBJECTS_QUARANTINED = _counter("objects_quarantined_total", "Objects kept aside instead of taken into the record.")
JOURNAL_BYTES = _gauge(
    "journal_bytes", "Bytes of instances that are acknowledged and wait in a journal to be filed.", "livesum"
)
UPLOADS = _counter("uploads_total", "Instances brought into the bucket.")
UPLOADS_WAITING = _gauge(
    "uploads_waiting", "Instances that are acknowledged, on this host alone, and not in the bucket yet.", "livemax"
)
BUCKET_AWAY = _gauge("bucket_away", "1 while the bucket does not take what this host uploads.", "livemax")
STORAGE_CLOSED = _gauge(
    "storage_closed", "1 while a receiver answers A700 because free space fell under the low watermark.", "livemax"
)

# Orders.
ORDER_MESSAGES = _counter(
    "order_messages_total",
    "HL7 messages about orders: accepted, repeated (accepted before), in error (AE), rejected (AR).",
    ("outcome",),
)

# Jobs and deliveries.
JOB_SECONDS = _histogram("job_duration_seconds", "One attempt of a job, by how it ended.", _SLOW, ("outcome",))
DELIVERIES = _counter(
    "delivery_attempts_total",
    "Attempts to bring one result to one destination: sent, failed (tried again later), dead (given up).",
    ("destination", "outcome"),
)
COMMITMENT_SECONDS = _histogram(
    "commitment_duration_seconds", "From a result sent to the commitment of its destination.", _SLOW, ("destination",)
)
TURNAROUND_SECONDS = _histogram(
    "turnaround_seconds", "From the last image of a study version to the commitment of all its results.", _SLOW
)

# The node itself.
PROCESS_RESTARTS = _counter(
    "process_restarts_total", "Processes of the node that died and were started again.", ("process",)
)
AUDIT_MESSAGES = _counter("audit_messages_total", "Audit messages written, by event (PS3.15 A.5.3).", ("event",))
AUDIT_MESSAGES_NOT_WRITTEN = _counter(
    "audit_messages_not_written_total",
    "Audit messages not written: alerts beyond their rate limit (rate), or a file that cannot be written (file).",
    ("reason",),
)
AUDIT_FILES_LOST = _counter(
    "audit_files_lost_total", "Rotated audit files that were removed before the syslog collector had taken all of them."
)
AUDIT_UNSENT_BYTES = _gauge(
    "audit_unsent_bytes", "Audit messages in the file that the syslog collector has not taken yet.", "livemax"
)


def process_died(role: str) -> None:
    """Count a restart, and forget what only a living process can say; called by the parent of the process."""
    PROCESS_RESTARTS.labels(role).inc()
    if _SHARED:
        multiprocess.mark_process_dead(_file_name(role))
