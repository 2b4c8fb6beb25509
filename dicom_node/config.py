"""Configuration: what its sections and keys mean; :mod:`dicom_node.config_file` reads them from the file."""

from __future__ import annotations

import enum
import ipaddress
import os
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from dicom_node.errors import ConfigurationError
from dicom_node.patterns import check_pattern
from pipelines.indication import Indication
from pipelines.models.precision import Precision
from pipelines.sampling import SAMPLES_MAX, STEPS_MAX, Sampling

__all__ = [
    "AETitle",
    "AssessmentCode",
    "AuditSettings",
    "BucketSettings",
    "ClientTls",
    "Configuration",
    "ConfigurationPath",
    "ConflictAnswer",
    "ConsoleSettings",
    "DataPath",
    "DeliveryPolicy",
    "DestinationProfile",
    "ExecutionSettings",
    "FhirDestination",
    "Hl7Destination",
    "Host",
    "HostRole",
    "HttpServerSettings",
    "HttpService",
    "IdentityProviderSettings",
    "LogSettings",
    "MailSecurity",
    "MailSettings",
    "MetricsSettings",
    "NodeSettings",
    "NotificationCause",
    "NotificationSettings",
    "NumberRule",
    "OrderRule",
    "OrderSettings",
    "ParagraphSettings",
    "Peer",
    "PeerPermission",
    "RaySettings",
    "ResultSettings",
    "Route",
    "Secret",
    "SegmentationTarget",
    "SeriesRule",
    "StorageSettings",
    "SyntheticImageClass",
    "SyntheticPolicy",
    "SyslogSettings",
    "TlsSettings",
    "WebDestination",
    "WebPeer",
    "WebSettings",
    "secure_or_nearby",
]

BASE = "base"
"""Key of the validation context: the directory that relative paths are relative to."""


def _ae_title(value: str) -> str:
    value = value.strip()
    if not value or len(value) > 16 or not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]+", value):
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without a backslash (PS3.5 6.2, VR AE)")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", value):
        raise ValueError("a name begins with a small letter or digit and has at most 41 small letters, digits, - and _")
    return value


def _host_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}", value):
        raise ValueError("the name of a host has at most 40 letters, digits, dots and hyphens")
    return value


def _web_peer_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}", value):
        raise ValueError("the name of a web peer has at most 16 letters, digits, hyphens and underscores")
    return value


def _host(value: str) -> str:
    """A host alone: no port, no scheme."""
    value = value.strip()
    name, colon, port = value.rpartition(":")
    if "://" in value or "/" in value:
        raise ValueError("a host is a name or an address: leave out the scheme and the path")
    if colon and ":" not in name and port.isdigit():
        raise ValueError(f"a port does not belong here: write host: {name} and port: {port}")
    if any(character.isspace() for character in value):
        raise ValueError("a host holds no blank")
    _can_be_asked_for(value)
    return value


def _can_be_asked_for(host: str) -> None:
    """Refuse what no name server can be asked for: Python raises for it where nobody expects it (RFC 3490)."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"{host!r} can be no host: each part of a name, between dots, has 1 to 63 letters") from None


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", value):
        raise ValueError("a device is cpu, or cuda:0, cuda:1 and so on for the first, second and further GPU")
    return value


def _time_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be the name of a time zone, such as Europe/Berlin") from None
    return value


def _token_digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be the SHA-256 of the token: 64 hexadecimal digits, small letters")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable")
    return value


def _from_the_file(path: Path, information: ValidationInfo) -> Path:
    return (information.context or {}).get(BASE, Path()) / path


def _database(value: str, info: ValidationInfo) -> str:
    """A SQLite file is relative to the directory of the configuration file."""
    backend = value.partition("://")[0].partition("+")[0]
    if "://" not in value or backend not in ("sqlite", "postgresql"):
        raise ValueError(
            "the ledger lives in SQLite or PostgreSQL: write sqlite:///path/of/ledger.sqlite or "
            "postgresql+psycopg://user:password@host/database"
        )
    scheme = "sqlite:///"
    if value.startswith(scheme):
        return f"{scheme}{_from_the_file(Path(value.removeprefix(scheme)), info)}"
    return value


def _analysis(value: str) -> str:
    # Names only: whoever reads the configuration need not import any analysis.
    from pipelines.package import package_names

    names = package_names()
    if value not in names:
        raise ValueError(f"no analysis is named {value!r}; there are: {', '.join(names)}")
    return value


def _hl7_name(value: str) -> str:
    if len(value) > 180 or not re.fullmatch(r"[\x20-\x7e]*", value) or any(sign in value for sign in "|~\\&"):
        raise ValueError("must be printable ASCII without | ~ \\ and &")
    return value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value.strip()))
    except ValueError:
        raise ValueError("must be an IP address, or a network such as 10.0.0.0/24") from None


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL of a web service begins with http:// or https:// and a host")
    _can_be_asked_for(parts.hostname)
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into a URL: use token or basic")
    if parts.query or parts.fragment:
        raise ValueError("the URL of a web service has no query and no fragment")
    _ = parts.port  # raises ValueError when it is not a number of a port
    return value.rstrip("/")


def secure_or_nearby(url: str) -> bool:
    """Whether nobody on the way reads what goes to a URL: https://, or this machine itself."""
    parts = urlsplit(url)
    host = str(parts.hostname)
    nearby = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "https" or (parts.scheme == "http" and nearby)


