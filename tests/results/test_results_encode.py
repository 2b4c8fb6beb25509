"""All objects of a study: valid, repeatable, each where it belongs, and read alike by other software."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interop.judges import entity_errors, frames_of, masks_as_sent, masks_by_dcmqi, report_by_dcmqi
from interop.tools import tool
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.codes import QUANTITY, SEGMENTS
from dicom_node.results.gate import check
from dicom_node.results.objects import ExpectedMask, ResultObject
from dicom_node.results.report import significant
from dicom_node.results.roles import REFUSAL, REPORT, SUMMARY, SUMMARY_PDF, ResultRole
from dicom_node.results.ventricular_function.encoder import key_numbers
from dicom_node.results.ventricular_function.groups import KEY_PHASE, SEGMENTATION
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.files import dicom_files
from pipelines.errors import Refusal, RefusalReason
from pipelines.function.findings import Quantity, VentricularFunction
from pipelines.function.normals import reference_interval
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.quality.findings import CONFIDENCE_MEANS, Grade, QualityAssessment
from pipelines.segmentation.labels import CineSegmentation, Label
from results.conftest import DESTINATIONS, Encoded
from results.same_bytes import differences
from results.synthetic import CREATED, MODEL, Cine, encoded, findings_of, heart, unaccepted, write_cine

KEY_PHASES = (KEY_PHASE["ED"], KEY_PHASE["ES"])
SEGMENTATIONS = (SEGMENTATION["ED"], SEGMENTATION["ES"])


def test_each_object_passes_the_gate_and_every_warning_is_known(result: Encoded) -> None:
    assert [tuple(map(str, found)) for found in check(result.objects, result.sources)] == [()] * len(result.objects)
    for each in result.objects:
        assert not unaccepted(each, result.sources)


def test_images_come_before_what_refers_to_them_and_go_where_they_are_wanted(result: Encoded) -> None:
    for destination, roles in {
        "pacs": [*KEY_PHASES, *SEGMENTATIONS, REPORT, SUMMARY, SUMMARY_PDF],
        "archive": [*SEGMENTATIONS, REPORT, SUMMARY],
    }.items():
        got = [each for each in result.objects if destination in each.destinations]
        assert list(dict.fromkeys(each.role for each in got)) == roles
        here = {each.sop_instance_uid for each in got} | set(result.sources.paths)
        seen: set[str] = set(result.sources.paths)
        for each in got:
            named = {
                str(element.value)
                for element in each.dataset.iterall()
                if element.keyword == "ReferencedSOPInstanceUID"
            }
            assert named <= here
            assert named <= seen
            seen.add(each.sop_instance_uid)


def test_one_object_a_series_for_seg_report_and_pdf_and_fixed_series_numbers(result: Encoded) -> None:
    by_series: dict[str, list[ResultRole]] = {}
    for each in result.objects:
        by_series.setdefault(each.series_instance_uid, []).append(each.role)
    for roles in by_series.values():
        if roles[0] in (*SEGMENTATIONS, REPORT, SUMMARY_PDF):
            assert len(roles) == 1
    numbers = {int(each.dataset.SeriesNumber) for each in result.objects}
    assert len(numbers) == len(by_series)
    assert min(numbers) > 9000
    assert all(len(each.series_description) <= 64 for each in result.objects)


def test_a_retry_yields_the_same_bytes(result: Encoded) -> None:
    again, _ = encoded(result.cine, result.findings, DESTINATIONS)
    assert differences(result.objects, again) == []


def pdf_of(objects: list[ResultObject]) -> list[ResultObject]:
    return [each for each in objects if each.role == SUMMARY_PDF]


def test_a_difference_is_told_by_object_and_attribute(result: Encoded) -> None:
    def changed(each: ResultObject) -> ResultObject:
        dataset = dcmread(io.BytesIO(each.content))
        dataset.ContentTime = "000001"
        dataset.ContributingEquipmentSequence[0].Manufacturer = "other"
        dataset.EncapsulatedDocument = dataset.EncapsulatedDocument.replace(b"%PDF-1", b"%PDF-2")
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return dataclasses.replace(each, content=buffer.getvalue())

    objects = pdf_of(result.objects)
    (told,) = differences(objects, [changed(each) for each in objects])
    assert told.startswith(f"{SUMMARY_PDF.value} {objects[0].sop_instance_uid}: ContentTime ")
    assert "ContributingEquipmentSequence[0].Manufacturer 'ACME' and 'other'" in told
    assert "EncapsulatedDocument of " in told
    assert "from 5: b'%PDF-1" in told
    assert differences(objects, []) != []


def test_another_model_or_setting_makes_other_objects_and_another_time_does_not(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    findings = findings_of(cine)
    nobody: dict[str, DestinationProfile] = {
        "pacs": DestinationProfile(peer="pacs", summary_pdf=False, summary_secondary_capture=False)
    }
    first, _ = encoded(cine, findings, nobody)
    later, _ = encoded(cine, findings, nobody, created=CREATED + datetime.timedelta(days=1))
    assert [each.sop_instance_uid for each in later] == [each.sop_instance_uid for each in first]
    settings, _ = encoded(cine, findings, nobody, settings=ResultSettings(contact="another"))
    retrained = CineSegmentation(
        cine.segmentation.labels,
        cine.segmentation.agreement,
        cine.segmentation.crop,
        (type(MODEL)(MODEL.name, "1.0.1", "cd" * 32, MODEL.task, MODEL.training_data, MODEL.licence),),
    )
    model, _ = encoded(cine, Findings({**findings.values, CineSegmentation: retrained}), nobody)
    uids = [{each.sop_instance_uid for each in made} for made in (first, settings, model)]
    assert not uids[0] & uids[1]
    assert not uids[0] & uids[2]


@pytest.mark.parametrize("destination", ["pacs", "archive"])
@pytest.mark.parametrize("role", SEGMENTATIONS)
def test_dcmqi_decodes_the_very_masks(result: Encoded, role: ResultRole, destination: str, tmp_path: Path) -> None:
    each = result.of(role, destination)[0]
    decoded = masks_by_dcmqi(result.path(each), tmp_path)
    sent = masks_as_sent(result.path(each))
    assert decoded.keys() == sent.keys()
    for number, masks in decoded.items():
        np.testing.assert_array_equal(masks, sent[number])
        truth = each.expected.labels == each.expected.segments[number - 1].label
        slices = slices_of(each, result.path(each), number)
        if destination == "pacs":
            assert sorted(slices) == list(range(len(truth)))
        np.testing.assert_array_equal(masks, truth[slices])
        assert masks.sum() == truth.sum()


def slices_of(each: ResultObject, path: Path, number: int) -> list[int]:
    """Slice of the stack that each frame of a segment lies on."""
    positions = each.expected.geometry.positions
    distances = [np.linalg.norm(positions - position, axis=1) for position in frames_of(path)[number]]
    assert all(distance.min() < 0.01 for distance in distances)
    return [int(distance.argmin()) for distance in distances]


@pytest.mark.parametrize("role", SEGMENTATIONS)
def test_a_segmentation_names_structures_colours_and_algorithm(result: Encoded, role: ResultRole) -> None:
    seg = result.written(role)[0]
    assert seg.SegmentationType == "BINARY"
    assert seg.ContentQualification == "RESEARCH"
    for codes_of_segment, segment in zip(SEGMENTS, seg.SegmentSequence, strict=True):
        assert segment.SegmentLabel == codes_of_segment.name
        assert tuple(segment.RecommendedDisplayCIELabValue) == codes_of_segment.cielab
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes_of_segment.property_type.value
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL.name, MODEL.version)
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert MODEL.weights_sha256 in algorithm.AlgorithmParameters
        assert segment.TrackingUID
    key_phase = {image.SOPInstanceUID for image in result.written(KEY_PHASES[SEGMENTATIONS.index(role)])}
    series = seg.ReferencedSeriesSequence
    assert len(series) == 1
    assert {item.ReferencedSOPInstanceUID for item in series[0].ReferencedInstanceSequence} == key_phase


def test_a_segmentation_on_the_sources_names_all_their_series(result: Encoded) -> None:
    seg = result.written(SEGMENTATION["ED"], "archive")[0]
    stack = result.cine.study.short_axis
    assert stack is not None
    assert {item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence} == set(stack.series_instance_uids)
    assert len(seg.ReferencedSeriesSequence) == stack.slices
    assert not {frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in _empty_frames(seg)}


def _empty_frames(seg):
    return [
        group
        for pixels, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True)
        if not pixels.any()
    ]


def _items(dataset, path=()):
    for item in dataset.get("ContentSequence", []):
        name = item.ConceptNameCodeSequence[0] if item.get("ConceptNameCodeSequence") else None
        here = (*path, (name.CodingSchemeDesignator, name.CodeValue) if name else None)
        yield here, item
        yield from _items(item, here)


def _numbers(report):
    return [(path, item) for path, item in _items(report) if item.ValueType == "NUM"]


def test_the_report_holds_every_number_with_its_unit_range_and_method(result: Encoded) -> None:
    report = result.written(REPORT)[0]
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.PreliminaryFlag, report.VerificationFlag, report.CompletionFlag) == (
        "PRELIMINARY",
        "UNVERIFIED",
        "COMPLETE",
    )
    found = {}
    for _, item in _numbers(report):
        concept = item.ConceptNameCodeSequence[0]
        value = item.MeasuredValueSequence[0]
        found.setdefault(concept.CodeValue, []).append(
            (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue, item)
        )
    function = result.findings[VentricularFunction]
    for code, value, unit in (
        ("8821-1", function.lv.edv_ml, "ml"),
        ("8823-7", function.lv.esv_ml, "ml"),
        ("8811-2", function.lv.ejection_fraction_percent, "%"),
        ("18087-7", function.lv_mass_g, "g"),
        ("8822-9", function.rv.edv_ml, "ml"),
        ("8818-7", function.rv.ejection_fraction_percent, "%"),
        ("LVEDVI", function.lv.edv_index_ml_m2, "ml/m2"),
        ("8867-4", function.heart_rate_bpm, "/min"),
        ("8277-6", function.bsa_m2, "m2"),
    ):
        assert [(pytest.approx(value, rel=0.01), unit)] == [row[:2] for row in found[code]], code
    _, _, edv = found["8821-1"][0]
    properties = {item.ConceptNameCodeSequence[0].CodeValue: item for item in edv.ContentSequence}
    interval = reference_interval(Quantity.LVEDV, result.cine.study.context)
    assert float(properties["385524004"].MeasuredValueSequence[0].NumericValue) == interval.lower
    assert float(properties["371933006"].MeasuredValueSequence[0].NumericValue) == interval.upper
    assert interval.source in properties["121408"].TextValue
    assert "end diastole" in properties["METHOD"].TextValue
    assert float(properties["371886008"].MeasuredValueSequence[0].NumericValue) == pytest.approx(
        function.lv.edv_interval_ml.upper - function.lv.edv_ml, abs=0.01
    )


def test_key_numbers_carry_their_intervals_and_the_confidence(result: Encoded) -> None:
    function, quality = result.findings[VentricularFunction], result.findings[QualityAssessment]
    left, right, confidence = key_numbers(function, quality)
    value, bounds = function.lv.ejection_fraction_percent, function.lv.ejection_fraction_interval_percent
    assert f"ejection fraction {value:.0f} % ({bounds.lower:.0f} to {bounds.upper:.0f})" in left
    assert f"{function.rv.edv_ml:.0f} ml (" in right
    assert confidence.startswith(f"Confidence: {quality.overall.name}")
    assert str(len(quality.departures)) in confidence or not quality.departures


def test_every_measurement_group_has_a_tracking_uid_and_the_segments_share_theirs(result: Encoded) -> None:
    report = result.written(REPORT)[0]
    groups = [item for path, item in _items(report) if path[-1] == ("DCM", "125007")]
    uids = []
    referenced = {}
    for group in groups:
        inside = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
        uids.append(inside["112040"].UID)
        if "121191" in inside:
            reference = inside["121191"].ReferencedSOPSequence[0]
            key = (reference.ReferencedSOPInstanceUID, int(reference.ReferencedSegmentNumber))
            referenced[key] = inside["112040"].UID
    assert len(set(uids)) == len(groups)
    for role in SEGMENTATIONS:
        seg = result.written(role)[0]
        for segment in seg.SegmentSequence:
            assert referenced[seg.SOPInstanceUID, segment.SegmentNumber] == segment.TrackingUID


def test_the_report_gives_the_wall_by_aha_segment(result: Encoded) -> None:
    wall = result.findings[VentricularFunction].wall
    report = result.written(REPORT)[0]
    thickness = [item for _, item in _numbers(report) if item.ConceptNameCodeSequence[0].CodeValue == "122445"]
    values = sorted(float(item.MeasuredValueSequence[0].NumericValue) for item in thickness)
    truth = np.concatenate([wall.ed_thickness_mm, wall.es_thickness_mm])
    np.testing.assert_allclose(values, sorted(truth[np.isfinite(truth)]), atol=0.051)
    points = {item.ContentSequence[0].ConceptCodeSequence[0].CodeValue for item in thickness}
    assert points == {"416190007", "416430001"}


def test_quality_and_omissions_are_in_the_report_in_words(result: Encoded) -> None:
    report = result.written(REPORT)[0]
    texts = [item.TextValue for _, item in _items(report) if item.ValueType == "TEXT"]
    for finding in result.findings[QualityAssessment].findings:
        assert any(finding.sentence in text for text in texts)
    assert any("Localizer of 3 images" in text for text in texts)
    (confidence,) = [item for path, item in _items(report) if path[-1] == ("99DICOMNODE", "CONFIDENCE")]
    overall = result.findings[QualityAssessment].overall
    codes = {Grade.GOOD: "CONF_GOOD", Grade.POOR: "CONF_POOR"}
    assert confidence.ConceptCodeSequence[0].CodeValue == codes[overall]
    assert f"Confidence {overall.name}: {CONFIDENCE_MEANS[overall]}." in texts


def test_confidence_is_not_coded_as_the_quality_of_images(result: Encoded) -> None:
    """CID 3114 says how good images are, which a viewer would show beside the images."""
    image_quality = {"122739", "122740", "122741", "122742", "122743", "111235"}
    said = [
        code.CodeValue
        for _, item in _items(result.written(REPORT)[0])
        for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence")
        for code in item.get(keyword, [])
    ]
    assert not image_quality & set(said)


def test_dcmqi_and_dcmtk_read_the_report(result: Encoded, tmp_path: Path, dcmtk: None) -> None:
    path = result.path(result.of(REPORT)[0])
    read = report_by_dcmqi(path, tmp_path)
    groups = read["Measurements"]
    regions = [group for group in groups if "ReferencedSegment" in group]
    assert len(regions) == 6
    assert {group["segmentationSOPInstanceUID"] for group in regions} == {
        result.of(role)[0].sop_instance_uid for role in SEGMENTATIONS
    }
    values = json.dumps(groups)
    function = result.findings[VentricularFunction]
    assert "8821-1" in values
    assert f"{function.lv.edv_ml:.1f}" in values
    command = [tool("dsrdump"), "--print-all-codes", path]
    dumped = subprocess.run(command, capture_output=True, encoding="latin-1", check=True)
    assert "Left Ventricular ED Volume" in dumped.stdout
    assert "UNVERIFIED" in dumped.stdout


def test_inputs_and_results_are_one_consistent_study(result: Encoded) -> None:
    assert entity_errors(result.cine.paths, [result.path(each) for each in result.objects]) == []


def test_procedure_is_the_sources_own(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    procedure, header = Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "CMR1", "99HOSPITAL", "Herz-MRT"
    header.ProcedureCodeSequence = [procedure]
    cine = write_cine(tmp_path, phases=8, slices=4, size=64, header=header)
    objects, sources = encoded(cine)
    assert not any(check(objects, sources))
    report = next(each.dataset for each in objects if each.role == REPORT)
    reported = [item.ConceptCodeSequence[0].CodeValue for path, item in _items(report) if path == (("DCM", "121058"),)]
    assert reported == ["CMR1"]


def test_a_heart_without_right_ventricle_and_without_patient_data(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    labels = np.where(cine.segmentation.labels == Label.RV, 0, cine.segmentation.labels).astype(np.uint8)
    segmentation = CineSegmentation(
        labels, cine.segmentation.agreement, cine.segmentation.crop, cine.segmentation.models
    )
    context = type(cine.study.context)(cine.study.context.study_instance_uid)
    study = type(cine.study)(context, cine.study.stacks, ())
    bare = Cine(study, segmentation, cine.paths, cine.end_diastole, cine.end_systole)
    objects, sources = encoded(bare)
    assert not any(check(objects, sources))
    seg = next(each for each in objects if each.role == SEGMENTATION["ED"])
    assert [segment.label for segment in seg.expected.segments] == [Label.LV, Label.MYO]
    report = next(each.dataset for each in objects if each.role == REPORT)
    names = {item.ConceptNameCodeSequence[0].CodeValue for _, item in _numbers(report)}
    assert "8822-9" not in names
    assert "LVEDVI" not in names


@pytest.mark.parametrize("with_quality", [True, False])
def test_a_declined_study_gets_a_reason_and_no_number(tmp_path: Path, with_quality: bool) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    found = findings_of(cine)
    values = {QualityAssessment: found[QualityAssessment], CineSegmentation: cine.segmentation} if with_quality else {}
    refusals = (
        Refusal("quality", RefusalReason.QUALITY_TOO_LOW, "Die Basis fehlt: only 2 of 9 slices show the ventricle."),
        Refusal("function", RefusalReason.QUALITY_TOO_LOW, "depends on quality", because_of="quality"),
    )
    objects, sources = encoded(cine, Findings(values, refusals))
    assert not any(check(objects, sources))
    assert objects[0].role == REFUSAL
    report = objects[0].dataset
    assert _numbers(report) == []
    evaluations = {path[-1]: item for path, item in _items(report) if item.ValueType == "CODE"}
    assert evaluations["99DICOMNODE", "CONFIDENCE"].ConceptCodeSequence[0].CodeValue == "CONF_NONE"
    assert evaluations["99DICOMNODE", "DECLINED"].ConceptCodeSequence[0].CodeValue == "REF_QUALITY"
    texts = [item.TextValue for _, item in _items(report) if item.ValueType == "TEXT"]
    assert any("only 2 of 9 slices" in text for text in texts)
    assert not any("depends on quality" in text for text in texts)
    # The number that is withheld is not given away by the sentence that finds it plausible.
    assert not any("ejection fraction of" in text for text in texts)
    for each in objects:
        assert not unaccepted(each, sources)


def test_a_study_without_any_stack_is_declined_too(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    study = type(cine.study)(cine.study.context, (), cine.study.omissions)
    empty = Cine(study, cine.segmentation, cine.paths, 0, 0)
    refusal = Refusal("short_axis", RefusalReason.NO_SHORT_AXIS_STACK, "The study holds no short-axis cine stack.")
    objects, sources = encoded(empty, Findings({}, (refusal,)))
    assert not any(check(objects, sources))
    assert objects[0].role == REFUSAL


@pytest.mark.real_data
@pytest.mark.parametrize("which", ["SCD0000101", "SCD0000301", "siemens-vida"])
def test_real_studies_pass_the_gate(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if which == "siemens-vida":
        folder = request.getfixturevalue("siemens_vida_dir")
    else:
        folder = request.getfixturevalue("sunnybrook_dir") / which
    paths = list(dicom_files(folder))
    study = assemble(paths)[0]
    stack = study.short_axis
    assert stack is not None
    size = min(stack.pixels.shape[2:])
    labels = np.zeros(stack.pixels.shape, np.uint8)
    labels[..., :size, :size] = heart(stack.phases, stack.slices, size)
    segmentation = CineSegmentation(labels, np.ones(labels.shape[:2], np.float32), (0, size, 0, size), (MODEL,))
    cine = Cine(study, segmentation, paths, 0, 0)
    objects, sources = encoded(cine)
    assert [tuple(map(str, found)) for found in check(objects, sources)] == [()] * len(objects)
    received = sources.reference(study)
    written = []
    for each in objects:
        written.append(tmp_path / f"{each.sop_instance_uid}.dcm")
        written[-1].write_bytes(each.content)
        made = dcmread(written[-1], stop_before_pixels=True)
        for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "StudyDate", "PatientBirthDate"):
            assert str(made[keyword].value) == str(received[keyword].value)
    assert entity_errors(paths, written) == []
    for each, path in zip(objects, written, strict=True):
        if each.role in SEGMENTATIONS:
            (tmp_path / each.role.value).mkdir()
            for number, masks in masks_by_dcmqi(path, tmp_path / each.role.value).items():
                np.testing.assert_array_equal(masks, labels_of(each, number)[slices_of(each, path, number)])
        if each.role == REPORT:
            assert report_by_dcmqi(path, tmp_path)["Measurements"]


def labels_of(each, number: int) -> np.ndarray:
    return each.expected.labels == each.expected.segments[number - 1].label


def test_codes_that_pydicom_knows_are_spelt_as_pydicom_knows_them() -> None:
    assert codes.SCT.EndDiastole.value == "416190007"
    assert codes.DCM.ImagingMeasurementReport.value == "126000"


def test_the_seg_shows_what_the_numbers_count(tmp_path: Path) -> None:
    cine = write_cine(tmp_path)
    findings = findings_of(cine)
    stack = cine.study.short_axis
    assert stack is not None
    slices = measure_slices(stack, cine.segmentation)
    above, counted = slices.above_base.copy(), slices.counted.copy()
    above[0], counted[:, 0] = True, False
    counted[:, 1] = False
    partly = dataclasses.replace(slices, above_base=above, counted=counted)
    objects, _ = encoded(cine, Findings({**findings.values, SliceMeasures: partly}))
    for role, phase in zip(SEGMENTATIONS, (cine.end_diastole, cine.end_systole), strict=True):
        (seg,) = (each for each in objects if each.role == role)
        assert isinstance(seg.expected, ExpectedMask)
        shown, truth = seg.expected.labels, cine.segmentation.labels[phase]
        assert not np.isin(shown[0], (Label.LV, Label.MYO)).any()
        assert np.array_equal(shown[0] == Label.RV, truth[0] == Label.RV)
        assert not (shown[1] == Label.LV).any()
        assert np.array_equal(shown[1] == Label.MYO, truth[1] == Label.MYO)
        assert np.array_equal(shown[2:], truth[2:])


def test_the_report_adds_up(result: Encoded) -> None:
    """The stroke volume is the difference of the volumes beside it, to the last digit."""
    report = result.written(REPORT)[0]
    for chamber in ("LV", "RV"):
        values = _of_group(report, f"{chamber} function")
        edv, esv, stroke = (values[Quantity(f"{chamber}{name}_ml")] for name in ("EDV", "ESV", "SV"))
        assert round(edv - esv, 2) == stroke


@given(st.floats(0, 600), st.floats(0, 1))
def test_a_difference_of_reported_volumes_is_the_reported_difference(edv: float, part: float) -> None:
    first, second = significant(edv), significant(edv * part)
    assert str(first) != "-0.0"
    assert abs(round(first - second, 2) - (edv - edv * part)) <= 0.11


def _of_group(report: Dataset, tracking: str) -> dict[Quantity, float]:
    """Numbers of one measurement group."""
    found = {}
    for container in _groups(report):
        names = [item.get("TextValue") for item in container.ContentSequence]
        if tracking in names:
            for item in container.ContentSequence:
                if item.ValueType == "NUM":
                    code = item.ConceptNameCodeSequence[0]
                    for quantity, known in QUANTITY.items():
                        if known.value == code.CodeValue and quantity.value.startswith(tracking[:2]):
                            found[quantity] = float(item.MeasuredValueSequence[0].NumericValue)
    return found


def _groups(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        if item.ValueType == "CONTAINER":
            yield item
            yield from _groups(item)


def test_what_is_measured_is_what_is_drawn_and_sent(tmp_path: Path) -> None:
    """A papillary muscle in the segmentation: filled in the number, in the SEG and in the volume of its segment."""
    cine = write_cine(tmp_path, phases=8, slices=5, size=64)
    labels = cine.segmentation.labels.copy()
    labels[:, 1, 31:33, 34:36] = Label.MYO
    assert (labels != cine.segmentation.labels).any()
    cine = dataclasses.replace(cine, segmentation=dataclasses.replace(cine.segmentation, labels=labels))
    findings = findings_of(cine)
    objects, sources = encoded(cine, findings)
    assert not any(check(objects, sources))
    function = findings[VentricularFunction]
    report = next(each.dataset for each in objects if each.role == REPORT)
    stack = cine.study.short_axis
    voxel = np.prod(stack.geometry.pixel_spacing) * stack.geometry.slice_intervals() / 1000
    for when, role, ml in (
        ("ED", SEGMENTATION["ED"], function.lv.edv_ml),
        ("ES", SEGMENTATION["ES"], function.lv.esv_ml),
    ):
        seg = next(each for each in objects if each.role == role)
        assert float((seg.expected.labels == Label.LV).sum(axis=(1, 2)) @ voxel) == pytest.approx(ml, rel=1e-9)
        volumes = [
            float(item.MeasuredValueSequence[0].NumericValue)
            for container in _groups(report)
            if f"LV blood pool {when}" in [child.get("TextValue") for child in container.ContentSequence]
            for item in container.ContentSequence
            if item.ValueType == "NUM"
        ]
        assert volumes == [pytest.approx(ml, abs=0.06)]
