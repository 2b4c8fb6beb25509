"""Instance files: written whole, flushed to the disk, then renamed to the name that their content gives them.

Nothing under ``instances``, ``results`` or ``quarantine`` is ever half written, and nothing is ever written twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["InstanceFiles", "StoredFile"]

INCOMING = "incoming"
INSTANCES = "instances"
RESULTS = "results"
QUARANTINE = "quarantine"
LOCK = ".sweep.lock"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that survives a power cut from now on.

    Attributes
    ----------
    path
        Relative to the storage directory.
    digest
        sha256 in hexadecimal over the transfer syntax UID, a NUL, and the data set's bytes as received.
    size
        Of the file, bytes.
    """

    path: Path
    digest: str
    size: int


class InstanceFiles:
    """The storage directory.

    Parameters
    ----------
    root
        Created when absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (INCOMING, INSTANCES, RESULTS, QUARANTINE):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def store(self, data: bytes | Iterable[bytes], *, file_meta: bytes, transfer_syntax_uid: str) -> StoredFile:
        """Write an instance as received.

        Parameters
        ----------
        data
            The data set, encoded in ``transfer_syntax_uid``.
        file_meta
            Preamble, prefix and File Meta Information (PS3.10 7.1), written before it and not part of the digest:
            the same data set sent twice is the same file.

        Raises
        ------
        OSError
            No room or no access; nothing was stored.
        """
        return self._write(INSTANCES, data, file_meta, transfer_syntax_uid)

    def quarantine(self, data: bytes | Iterable[bytes], *, file_meta: bytes, transfer_syntax_uid: str) -> StoredFile:
        """Write an object that is not taken into the record."""
        return self._write(QUARANTINE, data, file_meta, transfer_syntax_uid)

    def store_result(self, data: bytes, *, file_meta: bytes, transfer_syntax_uid: str) -> StoredFile:
        """Write a result object."""
        return self._write(RESULTS, data, file_meta, transfer_syntax_uid)

    def absolute(self, path: str | Path) -> Path:
        """Where a path of the ledger is on this machine."""
        return self.root / path

    def free_bytes(self) -> int:
        """Room left for the owner of this process on the disk that holds the storage directory."""
        return shutil.disk_usage(self.root).free

    def remove_if_older(self, path: str | Path, than: dt.datetime) -> bool:
        """Remove one file unless it is gone or was written, or written again, after ``than``."""
        target = self.root / path
        # Excludes the renames of all other processes, so that what is removed is what was looked at.
        with self._locked(fcntl.LOCK_EX):
            try:
                if target.stat().st_mtime >= than.timestamp():
                    return False
                target.unlink()
            except FileNotFoundError:
                return False
        return True

    def stored_paths(self) -> Iterator[Path]:
        """Every file under instances, results and quarantine, relative to the storage directory."""
        for folder in (INSTANCES, RESULTS, QUARANTINE):
            for path in sorted((self.root / folder).glob("*/*.dcm")):
                yield path.relative_to(self.root)

    def incoming_paths(self) -> Iterator[Path]:
        """Every temporary file, relative to the storage directory; those of a dead process are waste."""
        for path in sorted((self.root / INCOMING).iterdir()):
            yield path.relative_to(self.root)

    def _write(
        self, folder: str, data: bytes | Iterable[bytes], file_meta: bytes, transfer_syntax_uid: str
    ) -> StoredFile:
        content = hashlib.sha256(transfer_syntax_uid.encode("ascii") + b"\0")
        temporary = self.root / INCOMING / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(file_meta)
                for part in (data,) if isinstance(data, bytes) else data:
                    content.update(part)
                    file.write(part)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            digest = content.hexdigest()
            path = Path(folder) / digest[:2] / f"{digest}.dcm"
            target = self.root / path
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _flush_directory(target.parent.parent)
            # Replacing a file of the same content by itself is harmless, and flushes a name that a crash left unsure.
            with self._locked(fcntl.LOCK_SH):
                temporary.replace(target)
            _flush_directory(target.parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        return StoredFile(path, digest, size)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with (self.root / LOCK).open("ab") as lock:
            fcntl.flock(lock, how)
            yield


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
