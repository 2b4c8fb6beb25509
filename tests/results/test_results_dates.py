"""Dates of results stand in the zone of the source or of the node, which the object states, and follow the images."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset

from dicom_node.config import ResultSettings
from dicom_node.results.dates import last_acquired, local_time, offset_text
from results.test_results_identity import reread, result_of, source

UTC = dt.UTC
EVENING_BEFORE = dt.datetime(2025, 2, 28, 22, 10, tzinfo=UTC)
"""A study of 08:00 at UTC+10 has just been received."""

MOMENTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2090, 1, 1)).map(lambda one: one.replace(microsecond=0))
OFFSETS = st.integers(-12 * 60, 14 * 60).map(lambda minutes: dt.timedelta(minutes=minutes))


@pytest.mark.parametrize("zone", ["Australia/Brisbane", "UTC", "America/New_York"])
def test_a_study_of_the_morning_at_utc_plus_ten_has_no_result_of_the_day_before(tmp_path: Path, zone: str) -> None:
    header = source(
        tmp_path,
        [],
        {"StudyDate": "20250301", "StudyTime": "080000", "AcquisitionDate": "20250301", "AcquisitionTime": "080512.25"},
    )
    result = reread(tmp_path, result_of(header, EVENING_BEFORE, ResultSettings(time_zone=zone)))
    assert result.ContentDate == "20250301"
    # In the right zone the true time, in any other none before the image.
    assert result.ContentTime == ("081000" if zone == "Australia/Brisbane" else "080512")
    assert result.TimezoneOffsetFromUTC == {"Australia/Brisbane": "+1000", "UTC": "+0000"}.get(zone, "-0500")


def test_the_zone_of_the_operating_system_counts_without_a_configured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        result = reread(tmp_path, result_of(source(tmp_path, [], {}), EVENING_BEFORE))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (result.ContentDate, result.ContentTime) == ("20250301", "035500")
    assert result.TimezoneOffsetFromUTC == "+0545"


@pytest.mark.parametrize("offset", ["+9999", "UTC", "+10", "", "-1300"])
def test_an_impossible_zone_of_the_source_is_not_taken_over(tmp_path: Path, offset: str) -> None:
    header = source(tmp_path, [], {"TimezoneOffsetFromUTC": offset})
    result = reread(tmp_path, result_of(header, EVENING_BEFORE, ResultSettings(time_zone="Europe/Berlin")))
    assert (result.TimezoneOffsetFromUTC, result.ContentTime) == ("+0100", "231000")


@given(created=MOMENTS, of_source=OFFSETS, acquired=st.none() | MOMENTS)
def test_no_result_is_older_than_its_images_and_its_zone_is_the_sources(
    created: dt.datetime, of_source: dt.timedelta, acquired: dt.datetime | None
) -> None:
    local = local_time(created.replace(tzinfo=UTC), offset_text(of_source), "Europe/Berlin", acquired)
    assert local.utcoffset() == of_source
    assert acquired is None or local.replace(tzinfo=None) >= acquired
    if acquired is None or acquired <= created + of_source:
        assert local == created.replace(tzinfo=UTC)


@given(
    text=st.one_of(st.text("+-0123456789 .", max_size=20), st.text(max_size=8)), date=st.text("0123456789", max_size=9)
)
def test_any_date_is_read_or_passed_over(text: str, date: str) -> None:
    image = Dataset()
    image.StudyDate, image.StudyTime = "20250301", "081500"
    image.add_new("AcquisitionDateTime", "LO", text)
    image.add_new("AcquisitionDate", "LO", date)
    found = last_acquired([image])
    assert isinstance(found, dt.datetime)


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="name of a time zone"):
        ResultSettings(time_zone="Mars/Olympus")


@given(st.sampled_from([*range(1, 1970, 7), *range(2200, 10000, 13), 9999]), st.booleans())
def test_a_year_in_which_nothing_is_acquired_is_no_date(year: int, both: bool) -> None:
    """A placeholder such as 99991231 would date all results after it, in years that readers refuse."""
    image = Dataset()
    image.StudyDate, image.StudyTime = "20250301", "080000"
    image.AcquisitionDate, image.AcquisitionTime = f"{year:04d}1231", "235959"
    if both:
        image.AcquisitionDateTime = f"{year:04d}1231235959"
    assert last_acquired([image]) == dt.datetime(2025, 3, 1, 8)
