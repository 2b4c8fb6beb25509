"""Reads values of source headers where they can be read: a word may stand where a number belongs."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from pipelines.cine.elements import DAMAGE, of_storage

__all__ = ["stated"]


def stated(header: Dataset, where: str | int) -> Any:
    """Value of an attribute of a source; ``None`` where it is absent or cannot be read.

    What an encoder takes over from a source is never worth failing for: a value that cannot be read is one that the
    source does not have.

    Raises
    ------
    OSError
        The file of the source cannot be read any more.
    """
    try:
        return header[where].value if where in header else None
    except DAMAGE as error:
        if of_storage(error):
            raise
        return None
