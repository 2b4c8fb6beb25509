"""Instance files: written whole, flushed to the disk, then renamed to the name that their content gives them.

Nothing under ``instances``, ``results`` or ``quarantine`` is ever half written, and nothing is ever written twice.
They hold patient data: whoever is neither the owner nor of the group may not read them.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import fcntl
import hashlib
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "INSTANCES",
    "QUARANTINE",
    "RESULTS",
    "UNEXPLAINED",
    "IncomingFile",
    "InstanceFiles",
    "StoredFile",
    "flush_directory",
]

FILE_MODE, DIRECTORY_MODE = 0o640, 0o750
"""Less what the umask takes away."""

INCOMING = "incoming"
INSTANCES = "instances"
RESULTS = "results"
QUARANTINE = "quarantine"
UNEXPLAINED = "unexplained"
"""Where files lie, each under its former name, that nothing in the ledger explains."""
IDENTITY, NEXT_IDENTITY = ".identity", ".identity.next"
IDENTITY_LOCK = ".identity.lock"
OF_BUCKET = ".bucket"
"""Names the bucket that the instances of this directory go to, once there is one (:mod:`storage.bucket_files`)."""
LOCK = ".sweep.lock"
BACKUP_LOCK = ".backup.lock"
KEPT_IN_MEMORY = 1 << 20
"""Bytes of a data set up to which it is read from memory again: mapping a small file costs more than its copy."""


_LIBC = ctypes.CDLL(None, use_errno=True)
"""For syncfs, which Python does not have."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was flushed to the disk and survives a power cut.

    Attributes
    ----------
    path
        Relative to the storage directory; text, because one is made for every image.
    digest
        sha256 in hexadecimal over the transfer syntax UID, a NUL, and the data set's bytes as received.
    size
        Of the file, bytes.
    """

    path: str
    digest: str
    size: int


class InstanceFiles:
    """The storage directory.

    Parameters
    ----------
    root
        Created when absent.
    durable
        Whether to wait for the disk.
    """

    held_by: str | None = None
    """Name of the host whose disk alone has a new instance until it is uploaded (:mod:`storage.bucket_files`); none
    where the storage directory is where instances stay."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root, self.durable = root, durable
        self._where = str(root)
        new = [one for one in (root, *root.parents) if not one.exists()]
        root.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        folders = [root / folder for folder in (INCOMING, INSTANCES, RESULTS, QUARANTINE)]
        new += [one for one in folders if not one.exists()]
        for folder in folders:
            folder.mkdir(DIRECTORY_MODE, exist_ok=True)
        # A file survives a power cut only if the names of all directories on the way to it do.
        for directory in dict.fromkeys(str(one.parent) for one in new):
            self._flush_directory(directory)

    def make_folders(self) -> None:
        """Make all folders that instances may go to now, not one after the other while they come.

        Raises
        ------
        OSError
            No room or no access.
        """
        for number in range(256):
            (self.root / INSTANCES / f"{number:02x}").mkdir(DIRECTORY_MODE, exist_ok=True)
        self._flush_directory(f"{self._where}/{INSTANCES}")

    def incoming(self, *, file_meta: bytes, transfer_syntax_uid: str) -> IncomingFile:
        """Begin an instance whose data set will be written as it comes.

        Parameters
        ----------
        file_meta
            Preamble, prefix and File Meta Information (PS3.10 7.1), written before it and not part of the digest:
            the same data set sent twice is the same file.
        transfer_syntax_uid
            In which the data set is encoded.

        Raises
        ------
        OSError
            No room or no access.
        """
        return IncomingFile(self, file_meta, transfer_syntax_uid)

    def store(
        self,
        data: bytes | Iterable[bytes],
        *,
        file_meta: bytes,
        transfer_syntax_uid: str,
        folder: str = INSTANCES,
    ) -> StoredFile:
        """Write an object that is there already, whole or in parts.

        Raises
        ------
        OSError
            No room or no access; nothing was stored.
        """
        with self.incoming(file_meta=file_meta, transfer_syntax_uid=transfer_syntax_uid) as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            return file.keep(folder)

    def copy_to_quarantine(self, stored: StoredFile) -> StoredFile:
        """Keep an instance's file in quarantine as well, whatever becomes of the other name.

        Raises
        ------
        OSError
            No room or no access.
        """
        link = Path(self.new_name())
        link.hardlink_to(self.readable(stored.path))
        # The sweep takes a file that is old and that no row names; this one's row is still to come.
        os.utime(link)
        path = _path(QUARANTINE, stored.digest)
        try:
            self.place(link, path)
        finally:
            # Renaming one name of a file to another does nothing and leaves both (rename(2)).
            link.unlink(missing_ok=True)
        return StoredFile(path, stored.digest, stored.size)

    def holds_in_quarantine(self, digest: str) -> bool:
        """Whether these bytes were kept aside, by whichever ledger."""
        path = _path(QUARANTINE, digest)
        return any(self.absolute(one).exists() for one in (path, f"{UNEXPLAINED}/{path}"))

    def absolute(self, path: str | Path) -> Path:
        """Where a path of the ledger is on this machine."""
        return self.root / path

    def readable(self, path: str | Path) -> Path:
        """Where a file of the ledger can be read on this machine; it is left there long enough to be opened.

        Raises
        ------
        OSError
            It cannot be brought here.
        """
        return self.absolute(path)

    def size_of(self, path: str | Path) -> int | None:
        """Bytes of a stored file, or ``None`` where it is not.

        Raises
        ------
        OSError
            It cannot be looked for.
        """
        try:
            return self.absolute(path).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, path: str | Path) -> None:
        """Remove one stored file.

        Raises
        ------
        OSError
            It is not there, or no access.
        """
        self.absolute(path).unlink()

    def free_bytes(self) -> int:
        """Room left for the owner of this process on the disk that holds the storage directory."""
        disk = os.statvfs(self._where)
        return disk.f_bavail * disk.f_frsize

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

    def set_aside_if_older(self, path: str | Path, than: dt.datetime) -> bool:
        """Move a stored file to ``unexplained`` unless it is gone or was written, or written again, after ``than``."""
        source, target = self.root / path, self.root / UNEXPLAINED / path
        folders = [self.root / UNEXPLAINED, target.parent.parent, target.parent]
        for folder in folders:
            folder.mkdir(DIRECTORY_MODE, exist_ok=True)
        # Flushed even where they were there: a crash may have left their names unsure, and the file loses its old one.
        for folder in folders:
            self._flush_directory(str(folder.parent))
        with self._locked(fcntl.LOCK_EX):
            try:
                if source.stat().st_mtime >= than.timestamp():
                    return False
                source.replace(target)
            except FileNotFoundError:
                return False
        self._flush_directory(str(target.parent))
        self._flush_directory(str(source.parent))
        return True

    def unexplained_paths(self) -> Iterator[Path]:
        """Every file that was set aside, relative to the storage directory."""
        for path in sorted((self.root / UNEXPLAINED).glob("*/*/*.dcm")):
            yield path.relative_to(self.root)

    def identity(self) -> str | None:
        """The identity of where the files are, see :mod:`storage.identity`."""
        return self.own_identity()

    def own_identity(self) -> str | None:
        """The identity that the directory carries."""
        return self._read(IDENTITY)

    def bucket_before(self) -> str | None:
        """The bucket that the instances of this directory went to when it was served last; none if they stayed."""
        return self._read(OF_BUCKET)

    def next_identity(self) -> str | None:
        """The identity that it was about to get."""
        return self._read(NEXT_IDENTITY)

    @contextlib.contextmanager
    def binding(self) -> Iterator[None]:
        """Let nobody else give the directory an identity for the time of the block."""
        with self._locked(fcntl.LOCK_EX, IDENTITY_LOCK):
            yield

    def propose_identity(self, identity: str) -> None:
        """Write down which identity the directory is about to get.

        Raises
        ------
        OSError
            No room or no access.
        """
        descriptor = os.open(self.root / NEXT_IDENTITY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(identity)
            file.flush()
            os.fsync(file.fileno())

    def take_identity(self) -> None:
        """Give the directory the identity that was written down for it."""
        (self.root / NEXT_IDENTITY).replace(self.root / IDENTITY)
        self._flush_directory(self._where)

    def _read(self, name: str) -> str | None:
        try:
            return (self.root / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def stored_paths(self) -> Iterator[Path]:
        """Every file under instances, results and quarantine, relative to the storage directory."""
        for folder in (INSTANCES, RESULTS, QUARANTINE):
            for path in sorted((self.root / folder).glob("*/*.dcm")):
                yield path.relative_to(self.root)

    def incoming_paths(self) -> Iterator[Path]:
        """Every temporary file, relative to the storage directory; those of a dead process are waste."""
        for path in sorted((self.root / INCOMING).iterdir()):
            yield path.relative_to(self.root)

    def new_name(self) -> str:
        """A new path, below the incoming folder, for a file that is not whole yet."""
        return f"{self._where}/{INCOMING}/{uuid.uuid4().hex}"

    def place(self, incoming: str | Path, path: str | Path) -> None:
        """Give a flushed file its name, and flush the name.

        Parameters
        ----------
        incoming
            Where it was written.
        path
            Its name, relative to the storage directory.
        """
        # This is done for every image: os.rename instead of Path.replace, which takes longer than the call itself.
        target = f"{self._where}/{path}"
        directory = target.rpartition("/")[0]
        # Replacing a file of the same content by itself is harmless, and flushes a name that a crash left unsure.
        with self._locked(fcntl.LOCK_SH):
            try:
                os.rename(incoming, target)  # noqa: PTH104
            except FileNotFoundError:
                Path(directory).mkdir(DIRECTORY_MODE, exist_ok=True)
                self._flush_directory(directory.rpartition("/")[0])
                os.rename(incoming, target)  # noqa: PTH104
        self._flush_directory(directory)

    def store_all(self, contents: Sequence[tuple[str, memoryview]]) -> None:
        """Write files, give each its name, and flush the file system once for all of them (syncfs(2)).

        Parameters
        ----------
        contents
            Name, relative to the storage directory, and content of each.

        Raises
        ------
        OSError
            No room or no access; some may be there already.
        """
        written = []
        try:
            for _, content in contents:
                written.append(self.new_name())
                self._write_new(written[-1], content)
            with self._locked(fcntl.LOCK_SH):
                for name, (path, _) in zip(written, contents, strict=True):
                    target = f"{self._where}/{path}"
                    try:
                        os.rename(name, target)  # noqa: PTH104
                    except FileNotFoundError:
                        Path(target).parent.mkdir(DIRECTORY_MODE, exist_ok=True)
                        os.rename(name, target)  # noqa: PTH104
        except OSError:
            for name in written:
                Path(name).unlink(missing_ok=True)
            raise
        self._flush_file_system()

    def _write_new(self, name: str, content: memoryview) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            at = 0
            while at < len(content):
                at += os.write(descriptor, content[at:] if at else content)
        finally:
            os.close(descriptor)

    def _flush_file_system(self) -> None:
        descriptor = os.open(self._where, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _LIBC.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self._where)
        finally:
            os.close(descriptor)

    def _flush_directory(self, directory: str) -> None:
        if not self.durable:
            return
        flush_directory(directory)

    @contextlib.contextmanager
    def unswept(self) -> Iterator[None]:
        """Let no sweep begin for the time of the block, after the one that may run has ended: for a backup."""
        with self._locked(fcntl.LOCK_SH, BACKUP_LOCK):
            yield

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[bool]:
        """Whether a sweep may be made now; while one is, no backup begins."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB, BACKUP_LOCK))
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextlib.contextmanager
    def _locked(self, how: int, name: str = LOCK) -> Iterator[None]:
        lock = os.open(f"{self._where}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)


class IncomingFile:
    """A data set on its way to the disk; memory stays flat however long it is.

    Use it as a context: a file that was not kept by the end is removed.
    """

    def __init__(self, files: InstanceFiles, file_meta: bytes, transfer_syntax_uid: str) -> None:
        self._files = files
        self._content = hashlib.sha256(transfer_syntax_uid.encode("ascii") + b"\0")
        self._path = files.new_name()
        self._descriptor = -1
        self._kept = False
        self._meta = file_meta
        self._small: bytearray | None = bytearray()
        """The data set, as long as it is short enough to wait for its end in memory."""
        self._begin = self.size = len(file_meta)
        """``size`` is that of the file so far, bytes."""

    def write(self, part: bytes | memoryview) -> None:
        """Write the next bytes of the data set.

        Raises
        ------
        OSError
            No room or no access.
        """
        self._content.update(part)
        self.size += len(part)
        if self._small is None:
            self._write((part,))
            return
        self._small += part
        if len(self._small) > KEPT_IN_MEMORY:
            whole, self._small = self._small, None
            self._open()
            self._write((self._meta, whole))

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)

    @property
    def in_memory(self) -> tuple[bytes, bytearray] | None:
        """File Meta Information and data set, as long as nothing is on the disk yet."""
        return None if self._small is None or self._descriptor >= 0 else (self._meta, self._small)

    def as_stored(self) -> StoredFile:
        """What :meth:`keep` would give, now that the data set is complete; nothing is stored."""
        digest = self._content.hexdigest()
        return StoredFile(_path(INSTANCES, digest), digest, self.size)

    def _write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        written = os.writev(self._descriptor, parts)
        for part in parts:
            left = memoryview(part)[min(written, len(part)) :]
            written -= len(part) - len(left)
            while left:
                left = left[os.write(self._descriptor, left) :]

    @contextlib.contextmanager
    def data_set(self) -> Iterator[memoryview]:
        """The data set as written so far, for the time of the block."""
        if self._small is not None:
            yield memoryview(self._small)
            return
        with (
            mmap.mmap(self._descriptor, self.size, prot=mmap.PROT_READ) as mapped,
            memoryview(mapped) as whole,
            whole[self._begin :] as part,
        ):
            yield part

    def keep(self, folder: str = INSTANCES) -> StoredFile:
        """Flush the file, give it the name of its content in a folder, and flush the name.

        Raises
        ------
        OSError
            No room or no access; nothing was stored.
        """
        if self._small is not None:
            self._open()
            self._write((self._meta, self._small))
        if self._files.durable:
            os.fsync(self._descriptor)
        digest = self._content.hexdigest()
        path = _path(folder, digest)
        self._files.place(self._path, path)
        self._kept = True
        return StoredFile(path, digest, self.size)

    def close(self) -> None:
        """Close the file, and remove it unless it was kept."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._kept:
            with contextlib.suppress(FileNotFoundError):
                Path(self._path).unlink()

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        self.close()


def flush_directory(directory: str | Path) -> None:
    """Flush to the disk which files a directory names."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path(folder: str, digest: str) -> str:
    return f"{folder}/{digest[:2]}/{digest}.dcm"