AETitle = Annotated[str, AfterValidator(_ae_title)]
AnalysisName = Annotated[str, AfterValidator(_analysis)]
"""Name of an analysis package (:mod:`pipelines.package`)."""
ConfigurationPath = Annotated[Path, AfterValidator(_from_the_file)]
"""A path that is relative to the directory of the configuration file."""
DatabaseUrl = Annotated[str, AfterValidator(_database)]
HostAddress = Annotated[str, AfterValidator(_host)]
HostName = Annotated[str, AfterValidator(_host_name)]
"""Of a machine that runs a part of the node; stands at the beginning of names in the ledger."""
DeviceName = Annotated[str, AfterValidator(_device)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Network = Annotated[str, AfterValidator(_network)]
"""An IP address or a network of them."""
Pattern = Annotated[str, AfterValidator(check_pattern)]
MailAddress = Annotated[str, Field(pattern=r"^[^@\s<>,;]+@[^@\s<>,;]+$")]
Hl7Name = Annotated[str, AfterValidator(_hl7_name)]
"""A hierarchic designator (HD): a name, or name^universal ID^type."""
Name = Annotated[str, AfterValidator(_name)]
WebPeerName = Annotated[str, AfterValidator(_web_peer_name)]
"""Stands where an AE title stands when a peer calls by DICOM: in the ledger, the files and the routes."""
Seconds = Annotated[float, Field(gt=0)]
_CODE = r"^\S{1,16} \S{1,64}$"
"""Coding scheme designator and code value."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataPath(enum.StrEnum):
    """How the data of a C-STORE request come from the socket to the disk."""

    DIRECT = "direct"
    """Straight into the file (:mod:`dicom_node.network.direct`)."""
    STOCK = "stock"
    """Through the queues of pynetdicom: several times slower, and the object is held in memory."""


class TlsSettings(_Section):
    """Credentials for secure associations, accepted and made; both sides show a certificate."""

    certificate: ConfigurationPath
    """Certificate of this node, PEM, followed by intermediate ones if there are any."""
    key: ConfigurationPath
    """Its private key, PEM without a password."""
    trusted: ConfigurationPath
    """Certificate authorities, or self-signed certificates, of the peers; PEM."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port for TLS beside ``node.port`` without it; unset means that ``node.port`` takes nothing but TLS."""


class NodeSettings(_Section):
    """Who this node is on the DICOM network."""

    ae_title: AETitle = "DICOMNODE"
    host: HostName | None = None
    """Which of ``hosts`` this machine is; unset means the one that is named as the machine calls itself."""
    address: str = "0.0.0.0"
    port: int = Field(default=11112, ge=1, le=65535)
    share_port: bool = False
    """Let another host of this node on the same machine, of the same user, listen on the port too (SO_REUSEPORT):
    the one takes new associations while the other, which was told to stop, ends those that it has."""
    drain_s: float = Field(default=5, ge=0, le=3600)
    """Time for open associations to end when the node is told to stop; what is open then is aborted."""
    maximum_pdu: int = Field(default=131072, ge=4096, le=1048576)
    """Maximum PDU length offered to peers, bytes."""
    maximum_associations: int = Field(default=32, ge=1, le=256)
    maximum_associations_per_address: int | None = Field(default=None, ge=1)
    """Unset: three quarters of ``maximum_associations``."""
    """Associations that peers may have open at once, over all receiver processes."""
    network_timeout_s: Seconds = 60
    """Idle and partial-PDU time limit of an association."""
    acse_timeout_s: Seconds = 15
    """Time for a TLS handshake, for an association request to arrive (ARTIM), and for a peer's answer to ours."""
    receiver_processes: int = Field(default=2, ge=1, le=16)
    """Processes that accept associations on the one port."""
    data_path: DataPath = DataPath.DIRECT
    maximum_matches: int = Field(default=1000, ge=1)
    """Of one query; beyond that it is answered A700."""
    commitment: bool = False
    """Whether senders may ask for storage commitment. The node then keeps what it committed to for
    ``storage.retention_days`` from its report, and no longer: it is no archive."""
    tls: TlsSettings | None = None
    """Secure associations; unset means that there are none."""

    @model_validator(mode="after")
    def _ports_differ(self) -> NodeSettings:
        if self.tls is not None and self.tls.port == self.port:
            raise ValueError("tls.port is node.port: leave it out, and node.port takes nothing but TLS")
        return self


class PeerPermission(enum.StrEnum):
    """What a peer may do."""

    SEND = "send"
    """Send images to this node (C-STORE) and test it (C-ECHO)."""
    RECEIVE = "receive"
    """Be a destination of results."""
    QUERY = "query"
    """Query and retrieve what this node holds (C-FIND, C-GET, C-MOVE)."""


class ConflictAnswer(enum.StrEnum):
    """What is done with other bytes under a SOP Instance UID that is held already."""

    ACCEPT = "accept"
    """Success, so that the sender's queue moves on; the first is kept and the other goes to quarantine."""
    REFUSE = "refuse"
    """Cxxx; the first is kept and the other goes to quarantine."""
    REPLACE = "replace"
    """Success; the other stands in for the first, which goes to quarantine, and the study gets a new version."""


class Peer(_Section):
    """Another application entity."""

    ae_title: AETitle
    host: HostAddress = ""
    """Host name or address; for a sender, empty means from anywhere."""
    port: int | None = Field(default=None, ge=1, le=65535)
    may: frozenset[PeerPermission] = frozenset({PeerPermission.SEND})
    conflicts: ConflictAnswer | None = None
    """Answer to other bytes under a SOP Instance UID that is held already; unset means ``storage.conflicts``."""
    maximum_associations: int | None = Field(default=None, ge=1)
    """Associations that it may have open at once; unset means three quarters of ``node.maximum_associations``."""
    tls: bool = False
    """Call it over TLS, and take no association from it without."""
    certificate: str | None = Field(default=None, min_length=1)
    """SHA-256 fingerprint, or common name of the subject, of the one certificate that is this peer's; unset means any
    that ``node.tls.trusted`` signs (and, when it is called, that names its host)."""

    @model_validator(mode="after")
    def _certificates_need_tls(self) -> Peer:
        if self.certificate is not None and not self.tls:
            raise ValueError("a peer with a 'certificate' needs 'tls: true'")
        return self

    @model_validator(mode="after")
    def _destination_has_an_address(self) -> Peer:
        if PeerPermission.RECEIVE in self.may and (not self.host or self.port is None):
            raise ValueError("a peer that may 'receive' needs host and port")
        return self


class OrderRule(_Section):
    """What the order of a study says (section ``orders``): one order must match every given key, each by one of its
    values. Patterns are regular expressions on the whole value: on code and text, each by itself."""

    procedure: Pattern | None = None
    """What is to be done: OBR-4, OBR-44."""
    reason: Pattern | None = None
    """Why: OBR-31 (reason for study), OBR-13 (relevant clinical information)."""
    diagnosis: Pattern | None = None
    """DG1-3, DG1-4."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> OrderRule:
        if self.procedure is None and self.reason is None and self.diagnosis is None:
            raise ValueError("give at least one of 'procedure', 'reason', 'diagnosis'")
        return self


class SeriesRule(_Section):
    """Which series a route takes; every given key must match, patterns are regular expressions on the whole value."""

    modality: str = "MR"
    manufacturer: Pattern | None = None
    study_description: Pattern | None = None
    series_description: Pattern | None = None
    calling_ae_title: Pattern | None = None
    body_part_examined: Pattern | None = None
    minimum_phases: int | None = Field(default=10, ge=1)
    """Cardiac phases at one slice position, which make a cine; late enhancement and flow go with the cine of their
    study. Null takes series of any kind."""
    minimum_slices: int | None = Field(default=None, ge=1)
    """Slice positions of all series that match the other keys."""
    exclude_series_description: Pattern | None = None
    order: OrderRule | None = None
    """Of the study, by its accession number; one that comes later counts from then on."""


class SamplingSettings(_Section):
    """Samples that synthetic enhancement draws, and steps of each: docs/synthetic_enhancement.md has the cost."""

    samples: int = Field(default=Sampling().samples, ge=2, le=SAMPLES_MAX)
    steps: int = Field(default=Sampling().steps, ge=1, le=STEPS_MAX)
    precision: Precision = Sampling().precision


class Route(_Section):
    """Which series go to which analyses, and where the results go."""

    series: tuple[SeriesRule, ...] = (SeriesRule(),)
    """Any of these rules is enough."""
    analyses: tuple[AnalysisName, ...] = ("ventricular_function",)
    """Names of analysis packages, as ``dicom-node analyses`` lists them; reports compose in this order."""
    destinations: tuple[Name, ...]
    leaves_to: frozenset[Name] = frozenset()
    """Routes before which this one stands back: it takes nothing of a study of which a rule of theirs takes any."""
    priority: int = Field(default=50, ge=0, le=100)
    """Higher runs first."""
    deadline_s: Seconds = 600
    """A job is late when it has not ended this long after its study was complete."""
    indication: Indication | None = None
    """Why the patients of the studies that this route takes were examined. Analyses that are for one disease only
    decline where it is not theirs."""
    synthetic_sampling: SamplingSettings = SamplingSettings()
    """Of ``synthetic_enhancement``."""

    @model_validator(mode="after")
    def _analyses_are_told_once(self) -> Route:
        if not self.analyses:
            raise ValueError("a route needs at least one analysis")
        if len(set(self.analyses)) != len(self.analyses):
            raise ValueError("an analysis is named twice")
        return self


class BucketSettings(_Section):
    """S3 bucket in which instance files, results and quarantined objects lie (``pip install 'dicom-node[s3]'``)."""

    url: str = Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*/?$")
    """``s3://bucket/prefix``: nothing but this node's below it."""
    endpoint: Endpoint | None = None
    """URL of an S3 server; unset means AWS."""
    region: str | None = Field(default=None, min_length=1)
    access_key: Secret | None = None
    """Unset: what AWS's own programs would use (environment, ``~/.aws``, role of the machine)."""
    secret_key: Secret | None = None
    cache_mb: int = Field(default=20_000, ge=0)
    """Megabytes (10⁶ bytes) of copies that each host keeps in its storage directory; what was used within half an hour
    stays also beyond."""

    @model_validator(mode="after")
    def _credentials_are_whole_and_kept_secret(self) -> BucketSettings:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together: give both or neither")
        if self.endpoint is not None and not secure_or_nearby(self.endpoint):
            raise ValueError("endpoint: patient data go over https://, except within this machine")
        return self


class StorageSettings(_Section):
    """Where state lives."""

    database: DatabaseUrl = Field(default="sqlite:///var/ledger.sqlite", validate_default=True)
    """SQLAlchemy URL; SQLite or PostgreSQL (``postgresql+psycopg://…``)."""
    directory: ConfigurationPath = Field(default=Path("var/instances"), validate_default=True)
    """Of the instance files; with ``bucket`` a directory of each host's own, in which what comes in lies until it is
    uploaded."""
    bucket: BucketSettings | None = None
    """Unset: instance files stay in ``directory``."""
    retention_days: float = Field(default=14, gt=0)
    """Instances of a study are removed this long after all its results were committed."""
    low_watermark_mb: int = Field(default=2048, ge=0)
    """Free space under which C-STORE is answered with A700."""
    high_watermark_mb: int = Field(default=4096, ge=0)
    """Free space over which C-STORE is accepted again."""
    quarantine_days: float = Field(default=30, gt=0)
    history_days: float = Field(default=365, gt=0, le=36_500)
    """A study is forgotten, with all that happened to it, this long after its files were removed; an association this
    long after its end, once no study is known that it brought."""
    conflicts: Literal[ConflictAnswer.ACCEPT, ConflictAnswer.REFUSE] = ConflictAnswer.ACCEPT
    """Answer to other bytes under a SOP Instance UID that is held already, for peers that have none of their own;
    ``replace`` is for single peers only, whose corrections are to be believed."""
    durable: bool = True
    """Whether Success waits for the disk. Switched off only by benchmarks: a power cut then loses images that the
    scanner has deleted."""
    journal_mb: int = Field(default=64, ge=0, le=4096)
    """Megabytes (10⁶ bytes) that a receiver process may have acknowledged before they are instance files and rows of
    the ledger; until then they are in its journal, on the same disk. 0 has none: each image is filed before Success.
    A node on several ``hosts`` has none either."""

    @model_validator(mode="after")
    def _watermarks_are_ordered(self) -> StorageSettings:
        if self.high_watermark_mb < self.low_watermark_mb:
            raise ValueError("high_watermark_mb must not be below low_watermark_mb (both are free space)")
        return self


class RaySettings(_Section):
    """Where jobs run with ``execution.engine: ray``; devices, slots and threads of ``execution`` are of the other."""

    address: str | None = Field(default=None, pattern=r"^[^\s:/]+:\d+$")
    """``host:port`` of the head of a Ray cluster that this machine belongs to; unset starts a Ray of its own here."""
    actors: int = Field(default=1, ge=1, le=1024)
    """Each holds the models and runs one job at a time."""
    background_actors: int = Field(default=1, ge=0, le=1024)
    """Further ones, as ``background_slots`` of ``execution``."""
    cpus_per_actor: int = Field(default=1, ge=1)
    """Reserved for it, and its threads."""
    gpus_per_actor: float = Field(default=0, ge=0, le=1)
    """Share of one GPU: with 0.5 two actors work on each. 0 computes on the CPU."""


class ExecutionSettings(_Section):
    """How jobs run."""

    engine: Literal["local", "ray"] = "local"
    ray: RaySettings = RaySettings()
    devices: tuple[DeviceName, ...] = Field(default=("cpu",), min_length=1)
    """Torch devices; each gets ``slots_per_device`` worker processes with warm models."""
    slots_per_device: int = Field(default=1, ge=1, le=16)
    background_slots: int = Field(default=1, ge=0, le=16)
    """Further worker processes of each device, for analyses that give way to the quick ones (packages of a negative
    priority); at the lowest priority of the operating system. With 0 the others take those jobs too, when nothing else
    waits: less memory, and a quick analysis may wait until a slow one has ended."""
    threads_per_slot: int | None = Field(default=None, ge=1)
    """CPU threads of one worker; unset means all cores divided by the slots."""
    job_timeout_s: Seconds | None = None
    """A job that runs longer is killed; unset means what its analysis package says."""
    maximum_attempts: int | None = Field(default=None, ge=1)
    """Attempts at a job; unset means what its analysis package says."""
    free_memory_mb: int = Field(default=1024, ge=0)
    """Below so much free memory (2^20 bytes) an idle worker lets go of its models, and loads them when needed."""
    quiet_time_s: Seconds = 20
    """A study without a recognised complete cine is taken as complete after this silence."""
    incomplete_quiet_time_s: Seconds = 300
    """The same while the short axis is plainly incomplete: by what the scanner declared, by gaps, by the length of the
    heart that it covers, or because a slice has only begun to come."""
    complete_quiet_time_s: Seconds = 1
    """The same once every slice has all its phases and no association that sent it is open."""
    missing_images_quiet_time_s: Seconds = 300
    """The same while an ended performed procedure step (MPPS) names images that are missing of a series that has begun
    to come."""


class SegmentationTarget(enum.StrEnum):
    """What a SEG references."""

    KEY_PHASE = "key-phase"
    """The derived key-phase series: what OHIF draws."""
    SOURCE = "source"
    """The source cine images."""


class SyntheticImageClass(enum.StrEnum):
    """As what synthetic images are sent."""

    SECONDARY_CAPTURE = "SC"
    """Secondary Capture, with the plane of the cine: nobody takes it for an acquisition."""
    MR = "MR"
    """MR Image, where a PACS does not scroll Secondary Captures together with the cine."""


class SyntheticPolicy(_Section):
    """Synthetic late enhancement at a destination.

    With a threshold set the destination gets nothing of it until the comparisons of this site, synthetic with acquired
    late enhancement of the same studies (``dicom-node shadow``), pass all that are set.
    """

    sop_class: SyntheticImageClass = SyntheticImageClass.SECONDARY_CAPTURE
    minimum_studies: int | None = Field(default=None, ge=1)
    """Compared studies."""
    minimum_r: float | None = Field(default=None, ge=-1, le=1)
    """Pearson's correlation of predicted and acquired extent."""
    minimum_auc: float | None = Field(default=None, ge=0, le=1)
    """Area under the receiver operating characteristic of the probability of enhancement, by study."""

    @model_validator(mode="after")
    def _figures_are_of_enough_studies(self) -> SyntheticPolicy:
        if self.minimum_studies is None and (self.minimum_r is not None or self.minimum_auc is not None):
            raise ValueError("minimum_r and minimum_auc need minimum_studies: figures of a few studies say nothing")
        return self

    @property
    def has_thresholds(self) -> bool:
        """Whether anything has to be passed."""
        return any(one is not None for one in (self.minimum_studies, self.minimum_r, self.minimum_auc))


class Secret(_Section):
    """A value that is kept outside the configuration file."""

    environment: Annotated[str, AfterValidator(_variable)] | None = None
    """Name of the environment variable that holds it."""
    file: ConfigurationPath | None = None
    """File that holds it; white space around it is not part of it."""

    @model_validator(mode="after")
    def _lies_in_one_place(self) -> Secret:
        if (self.environment is None) == (self.file is None):
            raise ValueError("give either 'environment' or 'file'")
        return self

    def read(self) -> str:
        """The value as it is now: a secret that was renewed needs no restart when it lies in a file.

        Raises
        ------
        ConfigurationError
            It is not there, or not text of one line.
        """
        where = f"environment variable {self.environment}" if self.file is None else f"file {self.file}"
        try:
            value = os.environ[str(self.environment)] if self.file is None else self.file.read_text(encoding="utf-8")
        except (KeyError, OSError, UnicodeDecodeError) as error:
            raise ConfigurationError("the secret cannot be read", subject=where, remedy="provide it") from error
        value = value.strip()
        if not value or not value.isprintable():
            raise ConfigurationError("the secret is not one line of text", subject=where, remedy="correct it")
        return value


class ClientTls(_Section):
    """How this node proves who it is, and what it trusts, when it calls a server over TLS."""

    trusted: ConfigurationPath
    """Certificates (PEM) of those who may sign the server's."""
    certificate: ConfigurationPath | None = None
    """This node's, with what leads to its root (PEM)."""
    key: ConfigurationPath | None = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> ClientTls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self


class HttpService(_Section):
    """A web service that takes results, and how this node proves there who it is."""

    url: Endpoint
    """Root of the service."""
    token: Secret | None = None
    """Bearer token (RFC 6750)."""
    basic: Secret | None = None
    """``user:password`` (RFC 7617)."""
    cleartext_credentials: bool = False
    """Send credentials over http:// to another machine, too."""
    trusted: ConfigurationPath | None = None
    """Certificates (PEM) to trust instead of those of the system."""
    certificate: ConfigurationPath | None = None
    """Client certificate (PEM), with its chain."""
    key: ConfigurationPath | None = None
    connect_timeout_s: Seconds = 10

    @model_validator(mode="after")
    def _is_consistent(self) -> HttpService:
        if self.token is not None and self.basic is not None:
            raise ValueError("give either 'token' or 'basic'")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("'certificate' and 'key' belong together")
        parts = urlsplit(self.url)
        if parts.scheme == "http":
            if self.certificate is not None or self.trusted is not None:
                raise ValueError("certificates need an https:// URL")
            nearby = parts.hostname == "localhost" or str(parts.hostname).startswith("127.")
            if (self.token or self.basic) and not nearby and not self.cleartext_credentials:
                raise ValueError("credentials over http:// can be read on the way: use https://")
        return self


class WebDestination(HttpService):
    """A DICOMweb service (STOW-RS, PS3.18 10.5): instances are posted to ``url/studies``."""

    maximum_request_mb: float = Field(default=64, gt=0)
    """Instances that exceed this together go in several requests, megabytes (10⁶ bytes)."""


class FhirDestination(HttpService):
    """A FHIR R4 server: a transaction bundle of the numbers is posted to ``url``."""

    patient_system: str = "urn:dicom:patient-id"
    """System of the Patient ID where the image names no issuer (``Identifier.system``)."""
    accession_system: str = "urn:dicom:accession-number"
    """System of the accession number."""


class Hl7Destination(_Section):
    """A receiver of HL7 v2.5.1 messages: ORU^R01 over MLLP."""

    host: HostAddress
    port: int = Field(ge=1, le=65535)
    tls: ClientTls | None = None
    sending_application: Hl7Name = "DICOMNODE"
    """MSH-3."""
    sending_facility: Hl7Name = ""
    """MSH-4."""
    receiving_application: Hl7Name = ""
    """MSH-5."""
    receiving_facility: Hl7Name = ""
    """MSH-6."""
    processing_id: Literal["P", "T", "D"] = "P"
    """MSH-11: production, training or debugging."""
    connect_timeout_s: Seconds = 10

    @model_validator(mode="after")
    def _has_a_host(self) -> Hl7Destination:
        if not self.host:
            raise ValueError("an HL7 receiver needs a host")
        return self


class DestinationProfile(_Section):
    """Where results go, and what the viewer there can show."""

    peer: Name | None = None
    """A DICOM destination: one of ``peers``."""
    web: WebDestination | None = None
    """A DICOMweb destination."""
    hl7: Hl7Destination | None = None
    """A receiver of HL7 messages: gets the numbers and the paragraph of each study, and no images."""
    fhir: FhirDestination | None = None
    """A FHIR server: the same."""
    segmentation_references: SegmentationTarget = SegmentationTarget.KEY_PHASE
    omit_empty_frames: bool = False
    """OHIF misplaces a SEG whose empty frames were left out."""
    summary_pdf: bool = True
    summary_secondary_capture: bool = True
    strain_map: bool = False
    """Send it circumferential strain at end systole as a Parametric Map too; few viewers draw one."""
    storage_commitment: bool = True
    """Ask for storage commitment; of a DICOMweb destination, look each instance up there."""
    commitment_timeout_s: Seconds = 60
    commitment_reported_by: frozenset[Name] = frozenset()
    """Peers that report storage commitment for this destination, where that is not its own AE title."""
    synthetic: SyntheticPolicy = SyntheticPolicy()
    rejection_notes: bool = True
    """Send it the notes that reject results which a later version or a deletion made void (IHE RAD IOCM)."""

    @model_validator(mode="after")
    def _is_one_place(self) -> DestinationProfile:
        if sum(one is not None for one in (self.peer, self.web, self.hl7, self.fhir)) != 1:
            raise ValueError("a destination is one of: a 'peer', a 'web' service, an 'hl7' receiver, a 'fhir' server")
        return self

    @property
    def takes_objects(self) -> bool:
        """Whether it takes DICOM objects; the others get a message for each front page."""
        return self.peer is not None or self.web is not None


class ParagraphSettings(_Section):
    """The paragraph for the radiologist's report, on the front page of each study's results."""

    language: Literal["english", "german"] = "english"
    template: ConfigurationPath | None = None
    """A template of one's own in place of the one of the language; ``paragraphs/english.yaml`` explains itself."""
    compare: bool = True
    """Compare with the last examination of the same patient whose images are held here."""


class AssessmentCode(_Section):
    """One coded answer with which a structured report of another system judges results of this node."""

    code: str = Field(pattern=_CODE)
    """Coding scheme designator and code value of the answer: ``DCM 113001``."""
    means: Literal["accepted", "corrected", "rejected"]
    question: str | None = Field(default=None, pattern=_CODE)
    """Coding scheme designator and code value of the concept name that the answer is to; unset means any."""


class ResultSettings(_Section):
    """How results are labelled and for whom."""

    series_number_base: int = Field(default=9000, ge=1, le=99000)
    institution: str = ""
    contact: str = ""
    """Whom to ask about a result; printed on the summary page."""
    time_zone: Annotated[str, AfterValidator(_time_zone)] | None = None
    """IANA name of the zone of dates and times in results of images that state none; the system's when unset."""
    patient_on_pages: bool = True
    """Name, ID, birth date, study date and accession number at the head of each page. Off for research sites: what is
    drawn into pixels stays when headers lose their identity."""
    paragraph: ParagraphSettings = ParagraphSettings()
    normal_ranges: ConfigurationPath | None = None
    """Table of normal ranges by sex and age, with its source, in place of the one that comes with this software; laid
    out as ``pipelines/function/normals.yaml``."""
    destinations: dict[Name, DestinationProfile] = Field(default_factory=dict)
    assessment_codes: tuple[AssessmentCode, ...] = (
        AssessmentCode(code="SCT 385645004", means="accepted"),
        AssessmentCode(code="99DICOMNODE ASM_ACCEPTED", means="accepted"),
        AssessmentCode(code="99DICOMNODE ASM_CORRECTED", means="corrected"),
        AssessmentCode(code="99DICOMNODE ASM_REJECTED", means="rejected"),
        AssessmentCode(code="DCM 113001", means="rejected"),
        AssessmentCode(code="DCM 113037", means="rejected"),
    )
    """What structured reports of other systems answer that accepts, corrects or rejects results of this node."""

    @property
    def message_receivers(self) -> frozenset[str]:
        """Destinations that get a message for each front page, and no objects."""
        return frozenset(name for name, profile in self.destinations.items() if not profile.takes_objects)


class DeliveryPolicy(_Section):
    """The one retry policy: exponential with full jitter, capped, then dead letter."""

    first_delay_s: Seconds = 2
    multiplier: float = Field(default=2, gt=1)
    maximum_delay_s: Seconds = 600
    maximum_attempts: int = Field(default=12, ge=1)
    response_timeout_s: Seconds = 30


class WebPeer(_Section):
    """A user agent that may call this node's web services."""

    token_sha256: Annotated[str, AfterValidator(_token_digest)]
    """SHA-256 of its bearer token; the token itself is nowhere on this node."""
    may: frozenset[Literal[PeerPermission.SEND]] = frozenset({PeerPermission.SEND})
    conflicts: ConflictAnswer | None = None
    """As of a DICOM peer."""


class HttpServerSettings(_Section):
    """Where a process of this node serves HTTP."""

    address: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=1, le=65535)
    """Unset: it is off, and there is no process for it."""
    certificate: ConfigurationPath | None = None
    """Server certificate (PEM), with its chain; unset means http://."""
    key: ConfigurationPath | None = None
    without_tls: bool = False
    """Serve http:// on an address that other machines reach, too."""

    @model_validator(mode="after")
    def _is_encrypted_or_nearby(self) -> HttpServerSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("'certificate' and 'key' belong together")
        nearby = self.address in ("localhost", "::1") or self.address.startswith("127.")
        if self.port is not None and self.certificate is None and not nearby and not self.without_tls:
            raise ValueError(
                f"what is said over http:// can be read on the way to {self.address or 'every address'}, tokens, "
                "passwords and images: give 'certificate' and 'key', or say 'without_tls: true' where a proxy does TLS"
            )
        return self


