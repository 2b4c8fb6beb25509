"""Reading headers and finding files."""

from __future__ import annotations

import math

import pydicom
import pytest
from cine_scanner import frame, stack
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from pipelines.cine import elements
from pipelines.cine.assemble import assemble, assemble_datasets
from pipelines.cine.files import dicom_files
from pipelines.cine.headers import frame_headers
from pipelines.cine.stack import PhaseEncoding


def raw(keyword: str, value: bytes, vr: str | None = "DS", *, little: bool = True) -> Dataset:
    ds = Dataset()
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, vr is None, little)
    return ds


@pytest.mark.parametrize(
    ("keyword", "value", "vr", "expected"),
    [
        ("TriggerTime", b"18.75 ", "DS", (18.75,)),
        ("TriggerTime", b"", "DS", ()),
        ("TriggerTime", b"abc", "DS", ()),
        ("TriggerTime", b"1e999", "DS", ()),
        ("TriggerTime", b"nan", "DS", ()),
        ("InstanceNumber", b"12\0", "IS", (12.0,)),
        ("InstanceNumber", b"12.0", "IS", (12.0,)),
        ("PixelSpacing", b"1.5\\1.25", "DS", (1.5, 1.25)),
        ("PixelSpacing", b"1.5\\x", "DS", ()),
        ("Rows", b"\x00\x01", "US", (256.0,)),
        ("Rows", b"\x00\x01", None, (256.0,)),
        ("Rows", b"\x01", "US", ()),
        ("NominalCardiacTriggerDelayTime", b"\x00\x00\x00\x00\x00\xc0\x32\x40", "FD", (18.75,)),
    ],
)
def test_numbers_as_written(keyword, value, vr, expected) -> None:
    assert elements.numbers((dict(raw(keyword, value, vr).items()),), keyword) == expected


def test_big_endian_numbers() -> None:
    assert elements.number((dict(raw("Rows", b"\x01\x00", "US", little=False).items()),), "Rows") == 256.0


@given(st.binary(max_size=40), st.sampled_from(["DS", "IS", "US", "FD", "FL", "UL", "UN", "SQ", "OB", None]))
def test_no_bytes_raise(value, vr) -> None:
    table = (dict(raw("TriggerTime", value, vr).items()),)
    assert all(math.isfinite(number) for number in elements.numbers(table, "TriggerTime"))
    assert all(isinstance(part, str) for part in elements.texts(table, "TriggerTime"))


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("20120000", "083920.638055", 8 * 3600 + 39 * 60 + 20.638055),
        ("", "083920", 8 * 3600 + 39 * 60 + 20),
        ("", "0839", 8 * 3600 + 39 * 60),
        ("", "08:39:20", 8 * 3600 + 39 * 60 + 20),
        ("", "8:09:2.5", 8 * 3600 + 9 * 60 + 2.5),
        ("0001.01.01", "000001,5", 86401.5),
        ("0001-01-01", "00:00:01,5", 86401.5),
        ("", "00010101000001,5+0200", 86401.5),
        ("00010101", "000001", 86401.0),
        ("", "00010101000001.5", 86401.5),
        ("", "00010101000001.5+0200", 86401.5),
        ("20240101", "", None),
        ("20240101", "noon", None),
    ],
)
def test_moments(date, time, expected) -> None:
    assert elements.seconds(date, time) == (expected if expected is None else pytest.approx(expected, abs=1e-5))


@given(st.times(), st.dates(), st.sampled_from(".,"), st.booleans(), st.sampled_from(["", ".", "-", "/"]))
def test_one_moment_however_it_is_written(time, date, point, colons, between) -> None:
    hours, minutes, seconds, fraction = time.hour, time.minute, time.second, time.microsecond
    clock = f"{hours}:{minutes:02d}:{seconds}" if colons else f"{hours:02d}{minutes:02d}{seconds:02d}"
    written = f"{date.year:04d}{between}{date.month:02d}{between}{date.day:02d}"
    expected = date.toordinal() * 86400 + hours * 3600 + minutes * 60 + seconds + fraction / 1e6
    assert elements.seconds(written, f"{clock}{point}{fraction:06d}") == pytest.approx(expected, abs=1e-4)


@given(st.text(max_size=20), st.text(max_size=30))
def test_no_moment_raises(date, time) -> None:
    moment = elements.seconds(date, time)
    assert moment is None or math.isfinite(moment)


