"""The table of normal ranges that a department uses."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dicom_node.config import ResultSettings
from dicom_node.errors import ConfigurationError
from pipelines.function.normals import PACKAGED, NormalTable, NormalTableError, read_normals

__all__ = ["normal_table"]


def normal_table(settings: ResultSettings) -> NormalTable:
    """The table that a configuration names, or the one that comes with this software.

    Raises
    ------
    ConfigurationError
        It cannot be used.
    """
    path = settings.normal_ranges or PACKAGED
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (NormalTableError, OSError) as error:
        raise ConfigurationError(
            str(error), subject="results.normal_ranges", remedy="start from pipelines/function/normals.yaml"
        ) from error


@cache
def _read(path: Path, _changed_at: int) -> NormalTable:
    return read_normals(path)
