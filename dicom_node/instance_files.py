"""Where the instance files of this host are, by the configuration."""

from __future__ import annotations

import functools
from pathlib import Path
from urllib.parse import urlsplit

from dicom_node.config import BucketSettings, Configuration, Secret
from dicom_node.hosts import host_name
from storage.bucket import Bucket, BucketPlace
from storage.bucket_files import BucketFiles
from storage.files import InstanceFiles

__all__ = ["bucket_of", "instance_files", "readable"]


def instance_files(configuration: Configuration, *, durable: bool = True) -> InstanceFiles:
    """The instance files as this host sees them.

    Raises
    ------
    ConfigurationError
        A key of the bucket cannot be read.
    OSError
        The storage directory cannot be made.
    """
    storage = configuration.storage
    if storage.bucket is None:
        return InstanceFiles(storage.directory, durable=durable)
    return BucketFiles(storage.directory, bucket_of(storage.bucket), host_name(configuration), durable=durable)


def readable(configuration: Configuration, path: str) -> Path:
    """Where a file of the ledger can be read on this machine.

    Raises
    ------
    OSError
        It cannot be brought here.
    """
    storage = configuration.storage
    return storage.directory / path if storage.bucket is None else instance_files(configuration).readable(path)


@functools.cache
def bucket_of(settings: BucketSettings) -> Bucket:
    """The bucket, one for each process; nobody is called.

    Raises
    ------
    ConfigurationError
        A key cannot be read.
    """
    url = urlsplit(settings.url)
    return Bucket(
        BucketPlace(
            bucket=url.netloc,
            prefix=url.path.strip("/"),
            endpoint=settings.endpoint,
            region=settings.region,
            access_key=_read(settings.access_key),
            secret_key=_read(settings.secret_key),
        )
    )


def _read(secret: Secret | None) -> str | None:
    return None if secret is None else secret.read()
