"""Objects that declare more than they hold, and codestreams that are not what their headers say."""

from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from cine_enhanced import enhanced
from cine_scanner import COLUMNS, ROWS, edit, expected_values, frame, frame_pixels, mean_values, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.cine import decoder, pixels
from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.codestream import frame_size
from pipelines.cine.declared import MAX_FRAMES, DeclaredError
from pipelines.cine.headers import frame_headers
from pipelines.cine.pixels import UndecodableError, check_frame, decode_frame
from pipelines.cine.stack import OmissionReason


def compressed(image: np.ndarray, syntax: UID) -> bytes:
    """One frame as a codestream."""
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG")
        return buffer.getvalue()
    ds = frame()
    ds.Rows, ds.Columns = image.shape
    ds.PixelData = image.astype(np.uint16).tobytes()
    ds.compress(syntax, generate_instance_uid=False)
    return get_frame(ds.PixelData, 0, number_of_frames=1)


def ramp(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows * columns).reshape(rows, columns) % 251


def holding(codestream: bytes, syntax: UID, rows: int = ROWS, columns: int = COLUMNS) -> Dataset:
    """An object whose only frame is a codestream."""
    ds = frame()
    ds.Rows, ds.Columns = rows, columns
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR = "OB"
    return ds


def j2k_head(rows: int, columns: int) -> bytes:
    """SOC and SIZ of a codestream of one component of 12 bits; nothing follows."""
    sizes = struct.pack(">H8LH3B", 0, columns, rows, 0, 0, columns, rows, 0, 0, 1, 11, 1, 1)
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(sizes) + 2) + sizes


sides = st.integers(33, 70)
# pydicom writes these; JPEG lossless and HTJ2K are read from heads made by hand.
written = st.sampled_from([JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])


@given(sides, sides, written)
@settings(max_examples=40, deadline=None)
def test_codestreams_say_their_size(rows: int, columns: int, syntax: UID) -> None:
    size = frame_size(compressed(ramp(rows, columns), syntax), syntax)
    assert size is not None
    assert (size.rows, size.columns, size.samples) == (rows, columns, 1)


@given(st.integers(1, 65535), st.integers(1, 65535), st.lists(st.binary(max_size=40), max_size=4), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_sizes_are_found_behind_any_segments_and_fill_bytes(rows, columns, segments, fill) -> None:
    before = b"".join(b"\xff\xe4" + struct.pack(">H", len(one) + 2) + one for one in segments)
    head = b"\xff\xd8" + before + b"\xff" * fill + b"\xff\xc3" + struct.pack(">HBHHB", 11, 12, rows, columns, 1)
    size = frame_size(head, JPEGLosslessSV1)
    assert size is not None
    assert (size.rows, size.columns, size.samples, size.bits) == (rows, columns, 1, 12)
    size = frame_size(j2k_head(rows, columns), HTJ2KLossless)
    assert size is not None
    assert (size.rows, size.columns, size.samples, size.bits) == (rows, columns, 1, 12)
    boxed = (
        struct.pack(">L4s4s", 12, b"jP  ", b"\r\n\x87\n") + struct.pack(">L4s", 0, b"jp2c") + j2k_head(rows, columns)
    )
    # A box of length 0 goes on to the end (ITU-T T.800 I.4).
    assert frame_size(boxed, JPEG2000Lossless) == size


@given(st.binary(max_size=120), st.sampled_from([JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, RLELossless]))
@settings(max_examples=200, deadline=None)
def test_noise_has_no_size_and_never_another_exception(noise: bytes, syntax: UID) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "):
        try:
            frame_size(start + noise, syntax)
        except ValueError:
            continue


@given(sides, sides, st.sampled_from([JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit]))
@settings(max_examples=30, deadline=None)
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(rows: int, columns: int, syntax: UID) -> None:
    ds = holding(compressed(ramp(rows, columns), syntax), syntax)
    if (rows, columns) == (ROWS, COLUMNS):
        check_frame(ds, None)
    else:
        with pytest.raises(UndecodableError, match=f"an image of {rows} × {columns} pixels"):
            check_frame(ds, None)


def test_rle_with_other_segments_than_bits_allocated_is_refused() -> None:
    ds = holding(compressed(frame_pixels(0, 0), RLELossless), RLELossless)
    check_frame(ds, None)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    with pytest.raises(UndecodableError, match="2 segments"):
        check_frame(ds, None)


def test_a_study_of_bombs_costs_nothing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "decode_apart", lambda *_: pytest.fail("it was decoded"))
    images = [
        edit([holding(j2k_head(16000, 16000), JPEG2000Lossless)], SOPInstanceUID=ds.SOPInstanceUID,
             TriggerTime=ds.TriggerTime, ImagePositionPatient=ds.ImagePositionPatient)[0]
        for ds in stack(slices=4)
    ]  # fmt: skip
    (study,) = assemble_datasets(images)
    assert not study.stacks
    (entry,) = study.omissions
    assert "16000 × 16000 pixels of 1 samples" in entry.detail
    assert len(entry.sop_instance_uids) == 80


def test_what_is_too_large_is_left_out_and_the_rest_is_assembled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "decode_apart", lambda *_: pytest.fail("it was decoded"))
    large = stack(slices=6, series=9, aside=np.array([0.0, 0.0, 400.0]))
    for ds in large:
        ds.Rows = ds.Columns = 4000
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = encapsulate([j2k_head(4000, 4000)])
        ds["PixelData"].VR = "OB"
    started = time.process_time()
    (study,) = assemble_datasets(stack(slices=5) + large)
    assert time.process_time() - started < 10
    assert study.short_axis is not None
    np.testing.assert_array_equal(mean_values(study.short_axis.pixels), expected_values(20, 5))
    (entry,) = study.omissions
    assert entry.reason is OmissionReason.TOO_LARGE
    assert "120 images of 4000 × 4000 pixels" in entry.detail
    assert len(entry.sop_instance_uids) == 120


