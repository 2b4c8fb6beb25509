"""Decoding compressed frames in a process of its own, which may take so much memory and time and no more.

The decoders are C and C++. What makes one of them take all memory, loop or crash costs this process, and one frame; not
the worker, nor the other studies of a folder. The process is started for the first compressed frame and serves all that
follow; it ends when its input is closed.

A message is four bytes of length, so many of JSON, then the bytes that the JSON announces.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

from pipelines.cine import elements
from pipelines.module_process import end_process, start_python

__all__ = ["DecoderDiedError", "decode_apart", "start_decoder"]

MEMORY_BYTES = 3 << 29
"""1.5 GiB: the process itself takes 0.2, a frame of the largest size some 0.3."""
CPU_S = 30
"""Processor time for one frame; one of the largest size takes 4 s."""
_COMMAND = ("-m", "pipelines.cine.decoder")


class DecoderDiedError(RuntimeError):
    """The decoder ended over a frame: it crashed, or took more memory or time than it may."""


class _Decoder:
    """The process, started when it is first needed and again after its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = start_python(_COMMAND)

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        end_process(process)

    def ask(self, attributes: Mapping[str, Any], codestream: bytes) -> NDArray[np.generic]:
        """One frame, decoded by the process."""
        with self._lock:
            self.start()
            assert self._process is not None
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            try:
                _write(stdin, {**attributes, "bytes": len(codestream)}, codestream)
                answer = _read(stdout)
                values = None if answer is None else _whole(stdout, int(answer.get("bytes", 0)))
            except OSError:
                answer, values = None, None
            except BaseException:
                # Half an answer would be taken for the next one.
                self.stop()
                raise
            if answer is None or values is None:
                self.stop()
                raise DecoderDiedError("the decoder ended over it: it crashed, or took too much memory or time")
        if "error" in answer:
            raise ValueError(answer["error"])
        return np.frombuffer(values, dtype=np.dtype(answer["type"])).reshape(answer["shape"])


_decoder = _Decoder()
atexit.register(_decoder.stop)


def start_decoder() -> None:
    """Start the process before the first frame is there for it."""
    with _decoder._lock:
        _decoder.start()


def decode_apart(attributes: Mapping[str, Any], codestream: bytes) -> NDArray[np.generic]:
    """Decode one compressed frame in the other process.

    Parameters
    ----------
    attributes : mapping
        TransferSyntaxUID and the attributes of the Image Pixel module, by keyword; plain values.
    codestream : bytes
        The frame: its fragments put together.

    Returns
    -------
    (R, C) or (R, C, S) array
        Stored values as pydicom gives them; read only.

    Raises
    ------
    DecoderDiedError
        The process crashed over it, or took more memory or time than it may.
    ValueError
        It cannot be decoded.
    """
    return _decoder.ask(attributes, codestream)


def _write(file: Any, header: Mapping[str, Any], payload: bytes) -> None:
    encoded = json.dumps(header).encode()
    file.write(struct.pack("<L", len(encoded)) + encoded)
    file.write(payload)
    file.flush()


def _whole(file: Any, count: int) -> bytes | None:
    data: bytes = file.read(count)
    return data if len(data) == count else None


def _read(file: Any) -> dict[str, Any] | None:
    """The JSON of the next message; ``None`` at the end."""
    length = _whole(file, 4)
    encoded = None if length is None else _whole(file, struct.unpack("<L", length)[0])
    return None if encoded is None else json.loads(encoded)


@functools.lru_cache(maxsize=4)
def _object(attributes: tuple[tuple[str, Any], ...]) -> Dataset:
    """A data set of these attributes, made once for all frames of a series."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    for keyword, value in attributes:
        setattr(dataset.file_meta if keyword == "TransferSyntaxUID" else dataset, keyword, value)
    return dataset


def _decoded(header: Mapping[str, Any], codestream: bytes) -> NDArray[np.generic]:
    dataset = _object(tuple((keyword, value) for keyword, value in header.items() if keyword != "bytes"))
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    return pixel_array(dataset, index=0, raw=True, correct_unused_bits=False)


def _serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    _, most_s = resource.getrlimit(resource.RLIMIT_CPU)
    while (header := _read(stdin)) is not None:
        codestream = _whole(stdin, int(header["bytes"]))
        if codestream is None:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, most_s))
        try:
            values = np.ascontiguousarray(_decoded(header, codestream))
        except elements.DAMAGE as error:
            # The first line: pydicom lists the fate of every plug-in, and whole element values, below it.
            reason = str(error).partition("\n")[0][:120].rstrip(" .:")
            _write(stdout, {"error": f"{type(error).__name__}: {reason}"}, b"")
            continue
        about = {"type": values.dtype.str, "shape": values.shape, "bytes": values.nbytes}
        _write(stdout, about, values.tobytes())


def _main() -> None:
    warnings.simplefilter("ignore")
    # Some decoders print; what they print must not stand between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
