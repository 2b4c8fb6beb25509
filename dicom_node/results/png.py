"""The pictures of result objects as PNG files, for people without a DICOM viewer."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom import dcmread

from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import SUMMARY

__all__ = ["write_summary_pages"]


def write_summary_pages(objects: Iterable[ResultObject], directory: Path) -> list[Path]:
    """Write each page of the summary, read back from the secondary capture itself.

    Returns
    -------
    list of Path
        ``summary-1.png``, ``summary-2.png`` …; empty where there is no summary (a refusal).
    """
    pages = []
    summaries = (one for one in objects if one.role == SUMMARY)
    for number, one in enumerate(summaries, start=1):
        path = directory / f"summary-{number}.png"
        Image.fromarray(dcmread(BytesIO(one.content)).pixel_array).save(path)
        pages.append(path)
    return pages