class WebSettings(HttpServerSettings):
    """This node's web services."""

    maximum_object_mb: float = Field(default=2048, gt=0)
    """A larger instance is refused, megabytes (10⁶ bytes)."""
    maximum_requests: int = Field(default=16, ge=1, le=256)
    """Requests that store at the same time; more are told to come again (503)."""
    peers: dict[WebPeerName, WebPeer] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tokens_differ(self) -> WebSettings:
        digests = [peer.token_sha256 for peer in self.peers.values()]
        if len(set(digests)) != len(digests):
            raise ValueError("two peers have the same token")
        return self


IssuerName = Annotated[str, Field(pattern=r"\S", max_length=200)]
"""As a message or a header names an issuer."""


class OrderSettings(_Section):
    """Orders of a hospital's information system, HL7 v2 over MLLP: images do not tell why a patient is examined."""

    address: str = "0.0.0.0"
    port: int | None = Field(default=None, ge=1, le=65535)
    """Unset: it is off, and there is no process for it."""
    senders: tuple[Network, ...] = ()
    """From where orders are taken; a connection from anywhere else is closed."""
    tls: bool = False
    """Take nothing without TLS, by ``node.tls``: the sender shows a certificate that it trusts."""
    accession_number: tuple[Literal["IPC-1", "OBR-2", "OBR-3", "OBR-18", "OBR-19", "ORC-2", "ORC-3"], ...] = Field(
        default=("IPC-1", "OBR-18", "OBR-3", "ORC-3"), min_length=1
    )
    """Where the accession number stands; the first of these fields that holds anything."""
    same_issuers: tuple[Annotated[tuple[IssuerName, ...], Field(min_length=2)], ...] = ()
    """Names and universal IDs, of who gives numbers of patients or accession numbers, that mean the same: for systems
    that call one hospital differently. Without it, only the same name is the same issuer."""
    processing_id: Literal["P", "T", "D"] = "P"
    """MSH-11 of the messages that count; others are rejected."""
    maximum_message_kb: int = Field(default=256, ge=4, le=4096)
    """A longer message is rejected and its connection closed, kilobytes (1024 bytes)."""
    maximum_connections: int = Field(default=16, ge=1, le=256)
    """Open at once; more are closed."""
    kept_days: float = Field(default=60, gt=0, le=3650)
    """An order is forgotten so long after it came: for longer than from an order to its examination."""

    @model_validator(mode="after")
    def _knows_its_senders(self) -> OrderSettings:
        if self.port is not None and not self.senders:
            raise ValueError("orders decide what is analysed: name in 'senders' the addresses that they may come from")
        return self


