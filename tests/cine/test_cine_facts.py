"""Facts of instances and the completeness of a study."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cine_enhanced import enhanced, siemens_xa
from cine_scanner import edit, stack, view
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pipelines.cine.assemble import assemble_datasets
from pipelines.cine.facts import InstanceFacts, completeness, frame_facts


def facts(images: list[Dataset]) -> list[InstanceFacts]:
    return [frame_facts(ds) for ds in images]


def test_facts_survive_json_and_are_small() -> None:
    for ds in (stack(slices=1)[3], enhanced(stack(slices=3))):
        del ds.PixelData
        entry = frame_facts(ds)
        text = json.dumps(entry.to_json())
        assert InstanceFacts.from_json(json.loads(text)) == entry
        assert len(text) < 1200 + 12 * entry.frames
        assert "Patient" not in text


@pytest.mark.parametrize("values", [{}, {"planes": 3}, {"planes": [{}]}, {"planes": [], "more": 1}])
def test_other_json_is_refused(values) -> None:
    with pytest.raises(ValueError, match="not the facts"):
        InstanceFacts.from_json(values)


def test_facts_of_one_image() -> None:
    entry = frame_facts(stack(slices=3)[25])
    assert (entry.modality, entry.rows, entry.columns, entry.frames) == ("MR", 34, 36, 1)
    assert entry.cardiac_number_of_images == 20
    (plane,) = entry.planes
    assert plane.phases == (200.0,)
    assert plane.along_mm == pytest.approx(frame_facts(stack(slices=3)[0]).planes[0].along_mm + 10.0, abs=0.02)


@pytest.mark.parametrize(
    "ds",
    [
        Dataset(),
        edit(stack(slices=1)[:1], Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")[0],
        edit(stack(slices=1)[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0],
        edit(stack(slices=1)[:1], ImagePositionPatient=None)[0],
        edit(stack(slices=1)[:1], SyntheticData="YES")[0],
    ],
)
def test_what_cannot_be_cine_has_no_planes(ds) -> None:
    entry = frame_facts(ds)
    assert entry.planes == ()
    assert completeness([entry]).stacks == ()
    assert completeness([entry]).sentence == "no cine images yet"
    assert not completeness([entry]).complete


def test_waiting_for_slices_that_have_begun() -> None:
    images = facts(stack(slices=12, phases=20))
    assert completeness(images).sentence == "short axis 12 of 12 slices, complete"
    without = [entry for number, entry in enumerate(images) if number not in {30, 70, 71, 200}]
    state = completeness(without)
    assert state.sentence == "short axis 9 of 12 slices, waiting"
    assert not state.complete
    assert state.stacks[0].frames_received == 236


def test_phase_by_phase_sending_is_not_complete_before_the_last_phase() -> None:
    images = sorted(stack(slices=6, phases=20), key=lambda ds: float(ds.TriggerTime))
    assert not completeness(facts(images[:-1])).complete
    assert not completeness(facts(images[: 6 * 15])).complete
    assert completeness(facts(images)).complete


def test_a_slice_planned_with_fewer_phases_is_complete_with_its_own_number() -> None:
    """The assembler took the stack whole; the scheduler waited for five phases that nobody had acquired."""
    images = stack(slices=6, phases_of=lambda index: 20 if index == 4 else 25)
    state = completeness(facts(images))
    assert state.sentence == "short axis 6 of 6 slices, complete"
    assert state.stacks[0].phases_expected == 25
    (study,) = assemble_datasets(images)
    assert study.short_axis is not None
    assert study.short_axis.slices == 6
    assert study.omissions == ()
    assert not completeness(facts(images[:-1])).complete


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_stack_that_counts_as_complete_is_assembled_without_a_gap(data: st.DataObject) -> None:
    """And one of which frames are missing does not count as complete while more may come."""
    declared = data.draw(st.lists(st.sampled_from([10, 11, 12]), min_size=4, max_size=4))
    images = stack(slices=4, phases_of=lambda index: declared[index])
    lost = data.draw(st.sets(st.integers(0, len(images) - 1), max_size=3))
    left = [one for number, one in enumerate(images) if number not in lost]
    state = completeness(facts(left))
    assert state.complete == (not lost)
    (study,) = assemble_datasets(left)
    if state.complete:
        assert study.omissions == ()
        assert study.short_axis is not None
        unlike = {index for index, count in enumerate(declared) if count != study.short_axis.phases}
        assert set(study.short_axis.resampled_slices) == unlike


def test_slices_that_the_scanner_declares() -> None:
    images = stack(slices=4)
    for ds in images:
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x18, "SL", 6)
    state = completeness(facts(images))
    assert state.sentence == "short axis 4 of 6 slices, waiting"
    assert not state.complete


def test_long_axis_views_count_too() -> None:
    images = facts(stack(slices=5) + view(0, series=3) + view(122, series=4))
    assert completeness(images).sentence == "short axis 5 of 5 slices, complete; long axis 2 of 2 views"
    state = completeness(images[:-1])
    assert state.sentence == "short axis 5 of 5 slices, complete; long axis 1 of 2 views, waiting"
    assert not state.complete
    alone = completeness(facts(view(0, series=3)))
    assert alone.sentence == "no short axis yet; long axis 1 of 1 views"
    assert not alone.complete


def test_repeats_do_not_count_twice() -> None:
    images = stack(slices=5, series=1)
    again = edit(stack(slices=5, series=2, rr=830.0)[:30])
    state = completeness(facts(images + again))
    assert state.complete
    assert state.stacks[0].slices_seen == 5


def test_a_slice_spread_over_series_is_complete() -> None:
    images = stack(slices=3)
    for number, ds in enumerate(images):
        ds.SeriesInstanceUID = f"1.2.3.{number % 4}"
    assert completeness(facts(images)).complete


def test_enhanced_objects() -> None:
    whole = enhanced(stack(slices=4))
    state = completeness([frame_facts(whole)])
    assert state.sentence == "short axis 4 of 4 slices, complete"
    by_slice = siemens_xa(stack(slices=4))
    assert completeness(facts(by_slice[:3])).stacks[0].slices_seen == 3


def test_facts_need_no_learning_library() -> None:
    code = (
        "import sys, pipelines.cine.facts; "
        "print([m for m in ('torch', 'monai', 'scipy', 'skimage', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
