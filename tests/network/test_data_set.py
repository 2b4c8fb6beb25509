"""The structural check: agrees with pydicom on what is whole, and misses no truncation."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from dicom_node.errors import CannotUnderstandError, DataSetMismatchError
from dicom_node.network.data_set import read_header
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import IDENTIFYING, identify
from network.objects import encoded, mr_image
from pipelines.cine.facts import instance_facts
from pipelines.cine.reading import read_object

VALUES = {
    "US": st.integers(0, 65535),
    "UL": st.integers(0, 2**32 - 1),
    "FD": st.floats(allow_nan=False),
    "LO": st.text("abcXYZ 0123", max_size=64).map(str.strip),
    "UI": st.from_regex(r"1(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True),
    "DS": st.integers(-999, 999).map(str),
    "OB": st.binary(max_size=20).map(lambda value: value + b"\0" * (len(value) % 2)),
    "UT": st.text("abcXYZ", max_size=300),
}
TAGS = {
    "US": [0x00280010, 0x00280011, 0x00280100],
    "UL": [0x00081161],
    "FD": [0x00189087, 0x00209153],
    "LO": [0x0008103E, 0x00081030, 0x00100020],
    "UI": [0x0020000D, 0x0020000E, 0x00080016, 0x00080018],
    "DS": [0x00180050, 0x00180080],
    "OB": [0x04000115, 0x04000404],
    "UT": [0x0040A160],
}


@st.composite
def elements(draw: st.DrawFn) -> DataElement:
    vr = draw(st.sampled_from(sorted(VALUES)))
    return DataElement(draw(st.sampled_from(TAGS[vr])), vr, draw(VALUES[vr]))


def dataset_of(parts: list[DataElement | tuple[int, list[Dataset], bool]]) -> Dataset:
    dataset = Dataset()
    for part in parts:
        if isinstance(part, DataElement):
            dataset.add(part)
        else:
            tag, items, undefined = part
            element = DataElement(tag, "SQ", items)
            element.is_undefined_length = undefined
            for item in items:
                item.is_undefined_length_sequence_item = undefined
            dataset.add(element)
    return dataset


def sequences(children: st.SearchStrategy[Dataset]) -> st.SearchStrategy[Dataset]:
    sequence = st.tuples(
        st.sampled_from([0x00081140, 0x52009230, 0x00400555]), st.lists(children, max_size=3), st.booleans()
    )
    return st.lists(elements() | sequence, min_size=1, max_size=6).map(dataset_of)


datasets = st.recursive(st.lists(elements(), min_size=1, max_size=6).map(dataset_of), sequences, max_leaves=8)
syntaxes = st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian])


class _EveryTag:
    def __contains__(self, tag: object) -> bool:
        return True


EVERY_TAG = _EveryTag()


@given(datasets, syntaxes)
@settings(max_examples=100, deadline=None)
def test_a_whole_data_set_reads_as_pydicom_reads_it(dataset: Dataset, syntax: UID) -> None:
    data = encoded(dataset, syntax)
    header = read_header(data, syntax, EVERY_TAG)
    expected = read_dataset(io.BytesIO(data), syntax.is_implicit_VR, True)
    assert header.values.keys() == {int(tag) for tag in expected.keys()}  # noqa: SIM118 - items() would convert them
    for tag, value in header.values.items():
        raw = expected.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.VR != "SQ":
            assert value == (raw.value or b"")


@pytest.mark.parametrize("length", [10, 13, 32])
def test_a_tag_and_a_length_that_look_like_blanks_are_an_element(length: int) -> None:
    uid = "1" + ".1" * (length // 2 - 1) + "1" * (length % 2 + 1)
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.StudyID = uid, "1"
    header = read_header(encoded(dataset, ImplicitVRLittleEndian), ImplicitVRLittleEndian, EVERY_TAG)
    assert header.values[0x0020000D].rstrip(b"\0").decode() == uid


@given(datasets, syntaxes, st.data())
@settings(max_examples=100, deadline=None)
def test_no_cut_through_an_element_goes_unnoticed(dataset: Dataset, syntax: UID, data: st.DataObject) -> None:
    whole = encoded(dataset, syntax)
    # Ends of top-level elements: only there does a shorter data set look whole.
    ends = {len(encoded(dataset_of([e for e in dataset if e.tag <= last.tag]), syntax)) for last in dataset}
    cut = data.draw(st.integers(1, len(whole) - 1).filter(lambda at: at not in ends)) if len(whole) > 1 else 0
    try:
        header = read_header(whole[:cut], syntax, EVERY_TAG)
    except CannotUnderstandError:
        return
    # What remains are zeros that look like padding.
    assert not any(whole[max(ends & set(range(cut)), default=0) : cut]), header


@given(st.binary(max_size=400), syntaxes)
@example(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 3, ExplicitVRLittleEndian)
@settings(max_examples=300, deadline=None)
def test_noise_is_refused_or_identifies_nothing(noise: bytes, syntax: UID) -> None:
    try:
        header = read_header(noise, syntax, IDENTIFYING)
    except CannotUnderstandError:
        return
    with pytest.raises(DataSetMismatchError):
        identify(header, affected_sop_class_uid="1.2", affected_sop_instance_uid="1.3")


IMAGE = mr_image()
WHOLE = encoded(IMAGE)


@example([(7, 1)])  # a character set of 266 characters, a NUL among them
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 2048), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(4, 66)])  # a character set of a value representation that is not listed
def test_a_damaged_header_ends_in_a_status_and_never_in_another_exception(
    tmp_path: Path, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for place, value in damage:
        data[place] = value
    try:
        header = read_header(bytes(data), ExplicitVRLittleEndian, IDENTIFYING)
        identify(
            header,
            affected_sop_class_uid=str(IMAGE.SOPClassUID),
            affected_sop_instance_uid=str(IMAGE.SOPInstanceUID),
        )
    except (CannotUnderstandError, DataSetMismatchError):
        return
    # What was accepted is read later, from its file.
    file = tmp_path / "object.dcm"
    file.write_bytes(encode_file_meta(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, ExplicitVRLittleEndian) + data)
    assert read_object(file, stop_before_pixels=True)
    instance_facts(file).to_json()


@pytest.mark.parametrize("frames", [b"", b"\x28\0\x08\0IS\x02\x002 "])
def test_pixel_data_that_end_before_their_first_fragment_break_off(frames: bytes) -> None:
    """Whether all frames were there was asked of the pixel data again and again, until the stack ended."""
    data = encoded(mr_image())
    begin = data[: data.index(b"\x28\0\x02\0US")]
    with pytest.raises(CannotUnderstandError, match="breaks off"):
        read_header(begin + frames + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff", JPEGLosslessSV1, IDENTIFYING)


def test_deep_nesting_is_refused_before_the_stack_ends() -> None:
    sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(CannotUnderstandError, match="nested"):
        read_header(sequence * 5000, ExplicitVRLittleEndian, EVERY_TAG)


@pytest.mark.parametrize("charset", ["", "NONSENSE", "ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87", "GB18030"])
def test_descriptions_are_read_in_any_character_set(charset: str) -> None:
    image = mr_image()
    image.SpecificCharacterSet = charset
    image.StudyDescription = "cardiac"
    header = read_header(encoded(image), ExplicitVRLittleEndian, IDENTIFYING)
    found = identify(
        header, affected_sop_class_uid=str(image.SOPClassUID), affected_sop_instance_uid=str(image.SOPInstanceUID)
    )
    assert found.study_description == "cardiac"


def test_descriptions_are_decoded() -> None:
    header = read_header(WHOLE, ExplicitVRLittleEndian, IDENTIFYING)
    found = identify(
        header, affected_sop_class_uid=str(IMAGE.SOPClassUID), affected_sop_instance_uid=str(IMAGE.SOPInstanceUID)
    )
    assert found.study_description == "Herz – Größe"


def test_trailing_zeros_are_padding() -> None:
    padded = read_header(WHOLE + bytes(40), ExplicitVRLittleEndian, EVERY_TAG)
    assert padded == read_header(WHOLE, ExplicitVRLittleEndian, EVERY_TAG)
