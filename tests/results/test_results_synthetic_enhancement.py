"""Results of synthetic enhancement: nobody can mistake them for acquired late enhancement."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MRImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.config import DestinationProfile, ResultSettings, SyntheticImageClass, SyntheticPolicy
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.gate import check
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import REPORT, SUMMARY, SUMMARY_PDF
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.synthetic_enhancement.encoder import PROBABILITY, SEGMENTATION
from dicom_node.results.synthetic_enhancement.images import IMAGES, stored_values
from dicom_node.results.synthetic_enhancement.label import CLEARANCE, label_beside
from dicom_node.shadow.comparison import ACQUIRED, PREDICTED, compared
from pipelines.analysis import Findings
from pipelines.evaluation.enhancement import phantom_stack
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Interval
from pipelines.function.slices import measure_slices
from pipelines.late_enhancement.findings import LateEnhancement
from pipelines.late_enhancement.labels import Tissue
from pipelines.late_enhancement.measure import measure_enhancement
from pipelines.late_enhancement.package import PACKAGE as LATE_ENHANCEMENT
from pipelines.late_enhancement.segment import EnhancementSegmentation
from pipelines.phantom import Dialect
from pipelines.study import PackageFindings
from pipelines.synthetic_enhancement.findings import Extent, Shown, SyntheticEnhancement
from pipelines.synthetic_enhancement.package import PACKAGE
from results.enhancement import SYNTHESISER, EnhancedPhantom, enhanced_phantom, read_phantom
from results.synthetic import CREATED, MODEL, unaccepted

SC, MR = SyntheticImageClass.SECONDARY_CAPTURE, SyntheticImageClass.MR
DESTINATIONS = {
    "pacs": DestinationProfile(peer="pacs"),
    "scrolling": DestinationProfile(
        peer="scrolling", omit_empty_frames=True, summary_pdf=False, synthetic=SyntheticPolicy(sop_class=MR)
    ),
}


@dataclass(frozen=True, eq=False)
class Made:
    heart: EnhancedPhantom
    found: SyntheticEnhancement
    sources: SourceDatasets
    objects: list[ResultObject]
    numbers: dict[str, float]
    key_numbers: tuple[str, ...]
    reported: dict[str, ReportedNumber]

    def of(self, *roles: object) -> list[Dataset]:
        return [dcmread(io.BytesIO(each.content)) for each in self.objects if each.role in roles]


def encoded(
    heart: EnhancedPhantom, found: SyntheticEnhancement, destinations: dict[str, DestinationProfile] = DESTINATIONS
) -> Made:
    sources = SourceDatasets.index(heart.paths)
    circumstances = Circumstances(tuple(path.name for path in heart.paths), "cine", ResultSettings(), CREATED)
    packages = [PackageFindings(PACKAGE, heart.findings(found))]
    made = encode_study(heart.study, packages, sources, destinations, circumstances)
    (package,) = made.packages
    assert not package.causes
    reported = {one.name: one for one in package.reported}
    return Made(heart, found, sources, list(made.objects), dict(package.numbers), package.key_numbers, reported)


def problems(made: Made) -> list[str]:
    """What the gate says."""
    found = zip(made.objects, check(made.objects, made.sources), strict=True)
    return [f"{each.role.value} {problem}" for each, listed in found for problem in listed]


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> EnhancedPhantom:
    return enhanced_phantom(tmp_path_factory.mktemp("enhanced"))


@pytest.fixture(scope="module")
def made(heart: EnhancedPhantom) -> Made:
    return encoded(heart, heart.found)


def test_every_object_passes_the_gate_and_dciodvfy(made: Made) -> None:
    assert problems(made) == []
    for each in made.objects:
        assert not unaccepted(each, made.sources)


def test_images_say_that_they_are_synthetic(made: Made) -> None:
    found, stack = made.found, made.heart.stack
    images = made.of(IMAGES[SC])
    assert len(images) == len(found.slices)
    for number, (index, image) in enumerate(zip(found.slices, images, strict=True), start=1):
        assert image.SOPClassUID == SecondaryCaptureImageStorage
        assert image.InstanceNumber == number
        assert image.ConversionType == "SYN"
        assert image.SyntheticData == "YES"
        assert image.ContentQualification == "RESEARCH"
        assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        for text in (image.SeriesDescription, image.ImageComments, image.DerivationDescription):
            assert "SYNTHETIC" in text
            assert "NOT ACQUIRED" in text
        assert (image.BitsAllocated, image.BitsStored, image.PixelRepresentation) == (16, 12, 0)
        assert (float(image.WindowCenter), float(image.WindowWidth)) == (1800, 3000)
        assert image.FrameOfReferenceUID == stack.frame_of_reference_uid
        assert np.allclose([float(v) for v in image.ImagePositionPatient], stack.geometry.positions[index], atol=1e-3)
        named = {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence}
        assert named == {line[index].sop_instance_uid for line in stack.sources}
        assert {item.SpatialLocationsPreserved for item in image.SourceImageSequence} == {"YES"}
        synthesisers = [
            item.ManufacturerModelName
            for item in image.ContributingEquipmentSequence
            if item.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        ]
        assert synthesisers == [SYNTHESISER.name]


def test_no_image_says_anything_of_contrast_or_inversion(made: Made) -> None:
    for each in made.objects:
        dataset = dcmread(io.BytesIO(each.content))
        spoken = {element.keyword for element in dataset.iterall()}
        assert not {word for word in spoken if word.startswith(("Contrast", "Inversion"))}


def test_words_are_in_every_image_and_never_on_the_heart(made: Made) -> None:
    assert made.found.image is not None
    labels = made.heart.segmentation.labels
    label = label_beside((labels[0] > 0).any(axis=0))
    assert label is not None
    drawn = np.zeros(labels.shape[2:], dtype=bool)
    drawn[label.ground] = True
    assert not (drawn & (labels > 0).any(axis=(0, 1))).any()
    for index, image in zip(made.found.slices, made.of(IMAGES[SC]), strict=True):
        pixels = image.pixel_array
        assert np.array_equal(pixels[label.ground] == 4095, label.letters)
        # Everywhere else are the values of the network: nothing is measured on pixels with words.
        assert np.array_equal(pixels[~drawn], stored_values(made.found.image[index])[~drawn])


def test_other_destinations_get_mr_images(made: Made) -> None:
    images = made.of(IMAGES[MR])
    assert len(images) == len(made.found.slices)
    for image, capture in zip(images, made.of(IMAGES[SC]), strict=True):
        assert image.SOPClassUID == MRImageStorage
        assert image.SyntheticData == "YES"
        assert image.ScanningSequence == "RM"
        assert image.PixelData == capture.PixelData
        assert image.SeriesInstanceUID != capture.SeriesInstanceUID
    for each in made.objects:
        if each.role == IMAGES[MR] or each.role == SEGMENTATION[MR]:
            assert each.destinations == {"scrolling"}
        if each.role == IMAGES[SC] or each.role == SEGMENTATION[SC] or each.role == SUMMARY_PDF:
            assert each.destinations == {"pacs"}


def test_segmentation_lies_on_the_synthetic_series(made: Made) -> None:
    (seg,) = made.of(SEGMENTATION[SC])
    images = made.of(IMAGES[SC])
    assert seg.SOPClassUID == SegmentationStorage
    assert seg.SyntheticData == "YES"
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == (
        "Late enhancement predicted from cine, not acquired"
    )
    order = _slices_of_frames(seg, made)
    assert np.array_equal(seg.pixel_array > 0, made.found.enhanced[order])
    (sparse,) = made.of(SEGMENTATION[MR])
    assert sparse.pixel_array.sum() == seg.pixel_array.sum()
    assert sparse.NumberOfFrames < seg.NumberOfFrames


def test_map_holds_the_probability_of_every_voxel(made: Made) -> None:
    (probability,) = made.of(PROBABILITY)
    assert probability.SOPClassUID == ParametricMapStorage
    assert probability.SyntheticData == "YES"
    frames = np.frombuffer(probability.FloatPixelData, "<f4").reshape(-1, probability.Rows, probability.Columns)
    assert np.array_equal(frames, made.found.probability[_slices_of_frames(probability, made)])


def test_report_and_pages_are_marked_and_use_no_code_of_acquired_enhancement(made: Made) -> None:
    reports, pages = made.of(REPORT), made.of(SUMMARY, SUMMARY_PDF)
    assert reports
    assert {EncapsulatedPDFStorage, SecondaryCaptureImageStorage} == {page.SOPClassUID for page in pages}
    assert {each.SyntheticData for each in (*reports, *pages)} == {"YES"}
    codes = {code for (code, _), _ in _numbers(reports[0])}
    assert codes - {"371885007", "371886008"} == {"SYN_HYPER", "SYN_INTER", "SYN_PROB", "SYN_SD", "SYN_TRANSMUR"}
    assert _numbers(reports[0])[0] == (("SYN_HYPER", "percent"), round(made.found.hyperintense.percent, 1))
    texts = [str(element.value) for element in reports[0].iterall() if element.keyword == "TextValue"]
    assert any("simulated hearts" in text for text in texts)
    for classifier in made.found.classifiers:
        assert any(classifier.name in text for text in texts)


def test_key_numbers_begin_with_what_they_are(made: Made) -> None:
    assert made.key_numbers[0].startswith("SYNTHETIC, NOT ACQUIRED")
    assert all(name.startswith("synthetic_") for name in made.numbers)
    assert made.numbers["synthetic_probability"] == made.found.study_probability


def test_report_systems_get_bounds_and_the_words_that_nobody_acquired_it(made: Made) -> None:
    extent = made.reported["synthetic_hyperintense_percent"]
    bounds = made.found.hyperintense.interval
    assert (extent.value, extent.lower, extent.upper) == (made.found.hyperintense.percent, bounds.lower, bounds.upper)
    assert extent.unit == "%"
    assert f"none below a probability of {made.found.operating_point:.2f}" in extent.method
    described = [one for one in made.reported.values() if one.name != "synthetic_deviation"]
    assert len(described) == 3 + len(made.found.segments)
    assert all("NOT ACQUIRED" in one.method for one in described)


def test_below_the_operating_point_no_extent_is_told(heart: EnhancedPhantom) -> None:
    nothing = Extent(0.0, Interval(0.0, 8.0), "full width at half maximum")
    found = dataclasses.replace(
        heart.found,
        study_probability=0.4,
        hyperintense=nothing,
        intermediate=nothing,
        enhanced=np.zeros_like(heart.found.enhanced),
        image=None,
        uncertainty=None,
        shown=Shown.PROBABILITY,
        withheld=("The image shows what the probability does not bear out.",),
    )
    made = encoded(heart, found, {"pacs": DestinationProfile(peer="pacs", summary_pdf=False)})
    assert problems(made) == []
    assert any("below 0.70" in line and "no extent" in line for line in made.key_numbers)
    assert not any("hyperintense extent" in line for line in made.key_numbers)
    # A 0 with an interval would read as a measurement.
    assert not [name for name in made.reported if name.endswith("_percent")]
    (report,) = [each.dataset for each in made.objects if each.role == REPORT]
    names = {code for (code, _), _ in _numbers(report)}
    assert "SYN_PROB" in names
    assert not names & {"SYN_HYPER", "SYN_INTER", "SYN_TRANSMUR"}


def test_withheld_image_leaves_the_probability_alone(heart: EnhancedPhantom) -> None:
    sentence = "The study is unlike the hearts that the network learned on."
    found = dataclasses.replace(
        heart.found, image=None, uncertainty=None, shown=Shown.PROBABILITY, withheld=(sentence,)
    )
    made = encoded(heart, found, {"pacs": DestinationProfile(peer="pacs", summary_pdf=False)})
    assert problems(made) == []
    roles = {each.role for each in made.objects}
    assert roles == {PROBABILITY, REPORT, SUMMARY}
    assert any(sentence in line for line in made.key_numbers)


def test_without_predicted_enhancement_there_is_no_segmentation(heart: EnhancedPhantom) -> None:
    found = dataclasses.replace(heart.found, enhanced=np.zeros_like(heart.found.enhanced), segments=())
    made = encoded(heart, found, {"pacs": DestinationProfile(peer="pacs", summary_pdf=False)})
    assert problems(made) == []
    assert {each.role for each in made.objects} == {IMAGES[SC], PROBABILITY, REPORT, SUMMARY}


def test_image_without_room_for_the_words_does_not_leave(heart: EnhancedPhantom) -> None:
    everywhere = np.ones_like(heart.found.muscle)
    made = encoded(heart, dataclasses.replace(heart.found, muscle=everywhere), {})
    assert not [each for each in made.objects if each.role in IMAGES.values() or each.role in SEGMENTATION.values()]
    assert any("no synthetic image leaves" in line for line in made.key_numbers)


def test_frames_of_multi_frame_sources_are_named(heart: EnhancedPhantom, tmp_path: Path) -> None:
    heart = read_phantom(heart.phantom, tmp_path, Dialect.PHILIPS_ENHANCED)
    made = encoded(heart, heart.found, {"pacs": DestinationProfile(peer="pacs", summary_pdf=False)})
    assert problems(made) == []
    (item,) = made.of(IMAGES[SC])[0].SourceImageSequence
    index = heart.found.slices[0]
    assert list(item.ReferencedFrameNumber) == [line[index].frame_number for line in heart.stack.sources]


def test_gate_keeps_back_images_that_lost_their_words_or_marks(made: Made) -> None:
    (image, *_) = [each for each in made.objects if each.role == IMAGES[SC]]
    label = label_beside((made.heart.segmentation.labels[0] > 0).any(axis=0))
    assert label is not None
    changes: tuple[tuple[Callable[[Dataset], None], str], ...] = (
        (lambda dataset: _erase(dataset, label.ground), "SYNTHETIC"),
        (lambda dataset: delattr(dataset, "SyntheticData"), "SyntheticData"),
        (lambda dataset: setattr(dataset, "SeriesDescription", "LGE"), "SeriesDescription"),
        (lambda dataset: setattr(dataset, "InversionTime", "300"), "InversionTime"),
        (lambda dataset: setattr(dataset, "ContrastBolusAgent", "Gd"), "ContrastBolusAgent"),
    )
    for change, problem in changes:
        dataset = dcmread(io.BytesIO(image.content))
        change(dataset)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        (found,) = check([dataclasses.replace(image, content=buffer.getvalue())], made.sources)
        assert any(problem in str(one) for one in found)


def test_what_both_encoders_tell_is_what_the_shadow_comparison_reads(heart: EnhancedPhantom) -> None:
    """Numbers of predicted and of acquired enhancement of one heart, from the truth, put together as a job does it."""
    late, truth = heart.study.late_enhancement[0], phantom_stack(heart.phantom)[1]
    slices = measure_slices(heart.stack, heart.segmentation)
    scar = np.isin(truth, (Tissue.INFARCT, Tissue.OBSTRUCTION))
    segmented = EnhancementSegmentation(
        labels=truth,
        infarct=scar.astype(np.float32),
        obstruction=np.zeros(truth.shape, np.float32),
        agreement=np.ones(len(truth), np.float32),
        members_percent=np.array([15.0]),
        models=(MODEL,),
    )
    keyframes = find_keyframes(heart.stack, slices.lv_ml)
    acquired = measure_enhancement(late, 0, segmented, (heart.stack, slices, keyframes))
    sources = SourceDatasets.index(heart.paths)
    circumstances = Circumstances(("both",), "cine", ResultSettings(), CREATED)
    found = [
        PackageFindings(PACKAGE, heart.findings()),
        PackageFindings(LATE_ENHANCEMENT, Findings({LateEnhancement: acquired})),
    ]
    profiles = {"pacs": DestinationProfile(peer="pacs", summary_pdf=False, summary_secondary_capture=False)}
    made = encode_study(heart.study, found, sources, profiles, circumstances)
    numbers = {each.package.name: each.numbers for each in made.packages}
    assert set(numbers) == {PREDICTED, ACQUIRED}
    comparison = compared(numbers[PREDICTED], numbers[ACQUIRED], version="1.0.0", scanner="ACME", now=CREATED)
    assert comparison is not None
    assert comparison.present
    assert comparison.probability == heart.found.study_probability
    assert comparison.predicted_percent == pytest.approx(comparison.acquired_percent, abs=2.0)
    assert set(comparison.segments) == {one.segment for one in acquired.segments}
    agreeing = [(one.probability > 0.5) == one.enhanced for one in comparison.segments.values()]
    assert len(agreeing) >= 12
    assert np.mean(agreeing) > 0.8


@given(
    rows=st.integers(64, 400),
    columns=st.integers(64, 400),
    row=st.floats(0.2, 0.8),
    column=st.floats(0.2, 0.8),
    radius=st.floats(0.05, 0.6),
)
def test_words_stay_clear_of_any_heart(rows: int, columns: int, row: float, column: float, radius: float) -> None:
    y, x = np.mgrid[:rows, :columns]
    distance = np.hypot(y - row * rows, x - column * columns)
    heart = distance < radius * min(rows, columns)
    label = label_beside(heart)
    if label is None:
        # Only where the heart leaves no corner: a small one always does.
        assert radius > 0.15
        return
    ground = distance[label.ground]
    assert ground.min() >= radius * min(rows, columns) + CLEARANCE - 1
    height, width = label.letters.shape
    corners = set(itertools.product((0, rows - height), (0, columns - width)))
    assert (label.row, label.column) in corners
    # A stroke is at least one pixel wide, and a letter seven high.
    assert height >= 11


def _erase(dataset: Dataset, ground: tuple[slice, slice]) -> None:
    pixels = dataset.pixel_array.copy()
    pixels[ground] = 0
    dataset.PixelData = pixels.astype("<u2").tobytes()


def _slices_of_frames(dataset: Dataset, made: Made) -> list[int]:
    """Slice of the short axis that each frame lies on."""
    positions = [
        group.PlanePositionSequence[0].ImagePositionPatient for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    planes = made.heart.stack.geometry.positions
    return [int(np.linalg.norm(planes - np.array(one, dtype=float), axis=1).argmin()) for one in positions]


def _numbers(dataset: Dataset) -> list[tuple[tuple[str, str], float]]:
    found = []
    for item in dataset.get("ContentSequence") or []:
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeMeaning
            found.append(((str(item.ConceptNameCodeSequence[0].CodeValue), str(unit)), float(value.NumericValue)))
        found += _numbers(item)
    return found
