"""A cheap analysis for tests of the machinery around it.

Its imports are inside the functions: every process on the way to the worker unpickles the function, only the worker
calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from pydicom.dataset import Dataset

    from dicom_node.config import ResultSettings, Route
    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.results.content import Predecessor
    from dicom_node.results.objects import ResultObject

ROLES = ("key-phase-ed", "segmentation-ed", "report")


def roles_of(package: str) -> tuple[str, ...]:
    """Of the results that :func:`cheap_analysis` makes for a package."""
    return ("refusal",) if "declining" in package else ROLES


def result_uid(inputs: Sequence[str], package: str, role: str) -> str:
    """SOP Instance UID of the result that :func:`cheap_analysis` makes of these inputs."""
    from dicom_node.results.uids import derive_uid

    return derive_uid(*inputs, package, role)


def cheap_analysis(
    paths: Sequence[Path],
    *,
    package: str,
    study_instance_uid: str,
    inputs: Sequence[str],
    created: dt.datetime,
    route_name: str,
    route: Route,
    results: ResultSettings,
    predecessors: Sequence[Predecessor],
    known: Mapping[type, object],
    own_results: Mapping[str, str],
    last_attempt: bool,
    device: str,
    on_step: Callable[[str], None],
) -> ProcessedStudy:
    """Read every image of the study and make one small object for each role, slowly enough to be killed over it.

    A package with ``declining`` in its name declines every study.
    """
    from pydicom import dcmread

    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.results.verdict import Verdict, VerdictKind
    from pipelines.analysis import Findings
    from pipelines.cine.stack import CineStudy, StudyContext

    on_step("read")
    sources = [dcmread(path) for path in paths]
    assert {str(source.StudyInstanceUID) for source in sources} == {study_instance_uid}
    mean = sum(float(source.pixel_array.mean()) for source in sources) / len(sources)
    objects = []
    for role in roles_of(package):
        time.sleep(1.0 if "slow" in package else 0.1)
        objects.append(_object(sources[0], package, role, inputs, created, mean, frozenset(route.destinations)))
    if "declining" in package:
        verdict = Verdict(package, VerdictKind.DECLINED, ("It is no heart.",))
    else:
        verdict = Verdict(package, VerdictKind.DELIVERED, key_numbers=(f"The mean is {mean:.1f}.",))
    return ProcessedStudy(
        objects=tuple(objects),
        rejected=(),
        seconds={"cheap": 0.3},
        verdicts=(verdict,),
        study=CineStudy(StudyContext(study_instance_uid), (), ()),
        findings=Findings({}),
    )


def _object(
    source: Dataset,
    package: str,
    role: str,
    inputs: Sequence[str],
    created: dt.datetime,
    mean: float,
    destinations: frozenset[str],
) -> ResultObject:
    from crash_parts import encoded
    from pydicom.dataset import Dataset
    from pydicom.uid import SecondaryCaptureImageStorage

    from dicom_node.results.objects import ResultObject
    from dicom_node.results.roles import ResultRole
    from dicom_node.results.uids import derive_uid

    image = Dataset()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = result_uid(inputs, package, role)
    image.StudyInstanceUID, image.PatientID = source.StudyInstanceUID, source.PatientID
    image.SeriesInstanceUID = derive_uid(*inputs, package, role, "series")
    image.SeriesDescription = f"{package} {role}"
    image.Modality = "MR"
    image.InstanceCreationDate, image.InstanceCreationTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = 16
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes([round(mean)]) * 256
    return ResultObject(
        role=ResultRole(role, 1, role),
        dataset=image,
        content=encoded(image),
        destinations=destinations,
        reference_uid=str(source.SOPInstanceUID),
        sources=(),
    )
