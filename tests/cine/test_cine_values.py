"""Numbers as scanners and archives write them: read where that is plain, named where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from cine_scanner import expected_values, frame, mean_values, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipelines.cine import elements
from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.headers import frame_headers
from pipelines.cine.stack import OmissionReason


def put(ds: Dataset, keyword: str, value: bytes) -> None:
    """As read from a file."""
    tag = Tag(keyword)
    ds._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


def read(value: bytes) -> tuple[float, ...]:
    ds = Dataset()
    put(ds, "PixelSpacing", value)
    return elements.numbers((dict(ds.items()),), "PixelSpacing")


decimals = st.decimals(-9999, 9999, places=3)


@given(
    st.lists(decimals, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(["", " ", "  "]),
    st.integers(0, 2),
    st.sampled_from(["", "+"]),
)
@settings(max_examples=200)
def test_points_commas_blanks_and_empty_values_behind_the_last(numbers, comma, blank, empties, sign) -> None:
    parts = [f"{'' if value < 0 else sign}{value}{blank}" for value in numbers]
    text = "\\".join([*parts, *[""] * empties])
    expected = tuple(float(value) for value in numbers)
    assert read((text.replace(".", ",") if comma else text).encode()) == expected


@given(st.text("0123456789.,;eE+-_ abc", min_size=1, max_size=12))
@settings(max_examples=300)
def test_what_is_no_number_is_named_and_never_guessed(text: str) -> None:
    found = read(text.encode())
    ds = Dataset()
    put(ds, "PixelSpacing", text.encode())
    named = elements.unreadable((dict(ds.items()),), "PixelSpacing")
    assert bool(found) != bool(named) or not text.strip()
    if found:
        # A number has one sign for the decimals, and no groups of thousands.
        assert text.count(",") + text.count(".") <= 1
        assert "_" not in text


@pytest.mark.parametrize(
    ("keyword", "value", "sentence"),
    [
        ("PixelSpacing", b"1,4\\1;4 ", "Value 2 of PixelSpacing cannot be read as a number ('1;4')."),
        ("PixelSpacing", b"1.4,1.4 ", "PixelSpacing cannot be read as a number ('1.4,1.4')."),
        ("PixelSpacing", b"1.4 ", "PixelSpacing has 1 value; it takes 2."),
        ("PixelSpacing", b"0\\0 ", "PixelSpacing is not positive."),
        ("PixelSpacing", b"\\1.4", "Value 1 of PixelSpacing cannot be read as a number ('')."),
        ("ImagePositionPatient", b"1\\x\\3 ", "Value 2 of ImagePositionPatient cannot be read as a number ('x')."),
        ("ImagePositionPatient", b"", "ImagePositionPatient is absent."),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\1 ", "ImageOrientationPatient has 5 values; it takes 6."),
        (
            "ImageOrientationPatient",
            b"1\\0\\0\\1\\0\\0 ",
            "ImageOrientationPatient does not hold two perpendicular unit vectors.",
        ),
        (
            "PixelSpacing",
            "1\\Müller".encode("latin-1"),
            "Value 2 of PixelSpacing cannot be read as a number ('M?ller').",
        ),
    ],
)
def test_which_value_of_which_attribute_is_said(keyword: str, value: bytes, sentence: str) -> None:
    ds = frame()
    put(ds, keyword, value)
    (header,) = frame_headers(ds)
    assert header.geometry_problem == sentence
    images = stack(slices=4)
    for one in images:
        put(one, keyword, value)
    (study,) = assemble_datasets(images)
    (entry,) = study.omissions
    assert (entry.reason, entry.detail) == (OmissionReason.NO_GEOMETRY, sentence)
    assert len(entry.sop_instance_uids) == 80


def test_values_that_differ_from_image_to_image_are_said_once() -> None:
    images = stack(slices=4)
    for number, one in enumerate(images):
        put(one, "ImagePositionPatient", f"1\\2\\x{number}".encode())
    (study,) = assemble_datasets(images)
    (entry,) = study.omissions
    assert entry.detail.startswith("Value 3 of ImagePositionPatient cannot be read as a number ('x")


def test_a_whole_study_with_decimal_commas_and_empty_values_is_read() -> None:
    images = stack(slices=5)
    for ds in images:
        for element in list(ds):
            if element.VR == "DS":
                values = element.value if element.VM > 1 else [element.value]
                text = "\\".join(str(value).replace(".", ",") for value in values) + "\\"
                put(ds, element.keyword, text.encode())
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    assert study.short_axis.geometry.pixel_spacing == (1.5, 1.5)
    assert study.short_axis.trigger_times[3, 0] == pytest.approx(120.0)
