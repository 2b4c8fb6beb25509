"""Looks for whatever would keep a node from working, or soon will: each finding with what to do about it.

Nothing is changed: the ledger is not migrated, no port is kept, and peers are asked with C-ECHO only; in a bucket one
object is written and removed again.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import enum
import hashlib
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from sqlalchemy import Connection, create_engine, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, HostRole, Secret
from dicom_node.errors import NodeError, raised_at
from dicom_node.hosts import host_name, roles_here
from dicom_node.instance_files import bucket_of
from dicom_node.log_files import SUFFIX, LogFolder
from dicom_node.machine import serving_mistakes
from dicom_node.node_status import HOST_SILENT
from dicom_node.process_states import serving_hosts, serving_process
from storage.bucket import BucketError
from storage.files import IDENTITY
from storage.migrate import MigrationError, revisions_to_come
from storage.schema import EventRow, HostRow, LedgerIdentityRow

__all__ = ["Finding", "Level", "examine"]

EXPIRES_SOON = dt.timedelta(days=30)
CLOCKS_DIFFER = dt.timedelta(seconds=5)
BACKUP_IS_OLD = dt.timedelta(days=7)
CONNECT_TIMEOUT_S = 5.0
LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext3", "ext4", "overlay", "tmpfs", "xfs", "zfs"})
_OWN_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock"})
PROBE = "probe"
"""Folder of the bucket in which an object is written and removed."""
FEW_FILES = 100_000
"""Free places for files (inodes) below which a disk is nearly full of them."""
LITTLE_ROOM_MB = 1024
"""Free space beside ledger and audit trail below which there is a warning."""
_NOT_SYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""


class Level(enum.StrEnum):
    """How serious a finding is."""

    WELL = "well"
    WARNING = "warning"
    """The node works; somebody should see to it."""
    BROKEN = "broken"
    """The node, or a part of what it is for, does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str
    level: Level
    sentence: str
    remedy: str = ""


def examine(configuration: Configuration, *, now: dt.datetime, call_peers: bool = True) -> Iterator[Finding]:
    """Look at everything, one after the other.

    Parameters
    ----------
    now
        Aware.
    call_peers
        Whether peers and web destinations are called.
    """
    examinations: dict[str, Callable[[], Iterable[Finding]]] = {
        "configuration": lambda: _configuration(configuration),
        "hosts": lambda: _hosts(configuration),
        "disk": lambda: _disk(configuration),
        "log": lambda: _log(configuration),
        "audit": lambda: _audit(configuration),
        "bucket": lambda: _bucket(configuration),
        "clock": _clock,
        "permissions": lambda: _permissions(configuration),
        "ports": lambda: _ports(configuration),
        "certificates": lambda: _certificates(configuration, now),
        "ledger": lambda: _ledger(configuration, now),
        "models": lambda: _models(configuration),
        "validator": _validator,
        "peers": lambda: _peers(configuration) if call_peers else (),
    }
    for about, examination in examinations.items():
        try:
            yield from examination()
        except NodeError as error:
            yield Finding(about, Level.BROKEN, ": ".join(filter(None, (error.subject, error.what))), error.remedy)
        except Exception as error:  # noqa: BLE001 - one examination that fails must not hide the others
            yield Finding(about, Level.BROKEN, f"could not be examined: {raised_at(error)}", "report this")


def _configuration(configuration: Configuration) -> Iterator[Finding]:
    wrong = list(serving_mistakes(configuration))
    for mistake in wrong:
        where = ".".join(str(key) for key in mistake.keys[0])
        yield Finding("configuration", Level.BROKEN, f"{where}: {mistake.sentence}", "dicom-node check names the line")
    if not wrong:
        routes = len(configuration.routes)
        yield Finding("configuration", Level.WELL, f"{routes} route(s), {len(configuration.peers)} peer(s)")


# -- the hosts ---------------------------------------------------------------------------------------------------------


