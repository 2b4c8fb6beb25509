"""Acquired late enhancement of a phantom from its DICOM to results, with and without cine beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.config import DestinationProfile, ResultSettings, SegmentationTarget
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import EncodedPackage, encode_study
from dicom_node.results.gate import check
from dicom_node.results.header import ResultContext
from dicom_node.results.identity import CarriedIdentity, with_frames_of_reference
from dicom_node.results.late_enhancement.groups import SEGMENTATION
from dicom_node.results.objects import ResultObject
from dicom_node.results.provenance import provenance
from dicom_node.results.roles import REFUSAL, REPORT, SUMMARY
from dicom_node.results.sources import SourceDatasets
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy, Reconstruction
from pipelines.errors import RefusalReason
from pipelines.evaluation.enhancement import phantom_stack
from pipelines.late_enhancement.findings import ExtentMethod, LateEnhancement
from pipelines.late_enhancement.labels import WALL, Tissue
from pipelines.late_enhancement.measure import measure_enhancement
from pipelines.late_enhancement.on_cine import acquired_on_cine
from pipelines.late_enhancement.package import PACKAGE
from pipelines.late_enhancement.segment import EnhancementSegmentation
from pipelines.phantom import PhantomRecipe, PhantomStudy, simulate, write_study
from pipelines.phantom.recipe import Disease, Territory
from pipelines.study import analyse_study, findings_of
from results.synthetic import CREATED, MODEL, unaccepted

RECIPE = PhantomRecipe(
    seed=23,
    disease=Disease.INFARCT,
    slices=8,
    phases=12,
    rows=128,
    columns=128,
    spacing_mm=1.9,
    coils=1,
    long_axis=False,
    late_enhancement=True,
    territory=Territory.LAD,
    transmurality=1.0,
    acute=True,
    obstruction=True,
)
DESTINATIONS = {
    "pacs": DestinationProfile(peer="pacs"),
    "archive": DestinationProfile(
        peer="archive", segmentation_references=SegmentationTarget.SOURCE, omit_empty_frames=True, summary_pdf=False
    ),
}


@dataclass(frozen=True)
class Made:
    """A study, what was found on it, and the objects made of it."""

    study: CineStudy
    found: LateEnhancement | None
    sources: SourceDatasets
    package: EncodedPackage
    objects: tuple[ResultObject, ...]


def made_of(paths: list[Path]) -> Made:
    (study,) = assemble(paths)
    findings = analyse_study(study, [LateEnhancement])
    sources = SourceDatasets.index(paths)
    circumstances = Circumstances(tuple(path.name for path in paths), "late", ResultSettings(), CREATED)
    encoded = encode_study(study, [findings_of(PACKAGE, findings)], sources, DESTINATIONS, circumstances)
    return Made(study, findings.get(LateEnhancement), sources, encoded.packages[0], encoded.objects)


@pytest.fixture(scope="module")
def phantom() -> PhantomStudy:
    return simulate(RECIPE, workers=1)


@pytest.fixture(scope="module")
def paths(phantom: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_study(phantom, tmp_path_factory.mktemp("late-enhancement"))


@pytest.fixture(scope="module")
def whole(paths: list[Path]) -> Made:
    return made_of(paths)


@pytest.fixture(scope="module")
def alone(paths: list[Path]) -> Made:
    """The late enhancement without the cine of the study."""
    chosen = [path for path in paths if "InversionTime" in dcmread(path, stop_before_pixels=True)]
    assert 0 < len(chosen) < len(paths)
    return made_of(chosen)


def test_objects_pass_the_gate_and_dciodvfy_with_and_without_cine(whole: Made, alone: Made) -> None:
    for made in (whole, alone):
        assert made.package.causes == ()
        assert [tuple(map(str, found)) for found in check(list(made.objects), made.sources)] == [()] * len(made.objects)
        for each in made.objects:
            assert not unaccepted(each, made.sources)


def test_the_wall_of_a_phantom_is_found(phantom: PhantomStudy, whole: Made) -> None:
    assert whole.found is not None
    _, truth = phantom_stack(phantom)
    first, second = np.isin(whole.found.labels, WALL), np.isin(truth, WALL)
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.6, "no phantom was trained on"


def test_late_enhancement_is_laid_onto_the_cine_and_divided_into_segments(whole: Made, alone: Made) -> None:
    found = whole.found
    assert found is not None
    assert found.alignment is not None
    laid = [index for index, target in enumerate(found.alignment.cine_slice) if target is not None]
    assert len(laid) >= 4
    assert np.nanmedian(found.alignment.overlap) > 0.8
    assert len(found.segments) == 16
    enhanced = {one.segment for one in found.segments if one.enhanced}
    assert {7, 8, 13, 14} <= enhanced, "an infarct of the LAD, transmural"
    assert not {4, 5, 6, 10, 11, 12, 15, 16} & enhanced
    cine = whole.study.short_axis
    assert cine is not None
    on_cine = acquired_on_cine(found, cine)
    assert on_cine is not None
    assert on_cine.tissue.shape == cine.pixels.shape[1:]
    assert set(on_cine.slices) == {one for one in found.alignment.cine_slice if one is not None}
    assert not (on_cine.enhanced & ~np.isin(on_cine.tissue, WALL)).any()
    without = alone.found
    assert without is not None
    assert without.segments == ()
    assert without.without_segments is not None
    assert "right ventricle" in without.without_segments
    assert np.array_equal(without.labels, found.labels), "the same images give the same labels"


def numbers(items: Any) -> list[tuple[str, float]]:
    said = []
    for item in items:
        if item.ValueType == "NUM":
            value = float(item.MeasuredValueSequence[0].NumericValue)
            said.append((item.ConceptNameCodeSequence[0].CodeValue, value))
        said += numbers(item.get("ContentSequence") or [])
    return said


def test_report_segmentation_and_key_numbers_say_the_same(whole: Made) -> None:
    found = whole.found
    assert found is not None
    stack = whole.study.late_enhancement[found.stack]
    assert stack.reconstruction is Reconstruction.PHASE_SENSITIVE
    (report,) = (one.dataset for one in whole.objects if one.role == REPORT and "pacs" in one.destinations)
    said = numbers(report.ContentSequence)
    extents = [value for name, value in said if name == "LGE_EXTENT"][: len(ExtentMethod)]
    assert extents == pytest.approx([one.percent for one in found.extents], abs=0.06)
    assert dict(said)["LGE_PROB"] == pytest.approx(found.infarct.probability, abs=0.001)
    assert sum(name == "LGE_TRANSMUR" for name, _ in said) == len(found.segments)
    segs = [one.dataset for one in whole.objects if one.role == SEGMENTATION]
    assert len(segs) == 2, "one for each way that destinations want it"
    referenced = {
        item.ReferencedSOPInstanceUID
        for series in segs[0].ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert referenced == {source.sop_instance_uid for source in stack.sources}, "it refers to the acquired images"
    assert whole.package.numbers["LGE_network_percent"] == found.extent(ExtentMethod.NETWORK).percent
    assert whole.package.key_numbers
    assert any(one.role == SUMMARY for one in whole.objects)


def test_a_study_without_late_enhancement_is_declined(paths: list[Path]) -> None:
    cine = [path for path in paths if "InversionTime" not in dcmread(path, stop_before_pixels=True)]
    made = made_of(cine)
    assert made.found is None
    (cause,) = made.package.causes
    assert cause.reason is RefusalReason.NOT_SUITABLE
    assert "no short-axis late enhancement" in cause.sentence
    assert any(one.role == REFUSAL for one in made.objects)


def test_extents_of_true_labels_are_those_of_the_phantom(phantom: PhantomStudy) -> None:
    stack, truth = phantom_stack(phantom)
    labelled = EnhancementSegmentation(
        labels=truth,
        infarct=(truth >= Tissue.INFARCT).astype(np.float32),
        obstruction=(truth == Tissue.OBSTRUCTION).astype(np.float32),
        agreement=np.ones(len(truth), np.float32),
        members_percent=np.array([10.0, 10.0]),
        models=(MODEL,),
    )
    found = measure_enhancement(stack, 0, labelled, None)
    wall, infarct = np.isin(truth, WALL), truth >= Tissue.INFARCT
    expected = 100 * infarct.sum() / wall.sum()
    assert found.extent(ExtentMethod.NETWORK).percent == pytest.approx(expected, rel=0.02)
    # The image tells the same: partial volume and noise of the phantom are all that departs.
    assert found.extent(ExtentMethod.FWHM).percent == pytest.approx(expected, abs=6.0)
    order = [found.extent(one).percent for one in (ExtentMethod.SD2, ExtentMethod.SD5, ExtentMethod.SD6)]
    assert order == sorted(order, reverse=True)
    assert found.infarct.present
    assert found.obstruction_percent > 0
    # Where the images do not state their thickness the report says what stands in for it.
    assert not any("slice thickness" in one for one in found.cautions)
    silent = dataclasses.replace(stack.geometry, slice_thickness=9.5, thickness_stated=False)
    cautions = measure_enhancement(dataclasses.replace(stack, geometry=silent), 0, labelled, None).cautions
    assert "the distance between slices, 9.5 mm, stands in for it" in cautions[0]


def test_late_enhancement_without_a_frame_of_reference_gets_one_that_follows_from_its_series(alone: Made) -> None:
    bare = dataclasses.replace(
        alone.study,
        late_enhancement=tuple(
            dataclasses.replace(stack, frame_of_reference_uid="") for stack in alone.study.late_enhancement
        ),
    )
    named, again = with_frames_of_reference(bare), with_frames_of_reference(bare)
    given = [stack.frame_of_reference_uid for stack in named.late_enhancement]
    assert all(given)
    assert len(set(given)) == len(given), "no relation between series is claimed"
    assert given == [stack.frame_of_reference_uid for stack in again.late_enhancement]


def test_the_summary_says_which_late_enhancement_was_used(alone: Made) -> None:
    found = alone.found
    assert found is not None
    context = ResultContext(
        title="late enhancement",
        series_block=PACKAGE.series_block,
        identity=Circumstances(("x",), "late", ResultSettings(), CREATED).identity("2.25.1", ["late"], ()),
        carried=CarriedIdentity.of(alone.sources.reference(alone.study)),
        reference=alone.sources.reference(alone.study),
        created=CREATED,
        settings=ResultSettings(),
        models=(),
    )
    used = provenance(context, alone.study, alone.sources, used=[alone.study.late_enhancement[found.stack]]).series
    assert sorted(series.used_for.rsplit(", ", 1)[1] for series in used) == ["not used", "used"]
