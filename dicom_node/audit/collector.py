"""Bringing the audit file to a syslog collector over TLS (RFC 5425, PS3.15 A.6), at least once and in order.

The file is the queue. Syslog has no acknowledgement: what was sent counts as taken only when the collector's machine
has acknowledged every byte and the connection has outlived that by some seconds; until then the kept position stays
where it was, and after a break everything behind it is sent again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import ssl
import struct
import termios
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from dicom_node import metrics
from dicom_node.config import SyslogSettings

__all__ = ["Collector", "Position", "Spool"]

_log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 5.0
SETTLED_S = 2.0
"""How long a connection must have gone on after the last byte was acknowledged: a collector that died meanwhile resets
it."""
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
BATCH_BYTES = 256 * 1024
_COMPRESSED = {".gz", ".xz", ".bz2", ".zst"}


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two messages: a file, whatever it is named by now, and bytes from its beginning."""

    file: str
    """Digest of its first message; unlike an inode number, nobody gets it a second time. Empty before all files."""
    offset: int


class Spool:
    """Reads the audit file on from a position, through its rotations.

    Parameters
    ----------
    file
        Of the audit trail. The position is kept beside it, in a file of the same name with ``.position`` appended.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept_in = file.with_name(file.name + ".position")

    def kept(self) -> Position:
        """Up to where the collector has taken everything."""
        try:
            return Position(**json.loads(self._kept_in.read_text(encoding="ascii")))
        except FileNotFoundError:
            return Position("", 0)
        except (ValueError, TypeError):
            _log.error("the position in the audit trail cannot be read: sending from its beginning")
            return Position("", 0)

    def keep(self, position: Position) -> None:
        """Remember a position for good."""
        temporary = self._kept_in.with_name(f"{self._kept_in.name}.new")
        with temporary.open("w", encoding="ascii") as file:
            json.dump(asdict(position), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._kept_in)

    def read(self, position: Position) -> tuple[list[bytes], Position]:
        """Whole messages after a position, without the ends of their lines, and the position after them.

        Both empty and unchanged when there is nothing more. Goes on to the next file when this one was renamed.

        Raises
        ------
        OSError
            A file cannot be read.
        """
        files = self._files()
        at = next((number for number, (_, identity) in enumerate(files) if identity == position.file), None)
        if at is None and position.file:
            _log.error("a rotated audit file is gone before the collector had all of it", file=str(self._file))
            metrics.AUDIT_FILES_LOST.inc()
        for path, identity in files[at or 0 :]:
            offset = position.offset if identity == position.file else 0
            whole = _whole_lines(path, offset)
            position = Position(identity, offset + len(whole))
            if whole:
                return whole.splitlines(), position
        return [], position

    def unsent_bytes(self, position: Position) -> int:
        """Bytes after a position in all files."""
        files = self._files()
        known = [identity for _, identity in files]
        later = files[known.index(position.file) :] if position.file in known else files
        return sum(
            path.stat().st_size - (position.offset if identity == position.file else 0) for path, identity in later
        )

    def _files(self) -> list[tuple[Path, str]]:
        """The audit file and what it was before it was renamed, the oldest first."""
        found = [
            (path, path.stat().st_mtime_ns)
            for path in self._file.parent.glob(f"{self._file.name}*")
            if path.suffix not in _COMPRESSED and not path.name.startswith(self._kept_in.name)
        ]
        # The file in use is the last, however little the clock may be trusted.
        found.sort(key=lambda entry: (entry[0] == self._file, entry[1]))
        identified = [(path, _identity(path)) for path, _ in found]
        return [(path, identity) for path, identity in identified if identity]


def _identity(path: Path) -> str:
    """Digest of the first message of a file; empty while it has none."""
    with path.open("rb") as file:
        first = file.readline()
    return hashlib.sha256(first).hexdigest() if first.endswith(b"\n") else ""


def _whole_lines(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        # Waits for a writer that had opened it before it was renamed.
        fcntl.flock(file, fcntl.LOCK_SH)
        data = os.pread(file.fileno(), BATCH_BYTES, offset)
    return data[: data.rfind(b"\n") + 1]


class Collector:
    """One syslog collector, and how far it has come with the audit file.

    Not thread-safe.

    Parameters
    ----------
    settings
        Where it is, and the certificates for it.
    file
        Of the audit trail.
    """

    def __init__(self, settings: SyslogSettings, file: Path) -> None:
        self._settings = settings
        self._spool = Spool(file)
        self._read_to = self._kept = self._spool.kept()
        self._unsettled: deque[tuple[Position, float]] = deque()
        """Positions sent to, with when the machine of the collector was seen to have acknowledged them, or 0."""
        self._connection: ssl.SSLSocket | None = None
        self._delay_s = FIRST_DELAY_S
        self._try_at = 0.0

    def send(self) -> bool:
        """Send what there is, a batch at most; false when there was nothing to send, or no collector to send it to.

        Never raises: while the collector is away, messages wait in the file.
        """
        try:
            self._settle()
            connection = self._connected()
            if connection is None:
                return False
            lines, position = self._spool.read(self._read_to)
            if lines:
                # Octet counting (RFC 5425 4.3.1).
                connection.sendall(b"".join(b"%d %b" % (len(one), one) for one in lines))
                self._unsettled.append((position, 0.0))
            self._read_to = position
        except OSError as error:
            self._broken(error)
            return False
        finally:
            self._tell_metrics()
        return bool(lines)

    def drain(self, patience_s: float) -> None:
        """Send everything and wait until it is settled, as long as the collector answers and patience lasts."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if not self.send():
                if self._connection is None or not self._unsettled:
                    return
                time.sleep(0.05)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> ssl.SSLSocket | None:
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._try_at:
            return None
        where, tls = self._settings, self._settings.tls
        context = ssl.create_default_context(cafile=tls.trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        plain = socket.create_connection((where.host, where.port), CONNECT_TIMEOUT_S)
        try:
            self._connection = context.wrap_socket(plain, server_hostname=where.host)
        except BaseException:
            plain.close()
            raise
        self._connection.settimeout(SEND_TIMEOUT_S)
        self._delay_s = FIRST_DELAY_S
        _log.info("audit collector connected", host=where.host, port=where.port)
        return self._connection

    def _settle(self) -> None:
        """Find out whether the connection lives, and keep the position that is safe by now."""
        if self._connection is None:
            return
        self._check_open(self._connection)
        now = time.monotonic()
        if _unacknowledged_bytes(self._connection) == 0:
            self._unsettled = deque((position, since or now) for position, since in self._unsettled)
        settled = None
        while self._unsettled and self._unsettled[0][1] and now - self._unsettled[0][1] >= SETTLED_S:
            settled, _ = self._unsettled.popleft()
        if settled is not None:
            self._spool.keep(settled)
            self._kept = settled

    def _check_open(self, connection: ssl.SSLSocket) -> None:
        # A collector says nothing; what comes is the end of the connection, or a refusal of this node's certificate.
        connection.settimeout(0)
        try:
            if not connection.recv(1024):
                raise ConnectionResetError("it closed the connection")
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        finally:
            connection.settimeout(SEND_TIMEOUT_S)

    def _broken(self, error: OSError) -> None:
        self.close()
        self._read_to = self._kept
        self._unsettled.clear()
        self._try_at = time.monotonic() + self._delay_s
        _log.warning(
            "audit collector not reached: messages wait in the file",
            host=self._settings.host,
            port=self._settings.port,
            what=error.strerror or str(error),
            retry_in_s=self._delay_s,
        )
        self._delay_s = min(LONGEST_DELAY_S, 2 * self._delay_s)

    def _tell_metrics(self) -> None:
        try:
            metrics.AUDIT_UNSENT_BYTES.set(self._spool.unsent_bytes(self._kept))
        except FileNotFoundError:
            # Renamed this instant; the next run sees it.
            return


def _unacknowledged_bytes(connection: socket.socket) -> int:
    # SIOCOUTQ (tcp(7)): in the send queue, acknowledged bytes not counted.
    (count,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0)))
    return int(count)