class IdentityProviderSettings(_Section):
    """A hospital's identity provider, asked by OpenID Connect who logs in to the console."""

    issuer: Endpoint
    """As it names itself; what it says of itself is read at ``issuer/.well-known/openid-configuration``."""
    client_id: str = Field(min_length=1)
    """As which this node is registered there."""
    client_secret: Secret | None = None
    """Unset for a public client; PKCE protects the log-in either way."""
    url: Endpoint
    """Address of the console as browsers reach it."""
    title: str = Field(default="hospital account", min_length=1, max_length=40)
    """What people know it by."""
    scopes: tuple[str, ...] = ("profile",)
    """Asked for besides ``openid``."""
    name_claim: str = Field(default="preferred_username", min_length=1)
    """Which claim becomes the name of the account."""
    role_claim: str = Field(default="groups", min_length=1)
    """Which claim says what a person may do: one value or a list; with dots, a path (``realm_access.roles``)."""
    roles: dict[Literal["viewer", "operator", "administrator"], frozenset[str]] = Field(min_length=1)
    """Which values of that claim make somebody what; of several roles, the highest."""
    trusted: ConfigurationPath | None = None
    """Certificates (PEM) to trust instead of those of the system."""

    @property
    def redirect_uri(self) -> str:
        """Where the provider sends browsers back to."""
        return f"{self.url}/log-in/provider/answer"

    @model_validator(mode="after")
    def _cannot_be_read_on_the_way(self) -> IdentityProviderSettings:
        for key in ("issuer", "url"):
            if not secure_or_nearby(getattr(self, key)):
                raise ValueError(f"'{key}' has to be https://: what is said over http:// can be read and changed")
        if not any(self.roles.values()):
            raise ValueError("'roles' lets nobody in: name at least one value of the claim")
        return self


