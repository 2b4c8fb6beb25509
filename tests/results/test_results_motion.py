"""Keyframes and strain as DICOM: valid, selecting the images they mean, saying the numbers that were found."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage, ParametricMapStorage

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.canvas import DARK
from dicom_node.results.encode import Circumstances, encode_study
from dicom_node.results.gate import check
from dicom_node.results.motion.keyframes import KEYFRAMES
from dicom_node.results.motion.maps import STRAIN_MAP
from dicom_node.results.motion.pages import motion_page
from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import REPORT
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.function.findings import Interval
from pipelines.motion.findings import (
    CardiacMotion,
    Component,
    Keyframe,
    MotionKeyframes,
    MyocardialStrain,
    SegmentalStrain,
    StrainCurve,
    Torsion,
    ViewKeyframes,
)
from pipelines.motion.keyframes import MotionDescriptor
from pipelines.motion.package import PACKAGE
from pipelines.study import PackageFindings
from results.synthetic import CREATED, MODEL, Cine, unaccepted, write_cine

PHASES = {
    Keyframe.END_DIASTOLE: 0,
    Keyframe.MID_SYSTOLE: 2,
    Keyframe.END_SYSTOLE: 4,
    Keyframe.PEAK_FLOW: 6,
    Keyframe.MID_DIASTOLE: 10,
}
PEAKS = {Component.CIRCUMFERENTIAL: -18.26, Component.RADIAL: 41.7, Component.LONGITUDINAL: -16.4}


def curve(component: Component, phases: int) -> StrainCurve:
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(phases) / phases)
    peak = PEAKS[component]
    return StrainCurve(
        component=component,
        percent=peak * beat,
        second_percent=0.9 * peak * beat,
        times_ms=np.arange(phases) * 75.0,
        peak_percent=peak,
        peak_ms=450.0,
        end_systolic_percent=0.8 * peak,
        systolic_rate_per_s=-1.1,
        early_diastolic_rate_per_s=1.3,
        interval=Interval(peak - 2.5, peak + 2.5),
        method="one way",
        second_method="another way",
    )


def motion_of(cine: Cine, *, long_axis: bool = True) -> CardiacMotion:
    stack = cine.study.short_axis
    assert stack is not None
    phases = stack.phases
    percent = np.repeat(np.linspace(-12, -22, 16)[None], phases, axis=0)
    percent[:, 3] = np.nan
    segments = SegmentalStrain(
        Component.CIRCUMFERENTIAL,
        percent,
        percent[0],
        np.where(np.isnan(percent[0]), np.nan, 400.0),
        np.where(np.isnan(percent[0]), np.nan, 5.0),
        31.0,
    )
    descriptor = MotionDescriptor(np.sin(np.arange(phases)), np.sin(np.arange(phases)), np.zeros(2), 0.2)
    entry = ViewKeyframes(stack, PHASES, {key: 75.0 * phase for key, phase in PHASES.items()}, descriptor)
    strain = MyocardialStrain(
        longitudinal=curve(Component.LONGITUDINAL, phases) if long_axis else None,
        circumferential=curve(Component.CIRCUMFERENTIAL, phases),
        radial=curve(Component.RADIAL, phases),
        segments=(segments,),
        torsion=Torsion(np.zeros(phases), np.zeros(phases), 1.1),
        through_plane="followed on the long-axis views",
        notes=("Mind the gap.",),
    )
    shape = stack.pixels.shape[1:]
    shortened = np.where(np.hypot(*np.indices(shape)[1:] - 32) < 12, np.float32(-17.5), np.float32(0))
    return CardiacMotion(MotionKeyframes((entry,), "descriptor"), strain, 0.8, 0.5, 0.0, shortened, (MODEL,), (stack,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cine, SourceDatasets, list[ResultObject]]:
    cine = write_cine(tmp_path_factory.mktemp("motion") / "cine", phases=12, slices=5, size=64, series_per_slice=True)
    sources = SourceDatasets.index(cine.paths)
    found = PackageFindings(PACKAGE, Findings({CardiacMotion: motion_of(cine)}))
    circumstances = Circumstances(tuple(path.name for path in cine.paths), "cine", ResultSettings(), CREATED)
    objects = encode_study(
        cine.study,
        [found],
        sources,
        {"pacs": DestinationProfile(peer="pacs"), "lab": DestinationProfile(peer="lab", strain_map=True)},
        circumstances,
    )
    assert objects.packages[0].causes == ()
    assert "circumferential -18.3 %" in objects.packages[0].key_numbers[0]
    described = {one.name: one for one in objects.packages[0].reported}
    assert described["GCS_percent"].value == pytest.approx(-18.3, abs=0.05)
    assert described["GCS_percent"].lower < -18.3 < described["GCS_percent"].upper
    assert described["GCS_percent"].method == "one way"
    return cine, sources, list(objects.objects)


def items(dataset: Dataset):
    for item in dataset.get("ContentSequence") or []:
        yield item
        yield from items(item)


def test_every_object_passes_the_gate_and_dciodvfy(made) -> None:
    _, sources, objects = made
    assert [tuple(map(str, found)) for found in check(objects, sources)] == [()] * len(objects)
    for each in objects:
        assert not unaccepted(each, sources)


def test_the_strain_map_goes_to_those_who_asked_and_holds_the_strain_on_the_images_of_end_diastole(made) -> None:
    cine, _, objects = made
    (strain,) = [each for each in objects if each.role == STRAIN_MAP]
    assert strain.destinations == {"lab"}
    stack = cine.study.short_axis
    dataset = strain.dataset
    assert dataset.SOPClassUID == ParametricMapStorage
    numbers = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(stack.slices, *stack.pixels.shape[2:])
    assert sorted(np.unique(numbers)) == [-17.5, 0]
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130677"
    assert {source.sop_instance_uid for source in strain.sources} == {
        source.sop_instance_uid for source in stack.sources[PHASES[Keyframe.END_DIASTOLE]]
    }


def test_each_keyframe_selects_all_slices_of_its_phase(made) -> None:
    cine, _, objects = made
    selections = [each for each in objects if each.role == KEYFRAMES]
    assert len(selections) == 5
    stack = cine.study.short_axis
    for each, phase in zip(selections, PHASES.values(), strict=True):
        assert each.sop_class_uid == KeyObjectSelectionDocumentStorage
        named = {
            str(reference.ReferencedSOPInstanceUID)
            for item in items(each.dataset)
            for reference in item.get("ReferencedSOPSequence") or []
        }
        assert named == {source.sop_instance_uid for source in stack.sources[phase]}


def numbers(report: Dataset, code: str) -> list[float]:
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(report)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == code
    ]


def test_the_report_says_the_strain_that_was_found(made) -> None:
    _, _, objects = made
    report = next(each.dataset for each in objects if each.role == REPORT)
    circumferential = numbers(report, "130677")
    assert circumferential[:2] == [-18.3, -14.6]
    # Fifteen of sixteen segments were measured.
    assert len(circumferential) == 2 + 15
    assert numbers(report, "130670") == [-16.4, -13.1]
    assert numbers(report, "130675") == [41.7, 33.4]
    assert numbers(report, "TORSION") == [1.1]
    assert numbers(report, "371886008") == [2.5, 2.5, 2.5]
    texts = [str(item.TextValue) for item in items(report) if item.ValueType == "TEXT"]
    assert "Mind the gap." in texts
    assert any("mid-systole: phase 3 of 12" in text for text in texts)


def test_without_long_axis_there_is_no_longitudinal_strain(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=12, slices=4, size=64)
    found = PackageFindings(PACKAGE, Findings({CardiacMotion: motion_of(cine, long_axis=False)}))
    circumstances = Circumstances(tuple(path.name for path in cine.paths), "cine", ResultSettings(), CREATED)
    made = encode_study(cine.study, [found], SourceDatasets.index(cine.paths), {}, circumstances)
    report = next(each.dataset for each in made.objects if each.role == REPORT)
    assert numbers(report, "130670") == []
    assert motion_page(DARK, found.findings[CardiacMotion]).figure is not None


def test_no_words_of_the_page_lie_on_others(tmp_path: Path) -> None:
    figure = motion_page(DARK, motion_of(write_cine(tmp_path))).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    written = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in written]
    named = {"ms after the R wave", "Dashed: the second way.", *map(str, Component)}
    panel = [(words, box) for words, box in boxes if "strain" in words.lower() or words in named]
    assert named <= {words for words, _ in panel}
    assert len(panel) > 3
    for (words, box), (others, other) in itertools.combinations(panel, 2):
        assert not box.overlaps(other), (words, others)