def test_private_phase_is_found_by_its_creator() -> None:
    ds = frame()
    ds.add_new(0x00190010, "LO", "SOMEBODY ELSE")
    ds.add_new(0x001910D7, "SS", 3)
    assert frame_headers(ds)[0].private_phase is None
    ds.add_new(0x00190013, "LO", "GEMS_ACQU_01")
    ds.add_new(0x001913D7, "SS", 7)
    assert frame_headers(ds)[0].private_phase == 7.0


@pytest.mark.parametrize("value", [b"7 ", b"\x07\x00", b"\x07\x00\x00\x00"])
def test_private_phase_without_value_representation(value) -> None:
    """Implicit VR: the private dictionary may be unknown to whoever wrote it."""
    ds = frame()
    ds.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    tag = Tag(0x20011008)
    ds._dict[tag] = RawDataElement(tag, None, len(value), value, 0, True, True)  # as read, not yet converted
    assert frame_headers(ds)[0].private_phase == 7.0


def test_empty_functional_groups_of_a_classic_image_are_no_frames() -> None:
    """Seen in Sunnybrook."""
    ds = frame()
    ds.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    (header,) = frame_headers(ds)
    assert header.frame_number is None


def test_orientation_must_be_one() -> None:
    ds = frame()
    assert frame_headers(ds)[0].orientation is not None
    for wrong in ([0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0]):
        ds.ImageOrientationPatient = wrong
        assert frame_headers(ds)[0].orientation is None


def test_dicom_is_found_by_content(tmp_path) -> None:
    images = stack(slices=3, phases=12)
    deep = tmp_path / "a" / "b c" / "ü"
    deep.mkdir(parents=True)
    for number, ds in enumerate(images):
        name = deep / (f"IM{number}" if number % 2 else f"{number}.txt")
        ds.save_as(name, enforce_file_format=True)
    bare = images[0]
    bare.SOPInstanceUID += ".1"
    for number, syntax in enumerate(("explicit", "implicit")):
        ds = Dataset({element.tag: element for element in bare})
        path = tmp_path / f"no-preamble-{number}"
        pydicom.dcmwrite(path, ds, implicit_vr=syntax == "implicit", little_endian=True, enforce_file_format=False)
    (tmp_path / "README.txt").write_text("Not DICOM at all, but a text.")
    (tmp_path / "empty").touch()
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    directory = Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    found = list(dicom_files(tmp_path))
    assert len(found) == len(images) + 2
    assert found == sorted(found)
    assert {path.name for path in found} >= {"no-preamble-0", "no-preamble-1", "IM1", "0.txt"}
    (study,) = assemble(found)
    assert study.short_axis is not None
    assert study.short_axis.slices == 3


def test_one_file_and_none(tmp_path) -> None:
    path = tmp_path / "one"
    frame().save_as(path, enforce_file_format=True)
    assert list(dicom_files(path)) == [path]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(dicom_files(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("stated", "of_one_slice", "expected"),
    [
        ("COL", "COL", PhaseEncoding.COLUMN),
        ("ROW", "ROW", PhaseEncoding.ROW),
        ("COLUMN", "COL", PhaseEncoding.COLUMN),
        ("ROW", "COL", None),
        ("ROW", "", None),
        ("OTHER", "OTHER", None),
        ("", "", None),
    ],
)
def test_phase_encoding_is_that_of_all_slices_or_of_none(stated, of_one_slice, expected) -> None:
    images = stack()
    for image in images:
        one = image.ImagePositionPatient == images[0].ImagePositionPatient
        image.InPlanePhaseEncodingDirection = of_one_slice if one else stated
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    assert study.short_axis.phase_encoding is expected


def test_phase_encoding_of_images_whose_axes_were_exchanged_is_not_told() -> None:
    """A transposed slice is brought to the grid of the others; what its header calls a row is a column there."""
    images = stack()
    for image in images:
        image.InPlanePhaseEncodingDirection = "ROW"
    for image in [image for image in images if image.ImagePositionPatient == images[0].ImagePositionPatient]:
        cosines = list(image.ImageOrientationPatient)
        image.PixelData = image.pixel_array.T.tobytes()
        image.Rows, image.Columns = image.Columns, image.Rows
        image.ImageOrientationPatient = cosines[3:] + cosines[:3]
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    assert study.short_axis.regridded_slices
    assert study.short_axis.phase_encoding is None