class ConsoleSettings(HttpServerSettings):
    """The console: pages and a REST API for the people who run the node and read its results."""

    idle_minutes: float = Field(default=30, gt=0)
    """A session ends when nothing was asked for so long."""
    session_hours: float = Field(default=12, gt=0)
    """A session ends after that, whatever is done in it."""
    patients_for: Literal["viewer", "operator", "administrator"] | None = None
    """From which role on people may see what names a patient: pages of results that show the name. Unset: nobody."""
    identity_provider: IdentityProviderSettings | None = None
    """Who says who people are, besides the accounts of the console itself; unset: only those."""


class MetricsSettings(_Section):
    """Where Prometheus reads how the node is."""

    address: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=1, le=65535)
    """``http://address:port/metrics``; unset means not served."""


class SyslogSettings(_Section):
    """The audit record repository: a syslog collector over TLS (PS3.15 A.6)."""

    host: HostAddress = Field(min_length=1)
    """As in the collector's certificate."""
    port: int = Field(default=6514, ge=1, le=65535)
    tls: ClientTls


class AuditSettings(_Section):
    """The DICOM audit trail (PS3.15 A.5)."""

    file: ConfigurationPath | None = None
    """One message a line; unset means no audit trail."""
    patient_id: bool = True
    """Whether messages tell the Patient ID, as PS3.15 A.5.3.7 wants; names they never tell."""
    syslog: SyslogSettings | None = None

    @model_validator(mode="after")
    def _syslog_is_fed_from_the_file(self) -> AuditSettings:
        if self.syslog is not None and self.file is None:
            raise ValueError("syslog needs file: what the collector has not taken yet waits there")
        return self


