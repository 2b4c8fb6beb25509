"""The conformance statement of one node: what its configuration and its code make of the general one, in Markdown.

``docs/conformance.md`` tells what every node of this software does; this tells ports, peers, and the presentation
contexts that each of them can negotiate, as :func:`dicom_node.network.capabilities.supported_contexts` gives them to
the receiver itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext

from dicom_node.config import Configuration, DestinationProfile, PeerPermission
from dicom_node.deliver.trial import RESULT_CLASSES
from dicom_node.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SOFTWARE_VERSION
from dicom_node.network.capabilities import UNCOMPRESSED, supported_contexts
from dicom_node.network.sop_classes import LabelMapSegmentationStorage

__all__ = ["conformance_statement"]

_NOBODY = "nobody"


def conformance_statement(configuration: Configuration) -> str:
    """The statement of a node with this configuration; the same each time."""
    parts = (
        _node(configuration),
        _callers(configuration),
        _taken(configuration),
        _destinations(configuration),
        _web(configuration),
        _orders(configuration),
        _security(configuration),
    )
    return "\n".join(line for part in parts for line in part)


def _node(configuration: Configuration) -> Iterator[str]:
    node = configuration.node
    tls = "none"
    if node.tls is not None:
        tls = f"port {node.tls.port}" if node.tls.port is not None else "on the same port, and nothing without it"
    yield f"# DICOM conformance of {node.ae_title}"
    yield ""
    yield f"Of dicom-node {SOFTWARE_VERSION}, by its configuration and code; what every node does: docs/conformance.md."
    yield ""
    yield from _table(
        ("property", "value"),
        (
            ("AE title", node.ae_title),
            ("Address and port", f"{node.address or 'any'}, {node.port}"),
            ("TLS", tls),
            ("Implementation Class UID", str(IMPLEMENTATION_CLASS_UID)),
            ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
            ("Maximum PDU length offered", f"{node.maximum_pdu} bytes"),
            ("Associations at once", str(node.maximum_associations)),
            ("ARTIM, idle time", f"{node.acse_timeout_s:g} s, {node.network_timeout_s:g} s"),
            ("Images kept", f"{configuration.storage.retention_days:g} days after all results were committed"),
        ),
    )


def _callers(configuration: Configuration) -> Iterator[str]:
    yield "## Application entities that are accepted"
    yield ""
    yield "Any other calling AE title is refused (permanent, user, 3)."
    yield ""
    rows = [
        (
            name,
            peer.ae_title,
            peer.host or "any address",
            "required" if peer.tls else "not required",
            ", ".join(sorted(one.value for one in peer.may)),
        )
        for name, peer in configuration.peers.items()
    ]
    yield from _table(("peer", "AE title", "from", "TLS", "may"), rows or [(_NOBODY, "", "", "", "")])


def _taken(configuration: Configuration) -> Iterator[str]:
    by_permission: dict[frozenset[PeerPermission], list[str]] = {}
    for peer in configuration.peers.values():
        by_permission.setdefault(peer.may, []).append(peer.ae_title)
    for may in sorted(by_permission, key=sorted):
        titles = ", ".join(sorted(set(by_permission[may])))
        yield f"## Presentation contexts accepted from {titles}"
        yield ""
        contexts = supported_contexts(may, commitment=configuration.node.commitment)
        yield from _table(
            ("SOP class", "UID", "transfer syntaxes", "role of the peer"),
            ((_name(one.abstract_syntax), str(one.abstract_syntax), _syntaxes(one), _role(one)) for one in contexts),
        )


def _destinations(configuration: Configuration) -> Iterator[str]:
    yield "## Destinations of results"
    yield ""
    rows = [
        (name, _address(configuration, profile), _service(profile), _committed(profile), _rejects(profile))
        for name, profile in configuration.results.destinations.items()
    ]
    yield from _table(
        ("destination", "address", "service", "commitment", "told of what became void"), rows or [(_NOBODY, *[""] * 4)]
    )
    if any(profile.takes_objects for profile in configuration.results.destinations.values()):
        yield "Proposed to a DICOM destination, with the transfer syntaxes of the objects to be sent:"
        yield ""
        syntaxes = "; ".join(one.name for one in UNCOMPRESSED)
        yield from _table(
            ("SOP class", "UID", "transfer syntaxes"), ((one.name, str(one), syntaxes) for one in RESULT_CLASSES)
        )


def _web(configuration: Configuration) -> Iterator[str]:
    web = configuration.web
    if web.port is None:
        return
    yield "## Web services (PS3.18)"
    yield ""
    scheme = "http" if web.certificate is None else "https"
    yield f"STOW-RS at {scheme}://{web.address}:{web.port}, up to {web.maximum_object_mb:g} MB an object, for:"
    yield ""
    yield from _table(("user agent", "may"), ((name, "store") for name in web.peers))


def _orders(configuration: Configuration) -> Iterator[str]:
    orders = configuration.orders
    if orders.port is None:
        return
    yield "## Orders (HL7 v2 over MLLP)"
    yield ""
    yield from _table(
        ("property", "value"),
        (
            ("Address and port", f"{orders.address or 'any'}, {orders.port}"),
            ("Messages", "ORM^O01, OMI^O23, OMG^O19; acknowledged in original mode"),
            ("From", ", ".join(orders.senders)),
            ("TLS", "required, with certificates of both sides" if orders.tls else "none"),
            ("Accession number", f"the first that is there of {', '.join(orders.accession_number)}"),
            ("The same issuer", "; ".join(" = ".join(one) for one in orders.same_issuers) or "only by the same name"),
            ("MSH-11", orders.processing_id),
            ("Longest message", f"{orders.maximum_message_kb} kB"),
            ("Kept", f"{orders.kept_days:g} days"),
        ),
    )


def _security(configuration: Configuration) -> Iterator[str]:
    audit = configuration.audit
    yield "## Security"
    yield ""
    collector = "" if audit.syslog is None else f", sent by syslog over TLS to {audit.syslog.host}:{audit.syslog.port}"
    trail = "none" if audit.file is None else f"PS3.15 A.5 messages in a file{collector}"
    patient = "with" if audit.patient_id else "without"
    tls = "TLS 1.2 or newer, certificates of both sides" if configuration.node.tls is not None else "none"
    yield from _table(
        ("property", "value"),
        (
            ("Secure transport of DICOM", tls),
            ("Audit trail", trail if audit.file is None else f"{trail}, {patient} Patient ID"),
        ),
    )


def _address(configuration: Configuration, profile: DestinationProfile) -> str:
    if profile.peer is not None:
        peer = configuration.peers[profile.peer]
        return f"{peer.ae_title}, {peer.host}:{peer.port}"
    if profile.hl7 is not None:
        return f"{profile.hl7.host}:{profile.hl7.port}"
    service = profile.web or profile.fhir
    assert service is not None
    return service.url


def _service(profile: DestinationProfile) -> str:
    if profile.peer is not None:
        return "C-STORE"
    if profile.web is not None:
        return "STOW-RS"
    return "HL7 v2.5.1 ORU^R01 over MLLP" if profile.hl7 is not None else "FHIR R4 transaction"


def _committed(profile: DestinationProfile) -> str:
    if not profile.takes_objects:
        return "its answer"
    if not profile.storage_commitment:
        return "not asked for"
    return "Storage Commitment Push Model" if profile.peer is not None else "QIDO-RS"


def _rejects(profile: DestinationProfile) -> str:
    if not profile.takes_objects:
        return "no"
    return "by rejection notes (IHE RAD IOCM)" if profile.rejection_notes else "no"


def _name(uid: UID | None) -> str:
    if uid == LabelMapSegmentationStorage:
        return "Label Map Segmentation Storage"
    return "" if uid is None else UID(uid).name


def _syntaxes(context: PresentationContext) -> str:
    return "; ".join(UID(one).name for one in context.transfer_syntax or ())


def _role(context: PresentationContext) -> str:
    roles = [name for name, taken in (("SCU", context.scu_role is not False), ("SCP", bool(context.scp_role))) if taken]
    return ", ".join(roles)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""
