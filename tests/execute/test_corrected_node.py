"""A SEG that somebody corrects with dcmqi and sends back, through a whole node that runs and its PACS."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import yaml
from console.served_node import served_node
from execute.test_corrected import EDITOR, edited_by_dcmqi
from interop.ports import wait_until
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage, SegmentationStorage

from dicom_node.config import Peer
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.results.numbers import numbers_from
from pipelines.phantom import PhantomRecipe, simulate, write_study
from storage.assessments import assessments
from storage.ended_jobs import jobs_ended
from storage.ledger import Ledger, open_ledger, utc_now
from storage.overview import job_overviews, result_overviews
from storage.schema import AssessmentResult

LONGEST_S = 900
"""On a machine that does much else."""


def held(folder: Path, sop_class: str) -> list[Dataset]:
    """What the PACS holds of a class; one that is being written is not there yet."""
    found = [dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    return [one for one in found if one.SOPClassUID == sop_class]


def voxels(seg: Dataset) -> int:
    """Of the cavity of the left ventricle."""
    (number,) = (one.SegmentNumber for one in seg.SegmentSequence if one.SegmentLabel == "LV blood pool")
    shape = (int(seg.NumberOfFrames), int(seg.Rows) * int(seg.Columns))
    masks = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: shape[0] * shape[1]]
    own = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    return int(masks.reshape(shape)[own].sum())


def numbers(ledger: Ledger, version: int) -> dict[str, float]:
    """What the node told of the ventricles of a version of the study, by name."""
    jobs = jobs_ended(ledger, after=(dt.datetime.fromtimestamp(0, dt.UTC), 0), until=utc_now())
    (own,) = [
        one for one in jobs if one.id in {job.id for job in job_overviews(ledger) if job.study_version == version}
    ]
    return {one.name: one.value for one in numbers_from(own.numbers)}


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_a_corrected_seg_sent_to_a_node_gives_a_new_version(tmp_path: Path) -> None:
    recipe = PhantomRecipe(seed=1, slices=10, phases=10, long_axis=False)
    images = tmp_path / "images"
    write_study(simulate(recipe), images)
    with served_node(tmp_path, "ventricular_function") as (node, _printed), node.pacs():
        here = Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node.port)

        def send(paths: list[Path], ae_title: str) -> None:
            assert [one.error for one in send_files(paths, here, ScuSettings(ae_title)) if one.error] == []

        send(sorted(images.rglob("*.dcm")), "SCANNER")
        settings = yaml.safe_load(node.config.read_text(encoding="utf-8"))
        ledger = open_ledger(settings["storage"]["database"])
        try:

            def ended(version: int) -> bool:
                jobs = job_overviews(ledger)
                return any(one.package == "front_page" and one.study_version == version and one.verdict for one in jobs)

            wait_until(lambda: ended(1), seconds=LONGEST_S, what="the study is analysed", every=1)
            wait_until(
                lambda: len(held(node.pacs_folder, SegmentationStorage)) >= 2, seconds=120, what="SEG in the PACS"
            )
            (report,) = held(node.pacs_folder, Comprehensive3DSRStorage)
            segs = held(node.pacs_folder, SegmentationStorage)
            (seg,) = (one for one in segs if ", ED " in one.SeriesDescription)
            # A radiologist takes a part of the cavity away, with dcmqi, from what the PACS holds: the SEG, and the
            # images that its frames are of.
            shown = {
                source.ReferencedSOPInstanceUID
                for frame in seg.PerFrameFunctionalGroupsSequence
                for derivation in frame.DerivationImageSequence
                for source in derivation.SourceImageSequence
            }
            files = {dcmread(path).SOPInstanceUID: path.read_bytes() for path in node.pacs_folder.glob("*.dcm")}
            path = edited_by_dcmqi(files[seg.SOPInstanceUID], [files[uid] for uid in sorted(shown)], tmp_path / "dcmqi")
            edited = dcmread(path)
            assert edited.Manufacturer == "QIICR"
            assert 0.6 < voxels(edited) / voxels(seg) < 0.99
            send([path], "SCANNER2")
            wait_until(lambda: ended(2), seconds=LONGEST_S, what="it is analysed again", every=1)
            wait_until(
                lambda: len(held(node.pacs_folder, Comprehensive3DSRStorage)) == 2, seconds=120, what="the new report"
            )
            wait_until(
                lambda: held(node.pacs_folder, KeyObjectSelectionDocumentStorage), seconds=120, what="a rejection note"
            )
            wait_until(
                lambda: any(
                    one.ConceptNameCodeSequence[0].CodeValue == "113037"
                    for one in held(node.pacs_folder, KeyObjectSelectionDocumentStorage)
                ),
                seconds=120,
                what="what was made before is rejected",
            )
            reports = held(node.pacs_folder, Comprehensive3DSRStorage)
            (new,) = (one for one in reports if one.SOPInstanceUID != report.SOPInstanceUID)
            before = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
            assert before.ReferencedSOPInstanceUID == report.SOPInstanceUID
            assert [str(one.PersonName) for one in new.ContentSequence if one.ValueType == "PNAME"] == [EDITOR]
            segs = held(node.pacs_folder, SegmentationStorage)
            newest = {
                one.sop_instance_uid
                for one in result_overviews(ledger, str(seg.StudyInstanceUID))
                if one.study_version == 2
            }
            (corrected,) = (one for one in segs if one.SOPInstanceUID in newest and ", ED " in one.SeriesDescription)
            # Papillary muscles and what lies beyond the valve are told apart anew: not to the voxel.
            assert voxels(corrected) / voxels(edited) == pytest.approx(1, abs=0.02)
            old, told = numbers(ledger, 1), numbers(ledger, 2)
            left = voxels(edited) / voxels(seg)
            assert told["LVEDV_ml"] / old["LVEDV_ml"] == pytest.approx(left, abs=0.03)
            assert told["LVESV_ml"] == pytest.approx(old["LVESV_ml"])
            (given,) = assessments(ledger)
            assert (given.result, given.by) == (AssessmentResult.CORRECTED, EDITOR)
        finally:
            ledger.close()
