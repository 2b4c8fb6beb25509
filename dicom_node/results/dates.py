"""Dates and times of results: in the zone of the source or of the node, and never before the images."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterable

from pydicom.dataset import Dataset

from dicom_node.results.stated import stated

__all__ = ["ACQUIRED", "last_acquired", "local_time", "node_offset", "offset_text"]

_EARLIEST, _LATEST = dt.timedelta(hours=-12), dt.timedelta(hours=14)
_YEARS = range(1970, 2200)
"""In which images are acquired, with room for anonymisers that move dates. Others stand for a date that is not known:
results that were dated after one of 9999 would break PS3.5 for some readers."""
_PAIRS = (("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"), ("StudyDate", "StudyTime"))
ACQUIRED = ("AcquisitionDateTime", *(keyword for pair in _PAIRS for keyword in pair))
"""Elements that tell when an image was acquired; the first that can be read counts."""


def source_offset(text: str) -> dt.timedelta | None:
    """Timezone Offset From UTC (0008,0201) as a duration; ``None`` when absent or not one of PS3.3 C.12.1.1.8."""
    match = re.fullmatch(r"([+-])(\d{2})([0-5]\d)", text.strip())
    if match is None:
        return None
    offset = dt.timedelta(hours=int(match[2]), minutes=int(match[3])) * (-1 if match[1] == "-" else 1)
    return offset if _EARLIEST <= offset <= _LATEST else None


def node_offset(created: dt.datetime, time_zone: str | None) -> dt.timedelta:
    """Offset of the node's zone at a moment: of the configured zone, or of the operating system's."""
    there = created.astimezone(None if time_zone is None else zoneinfo.ZoneInfo(time_zone))
    return there.utcoffset() or dt.timedelta()


def offset_text(offset: dt.timedelta) -> str:
    """Value of Timezone Offset From UTC."""
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


def last_acquired(images: Iterable[Dataset]) -> dt.datetime | None:
    """When the last of the images was acquired, as its clock said; ``None`` when none says it."""
    return max((moment for image in images if (moment := _acquired(image)) is not None), default=None)


def _acquired(image: Dataset) -> dt.datetime | None:
    moment = _moment(re.split(r"[-+&]", str(stated(image, "AcquisitionDateTime") or ""))[0])
    for date, time in _PAIRS:
        if moment is None:
            moment = _moment(f"{str(stated(image, date) or '').strip()}{str(stated(image, time) or '').strip()}")
    return moment


def _moment(text: str) -> dt.datetime | None:
    digits = text.strip().split(".")[0]
    try:
        moment = dt.datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S") if len(digits) >= 8 else None
    except ValueError:
        return None
    return moment if moment is None or moment.year in _YEARS else None


def local_time(
    created: dt.datetime, source_zone: str, time_zone: str | None, acquired: dt.datetime | None
) -> dt.datetime:
    """When results count as made, in the zone that their object states.

    Parameters
    ----------
    created
        With time zone.
    source_zone
        Timezone Offset From UTC of the source; where it has none, or an impossible one, the node's zone counts.
    time_zone
        The node's zone, by its IANA name; that of the operating system when ``None``.
    acquired
        When the last image was acquired, as its clock said. A clock of the scanner that is ahead, or a node whose zone
        is not the scanner's, makes no result that is older than its images.
    """
    offset = source_offset(source_zone)
    if offset is None:
        offset = node_offset(created, time_zone)
    local = created.astimezone(dt.timezone(offset))
    if acquired is not None and local.replace(tzinfo=None) < acquired:
        local = acquired.replace(tzinfo=local.tzinfo)
    return local