def _hosts(configuration: Configuration) -> Iterator[Finding]:
    # With a bucket each says in the ledger that it runs.
    if not configuration.hosts or configuration.storage.bucket is not None:
        return
    this, directory = host_name(configuration), configuration.storage.directory
    serving = serving_hosts(directory) if directory.is_dir() else ()
    for name, host in configuration.hosts.items():
        said = f"{name}{' (this one)' if name == this else ''}: {', '.join(sorted(host.roles))}"
        if name in serving:
            yield Finding("hosts", Level.WELL, f"{said}; runs")
        else:
            yield Finding("hosts", Level.WARNING, f"{said}; does not run", "start it there: dicom-node serve")
    mounted = mount_of(_existing(directory))
    if mounted is None:
        return
    said = f"the storage directory lies on {mounted.kind} ({mounted.point})"
    if mounted.kind in LOCAL_FILE_SYSTEMS:
        remedy = "put it on a file server that all hosts mount, unless all of them are this machine"
        yield Finding("hosts", Level.WARNING, f"{said}, which no other machine reaches", remedy)
    elif _OWN_LOCKS.intersection(mounted.options):
        remedy = "mount it as NFS 4, without nolock and local_lock"
        yield Finding("hosts", Level.BROKEN, f"{said}, whose locks other machines do not see", remedy)
    else:
        yield Finding("hosts", Level.WELL, said)


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is mounted."""

    point: Path
    kind: str
    options: frozenset[str]


def mount_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> Mount | None:
    """The mounted file system that holds a path; ``None`` where it cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    found = None
    for line in lines:
        _, where, kind, options, *_ = line.split(" ")
        # Blanks are written in octal (proc_mounts(5)); what is mounted later lies above.
        point = Path(where.replace("\\040", " "))
        if resolved.is_relative_to(point) and (found is None or len(point.parts) >= len(found.point.parts)):
            found = Mount(point, kind, frozenset(options.split(",")))
    return found


# -- the bucket --------------------------------------------------------------------------------------------------------


def _bucket(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.storage.bucket
    if settings is None:
        return
    try:
        bucket = bucket_of(settings)
        identity = bucket.identity()
        # Whoever may read may not be let write.
        with tempfile.NamedTemporaryFile() as file:
            name = f"{PROBE}/{uuid.uuid4().hex}"
            bucket.put(name, Path(file.name))
            bucket.remove(name)
    except BucketError as error:
        remedy = "check url, endpoint and keys; images wait on the disks of the hosts meanwhile"
        yield Finding("bucket", Level.BROKEN, f"{settings.url}: {error.strerror}", remedy)
        return
    if identity is None:
        yield Finding("bucket", Level.WELL, f"{settings.url} takes and gives; the first start makes it this node's")
    elif identity != _directory_identity(configuration) and _directory_identity(configuration) is not None:
        remedy = "correct storage.bucket or storage.directory"
        yield Finding("bucket", Level.BROKEN, f"{settings.url} does not belong to the storage directory", remedy)
    else:
        yield Finding("bucket", Level.WELL, f"{settings.url} takes and gives, and is this node's")


# -- this machine ------------------------------------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _disk(configuration: Configuration) -> Iterator[Finding]:
    storage = configuration.storage
    directory = _existing(storage.directory)
    free_mb = shutil.disk_usage(directory).free / 1e6
    said = f"{free_mb / 1000:.1f} GB are free in {directory}"
    if free_mb < storage.low_watermark_mb:
        remedy = f"free space until more than {storage.high_watermark_mb} MB are free"
        yield Finding("disk", Level.BROKEN, f"{said}: images are refused (A700)", remedy)
    elif free_mb < 2 * storage.high_watermark_mb:
        yield Finding("disk", Level.WARNING, f"{said}, not much above the watermarks", "free space, or add a disk")
    else:
        yield Finding("disk", Level.WELL, said)
    places = os.statvfs(directory)
    # Some file systems make them as needed and say 0.
    if places.f_files and places.f_favail < FEW_FILES:
        remedy = "make the file system anew with more inodes, or lower storage.retention_days"
        yield Finding("disk", Level.WARNING, f"only {places.f_favail} more files can be made in {directory}", remedy)
    database = make_url(storage.database)
    if database.get_backend_name() == "sqlite" and database.database:
        beside = _existing(Path(database.database))
        free = shutil.disk_usage(beside).free / 1e6
        if free < LITTLE_ROOM_MB:
            yield Finding(
                "disk", Level.WARNING, f"{free:.0f} MB are free where the ledger lies ({beside})", "free space"
            )


def _log(configuration: Configuration) -> Iterator[Finding]:
    folder = LogFolder.of(configuration)
    if folder is None:
        return
    said = f"log.directory {folder.directory}"
    if (mistake := _not_writable(folder.directory)) is not None:
        remedy = "give the node write access, or choose another folder: it does not start without"
        yield Finding("log", Level.BROKEN, f"{said} {mistake}", remedy)
        return
    free = shutil.disk_usage(_existing(folder.directory)).free
    taken = sum(path.stat().st_size for path in folder.directory.glob(f"*{SUFFIX}*"))
    may_take = (1 + folder.kept_files) * folder.maximum_bytes
    there = "" if folder.directory.is_dir() else ", which the first start makes"
    room = f"{said}{there}: {taken / 1e6:.0f} MB are taken, {free / 1e6:.0f} MB are free"
    if free < may_take:
        remedy = "free space, or lower log.maximum_mb or log.kept_files: lines that find no room are lost"
        yield Finding("log", Level.WARNING, f"{room}, and one process may take {may_take / 1e6:.0f} MB", remedy)
    else:
        yield Finding("log", Level.WELL, room)


def _audit(configuration: Configuration) -> Iterator[Finding]:
    file = configuration.audit.file
    if file is None:
        return
    mistake = _not_writable(file.parent)
    if mistake is None and file.exists() and not os.access(file, os.R_OK | os.W_OK):
        mistake = "cannot be written"
    if mistake is not None:
        remedy = "give the node write access, or choose another file: messages are lost meanwhile"
        yield Finding("audit", Level.BROKEN, f"audit.file {file} {mistake}", remedy)
        return
    free_mb = shutil.disk_usage(_existing(file.parent)).free / 1e6
    said = f"audit.file {file}: {free_mb:.0f} MB are free for it"
    if free_mb < LITTLE_ROOM_MB:
        yield Finding("audit", Level.WARNING, said, "free space: messages that find no room are lost")
    else:
        yield Finding("audit", Level.WELL, said)


def _not_writable(directory: Path) -> str | None:
    """Why whoever runs this could not make files in a folder, which need not be there yet; None if it could."""
    there = _existing(directory)
    if not there.is_dir():
        return f"cannot be made: {there} is no folder"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    return "cannot be written" if there == directory else f"is not there, and cannot be made in {there}"


class _Timex(ctypes.Structure):
    # Only the first member is set: adjtimex(2) with modes 0 reads, and writes no more than 208 bytes.
    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 252))