class LogSettings(_Section):
    """The log as files, which the console searches; it goes to standard error in any case."""

    directory: ConfigurationPath | None = None
    """One file for each process; unset means standard error alone. With several ``hosts`` a folder that all mount,
    or one on each machine, of which the console then searches its own."""
    maximum_mb: int = Field(default=16, ge=1, le=1024)
    """Of one file; a full one is renamed."""
    kept_files: int = Field(default=4, ge=1, le=100)
    """Full ones of each process; then the oldest is removed."""


class MailSecurity(enum.StrEnum):
    """How a mail server is spoken to."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"
    """In clear text: within a machine or a network that nobody else reads."""


class MailSettings(_Section):
    """A mail server, and whom to write to."""

    host: HostAddress
    port: int = Field(default=587, ge=1, le=65535)
    security: MailSecurity = MailSecurity.STARTTLS
    trusted: ConfigurationPath | None = None
    """Certificates (PEM) to trust instead of those of the system."""
    user: str = ""
    password: Secret | None = None
    sender: MailAddress
    recipients: tuple[MailAddress, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> MailSettings:
        if bool(self.user) != (self.password is not None):
            raise ValueError("'user' and 'password' belong together")
        if self.user and self.security is MailSecurity.NONE:
            raise ValueError("a password in clear text can be read on the way: use starttls or tls")
        return self


class NotificationCause(enum.StrEnum):
    """What people are told of."""

    ALARM = "alarm"
    """Whatever ``dicom-node status`` calls an alarm."""
    FAILED = "failed"
    DECLINED = "declined"


class NumberRule(_Section):
    """A number that people want to know of."""

    number: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """As in ``results.json``: ``LVEF_percent``."""
    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> NumberRule:
        if self.below is None and self.above is None:
            raise ValueError("give 'below' or 'above'")
        return self


class NotificationSettings(_Section):
    """Whom the node tells of what, without being asked."""

    email: MailSettings | None = None
    webhook: HttpService | None = None
    """JSON is posted to its URL."""
    causes: frozenset[NotificationCause] = frozenset(NotificationCause)
    rules: dict[Name, NumberRule] = Field(default_factory=dict)
    template: ConfigurationPath | None = None
    """Words of one's own in place of ``notify/templates/english.yaml``, which explains itself."""
    at_most_every_s: Seconds = 300
    """One message tells all that happened since the one before."""
    remind_after_s: Seconds = 86_400
    """An alarm that lasts is told again."""
    patient: bool = False
    """Whether messages name the study: StudyInstanceUID, Patient ID and accession number. Names are never told."""


