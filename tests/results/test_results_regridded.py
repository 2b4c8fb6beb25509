"""Results of a stack of which some slices lie on another pixel grid: what they say of their sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.config import DestinationProfile, SegmentationTarget
from dicom_node.results.gate import check
from dicom_node.results.objects import ExpectedSlice
from pipelines.cine.assemble import assemble
from results.synthetic import Cine, encoded, write_cine

ON_SOURCES = {"pacs": DestinationProfile(peer="pacs", segmentation_references=SegmentationTarget.SOURCE)}


@pytest.fixture(scope="module")
def regridded(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    """Slice 1 has eight more rows above, slice 3 is turned by 10° in its plane."""
    cine = write_cine(tmp_path_factory.mktemp("regridded"), phases=12, slices=6)
    for path in cine.paths:
        image = dcmread(path)
        row, column = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
        position = np.array(image.ImagePositionPatient, dtype=float)
        number = (image.InstanceNumber - 1) // 12
        if number == 1:
            position = position - 8 * 1.5625 * column
            image.PixelData = np.pad(image.pixel_array, ((8, 0), (0, 0))).tobytes()
            image.Rows += 8
        if number == 3:
            angle = np.radians(10.0)
            half = 1.5625 * (image.Rows - 1) / 2
            centre = position + half * (row + column)
            row, column = row * np.cos(angle) + column * np.sin(angle), column * np.cos(angle) - row * np.sin(angle)
            position = centre - half * (row + column)
        if number in (1, 3):
            image.ImagePositionPatient = [f"{v:.9g}" for v in position]
            image.ImageOrientationPatient = [f"{v:.12g}" for v in (*row, *column)]
            image.save_as(path)
    (study,) = assemble(cine.paths)
    return replace(cine, study=replace(cine.study, stacks=study.stacks))


def test_the_gate_passes_and_the_references_say_that_pixels_moved(regridded: Cine) -> None:
    stack = regridded.study.short_axis
    assert stack is not None
    assert (stack.regridded_slices, stack.interpolated_slices) == ((1, 3), (3,))
    objects, sources = encoded(regridded)
    assert not any(check(objects, sources))
    images = [each for each in objects if isinstance(each.expected, ExpectedSlice)]
    assert len(images) == 12
    for each in images:
        assert isinstance(each.expected, ExpectedSlice)
        index = each.expected.index
        (item,) = each.dataset.SourceImageSequence
        assert item.SpatialLocationsPreserved == ("NO" if index in (1, 3) else "YES")
        said = str(each.dataset.DerivationDescription)
        assert ("cut, added, mirrored" in said) == (index == 1)
        assert ("interpolated in the plane" in said) == (index == 3)
        assert ("grey values unchanged" in said) == (index not in (1, 3))


def test_a_segmentation_on_the_sources_says_it_too(regridded: Cine) -> None:
    objects, sources = encoded(regridded, destinations=ON_SOURCES)
    assert not any(check(objects, sources))
    stack = regridded.study.short_axis
    assert stack is not None
    moved = {row[index].sop_instance_uid for row in stack.sources for index in (1, 3)}
    said = {
        (str(item.ReferencedSOPInstanceUID) in moved, str(item.SpatialLocationsPreserved))
        for each in objects
        if each.dataset.Modality == "SEG"
        for frame in each.dataset.PerFrameFunctionalGroupsSequence
        for item in frame.DerivationImageSequence[0].SourceImageSequence
    }
    assert said == {(True, "NO"), (False, "YES")}


def test_the_gate_finds_a_slice_beside_its_image(regridded: Cine, tmp_path: Path) -> None:
    objects, sources = encoded(regridded)
    each = next(each for each in objects if isinstance(each.expected, ExpectedSlice) and each.expected.index == 3)
    assert isinstance(each.expected, ExpectedSlice)
    header = sources.header(each.expected.source.sop_instance_uid)
    assert regridded.study.short_axis is not None
    away = 2.0 * regridded.study.short_axis.geometry.normal
    header.ImagePositionPatient = [float(p) + d for p, d in zip(header.ImagePositionPatient, away, strict=True)]
    (problems,) = check([each], sources)
    assert any("beside the slice" in problem.sentence for problem in problems)