def _clock() -> Iterator[Finding]:
    here = dt.datetime.now(dt.UTC)
    said = f"it is {here.astimezone().isoformat(sep=' ', timespec='seconds')}"
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex()))
    if state == _NOT_SYNCHRONISED:
        remedy = "run chrony or systemd-timesyncd: times in the ledger and the audit trail depend on it"
        yield Finding("clock", Level.WARNING, f"{said}, and nothing keeps the clock right (NTP)", remedy)
    elif state < 0:
        yield Finding("clock", Level.WARNING, f"{said}; whether NTP keeps it right cannot be seen from here", "")
    else:
        yield Finding("clock", Level.WELL, f"{said}; the clock is synchronised")


def _permissions(configuration: Configuration) -> Iterator[Finding]:
    wrong = list(_open_to_others(configuration))
    yield from wrong
    for key, secret in _secrets(configuration):
        try:
            secret.read()
        except NodeError as error:
            finding = Finding("permissions", Level.BROKEN, f"{key}: {error.subject}: {error.what}", error.remedy)
            wrong.append(finding)
            yield finding
    if not wrong:
        yield Finding("permissions", Level.WELL, "patient data and keys are closed to others on this machine")


def _open_to_others(configuration: Configuration) -> Iterator[Finding]:
    storage = configuration.storage
    database = make_url(storage.database)
    closed = [storage.directory]
    if database.get_backend_name() == "sqlite" and database.database:
        closed.append(Path(database.database))
    # What names studies or people: neither the log nor the audit trail is for everybody.
    closed += [one for one in (configuration.log.directory, configuration.audit.file) if one is not None]
    for path in closed:
        if path.exists() and path.stat().st_mode & 0o007:
            yield Finding("permissions", Level.WARNING, f"everybody on this machine can read {path}", "chmod o= on it")
    for path in sorted(_keys(configuration)):
        if path.exists() and path.stat().st_mode & 0o077:
            yield Finding("permissions", Level.WARNING, f"others can read the private key {path}", f"chmod 600 {path}")


def _keys(configuration: Configuration) -> set[Path]:
    sections = (
        configuration.node.tls,
        configuration.web,
        configuration.console,
        configuration.audit.syslog.tls if configuration.audit.syslog else None,
        *(
            one
            for profile in configuration.results.destinations.values()
            for one in (profile.web, profile.fhir, profile.hl7.tls if profile.hl7 else None)
        ),
    )
    return {section.key for section in sections if section is not None and section.key is not None}


