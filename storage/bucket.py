"""A bucket of S3: the few operations that instance files need of it.

Names are those that files have in a storage directory, below a prefix. Objects appear whole or not at all (S3), so a
name says what its content is, as in a directory. The only module that knows fsspec.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Bucket", "BucketError", "BucketPlace"]

CONNECT_S, READ_S = 5.0, 60.0
_IDENTITY = ".identity"

_T = TypeVar("_T")


class BucketError(OSError):
    """The bucket cannot be reached, or refuses what was asked: what is held stays where it is, and trying again is
    right.
    """


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """Which bucket, and how it is reached.

    Attributes
    ----------
    prefix
        Of all names, without a slash at its ends; may be empty.
    endpoint
        URL of the server; that of AWS unless given.
    access_key, secret_key
        Unless given, what botocore finds in the environment, in its files or from the machine's role.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


class Bucket:
    """One bucket; safe to use from many threads, in the process that made it.

    Every method raises :class:`BucketError` when the bucket does not do what is asked.
    """

    def __init__(self, place: BucketPlace) -> None:
        self.place = place
        self._root = f"{place.bucket}/{place.prefix}".rstrip("/")
        self._opened: Any = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"s3://{self._root}"

    def put(self, name: str, file: Path) -> None:
        """Upload a file under a name; the same content twice is the same object."""
        self._asked(lambda system: system.put_file(str(file), self._key(name)))

    def get(self, name: str, file: Path) -> None:
        """Download an object into a new file.

        Raises
        ------
        FileNotFoundError
            There is no object of this name.
        """
        self._asked(lambda system: system.get_file(self._key(name), str(file)))

    def size_of(self, name: str) -> int | None:
        """Bytes of an object, or ``None`` when there is none."""
        found = self._look(name)
        return None if found is None else int(found["size"])

    def changed_at(self, name: str) -> dt.datetime | None:
        """When an object was written last, by the clock of the server; ``None`` when there is none."""
        found = self._look(name)
        return None if found is None else _time(found)

    def remove(self, name: str) -> None:
        """Remove an object, if there is one."""
        self._asked(lambda system: system.rm_file(self._key(name)))

    def move(self, name: str, to: str) -> None:
        """Give an object another name."""
        self._asked(lambda system: system.cp_file(self._key(name), self._key(to)))
        self.remove(name)

    def names(self, folder: str) -> Iterator[tuple[str, dt.datetime]]:
        """Names of all objects below a folder, sorted, and when each was written last."""
        found = self._asked(lambda system: system.find(self._key(folder), detail=True))
        begin = len(self._root) + 1
        for key in sorted(found):
            yield key[begin:], _time(found[key])

    def identity(self) -> str | None:
        """The identity that the bucket carries, see :mod:`storage.identity`; none before it got one."""
        try:
            content: bytes = self._asked(lambda system: system.cat_file(self._key(_IDENTITY)))
        except FileNotFoundError:
            return None
        return content.decode("ascii").strip()

    def take_identity(self, identity: str) -> None:
        """Write down which ledger the bucket belongs to."""
        self._asked(lambda system: system.pipe_file(self._key(_IDENTITY), identity.encode("ascii")))

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _look(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._asked(lambda system: system.info(self._key(name)))
        except FileNotFoundError:
            return None
        return found if found.get("type") == "file" else None

    def _asked(self, ask: Callable[[Any], _T]) -> _T:
        # Imported when it is needed: a node without a bucket has neither.
        import aiohttp
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return ask(self._system())
        except FileNotFoundError as error:
            if _code(error.__cause__) != "NoSuchBucket":
                raise
            raise BucketError(errno.EIO, f"there is no bucket {self.place.bucket}") from error
        except (OSError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
            # Of the rest of its text nobody knows what it quotes.
            what = _code(error.__cause__) or _code(error) or type(error).__name__
            raise BucketError(errno.EIO, f"the bucket does not answer as it should ({what})") from error

    def _system(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = _opened(self.place)
            return self._opened


def _opened(place: BucketPlace) -> Any:
    import s3fs

    system = s3fs.S3FileSystem(
        key=place.access_key,
        secret=place.secret_key,
        endpoint_url=place.endpoint,
        client_kwargs={"region_name": place.region} if place.region else {},
        config_kwargs={
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "retries": {"mode": "standard", "max_attempts": 1},
            "max_pool_connections": 32,
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # Whoever asks knows better when to try again.
    system.retries = 1
    return system


def _code(error: BaseException | None) -> str:
    """What S3 calls its refusal; empty for what is none."""
    response = getattr(error, "response", None)
    with contextlib.suppress(TypeError, KeyError):
        return str(response["Error"]["Code"])  # type: ignore[index]
    return ""


def _time(found: dict[str, Any]) -> dt.datetime:
    at: dt.datetime = found["LastModified"]
    return at.astimezone(dt.UTC)
