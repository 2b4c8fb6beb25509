"""One section of ``config.yaml`` as it is written, comments and all, and the file with another in its place.

The file stays the one place where the configuration is: whoever edits a section elsewhere puts its lines back here.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import yaml

from dicom_node.errors import ConfigurationError

__all__ = ["read_configuration_file", "section_lines", "with_section", "write_configuration_file"]


def read_configuration_file(path: Path) -> str:
    """The text of a configuration file, with ``\\n`` at the end of each line.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", subject=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("is not text in UTF-8", subject=str(path)) from error


def section_lines(text: str, name: str) -> str:
    """The lines of one section, from its name to the last line before what belongs to the next; empty without one.

    Comments and blank lines that stand right before the next section belong to that one.

    Raises
    ------
    ConfigurationError
        The file is not YAML, or not written as one section below another.
    """
    begin, end = _place(text, name)
    return text[begin:end]


def with_section(text: str, name: str, lines: str) -> str:
    """The file with other lines in place of one section; everything else stays as it is, to the letter.

    Parameters
    ----------
    lines
        As :func:`section_lines` gives them, the name of the section first.

    Raises
    ------
    ConfigurationError
        The file is not YAML, or not written as one section below another.
    """
    begin, end = _place(text, name)
    before = text[:begin] if not text[:begin] or text[:begin].endswith("\n") else f"{text[:begin]}\n"
    return before + lines.strip("\n") + "\n" + text[end:]


def write_configuration_file(path: Path, text: str) -> None:
    """Put another text in place of a configuration file, whole or not at all; owner, mode and line ends stay.

    Raises
    ------
    ConfigurationError
        It cannot be written, for example because it is mounted for reading only.
    """
    target = path.resolve()
    try:
        present = target.read_bytes()
        encoded = text.encode("utf-8")
        if b"\r\n" in present:
            encoded = encoded.replace(b"\n", b"\r\n")
        mode = target.stat()
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encoded)
                file.flush()
                os.fchmod(file.fileno(), mode.st_mode & 0o7777)
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), mode.st_uid, mode.st_gid)
                os.fsync(file.fileno())
            Path(name).replace(target)
        except OSError:
            Path(name).unlink()
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigurationError(
            f"cannot be written: {error.strerror}",
            subject=str(target),
            remedy="let the node write the file and its folder, or edit it by hand and run dicom-node reload",
        ) from error


def _place(text: str, name: str) -> tuple[int, int]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError("the configuration file is not YAML any more", subject=name) from error
    if root is None:
        return len(text), len(text)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ConfigurationError(
            "the configuration file is not written as one section below another", remedy="edit it by hand", subject=name
        )
    begins = [(str(key.value), key.start_mark.index - key.start_mark.column) for key, _ in root.value]
    for index, (key, begin) in enumerate(begins):
        if key == name:
            following = begins[index + 1][1] if index + 1 < len(begins) else len(text)
            return begin, begin + _own(text[begin:following])
    return len(text), len(text)


def _own(lines: str) -> int:
    """Length of what belongs to a section: without what stands at the margin after its last key."""
    kept = lines.splitlines(keepends=True)
    while len(kept) > 1 and (not kept[-1].strip() or kept[-1].startswith(("#", "..."))):
        kept.pop()
    return sum(map(len, kept))
