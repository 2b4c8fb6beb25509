"""One encoded study for the tests that only look."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile, SegmentationTarget
from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import ResultRole
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from results.synthetic import Cine, encoded, findings_of, write_cine

DESTINATIONS = {
    "pacs": DestinationProfile(peer="pacs"),
    "archive": DestinationProfile(
        peer="archive",
        segmentation_references=SegmentationTarget.SOURCE,
        omit_empty_frames=True,
        summary_pdf=False,
    ),
}


@dataclass(frozen=True, eq=False)
class Encoded:
    """A cine, what was found on it, and the objects made of it for two destinations."""

    cine: Cine
    findings: Findings
    sources: SourceDatasets
    objects: list[ResultObject]
    folder: Path

    def of(self, role: ResultRole, destination: str = "pacs") -> list[ResultObject]:
        return [each for each in self.objects if each.role == role and destination in each.destinations]

    def written(self, role: ResultRole, destination: str = "pacs") -> list[Dataset]:
        """Data sets as a receiver reads them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [dcmread(self.path(each)) for each in self.of(role, destination)]

    def path(self, each: ResultObject) -> Path:
        path = self.folder / f"{each.sop_instance_uid}.dcm"
        if not path.exists():
            path.write_bytes(each.content)
        return path


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("results")
    cine = write_cine(folder / "cine", series_per_slice=True)
    findings = findings_of(cine)
    objects, sources = encoded(cine, findings, DESTINATIONS)
    return Encoded(cine, findings, sources, objects, folder)
