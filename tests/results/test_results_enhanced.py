"""An Enhanced multi-frame source: the same results, with references to frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from interop.judges import entity_errors
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from dicom_node.results.gate import check
from dicom_node.results.objects import ResultObject
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.ventricular_function.groups import KEY_PHASE, SEGMENTATION
from pipelines.cine.stack import FrameSource
from results.conftest import DESTINATIONS
from results.synthetic import STUDY_UID, Cine, encoded, unaccepted, write_cine

UID = f"{STUDY_UID}.5.1"
SERIES = f"{STUDY_UID}.5"


def _sequence(**elements: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def as_enhanced(cine: Cine, path: Path) -> Cine:
    """The cine as one Enhanced MR object, slice by slice."""
    stack = cine.study.stacks[0]
    images = [dcmread(source) for source in cine.paths]
    by_uid = {image.SOPInstanceUID: image for image in images}
    first = images[0]
    dataset = Dataset()
    for element in first:
        if element.keyword not in (
            "PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
            "TriggerTime", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "ScanningSequence",
            "SequenceVariant", "ScanOptions", "EchoTime", "RepetitionTime", "EchoTrainLength",
        ):  # fmt: skip
            dataset.add(element)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.SeriesInstanceUID = EnhancedMRImageStorage, UID, SERIES
    dataset.EchoPulseSequence, dataset.SteadyStatePulseSequence = "GRADIENT", "FREE_PRECESSION"
    dataset.CardiacSynchronizationTechnique = "RETROSPECTIVE"
    shared = Dataset()
    shared.PixelMeasuresSequence = _sequence(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    shared.PlaneOrientationSequence = _sequence(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.MRTimingAndRelatedParametersSequence = _sequence(RepetitionTime=first.RepetitionTime, FlipAngle="55")
    shared.MREchoSequence = _sequence(EffectiveEchoTime=1.7)
    shared.FrameVOILUTSequence = _sequence(WindowCenter="444", WindowWidth="888")
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    pixels, sources = b"", [[None] * stack.slices for _ in range(stack.phases)]
    for index in range(stack.slices):
        for phase in range(stack.phases):
            image = by_uid[stack.sources[phase][index].sop_instance_uid]
            frame = Dataset()
            frame.PlanePositionSequence = _sequence(ImagePositionPatient=image.ImagePositionPatient)
            frame.CardiacSynchronizationSequence = _sequence(NominalCardiacTriggerDelayTime=float(image.TriggerTime))
            frame.PixelValueTransformationSequence = _sequence(
                RescaleSlope=image.get("RescaleSlope", 1), RescaleIntercept=image.get("RescaleIntercept", 0)
            )
            dataset.PerFrameFunctionalGroupsSequence.append(frame)
            pixels += image.PixelData
            number = len(dataset.PerFrameFunctionalGroupsSequence)
            sources[phase][index] = FrameSource(EnhancedMRImageStorage, UID, SERIES, number, 1, None)
    dataset.NumberOfFrames = len(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, dataset, enforce_file_format=True)
    enhanced = dataclasses.replace(stack, sources=tuple(map(tuple, sources)))
    study = dataclasses.replace(cine.study, stacks=(enhanced,), omissions=())
    return dataclasses.replace(cine, study=study, paths=[path])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cine, list[ResultObject], list[str], Path]:
    folder = tmp_path_factory.mktemp("enhanced")
    classic = write_cine(folder / "classic", phases=8, slices=4, size=64, slope=1.5, intercept=-10.0)
    cine = as_enhanced(classic, folder / "enhanced.dcm")
    objects, sources = encoded(cine, destinations=DESTINATIONS)
    problems = [str(problem) for found in check(objects, sources) for problem in found]
    return cine, objects, problems, folder


def test_they_pass_the_gate(made: tuple[Cine, list[ResultObject], list[str], Path]) -> None:
    cine, objects, problems, folder = made
    sources = SourceDatasets.index(cine.paths)
    assert problems == []
    written = []
    for each in objects:
        assert not unaccepted(each, sources)
        written.append(folder / f"{each.sop_instance_uid}.dcm")
        written[-1].write_bytes(each.content)
    assert entity_errors(cine.paths, written) == []


def test_key_phases_say_in_classic_terms_what_the_functional_groups_say(
    made: tuple[Cine, list[ResultObject], list[str], Path],
) -> None:
    cine, objects, _, _ = made
    images = [each.dataset for each in objects if each.role == KEY_PHASE["ED"]]
    assert len(images) == 4
    for index, image in enumerate(images):
        assert image.ScanningSequence == "GR"
        assert image.SequenceVariant == "SS"
        assert image.ScanOptions == "CG"
        assert (float(image.FlipAngle), float(image.EchoTime), float(image.RepetitionTime)) == (55, 1.7, 3.8)
        assert (image.WindowCenter, image.WindowWidth) == (444, 888)
        assert (image.RescaleSlope, image.RescaleIntercept) == (1.5, -10)
        reference = image.SourceImageSequence[0]
        expected = next(
            line[index].frame_number
            for line in cine.study.stacks[0].sources
            if line[index].frame_number == reference.ReferencedFrameNumber
        )
        assert reference.ReferencedSOPInstanceUID == UID
        assert reference.ReferencedFrameNumber == expected


def test_a_segmentation_on_the_sources_names_frames(
    made: tuple[Cine, list[ResultObject], list[str], Path],
) -> None:
    _, objects, _, _ = made
    seg = next(each.dataset for each in objects if each.role == SEGMENTATION["ES"] and "archive" in each.destinations)
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [SERIES]
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    frames = {
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in seg.PerFrameFunctionalGroupsSequence
    }
    assert len(frames) == 4
