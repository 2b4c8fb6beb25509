"""Properties of the assembler: order and splitting of the files change nothing, damage never raises."""

from __future__ import annotations

import functools
import io
import random
import warnings

import numpy as np
import pydicom
from cine_enhanced import STYLES
from cine_scanner import edit, stack, view
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipelines.cine.assemble import assemble, assemble_datasets
from pipelines.cine.facts import InstanceFacts, completeness, frame_facts
from pipelines.cine.stack import CineStudy

FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@functools.cache
def written() -> tuple[bytes, ...]:
    """A small study as files: four short-axis slices of unlike rhythm and two long-axis views."""
    images = stack(slices=4, phases=10, rr=lambda s: 800.0 + 15 * s)
    images += view(0, series=2, phases=12) + view(122, series=3, phases=10)
    edit(images, SequenceName="*tfi2d1_15", SOPInstanceUID=lambda ds: f"{ds.SOPInstanceUID}")
    files = []
    for ds in images:
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
        files.append(buffer.getvalue())
    return tuple(files)


def read() -> list[Dataset]:
    return [pydicom.dcmread(io.BytesIO(data)) for data in written()]


@functools.cache
def reference() -> CineStudy:
    (study,) = assemble_datasets(read())
    assert [(found.phases, found.slices) for found in study.stacks] == [(10, 4), (12, 1), (10, 1)]
    assert study.omissions == ()
    return study


def assert_identical(study: CineStudy, *, same_instances: bool = True) -> None:
    assert study.omissions == ()
    assert len(study.stacks) == len(reference().stacks)
    for found, same in zip(study.stacks, reference().stacks, strict=True):
        assert found.view is same.view
        np.testing.assert_array_equal(found.pixels, same.pixels)
        np.testing.assert_allclose(found.geometry.positions, same.geometry.positions, atol=1e-9)
        np.testing.assert_allclose(found.geometry.normal, same.geometry.normal, atol=1e-6)
        np.testing.assert_allclose(found.trigger_times, same.trigger_times)
        np.testing.assert_allclose(found.rr_intervals, same.rr_intervals)
        if same_instances:
            assert [[s.sop_instance_uid for s in row] for row in found.sources] == [
                [s.sop_instance_uid for s in row] for row in same.sources
            ]


@FAST
@given(seed=st.integers(0, 2**32), series=st.integers(1, 9))
def test_any_permutation_and_any_split_into_series_give_the_same_stacks(seed, series) -> None:
    rng = random.Random(seed)
    images = read()
    rng.shuffle(images)
    numbers = list(range(len(images)))
    rng.shuffle(numbers)
    for ds, number in zip(images, numbers, strict=True):
        which = rng.randrange(series)
        ds.SeriesInstanceUID, ds.SeriesNumber = f"1.2.3.{which}", which
        ds.InstanceNumber = number
    (study,) = assemble_datasets(images)
    assert_identical(study)


@settings(FAST, max_examples=6)
@given(style=st.sampled_from(sorted(STYLES)), seed=st.integers(0, 2**32))
def test_enhanced_multi_frame_in_any_order_of_the_sources(style, seed) -> None:
    images = read()
    random.Random(seed).shuffle(images)
    (study,) = assemble_datasets(STYLES[style](images))
    assert_identical(study, same_instances=False)


def accounted_for(studies: list[CineStudy]) -> set[str]:
    used = {
        source.sop_instance_uid
        for study in studies
        for found in study.stacks
        for row in found.sources
        for source in row
    }
    return used | {uid for study in studies for entry in study.omissions for uid in entry.sop_instance_uids}


DAMAGED_VALUES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [b"", b" ", b"abc", b"1e400", b"nan", b"-inf", b"\\\\", b"1\\2\\3", b"20120000", b"\xff\xfe", b"-1"]
    ),
)


@settings(FAST, max_examples=60)
@given(data=st.data())
def test_damaged_header_values_never_raise_and_no_instance_is_lost(data) -> None:
    images = read()
    names = [element.tag for element in images[0] if element.keyword not in {"PixelData", "SOPInstanceUID"}]
    for _ in range(data.draw(st.integers(1, 6))):
        where = data.draw(st.sampled_from(names))
        value = data.draw(DAMAGED_VALUES)
        for ds in data.draw(st.sampled_from([images, images[:10], images[::7], images[:1]])):
            element = ds.get_item(where)
            vr = None if element is None else element.VR
            ds._dict[Tag(where)] = RawDataElement(Tag(where), vr, len(value), value, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        studies = assemble_datasets(images)
        facts = [frame_facts(ds) for ds in images]
        assert completeness(facts).sentence
    received = {str(ds.SOPInstanceUID) for ds in images}
    lost = received - accounted_for(studies)
    # Only what says of no study that it belongs to it is reported without its UID.
    assert not lost or any("not DICOM" in entry.detail for study in studies for entry in study.omissions)


@settings(FAST, max_examples=40)
@given(data=st.data())
def test_damaged_files_never_raise(data, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    paths = []
    for index, content in enumerate(written()[::6]):
        broken = bytearray(content)
        for _ in range(data.draw(st.integers(0, 4))):
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
        broken = broken[: data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))]
        path = folder / str(index)
        path.write_bytes(broken)
        paths.append(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for study in assemble(paths):
            for entry in study.omissions:
                assert entry.detail


@FAST
@given(seed=st.integers(0, 2**32), received=st.integers(0, 62))
def test_completeness_grows_to_complete_in_any_order(seed, received) -> None:
    facts = [InstanceFacts.from_json(frame_facts(ds).to_json()) for ds in read()]
    random.Random(seed).shuffle(facts)
    state = completeness(facts[:received])
    short_axis = [found for found in state.stacks if found.short_axis]
    if received == len(facts):
        assert state.complete
    for found in short_axis:
        assert found.slices_complete <= found.slices_seen <= 4
        assert found.complete == (found.slices_complete == found.slices_seen)
    # A repeated receive changes nothing.
    assert completeness(facts[:received] + facts[: received // 2]) == state
