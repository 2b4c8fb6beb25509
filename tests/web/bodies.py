"""Bodies of store requests, built independently of the node's own writer."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset

BOUNDARY = "a-boundary"


def part10(image: Dataset) -> bytes:
    """The file of a data set."""
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def multipart(*parts: bytes, headers: str = "Content-Type: application/dicom\r\n") -> bytes:
    """A whole body."""
    framed = b"".join(f"--{BOUNDARY}\r\n{headers}\r\n".encode() + part + b"\r\n" for part in parts)
    return framed + f"--{BOUNDARY}--\r\n".encode()


def related(boundary: str = BOUNDARY) -> str:
    """Content-Type of such a body."""
    return f'multipart/related; type="application/dicom"; boundary={boundary}'


def reasons(answer: dict[str, dict[str, list[dict[str, dict[str, list[object]]]]]]) -> dict[str, int | None]:
    """Failure Reason of each instance of a response in JSON, ``None`` for one that was stored."""
    said: dict[str, int | None] = {}
    for sequence in ("00081199", "00081198"):
        for item in answer.get(sequence, {}).get("Value", []):
            reason = item.get("00081197", {}).get("Value", [None])[0]
            said[str(item["00081155"]["Value"][0])] = reason if sequence == "00081198" else None  # type: ignore[assignment]
    return said


def other_failures(answer: dict[str, dict[str, list[dict[str, dict[str, list[int]]]]]]) -> list[int]:
    """Failure Reasons of what could not be named."""
    return [item["00081197"]["Value"][0] for item in answer.get("0008119A", {}).get("Value", [])]