def _secrets(configuration: Configuration) -> Iterator[tuple[str, Secret]]:
    for name, profile in configuration.results.destinations.items():
        for kind, service in (("web", profile.web), ("fhir", profile.fhir)):
            for key in ("token", "basic"):
                secret = getattr(service, key, None)
                if secret is not None:
                    yield f"results.destinations.{name}.{kind}.{key}", secret
    for key in ("access_key", "secret_key"):
        secret = getattr(configuration.storage.bucket, key, None)
        if secret is not None:
            yield f"storage.bucket.{key}", secret
    mail, hook = configuration.notifications.email, configuration.notifications.webhook
    if mail is not None and mail.password is not None:
        yield "notifications.email.password", mail.password
    for key in ("token", "basic"):
        secret = getattr(hook, key, None)
        if secret is not None:
            yield f"notifications.webhook.{key}", secret


def _ports(configuration: Configuration) -> Iterator[Finding]:
    # Imported late: it brings pynetdicom.
    from dicom_node.network.listening_ports import listening_socket

    node, web, console, metrics = configuration.node, configuration.web, configuration.console, configuration.metrics
    here = roles_here(configuration)
    listening = [("metrics.port", metrics.address, metrics.port)]
    if HostRole.CONSOLE in here:
        listening.insert(0, ("console.port", console.address, console.port))
    if HostRole.WEB in here:
        listening.insert(0, ("web.port", web.address, web.port))
    if HostRole.ORDERS in here:
        listening.insert(0, ("orders.port", configuration.orders.address, configuration.orders.port))
    if HostRole.RECEIVER in here:
        secure = node.tls.port if node.tls else None
        listening[:0] = [("node.port", node.address, node.port), ("node.tls.port", node.address, secure)]
    directory = configuration.storage.directory
    runs = directory.is_dir() and serving_process(directory, host_name(configuration)) is not None
    for key, address, port in listening:
        if port is None:
            continue
        try:
            if runs:
                socket.create_connection((_reachable(address), port), CONNECT_TIMEOUT_S).close()
                yield Finding("ports", Level.WELL, f"{key} {port}: the node listens")
            else:
                listening_socket(address, port).close()
                yield Finding("ports", Level.WELL, f"{key} {port} is free; the node does not run")
        except OSError as error:
            if runs:
                what, remedy = "the node runs and does not listen there", "dicom-node status tells which process died"
            else:
                what, remedy = "cannot be listened on", "stop what uses the port, or choose another"
            yield Finding("ports", Level.BROKEN, f"{key} {port}: {what} ({error.strerror or error})", remedy)


def _reachable(address: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)


# -- certificates ------------------------------------------------------------------------------------------------------


def _certificates(configuration: Configuration, now: dt.datetime) -> Iterator[Finding]:
    from dicom_node.network.tls import check_credentials

    if configuration.node.tls is not None:
        check_credentials(configuration.node.tls, now)
    for key, path in _certificate_files(configuration):
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            remedy = "correct the path, its permissions, or its format (PEM)"
            yield Finding("certificates", Level.BROKEN, f"{key}: {path} cannot be read as certificates", remedy)
            continue
        # The first of a chain is the node's own; among those that are trusted each counts.
        for one in found if key.endswith("trusted") else found[:1]:
            yield _validity(key, path, one, now)


def _certificate_files(configuration: Configuration) -> Iterator[tuple[str, Path]]:
    tls, syslog, web = configuration.node.tls, configuration.audit.syslog, configuration.web
    if tls is not None:
        yield from (("node.tls.certificate", tls.certificate), ("node.tls.trusted", tls.trusted))
    if web.certificate is not None:
        yield "web.certificate", web.certificate
    console = configuration.console
    if console.certificate is not None:
        yield "console.certificate", console.certificate
    if console.identity_provider is not None and console.identity_provider.trusted is not None:
        yield "console.identity_provider.trusted", console.identity_provider.trusted
    if syslog is not None:
        yield "audit.syslog.tls.trusted", syslog.tls.trusted
        if syslog.tls.certificate is not None:
            yield "audit.syslog.tls.certificate", syslog.tls.certificate
    for name, profile in configuration.results.destinations.items():
        services = (("web", profile.web), ("fhir", profile.fhir), ("hl7.tls", profile.hl7 and profile.hl7.tls))
        for kind, service in services:
            for key in ("certificate", "trusted"):
                path = getattr(service, key, None)
                if path is not None:
                    yield f"results.destinations.{name}.{kind}.{key}", path


