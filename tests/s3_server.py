"""An S3 server in a process of its own (moto), behind a gate that can be shut as a network is cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import boto3
from interop.ports import free_port, wait_until

from storage.bucket import Bucket, BucketPlace

__all__ = ["ACCESS_KEY", "SECRET_KEY", "Gate", "S3Server", "running_s3"]

ACCESS_KEY, SECRET_KEY = "node", "not a secret"


class Gate:
    """Carries connections to a port, or refuses them and breaks those that are open."""

    def __init__(self, to: int) -> None:
        self.port = free_port()
        self._to, self._listener = to, socket.socket()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.bytes_until_shut: int | None = None
        """Shuts by itself when so many bytes have been carried to the server."""
        self.bytes_back_until_shut: int | None = None
        """The same of bytes from the server."""
        self.open()

    def open(self) -> None:
        """Carry connections from now on."""
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse connections from now on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets.update((near, far))
            threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._is_over(forth, len(data)):
                    self.shut()
                    return
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _is_over(self, forth: bool, count: int) -> bool:
        name = "bytes_until_shut" if forth else "bytes_back_until_shut"
        with self._lock:
            left = getattr(self, name)
            setattr(self, name, None if left is None or left < count else left - count)
        return left is not None and left < count


class S3Server:
    """A server with its gate; buckets are made through it, past the gate."""

    def __init__(self, port: int) -> None:
        self.gate = Gate(port)
        self.endpoint = f"http://127.0.0.1:{self.gate.port}"
        self._direct = f"http://127.0.0.1:{port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self._direct,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )

    def bucket(self, name: str, prefix: str = "node", *, made: bool = True) -> Bucket:
        """A bucket of this name, through the gate."""
        if made:
            self.client.create_bucket(Bucket=name)
        return Bucket(BucketPlace(name, prefix, self.endpoint, "us-east-1", ACCESS_KEY, SECRET_KEY))

    def contents(self, name: str) -> dict[str, bytes]:
        """All objects of a bucket, asked for past the gate."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=name)
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {key: self.client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server that runs for the time of the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, "the S3 server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        wait_until(answers, seconds=120, what="the S3 server answers")
        server = S3Server(port)
        yield server
        server.gate.shut()
    finally:
        process.kill()
        process.wait()