@given(st.integers(17, 65535), st.integers(17, 65535), st.sampled_from([8, 16, 32]))
@settings(max_examples=30, deadline=None)
def test_pixels_that_are_not_there_are_not_made_room_for(rows: int, columns: int, allocated: int) -> None:
    ds = frame()
    ds.Rows, ds.Columns, ds.BitsAllocated = rows, columns, allocated
    ds.BitsStored, ds.HighBit = allocated, allocated - 1
    ds.PixelData = bytes(rows * columns * allocated // 8 - 1) if rows * columns < 100_000 else bytes(2000)
    with pytest.raises(UndecodableError):
        check_frame(ds, None)


@given(st.integers(1, 40), st.integers(0, 2_000_000_000), st.integers(0, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_more_frames_are_made_than_are_there(there: int, declared: int, described: int, known: bool) -> None:
    """``there``: frames of pixels; ``described``: functional groups; ``known``: whether the pixels were read."""
    groups = min(there, described)
    ds = enhanced([frame(phase=phase) for phase in range(max(1, groups))])
    if not groups:
        del ds.PerFrameFunctionalGroupsSequence
    ds.NumberOfFrames = declared
    ds.PixelData = b"".join(frame_pixels(0, 0).tobytes() for _ in range(there))
    size = None if known else len(ds.PixelData)
    if not known:
        del ds.PixelData
    started = time.process_time()
    try:
        count = len(frame_headers(ds, size=size))
    except DeclaredError:
        assert declared > there or declared > MAX_FRAMES
    else:
        assert count <= max(there, 1)
        assert count == min(max(declared, 1), groups or there)
    assert time.process_time() - started < 2


def test_an_enhanced_bomb_becomes_an_omission() -> None:
    bomb = frame(series=7)
    bomb.SOPClassUID, bomb.NumberOfFrames = EnhancedMRImageStorage, 2_000_000_000
    (study,) = assemble_datasets([*stack(slices=5), bomb])
    assert study.short_axis is not None
    (entry,) = study.omissions
    assert (entry.reason, entry.sop_instance_uids) == (OmissionReason.UNREADABLE, (bomb.SOPInstanceUID,))
    assert entry.detail.startswith("NumberOfFrames is 2000000000, but the object holds pixels of at most 1")


ATTRIBUTES = {
    "TransferSyntaxUID": str(JPEG2000Lossless),
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "Rows": ROWS,
    "Columns": COLUMNS,
}


def test_the_decoder_gives_what_pydicom_gives_and_survives_what_kills_it() -> None:
    good = compressed(frame_pixels(2, 3), JPEG2000Lossless)
    np.testing.assert_array_equal(decoder.decode_apart(ATTRIBUTES, good), frame_pixels(2, 3))
    with pytest.raises(ValueError, match="decode"):
        decoder.decode_apart(ATTRIBUTES, good[:60])
    process = decoder._decoder._process
    assert process is not None
    process.kill()
    process.wait()
    # A process that has ended is seen before the next frame goes to it.
    np.testing.assert_array_equal(decoder.decode_apart(ATTRIBUTES, good), frame_pixels(2, 3))


def test_a_frame_that_asks_for_all_memory_gets_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    attributes = ATTRIBUTES | {"Rows": 4000, "Columns": 4000, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    narrow = "from pipelines.cine import decoder; decoder.MEMORY_BYTES = 160_000_000; decoder._main()"
    one = decoder._Decoder()
    # Undone before the last line, which may be the first to start the decoder of this process.
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_COMMAND", ("-c", narrow))
        try:
            with pytest.raises((ValueError, decoder.DecoderDiedError)):
                one.ask(attributes, buffer.getvalue())
            good = compressed(frame_pixels(2, 3), JPEG2000Lossless)
            np.testing.assert_array_equal(one.ask(ATTRIBUTES, good), frame_pixels(2, 3))
        finally:
            one.stop()
    assert decoder.decode_apart(attributes, buffer.getvalue()).shape == (4000, 4000)


@pytest.mark.parametrize("code", ["os.abort()", "os.kill(os.getpid(), 9)", "while True: pass"])
def test_a_decoder_that_crashes_or_loops_costs_the_frame(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder with a defect, run by the same loop."""
    defect = (
        "import os, sys, time; from pipelines.cine import decoder; decoder.CPU_S = 1;"
        f"decoder._decoded = lambda *_: exec({code!r}, {{'os': os, 'time': time}}); decoder._main()"
    )
    monkeypatch.setattr(decoder, "_COMMAND", ("-c", defect))
    one = decoder._Decoder()
    try:
        with pytest.raises(decoder.DecoderDiedError):
            one.ask(ATTRIBUTES, b"\xff\x4f")
    finally:
        one.stop()


def test_after_two_deaths_no_more_frames_of_the_study_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    images = stack(slices=5)
    for ds in images:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    tried: list[int] = []

    def die(*_: object) -> None:
        tried.append(1)
        raise decoder.DecoderDiedError("the decoder ended over it")

    monkeypatch.setattr(pixels, "decode_apart", die)
    (study,) = assemble_datasets(images)
    assert not study.stacks
    assert len(tried) == 2
    assert any("ended over other frames" in entry.detail for entry in study.omissions)


def test_native_and_rle_frames_need_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "decode_apart", lambda *_: pytest.fail("it went to the decoder"))
    ds = frame(phase=4)
    np.testing.assert_array_equal(decode_frame(ds, None), frame_pixels(0, 4))
    ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(decode_frame(ds, None), frame_pixels(0, 4))
    assert ds.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