class HostRole(enum.StrEnum):
    """What a host of a node may do; the audit trail and the metrics are of each host."""

    RECEIVER = "receiver"
    WEB = "web"
    CONSOLE = "console"
    SCHEDULER = "scheduler"
    EXECUTOR = "executor"
    DELIVERER = "deliverer"
    NOTIFIER = "notifier"
    ORDERS = "orders"


class Host(_Section):
    """One of several machines that are one node: they share the ledger and the storage directory."""

    roles: frozenset[HostRole] = Field(min_length=1)
    """Which processes run there."""
    devices: tuple[DeviceName, ...] | None = Field(default=None, min_length=1)
    """Torch devices of its workers; unset means ``execution.devices``."""


class Configuration(_Section):
    """The whole of ``config.yaml``."""

    node: NodeSettings = NodeSettings()
    hosts: dict[HostName, Host] = Field(default_factory=dict)
    """Several machines as one node; none means that this machine does everything."""
    peers: dict[Name, Peer] = Field(default_factory=dict)
    routes: dict[Name, Route] = Field(default_factory=dict)
    storage: StorageSettings = Field(default_factory=dict, validate_default=True)
    execution: ExecutionSettings = ExecutionSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliveryPolicy = DeliveryPolicy()
    orders: OrderSettings = OrderSettings()
    web: WebSettings = WebSettings()
    console: ConsoleSettings = ConsoleSettings()
    metrics: MetricsSettings = MetricsSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    notifications: NotificationSettings = NotificationSettings()

    def conflict_answer(self, calling_ae_title: str) -> ConflictAnswer:
        """What is done with other bytes under a known SOP Instance UID when this peer sends them.

        Parameters
        ----------
        calling_ae_title
            Or the name of a web peer.
        """
        of_peers = [peer.conflicts for peer in self.peers.values() if peer.ae_title == calling_ae_title]
        web = self.web.peers.get(calling_ae_title)
        answers = [one for one in (*of_peers, web.conflicts if web else None) if one is not None]
        return answers[0] if answers else self.storage.conflicts
