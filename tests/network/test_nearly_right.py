"""Data sets that are nearly right: taken by the receiver, and read by the analyses as they are meant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from dicom_node.errors import CannotUnderstandError
from dicom_node.network.data_set import read_header
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import IDENTIFYING, identify
from dicom_node.results.sources import SourceDatasets
from network.objects import encoded, mr_image
from pipelines.cine.facts import instance_facts
from pipelines.cine.pixels import UndecodableError, decode_frame
from pipelines.cine.reading import read_object

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = b"\xff\xff\xff\xff"
IMAGE = mr_image(side=16)
WHOLE = encoded(IMAGE)
PIXELS = IMAGE.PixelData


def tag(number: int) -> bytes:
    return struct.pack("<HH", number >> 16, number & 0xFFFF)


def delimiter(number: int) -> bytes:
    return tag(number) + bytes(4)


def implicit(number: int, value: bytes) -> bytes:
    return tag(number) + struct.pack("<L", len(value)) + value


def explicit(number: int, vr: bytes, value: bytes) -> bytes:
    """An element with a length of 16 bits, whatever belongs there."""
    return tag(number) + vr + struct.pack("<H", len(value)) + value


def item(content: bytes, defined: bool) -> bytes:
    if defined:
        return tag(ITEM) + struct.pack("<L", len(content)) + content
    return tag(ITEM) + UNDEFINED + content + delimiter(ITEM_END)


def even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


values = st.binary(max_size=24).map(even)
# Two capitals that PS3.5 6.2 does not list; (0021,1001) stands before Rows, behind all identifiers of the study.
unlisted = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2).filter(
    lambda vr: (
        vr
        not in "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV"
    )
)


def odd(number: int) -> st.SearchStrategy[bytes]:
    """One private element in one of the ways in which scanners get it wrong."""
    where = tag(number)
    inner = st.tuples(values, st.booleans()).map(
        lambda drawn: item(implicit(0x00080016, b"1.2\0") + implicit(0x00081155, drawn[0]), drawn[1])
    )
    items = st.lists(inner, max_size=3).map(b"".join)
    in_explicit_vr = st.tuples(values, st.booleans()).map(
        lambda drawn: item(explicit(0x00080016, b"UI", b"1.2\0") + explicit(0x00081155, b"UI", drawn[0]), drawn[1])
    )
    stray = st.sampled_from([b"", delimiter(ITEM_END), 2 * delimiter(ITEM_END)])
    return st.one_of(
        st.tuples(unlisted, values).map(
            lambda drawn: where + drawn[0].encode() + b"\0\0" + struct.pack("<L", len(drawn[1])) + drawn[1]
        ),
        values.map(lambda value: where + b"??\0\0" + struct.pack("<L", len(value)) + value),
        values.map(lambda value: where + b"\6\0" + struct.pack("<H", len(value)) + value),
        values.map(lambda value: implicit(number, value)),
        items.map(lambda content: where + UNDEFINED + content + delimiter(SEQUENCE_END)),
        items.map(lambda content: where + b"SQ\0\0" + UNDEFINED + content + delimiter(SEQUENCE_END)),
        # Lengths of 16 bits where 32 belong, and the other way round.
        st.tuples(st.sampled_from([b"UN", b"OB", b"UT"]), values.filter(bool)).map(
            lambda drawn: explicit(number, drawn[0], drawn[1])
        ),
        st.tuples(st.sampled_from([b"LO", b"DS", b"US"]), values.filter(bool)).map(
            lambda drawn: where + drawn[0] + b"\0\0" + struct.pack("<L", len(drawn[1])) + drawn[1]
        ),
        # Explicit VR within UN, delimiters too many or too few.
        st.tuples(st.sampled_from([b"UN", b"QQ"]), st.lists(in_explicit_vr, min_size=1, max_size=3), stray).map(
            lambda drawn: (
                where + drawn[0] + b"\0\0" + UNDEFINED + drawn[2].join(drawn[1]) + drawn[2] + delimiter(SEQUENCE_END)
            )
        ),
        in_explicit_vr.map(
            lambda one: where + b"SQ\0\0" + UNDEFINED + one.removesuffix(delimiter(ITEM_END)) + delimiter(SEQUENCE_END)
        ),
        st.tuples(unlisted, items).map(
            lambda drawn: where + drawn[0].encode() + b"\0\0" + UNDEFINED + drawn[1] + delimiter(SEQUENCE_END)
        ),
    )


@st.composite
def in_a_sequence(draw: st.DrawFn) -> bytes:
    """An odd element within an item of an explicit sequence of undefined length, before one that is right."""
    content = draw(odd(0x00081101)) + tag(0x00081155) + b"UI" + struct.pack("<H", 4) + b"1.2\0"
    return tag(0x00081140) + b"SQ\0\0" + UNDEFINED + item(content, draw(st.booleans())) + delimiter(SEQUENCE_END)


ends = st.sampled_from(
    [
        b"",
        b" ",
        b"  ",
        bytes(1),
        bytes(12),
        delimiter(ITEM_END),
        delimiter(SEQUENCE_END),
        delimiter(ITEM_END) + b" ",
        b" \0",
        b"\r\n",
    ]
)


def before(data: bytes, number: int, parts: bytes) -> bytes:
    """Put encoded elements before the first element of a tag."""
    vr = {0x00280002: b"US", 0x00100010: b"PN"}[number]
    place = data.index(tag(number) + vr)
    return data[:place] + parts + data[place:]


def accepted(data: bytes, syntax: UID = ExplicitVRLittleEndian, image: Dataset = IMAGE) -> None:
    found = identify(
        read_header(data, syntax, IDENTIFYING),
        affected_sop_class_uid=str(image.SOPClassUID),
        affected_sop_instance_uid=str(image.SOPInstanceUID),
    )
    assert found.series_instance_uid == image.SeriesInstanceUID


def read_alike(data: bytes, folder: Path, syntax: UID = ExplicitVRLittleEndian) -> None:
    path = folder / "object.dcm"
    path.write_bytes(encode_file_meta(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, syntax) + data)
    dataset = read_object(path, force=True)
    assert dataset.SOPInstanceUID == IMAGE.SOPInstanceUID
    assert (dataset.Rows, dataset.Columns, dataset.BitsStored) == (16, 16, 12)
    assert bytes(dataset.PixelData)[: len(PIXELS)] == PIXELS
    np.testing.assert_array_equal(dataset.pixel_array, IMAGE.pixel_array)
    deferred = read_object(path, defer_size=64, force=True)
    assert bytes(deferred.PixelData)[: len(PIXELS)] == PIXELS
    facts = instance_facts(path)
    assert (facts.rows, facts.columns, facts.problem) == (16, 16, "")
    header = SourceDatasets.index([path]).header(str(IMAGE.SOPInstanceUID))
    assert (header.Rows, header.StudyInstanceUID) == (16, IMAGE.StudyInstanceUID)


folders = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.lists(st.integers(1, 0xEF), min_size=1, max_size=4, unique=True).map(sorted), st.data(), ends)
@folders
def test_odd_private_elements_and_ends_are_taken_and_read(tmp_path: Path, numbers, data, end) -> None:
    parts = b"".join(data.draw(odd(0x00211000 | number)) for number in numbers)
    whole = before(WHOLE, 0x00280002, parts) + end
    accepted(whole)
    read_alike(whole, tmp_path)


@pytest.mark.parametrize("sized", [True, False])
def test_a_length_of_32_bits_before_zeros_is_no_empty_value_either(tmp_path: Path, sized: bool) -> None:
    odd_one = tag(0x00081101) + b"LO\0\0" + struct.pack("<L", 10) + bytes(10)
    content = odd_one + tag(0x00081155) + b"UI" + struct.pack("<H", 4) + b"1.2\0"
    sequence = tag(0x00081140) + b"SQ\0\0" + UNDEFINED + item(content, sized) + delimiter(SEQUENCE_END)
    whole = before(WHOLE, 0x00100010, sequence)
    accepted(whole)
    read_alike(whole, tmp_path)
    assert read_object(tmp_path / "object.dcm")[0x00081140].value[0].ReferencedSOPInstanceUID == "1.2"


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("value", [bytes(6), bytes(4) + b"AB", bytes(12), b"\0\0\0\0\1\0"])
def test_a_length_of_16_bits_before_a_value_of_zeros_is_no_empty_value(
    tmp_path: Path, sized: bool, value: bytes
) -> None:
    odd_one = tag(0x00081101) + b"UN" + struct.pack("<H", len(value)) + value
    content = odd_one + tag(0x00081155) + b"UI" + struct.pack("<H", 4) + b"1.2\0"
    sequence = tag(0x00081140) + b"SQ\0\0" + UNDEFINED + item(content, sized) + delimiter(SEQUENCE_END)
    whole = before(WHOLE, 0x00100010, sequence)
    accepted(whole)
    read_alike(whole, tmp_path)
    assert read_object(tmp_path / "object.dcm")[0x00081140].value[0].ReferencedSOPInstanceUID == "1.2"


@given(in_a_sequence(), ends)
@folders
def test_odd_elements_within_items_are_taken_and_read(tmp_path: Path, sequence: bytes, end: bytes) -> None:
    whole = before(WHOLE, 0x00100010, sequence) + end
    accepted(whole)
    read_alike(whole, tmp_path)
    assert read_object(tmp_path / "object.dcm")[0x00081140].value[0].ReferencedSOPInstanceUID == "1.2"


@given(ends)
@folders
def test_ends_in_implicit_vr(tmp_path: Path, end: bytes) -> None:
    whole = encoded(IMAGE, ImplicitVRLittleEndian) + end
    accepted(whole, ImplicitVRLittleEndian)
    read_alike(whole, tmp_path, ImplicitVRLittleEndian)


@given(
    st.one_of(
        st.integers(1, 600).map(lambda count: b"\xff" * count),
        st.tuples(st.sampled_from([ITEM_END, SEQUENCE_END]), st.integers(1, 7)).map(
            lambda drawn: delimiter(drawn[0])[: drawn[1]]
        ),
    )
)
@folders
def test_fill_bytes_and_a_delimiter_that_is_cut_short_behind_pixel_data(tmp_path: Path, end: bytes) -> None:
    accepted(WHOLE + end)
    read_alike(WHOLE + end, tmp_path)
    # Anywhere else they may be what a cut has left.
    place = WHOLE.index(tag(0x7FE00010))
    with pytest.raises(CannotUnderstandError):
        accepted(WHOLE[:place] + end)


@given(
    st.sampled_from([b"UT", b"UC", b"UR", b"OF", b"OL", b"OD"]),
    st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=3),
    st.sampled_from([implicit, lambda number, value: explicit(number, b"UI", value)]),
)
@folders
def test_items_under_a_value_representation_that_has_none(tmp_path: Path, vr, drawn, write) -> None:
    items = b"".join(item(write(0x00081150, b"1.2\0") + write(0x00081155, value), sized) for value, sized in drawn)
    odd_one = tag(0x00211001) + vr + b"\0\0" + UNDEFINED + items + delimiter(SEQUENCE_END)
    accepted(before(WHOLE, 0x00280002, odd_one))
    read_alike(before(WHOLE, 0x00280002, odd_one), tmp_path)


@pytest.mark.parametrize("vr", [b"OB", b"UN"])
def test_a_number_under_a_value_representation_that_says_nothing_of_it(tmp_path: Path, vr: bytes) -> None:
    place = WHOLE.index(tag(0x00280010) + b"US")
    rows = tag(0x00280010) + vr + b"\0\0" + struct.pack("<LH", 2, 16)
    data = WHOLE[:place] + rows + WHOLE[place + 10 :]
    accepted(data)
    path = tmp_path / "object.dcm"
    path.write_bytes(encode_file_meta(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, ExplicitVRLittleEndian) + data)
    assert (instance_facts(path).rows, instance_facts(path).problem) == (16, "")
    np.testing.assert_array_equal(decode_frame(read_object(path), None), IMAGE.pixel_array)


def test_fragments_in_a_native_transfer_syntax_are_declined_and_never_read_as_pixels(tmp_path: Path) -> None:
    place = WHOLE.index(tag(0x7FE00010))
    fragments = tag(0x7FE00010) + b"OW\0\0" + UNDEFINED + item(b"", True) + item(PIXELS, True) + delimiter(SEQUENCE_END)
    path = tmp_path / "object.dcm"
    head = encode_file_meta(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, ExplicitVRLittleEndian)
    path.write_bytes(head + WHOLE[:place] + fragments)
    for read in (read_object(path), read_object(path, defer_size=64)):
        with pytest.raises(UndecodableError, match="in fragments"):
            decode_frame(read, None)


@given(st.sampled_from([ITEM_END, SEQUENCE_END]))
@folders
def test_a_stray_delimiter_between_elements(tmp_path: Path, number: int) -> None:
    whole = before(WHOLE, 0x00280002, delimiter(number))
    accepted(whole)
    read_alike(whole, tmp_path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("content", ["", "elements"])
@pytest.mark.parametrize("where", ["between", "end"])
def test_an_item_outside_a_sequence_is_passed_over(tmp_path: Path, syntax: UID, content: str, where: str) -> None:
    """pydicom passes over it too; dcmtk stops."""
    whole = encoded(IMAGE, syntax)
    inner = (
        explicit(0x00081155, b"UI", b"1.2\0") if syntax == ExplicitVRLittleEndian else implicit(0x00081155, b"1.2\0")
    )
    stray = item(inner if content else b"", True)
    place = whole.index(tag(0x00280002)) if where == "between" else len(whole)
    whole = whole[:place] + stray + whole[place:]
    accepted(whole, syntax)
    read_alike(whole, tmp_path, syntax)


@pytest.mark.parametrize(
    "stray",
    [
        tag(ITEM) + UNDEFINED,
        tag(ITEM) + struct.pack("<L", 4000),
        item(b"\xff\xd8\xff\xe0\0\x10JFIF\xff\xd9", True),
        item(explicit(0x00081155, b"UI", b"1.2\0")[:-2], True),
    ],
    ids=["undefined length", "cut short", "a fragment", "part of an element"],
)
def test_an_item_outside_a_sequence_that_is_not_whole_is_refused(stray: bytes) -> None:
    for whole in (before(WHOLE, 0x00280002, stray), WHOLE + stray):
        with pytest.raises(CannotUnderstandError):
            read_header(whole, ExplicitVRLittleEndian, IDENTIFYING)


@pytest.mark.parametrize(
    "element",
    [
        explicit(0x00211001, b"LO", b"AB"),
        explicit(0x00211001, b"LO", b"A" * 40),
        tag(0x00211001) + b"OB\0\0" + struct.pack("<L", 4) + b"ABCD",
        tag(0x00211001) + b"SQ\0\0" + UNDEFINED + delimiter(SEQUENCE_END),
    ],
)
def test_an_element_in_explicit_vr_within_implicit_vr_is_refused(element: bytes) -> None:
    """Neither dcmtk nor pydicom reads what follows it."""
    whole = encoded(IMAGE, ImplicitVRLittleEndian)
    place = whole.index(tag(0x00280002))
    with pytest.raises(CannotUnderstandError, match=r"breaks off in element \(0021,1001\)"):
        read_header(whole[:place] + element + whole[place:], ImplicitVRLittleEndian, IDENTIFYING)


def test_a_standard_element_in_implicit_vr_is_read(tmp_path: Path) -> None:
    explicit = tag(0x00280010) + b"US" + struct.pack("<HH", 2, 16)
    assert WHOLE.count(explicit) == 1
    whole = WHOLE.replace(explicit, implicit(0x00280010, struct.pack("<H", 16)))
    accepted(whole)
    read_alike(whole, tmp_path)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_cut_short_is_refused_behind_odd_elements_too(data: st.DataObject) -> None:
    whole = before(WHOLE, 0x00280002, data.draw(odd(0x00211001)))
    start = whole.index(tag(0x7FE00010) + b"OW")
    cut = data.draw(st.integers(start + 1, len(whole) - 1))
    with pytest.raises(CannotUnderstandError):
        read_header(whole[:cut], ExplicitVRLittleEndian, IDENTIFYING)


def jpeg(fragments: list[bytes], end: bytes, frames: int = 1) -> bytes:
    image = mr_image(side=16)
    image.SOPInstanceUID, image.SeriesInstanceUID = IMAGE.SOPInstanceUID, IMAGE.SeriesInstanceUID
    del image.PixelData
    if frames > 1:
        image.NumberOfFrames = frames
    content = item(b"", True) + b"".join(item(one, True) for one in fragments)
    return encoded(image) + tag(0x7FE00010) + b"OB\0\0" + UNDEFINED + content + end


@pytest.mark.parametrize("end", [b"", bytes(1), bytes(8), bytes(40)])
@pytest.mark.parametrize("last", [b"\xff\xd8\xff\xd9", b"\xff\xd8\x01\xff\xd9\0"])
def test_fragments_without_a_delimiter_are_taken_when_whole(tmp_path: Path, end: bytes, last: bytes) -> None:
    whole = jpeg([b"\xff\xd8\x01\x02", last], end)
    accepted(whole, JPEGLosslessSV1)
    path = tmp_path / "object.dcm"
    path.write_bytes(encode_file_meta(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, JPEGLosslessSV1) + whole)
    assert last in bytes(read_object(path, force=True).PixelData)


@pytest.mark.parametrize(
    ("fragments", "frames"),
    [
        ([b"\xff\xd8\x01\x02", b"\xff\xd8\x01\x02"], 1),
        ([b"\xff\xd8\xff\xd9"], 2),
        ([b"\xff\xd8\xff\xd9"] * 3, 4),
    ],
)
def test_fragments_that_are_cut_short_are_refused(fragments: list[bytes], frames: int) -> None:
    with pytest.raises(CannotUnderstandError):
        read_header(jpeg(fragments, b"", frames), JPEGLosslessSV1, IDENTIFYING)


def test_rle_without_a_delimiter_is_counted() -> None:
    accepted(jpeg([b"\x01\x00"], b""), RLELossless)
    with pytest.raises(CannotUnderstandError):
        read_header(jpeg([b"\x01\x00"], b"", 2), RLELossless, IDENTIFYING)


@pytest.mark.parametrize("end", [b" ", b"  ", b"\x20\0"])
def test_a_blank_that_may_be_the_rest_of_a_cut_is_not_padding(end: bytes) -> None:
    """(0020,xxxx) begins with one."""
    place = WHOLE.index(tag(0x0020000D) + b"UI")
    with pytest.raises(CannotUnderstandError):
        read_header(WHOLE[:place] + end, ExplicitVRLittleEndian, IDENTIFYING)