def _validity(key: str, path: Path, certificate: x509.Certificate, now: dt.datetime) -> Finding:
    until, since = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    said = f"{key}: {path} ({certificate.subject.rfc4514_string()})"
    if now > until:
        return Finding("certificates", Level.BROKEN, f"{said} expired on {until:%Y-%m-%d}", "renew it")
    if now < since:
        return Finding("certificates", Level.BROKEN, f"{said} is not valid before {since}", "check the clock")
    if until - now < EXPIRES_SOON:
        return Finding("certificates", Level.WARNING, f"{said} expires on {until:%Y-%m-%d}", "renew it before")
    return Finding("certificates", Level.WELL, f"{said} is valid until {until:%Y-%m-%d}")


# -- the ledger --------------------------------------------------------------------------------------------------------


def _ledger(configuration: Configuration, now: dt.datetime) -> Iterator[Finding]:
    url = make_url(configuration.storage.database)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        if _directory_identity(configuration) is not None:
            remedy = "give back the ledger of this directory, or dicom-node restore"
            yield Finding(
                "ledger", Level.BROKEN, f"{url.database} is absent, and the storage directory had one", remedy
            )
        else:
            yield Finding("ledger", Level.WELL, "there is none yet; the first start makes it")
        return
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            yield from _ledger_findings(configuration, connection, now)
    except MigrationError as error:
        yield Finding("ledger", Level.BROKEN, str(error), "install that version")
    except SQLAlchemyError as error:
        remedy = "check storage.database, and that the database server runs"
        yield Finding("ledger", Level.BROKEN, f"cannot be reached: {type(error).__name__}", remedy)
    finally:
        engine.dispose()


def _ledger_findings(configuration: Configuration, connection: Connection, now: dt.datetime) -> Iterator[Finding]:
    to_come = revisions_to_come(connection)
    if to_come:
        remedy = "make a backup, then start the node: it migrates the ledger first"
        yield Finding("ledger", Level.WARNING, f"is reachable and {len(to_come)} migration(s) behind", remedy)
        return
    if connection.dialect.name == "postgresql":
        there = connection.scalar(select(func.now()))
        assert there is not None
        if abs(there - dt.datetime.now(dt.UTC)) > CLOCKS_DIFFER:
            yield Finding("clock", Level.WARNING, "the clock of the database server differs", "synchronise both (NTP)")
    identity = connection.scalar(select(LedgerIdentityRow.identity))
    if identity != _directory_identity(configuration):
        yield Finding(
            "ledger",
            Level.BROKEN,
            "does not belong to the storage directory",
            "correct storage.database or storage.directory",
        )
        return
    yield Finding("ledger", Level.WELL, "is reachable, migrated, and belongs to the storage directory")
    made = connection.scalar(select(func.max(EventRow.at)).where(EventRow.kind == "backup made"))
    latest = connection.scalar(select(func.max(EventRow.at)))
    if latest is not None and latest - now > CLOCKS_DIFFER:
        yield Finding(
            "clock", Level.WARNING, f"the ledger has an event of {latest}, in the future", "correct the clock"
        )
    if made is None or now - made > BACKUP_IS_OLD:
        said = "no backup was made yet" if made is None else f"the last backup was made on {made:%Y-%m-%d}"
        yield Finding("ledger", Level.WARNING, said, "dicom-node backup DIR, every night")
    else:
        yield Finding("ledger", Level.WELL, f"the last backup was made on {made:%Y-%m-%d}")
    yield from _heard_hosts(configuration, connection, now)


def _heard_hosts(configuration: Configuration, connection: Connection, now: dt.datetime) -> Iterator[Finding]:
    """Hosts without a common directory, by what each said in the ledger."""
    if configuration.storage.bucket is None:
        return
    this = host_name(configuration)
    heard = {row.name: row.at for row in connection.execute(select(HostRow.name, HostRow.at))}
    for name, host in configuration.hosts.items():
        said = f"{name}{' (this one)' if name == this else ''}: {', '.join(sorted(host.roles))}"
        if name not in heard:
            yield Finding("hosts", Level.WARNING, f"{said}; has never run", "start it there: dicom-node serve")
        elif now - heard[name] > HOST_SILENT:
            what = f"{said}; has said nothing since {heard[name]:%Y-%m-%d %H:%M:%S} UTC"
            remedy = "start it there: dicom-node serve; if it runs, dicom-node doctor there tells"
            yield Finding("hosts", Level.WARNING, what, remedy)
        else:
            yield Finding("hosts", Level.WELL, f"{said}; runs")


