"""Instance files in a bucket, and this machine's disk in front of it.

A new instance is written to the storage directory as it is without a bucket, flushed, and recorded with the name of the
host that alone has it. Then the host uploads it (:mod:`storage.uploads`), and the row names no host any more. So what
was acknowledged is on the disk of the host that acknowledged it, or in the bucket, and the ledger says which; a bucket
that is away keeps nobody from sending. What is few, results and quarantined objects, is in the bucket before any row
names it.

Whoever reads gets a copy on the disk of this machine, kept among others in a cache of a bounded size.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.bucket import Bucket
from storage.files import (
    DIRECTORY_MODE,
    FILE_MODE,
    INSTANCES,
    OF_BUCKET,
    QUARANTINE,
    RESULTS,
    UNEXPLAINED,
    InstanceFiles,
)

__all__ = ["CACHE", "UNUSED_S", "BucketFiles"]

CACHE = "cache"
UNUSED_S = 1800.0
"""A copy that somebody asked for is left where it is for so long: longer than it takes to open what was asked for."""


class BucketFiles(InstanceFiles):
    """The storage directory of one host, and the bucket of all.

    Parameters
    ----------
    root
        Of this host alone.
    bucket
        Of all hosts of the node.
    host
        Name of this one.
    """

    def __init__(self, root: Path, bucket: Bucket, host: str, *, durable: bool = True) -> None:
        super().__init__(root, durable=durable)
        self.bucket, self.held_by = bucket, host

    def readable(self, path: str | Path) -> Path:
        """Where a copy of a file can be read on this machine, downloaded if need be.

        Raises
        ------
        FileNotFoundError
            Neither this machine nor the bucket has it: it is gone, or another host has not uploaded it yet.
        BucketError
            The bucket cannot be asked.
        OSError
            No room or no access.
        """
        # The cache first: what is only in front of the bucket stays there for a while after its upload.
        cached = self.root / CACHE / path
        with contextlib.suppress(FileNotFoundError):
            os.utime(cached)
            return cached
        front = self.absolute(path)
        if front.exists():
            return front
        new = Path(self.new_name())
        try:
            self.bucket.get(str(path), new)
            new.chmod(FILE_MODE)
            _name(new, cached)
        finally:
            new.unlink(missing_ok=True)
        return cached

    def size_of(self, path: str | Path) -> int | None:
        """Bytes of a file on this machine or in the bucket; a copy in the cache counts for nothing."""
        size = super().size_of(path)
        return self.bucket.size_of(str(path)) if size is None else size

    def place(self, incoming: str | Path, path: str | Path) -> None:
        """Give a flushed file its name: in front of the bucket if it is an instance, else in the bucket.

        Raises
        ------
        BucketError
            The bucket does not take it; nothing was stored.
        """
        if str(path).startswith(f"{INSTANCES}/"):
            super().place(incoming, path)
            return
        self.bucket.put(str(path), Path(incoming))
        _name(Path(incoming), self.root / CACHE / path)

    def upload(self, path: str) -> None:
        """Bring what is in front into the bucket, and into the cache of this machine; twice does no harm.

        Raises
        ------
        FileNotFoundError
            It is not there.
        BucketError
            The bucket does not take it.
        """
        front, cached = self.absolute(path), self.root / CACHE / path
        self.bucket.put(path, front)
        _make_folder(cached.parent)
        with contextlib.suppress(FileExistsError):
            cached.hardlink_to(front)

    def front_paths(self) -> Iterator[Path]:
        """Every file that lies before the bucket on this machine, uploaded or not."""
        return super().stored_paths()

    def stored_paths(self) -> Iterator[Path]:
        """Every file before or in the bucket; of what lies before it on other machines nothing is known here."""
        front = {str(path) for path in self.front_paths()}
        yield from (Path(path) for path in sorted(front.union(name for name, _ in self.bucket_names())))

    def bucket_names(self, shards: Sequence[str] | None = None) -> Iterator[tuple[str, dt.datetime]]:
        """Names of instances, results and quarantined objects in the bucket, and when each came there.

        Parameters
        ----------
        shards
            First two hexadecimal digits of the digests; all unless given.
        """
        for folder in (INSTANCES, RESULTS, QUARANTINE):
            for below in [f"{folder}/"] if shards is None else [f"{folder}/{shard}/" for shard in shards]:
                for name, at in self.bucket.names(below):
                    if name.endswith(".dcm"):
                        yield name, at

    def holds_in_quarantine(self, digest: str) -> bool:
        """Whether these bytes were kept aside, by whichever ledger."""
        path = f"{QUARANTINE}/{digest[:2]}/{digest}.dcm"
        return super().holds_in_quarantine(digest) or any(
            self.bucket.size_of(one) is not None for one in (path, f"{UNEXPLAINED}/{path}")
        )

    def remove(self, path: str | Path) -> None:
        """Remove one file everywhere."""
        for one in (self.absolute(path), self.root / CACHE / path):
            one.unlink(missing_ok=True)
        self.bucket.remove(str(path))

    def remove_object_if_older(self, path: str, than: dt.datetime) -> bool:
        """Remove an object from the bucket unless it was written, or written again, after ``than``.

        Returns
        -------
        bool
            Whether the bucket has none of this name now.
        """
        at = self.bucket.changed_at(path)
        if at is not None and at >= than:
            return False
        if at is not None:
            self.bucket.remove(path)
        (self.root / CACHE / path).unlink(missing_ok=True)
        return True

    def set_object_aside(self, path: str) -> None:
        """Move an object to ``unexplained``, within the bucket."""
        self.bucket.move(path, f"{UNEXPLAINED}/{path}")

    def unexplained_paths(self) -> Iterator[Path]:
        """Every file that was set aside, on this machine or in the bucket."""
        aside = {str(path) for path in super().unexplained_paths()}
        aside.update(name for name, _ in self.bucket.names(f"{UNEXPLAINED}/"))
        yield from (Path(path) for path in sorted(aside))

    def identity(self) -> str | None:
        """The identity of the bucket."""
        return self.bucket.identity()

    def take_identity(self) -> None:
        """Give the bucket, and then the directory, the identity that was written down for them."""
        identity = self.next_identity()
        if identity is not None:
            self.bucket.take_identity(identity)
        # Before the identity: who has that, has this.
        (self.root / OF_BUCKET).write_text(str(self.bucket), encoding="utf-8")
        super().take_identity()

    def evict(self, limit: int) -> int:
        """Remove copies from the cache, the least lately used first, until the rest takes ``limit`` bytes at most.

        Copies that were used within ``UNUSED_S`` stay, also beyond the limit.

        Returns
        -------
        int
            How many were removed.
        """
        copies = []
        for path in (self.root / CACHE).glob("**/*.dcm"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        size, before, removed = sum(one[1] for one in copies), time.time() - UNUSED_S, 0
        for used_at, length, path in sorted(copies):
            if size <= limit or used_at >= before:
                break
            path.unlink(missing_ok=True)
            size -= length
            removed += 1
        return removed


def _name(file: Path, name: Path) -> None:
    """Give a file a name in the cache; no flush, for it can be had again."""
    try:
        file.replace(name)
    except FileNotFoundError:
        _make_folder(name.parent)
        file.replace(name)
    os.utime(name)


def _make_folder(folder: Path) -> None:
    # Those above get the mode of this one: it is patient data.
    for one in reversed([folder, *folder.parents]):
        if not one.exists():
            one.mkdir(DIRECTORY_MODE, exist_ok=True)
