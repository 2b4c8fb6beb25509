"""Finding DICOM objects in a folder by their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.cine import elements
from pipelines.cine.reading import read_object

__all__ = ["dicom_files", "files_by_study", "looks_like_dicom"]

_MEDIA_STORAGE_DIRECTORY = b"1.2.840.10008.1.3.10"


def looks_like_dicom(path: Path) -> bool:
    """Tell from its first bytes whether a file is a DICOM object other than a DICOMDIR.

    Parameters
    ----------
    path : Path
        A file; one that cannot be opened is taken for DICOM, so that whoever reads it reports why.

    Returns
    -------
    bool
        True with the prefix of PS3.10 7.1, or, without a preamble, when it begins with an element of group 0002
        or 0008.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return True
    if head[128:132] == b"DICM":
        return _MEDIA_STORAGE_DIRECTORY not in head
    if head[:4] in {b"\x02\x00\x00\x00", b"\x02\x00\x02\x00"}:
        return True
    # Without file meta information: an element of group 0008, explicit (two upper-case letters) or implicit VR.
    if head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and len(head) >= 8:
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        return explicit or int.from_bytes(head[4:8], "little") < 1024
    return False


def dicom_files(root: Path) -> Iterator[Path]:
    """Walk a folder for DICOM objects, whatever their names.

    Parameters
    ----------
    root : Path
        A folder, searched to any depth, or one file.

    Yields
    ------
    Path
        Objects in sorted order; DICOMDIR, text and other files are passed over.

    Raises
    ------
    FileNotFoundError
        ``root`` does not exist.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    if root.is_file():
        if looks_like_dicom(root):
            yield root
        return
    for path in sorted(root.rglob("*")):
        if path.is_file() and looks_like_dicom(path):
            yield path


def files_by_study(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group DICOM files by their StudyInstanceUID, reading no further than that.

    Returns
    -------
    dict of str to list of Path
        Files that cannot be read, or name no study, are under the empty string.
    """
    by_study: dict[str, list[Path]] = {}
    for path in paths:
        try:
            header = read_object(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True, force=True)
            uid = elements.text((dict(header.items()),), "StudyInstanceUID")
        except elements.DAMAGE:
            uid = ""
        by_study.setdefault(uid, []).append(path)
    return by_study