def _directory_identity(configuration: Configuration) -> str | None:
    try:
        return (configuration.storage.directory / IDENTITY).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


# -- what the node works with ------------------------------------------------------------------------------------------


def _models(configuration: Configuration) -> Iterator[Finding]:
    from pipelines.models.registry import model_folders
    from pipelines.package import packages

    wanted = {
        model for route in configuration.routes.values() for name in route.analyses for model in packages()[name].models
    }
    folders = model_folders()
    for name in sorted(wanted - folders.keys()):
        yield Finding("models", Level.BROKEN, f"{name} is not installed", "install the package again")
    sound = 0
    for name, (folder, card) in folders.items():
        weights = folder / "weights.safetensors"
        try:
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        except OSError as error:
            digest = f"unreadable ({error.strerror})"
        if digest != card.weights_sha256:
            level = Level.BROKEN if name in wanted else Level.WARNING
            said = f"the weights of {name} are not those of its card: {digest[:24]}"
            yield Finding("models", level, said, "install the package again")
        else:
            sound += 1
    yield Finding("models", Level.WELL, f"{sound} of {len(folders)} models have the weights of their cards")


def _validator() -> Iterator[Finding]:
    from dicom_node.results.iod import validator

    yield Finding("validator", Level.WELL, f"{validator()} checks every result (dciodvfy)")


def _peers(configuration: Configuration) -> Iterator[Finding]:
    from dicom_node.network.sender import ScuSettings, echo
    from dicom_node.web.client import ask

    settings = ScuSettings.of(configuration)
    for name, peer in configuration.peers.items():
        if not peer.host or peer.port is None:
            continue
        answer = echo(peer, settings)
        if answer.error is None:
            yield Finding(
                "peers", Level.WELL, f"{name} ({peer.ae_title}) answers C-ECHO in {1000 * answer.seconds:.0f} ms"
            )
        else:
            remedy = answer.error.remedy or "check host, port and AE title, and that it knows this node"
            yield Finding("peers", Level.BROKEN, f"{name} ({peer.ae_title}): {answer.error.what}", remedy)
    yield from _receivers(configuration)
    yield from _identity_provider(configuration)
    for name, profile in configuration.results.destinations.items():
        if profile.web is None:
            continue
        answer = ask(profile.web, configuration.delivery.response_timeout_s)
        if answer.error is None:
            yield Finding("peers", Level.WELL, f"{name} ({profile.web.url}) answers")
        else:
            remedy = answer.error.remedy or "check the URL and the credentials"
            yield Finding("peers", Level.BROKEN, f"{name} ({profile.web.url}): {answer.error.what}", remedy)


def _identity_provider(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.console.identity_provider
    if configuration.console.port is None or settings is None:
        return
    from dicom_node.console.identity_provider import check_provider

    try:
        signs = check_provider(settings)
    except NodeError as error:
        yield Finding("peers", Level.BROKEN, f"{error.subject}: {error.what}", error.remedy)
    else:
        yield Finding("peers", Level.WELL, f"identity provider {settings.issuer} answers, signs by {signs}")


def _receivers(configuration: Configuration) -> Iterator[Finding]:
    """HL7 receivers and FHIR servers: whether they can be reached; nothing is sent."""
    for name, profile in configuration.results.destinations.items():
        where = ""
        try:
            if profile.hl7 is not None:
                from dicom_node.deliver.mllp import MllpConnection

                where = f"{profile.hl7.host}:{profile.hl7.port}"
                with MllpConnection(profile.hl7, configuration.delivery.response_timeout_s):
                    pass
            elif profile.fhir is not None:
                from dicom_node.deliver.fhir_destination import ask

                where = profile.fhir.url
                ask(profile.fhir, configuration.delivery.response_timeout_s)
            else:
                continue
        except NodeError as error:
            yield Finding("peers", Level.BROKEN, f"{name} ({where}): {error.what}", error.remedy)
        else:
            yield Finding("peers", Level.WELL, f"{name} ({where}) can be reached")
