"""The gate finds what is wrong with an object, and only that."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from dicom_node.errors import NodeError
from dicom_node.results import iod
from dicom_node.results.gate import Gate, check, origins
from dicom_node.results.iod import IOD_TIMEOUT_S, IodCheck, SourceUids
from dicom_node.results.objects import ResultObject, Surroundings
from dicom_node.results.problems import GateCheck, Problem
from dicom_node.results.roles import REPORT, SUMMARY, SUMMARY_PDF, ResultRole
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.ventricular_function.groups import KEY_PHASE, SEGMENTATION
from pipelines.cine.stack import FrameSource
from results.conftest import Encoded
from results.synthetic import encoded, write_cine


def tampered(each: ResultObject, change: Callable[[Dataset], None]) -> ResultObject:
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = dcmread(io.BytesIO(each.content))
        change(dataset)
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset)
    return dataclasses.replace(each, dataset=dataset, content=buffer.getvalue())


def problems(result: Encoded, role: ResultRole, change: Callable[[Dataset], None]) -> list[tuple[GateCheck, str]]:
    objects = list(result.objects)
    index = next(i for i, each in enumerate(objects) if each.role == role and "pacs" in each.destinations)
    objects[index] = tampered(objects[index], change)
    return [(problem.check, problem.sentence) for problem in check(objects, result.sources)[index]]


def test_dciodvfy_reads_the_same_whatever_was_asked_of_the_object_before(result: Encoded) -> None:
    uids = SourceUids()
    for each in result.objects:
        asked = dcmread(io.BytesIO(each.content))
        assert [element.value for element in asked.iterall()]
        fresh, after = (
            IodCheck.of(one, origins(each, result.sources), (), uids)
            for one in (dcmread(io.BytesIO(each.content)), asked)
        )
        assert fresh.content == after.content
        # And what is done to it there is not done to the object that other checks look at.
        buffer = io.BytesIO()
        dcmwrite(buffer, asked)
        assert buffer.getvalue() == each.content


def test_what_leaves_is_checked_whatever_was_looked_at_before(result: Encoded) -> None:
    objects = list(result.objects)
    with Gate(result.sources) as gate:
        gate.take(objects[:-1])
        assert not any(gate.problems(objects))
        objects[0] = tampered(objects[0], _flip_pixel)
        assert [one.check for one in gate.problems(objects)[0]] == [GateCheck.PIXELS]
        # A segmentation that was looked at and does not leave is not there for the report that refers to it.
        left = [one for one in result.objects if one.role not in SEGMENTATION.values()]
        found = dict(zip((one.role for one in left), gate.problems(left), strict=True))
        assert {one.check for one in found[REPORT]} == {GateCheck.REFERENCES}


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def _flip_pixel(dataset: Dataset) -> None:
    data = bytearray(dataset.PixelData)
    data[1000] ^= 1
    dataset.PixelData = bytes(data)


def _move_first_frame(dataset: Dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(v) + 0.5 for v in position.ImagePositionPatient]


def _swap_sources(dataset: Dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    first, second = (group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups[:2])
    first.ReferencedSOPInstanceUID, second.ReferencedSOPInstanceUID = (
        second.ReferencedSOPInstanceUID,
        first.ReferencedSOPInstanceUID,
    )


def _unknown_reference(dataset: Dataset) -> None:
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"


def _another_uid_in_the_file_meta(dataset: Dataset) -> None:
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"


def _say_another_volume(dataset: Dataset) -> None:
    for item in dataset.ContentSequence[-1].ContentSequence:
        children = item.ContentSequence
        if any("ReferencedSegmentNumber" in one.get("ReferencedSOPSequence", [Dataset()])[0] for one in children):
            number = next(one for one in children if one.ValueType == "NUM").MeasuredValueSequence[0]
            number.NumericValue = f"{float(number.NumericValue) * 1.02:.2f}"
            return
    raise AssertionError("the report has no segment with a volume")


@pytest.mark.parametrize(
    ("role", "change", "kind", "says"),
    [
        (KEY_PHASE["ED"], _set("PatientID", "P-2"), GateCheck.IDENTITY, "PatientID"),
        (KEY_PHASE["ED"], _set("PatientName", "Muller^Jorg"), GateCheck.IDENTITY, "PatientName"),
        (REPORT, _set("AccessionNumber", ""), GateCheck.IDENTITY, "AccessionNumber"),
        (SUMMARY_PDF, _set("StudyInstanceUID", "1.2.3"), GateCheck.IDENTITY, "StudyInstanceUID"),
        (SUMMARY, _set("PatientComments", "x"), GateCheck.IDENTITY, "PatientComments has a value that the source"),
        (SUMMARY, _another_uid_in_the_file_meta, GateCheck.IDENTITY, "MediaStorageSOPInstanceUID is not SOPInstance"),
        (KEY_PHASE["ES"], _flip_pixel, GateCheck.PIXELS, "grey values"),
        (KEY_PHASE["ES"], _set("RescaleSlope", "2"), GateCheck.PIXELS, "grey values"),
        (KEY_PHASE["ES"], _set("ImagePositionPatient", [0, 0, 0]), GateCheck.GEOMETRY, "ImagePosition"),
        (KEY_PHASE["ES"], _set("PixelSpacing", [1.5, 1.5]), GateCheck.GEOMETRY, "PixelSpacing"),
        (KEY_PHASE["ES"], _set("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), GateCheck.GEOMETRY, "Orient"),
        (KEY_PHASE["ES"], _set("FrameOfReferenceUID", "1.2.9"), GateCheck.GEOMETRY, "FrameOfReference"),
        (KEY_PHASE["ED"], _unknown_reference, GateCheck.REFERENCES, "1.2.3.4.5"),
        (SEGMENTATION["ED"], _flip_pixel, GateCheck.PIXELS, "1 voxels differ"),
        (SEGMENTATION["ED"], _move_first_frame, GateCheck.GEOMETRY, "ImagePosition"),
        (SEGMENTATION["ED"], _swap_sources, GateCheck.REFERENCES, "another slice"),
        (SEGMENTATION["ES"], _set("FrameOfReferenceUID", "1.2.9"), GateCheck.GEOMETRY, "FrameOfReference"),
        (SUMMARY_PDF, _set("EncapsulatedDocument", b"<html>  "), GateCheck.PIXELS, "no PDF"),
        (SUMMARY_PDF, lambda dataset: dataset.pop("EncapsulatedDocumentLength"), GateCheck.PIXELS, "no PDF"),
        (SUMMARY, _set("PixelData", b"\0\0"), GateCheck.PIXELS, "bytes of pixels"),
        (REPORT, _say_another_volume, GateCheck.NUMBERS, "its voxels are"),
        (REPORT, _set("CompletionFlag", "MAYBE"), GateCheck.IOD, "CompletionFlag"),
        (KEY_PHASE["ED"], lambda dataset: dataset.pop("Modality"), GateCheck.IOD, "Modality"),
    ],
)
def test_what_was_tampered_with_is_named(
    result: Encoded, role: ResultRole, change: Callable[[Dataset], None], kind: GateCheck, says: str
) -> None:
    found = problems(result, role, change)
    assert any(check is kind and says in sentence for check, sentence in found), found


class _ExpectedComment:
    """An expectation that the gate has never heard of."""

    def check(self, dataset: Dataset, surroundings: Surroundings) -> Iterator[Problem]:
        assert str(dataset.SOPInstanceUID) in surroundings.results
        if dataset.ImageComments != "as expected":
            yield Problem(GateCheck.NUMBERS, "the comment is another one")


def test_an_object_is_asked_what_it_expects_of_itself(result: Encoded) -> None:
    each = next(each for each in result.objects if each.role == KEY_PHASE["ED"])
    right = tampered(each, _set("ImageComments", "as expected"))
    objects = [dataclasses.replace(one, expected=_ExpectedComment()) for one in (right, each)]
    assert [[str(problem) for problem in found] for found in check(objects, result.sources)] == [
        [],
        ["numbers: the comment is another one"],
    ]


def test_a_validator_that_does_not_end_is_a_finding_and_no_wait(
    result: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "dciodvfy"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(iod, "validator", lambda: stuck)
    monkeypatch.setattr(iod, "IOD_TIMEOUT_S", 0.2)
    each = next(each for each in result.objects if each.role == SUMMARY)
    (found,) = check([each], result.sources)
    assert [(one.check, one.sentence) for one in found] == [
        (GateCheck.IOD, f"dciodvfy did not end within {IOD_TIMEOUT_S} s")
    ]


def test_a_source_that_cannot_be_read_is_an_error_and_no_finding(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=4, slices=3, size=32)
    objects, _ = encoded(cine)
    each = next(each for each in objects if each.role == KEY_PHASE["ED"])
    sources = SourceDatasets.index(cine.paths)
    for path in cine.paths:
        path.write_bytes(b"gone")
    with pytest.raises(NodeError, match="a source instance cannot be read again"):
        check([each], sources)


def test_findings_stand_with_their_objects_in_their_order(result: Encoded) -> None:
    """Of objects that are checked side by side, each has its own findings of the validator and of the rest."""
    objects = list(result.objects)
    bad = {}
    for position in range(0, len(objects), 2):

        def change(dataset: Dataset, position: int = position) -> None:
            dataset.CompletionFlag, dataset.PatientID = "MAYBE", f"P-{position}"
            dataset.SeriesInstanceUID = f"1.2.0{position}"

        objects[position] = tampered(objects[position], change)
        bad[position] = f"1.2.0{position}"
    found = check(objects, result.sources)
    for position, problems_ in enumerate(found):
        if position in bad:
            assert any(one.check is GateCheck.IOD and "SeriesInstanceUID" in str(one) for one in problems_)
            assert any(one.check is GateCheck.IDENTITY for one in problems_)
            assert problems_[0].check is GateCheck.IOD
        else:
            assert not [one for one in problems_ if one.check in (GateCheck.IOD, GateCheck.IDENTITY)]


def test_bytes_that_are_no_dicom_are_kept_back(result: Encoded) -> None:
    each = dataclasses.replace(result.objects[0], content=result.objects[0].content[:200])
    (problem,) = check([each], result.sources)[0]
    assert problem.check is GateCheck.PIXELS
    assert problem.sentence.startswith("the object cannot be read again: ")


def test_no_pixels_more_and_none_less_than_are_due_pass(result: Encoded) -> None:
    """An odd number of bytes is filled up to an even one (PS3.5 8.1.1)."""

    def sized(length: int) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated = 3, 3, 1, 8
            dataset.PixelData = bytes(length)

        return change

    each = next(each for each in result.objects if each.role == SUMMARY)
    objects = [dataclasses.replace(tampered(each, sized(length)), expected=None) for length in (8, 10, 12)]
    said = [
        [one.sentence for one in found if one.check is GateCheck.PIXELS] for found in check(objects, result.sources)
    ]
    assert said == [["8 bytes of pixels where 9 are due"], [], ["12 bytes of pixels where 9 are due"]]


def test_what_is_delivered_already_may_be_referred_to_and_nothing_else(result: Encoded) -> None:
    each = next(each for each in result.objects if each.role == KEY_PHASE["ED"] and "pacs" in each.destinations)
    objects = [tampered(each, _unknown_reference)]
    refers = [one.sentence for one in check(objects, result.sources)[0] if one.check is GateCheck.REFERENCES]
    assert "it refers to 1.2.3.4.5, which is neither a source nor among the results" in refers
    earlier = check(objects, result.sources, earlier=("1.2.3.4.5",))[0]
    assert not any("1.2.3.4.5" in one.sentence for one in earlier)


def test_sources_of_several_studies_are_told(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=4, slices=4, size=64)
    stack = cine.study.short_axis
    assert stack is not None
    source: FrameSource = stack.sources[cine.end_systole][2]
    path = next(p for p in cine.paths if dcmread(p, stop_before_pixels=True).SOPInstanceUID == source.sop_instance_uid)
    image = dcmread(path)
    image.StudyInstanceUID = "1.2.3.4"
    image.save_as(path)
    objects, sources = encoded(cine)
    chosen = [each for each in objects if source in each.sources][:1]
    assert "the source instances are of several studies" in [one.sentence for one in check(chosen, sources)[0]]


def test_sources_of_two_patients_are_told(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    stack = cine.study.short_axis
    assert stack is not None
    source: FrameSource = stack.sources[cine.end_systole][2]
    path = next(p for p in cine.paths if dcmread(p, stop_before_pixels=True).SOPInstanceUID == source.sop_instance_uid)
    image = dcmread(path)
    image.PatientID = "P-2"
    image.save_as(path)
    objects, sources = encoded(cine)
    found = [problem for each in check(objects, sources) for problem in each]
    assert any("disagree in PatientID" in str(problem) for problem in found)
    assert not any("P-2" in str(problem) or "Müller" in str(problem) for problem in found)


def test_an_invalid_uid_of_the_study_is_inherited_and_one_of_ours_is_not(tmp_path: Path) -> None:
    header = Dataset()
    with disable_value_validation():
        header.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.007"
        header.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.009"
        header.PatientBirthDate = "00000000"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cine = write_cine(tmp_path, phases=8, slices=4, size=64, header=header)
    stack = dataclasses.replace(cine.study.stacks[0], frame_of_reference_uid="1.2.826.0.1.3680043.8.498.009")
    context = dataclasses.replace(cine.study.context, study_instance_uid="1.2.826.0.1.3680043.8.498.007")
    cine = dataclasses.replace(cine, study=dataclasses.replace(cine.study, context=context, stacks=(stack,)))
    objects, sources = encoded(cine)
    assert not any(check(objects, sources))
    bad = tampered(objects[0], _set("SeriesInstanceUID", "1.2.03"))
    found = check([bad], sources)[0]
    assert any(one.check is GateCheck.IOD and "SeriesInstanceUID" in one.sentence for one in found)
    assert np.all([str(each.dataset.StudyInstanceUID).endswith(".007") for each in objects])
