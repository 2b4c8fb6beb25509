"""What a radiologist sees: the results at the PACS, opened in OHIF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interop.fixtures import require
from interop.hospital import Hospital, KnownResult, SentStudy, read
from interop.judges import masks_as_sent
from interop.tools import AbsentTool
from PIL import Image
from pydicom.dataset import FileDataset

from viewer.ohif import DrawnImage, OpenedSeries, Reading, dice, drawn_masks, ohif_files, on_canvas, read_study
from viewer.origin import ViewerOrigin

pytestmark = [
    pytest.mark.peers,
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Real studies break PS3.5; the tests are about what becomes of that.
    pytest.mark.filterwarnings("ignore:Invalid value for VR"),
    pytest.mark.xdist_group("hospital"),
]

STUDY = "sunnybrook"
ROLES = ("segmentation-ed", "segmentation-es", "summary", "summary-pdf", "report")


@pytest.fixture(scope="module")
def study(hospital: Hospital) -> SentStudy:
    return hospital.studies[STUDY]


@pytest.fixture(scope="module")
def results(hospital: Hospital, study: SentStudy) -> dict[str, list[KnownResult]]:
    by_role: dict[str, list[KnownResult]] = {}
    for result in hospital.results(study):
        by_role.setdefault(result.role, []).append(result)
    return by_role


@pytest.fixture(scope="module")
def reading(
    hospital: Hospital,
    study: SentStudy,
    results: dict[str, list[KnownResult]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Reading:
    """The study opened in OHIF, and in it one series of each kind."""
    require("chromium", "node")
    try:
        files = ohif_files()
    except AbsentTool as error:
        pytest.fail(str(error), pytrace=False)
    captions = [_caption(results[role][0]) for role in ROLES]
    with ViewerOrigin(files, hospital.pacs.http_port) as origin:
        url = origin.study_url(study.study_instance_uid)
        return read_study(url, captions, tmp_path_factory.mktemp("screenshots"))


def test_ohif_reports_no_error(reading: Reading) -> None:
    assert reading.problems == ()


def test_every_series_is_listed(reading: Reading, results: dict[str, list[KnownResult]]) -> None:
    for role, known in results.items():
        assert any(_caption(known[0]) in caption for caption in reading.series), role


@pytest.mark.parametrize("phase", ["ed", "es"])
def test_segmentation_is_drawn_on_every_slice_of_its_key_phase(
    reading: Reading, results: dict[str, list[KnownResult]], phase: str
) -> None:
    series = _opened(reading, results[f"segmentation-{phase}"][0])
    assert series.asked, "OHIF did not ask to open the segmentation"
    key_phase = {result.sop_instance_uid for result in results[f"key-phase-{phase}"]}
    assert {image.sop_instance_uid for image in series.images} == key_phase
    segmentation = read(results[f"segmentation-{phase}"][0].path)
    labels = [item.SegmentLabel for item in segmentation.SegmentSequence]
    drawn_somewhere = set()
    for image in series.images:
        assert [segment.label for segment in image.segments] == labels
        drawn = drawn_masks(image)
        for number, mask in _expected(segmentation, results[f"segmentation-{phase}"][0].path, image).items():
            expected = on_canvas(mask, image, drawn.shape[1:])
            if expected.any():
                drawn_somewhere.add(number)
            overlap = dice(drawn[number - 1], expected)
            assert overlap > 0.97, f"segment {number} on {image.sop_instance_uid}: Dice {overlap:.3f}"
    assert drawn_somewhere == {1, 2, 3}


def test_summary_page_is_shown(reading: Reading, results: dict[str, list[KnownResult]]) -> None:
    shown = _opened(reading, results["summary"][0])
    assert shown.images[0].sop_instance_uid == results["summary"][0].sop_instance_uid
    canvas = np.asarray(Image.open(shown.images[0].canvas).convert("L"), dtype=float)
    page = _gray(read(results["summary"][0].path))
    # The page is scaled to the height of the canvas and centred: compare it with itself, scaled alike.
    height = canvas.shape[0]
    width = round(page.shape[1] * height / page.shape[0])
    if width > canvas.shape[1]:
        width, height = canvas.shape[1], round(page.shape[0] * canvas.shape[1] / page.shape[1])
    scaled = np.asarray(Image.fromarray(page).resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    visible = canvas[top : top + height, left : left + width]
    assert np.corrcoef(visible.ravel(), scaled.ravel())[0, 1] > 0.8


def test_pdf_is_shown(reading: Reading, results: dict[str, list[KnownResult]]) -> None:
    shown = _opened(reading, results["summary-pdf"][0])
    assert shown.embedded, "OHIF embedded no document"
    page = np.asarray(Image.open(shown.screenshot).convert("L"))
    # Chromium's reader shows the white page in the viewport, which is black without it.
    viewport = page[150:-50, 350:-100]
    assert (viewport > 240).mean() > 0.3


def test_opening_the_report_breaks_nothing(reading: Reading, results: dict[str, list[KnownResult]]) -> None:
    # OHIF shows an empty viewport for numbers without a place on an image; older ones fell over such reports.
    series = _opened(reading, results["report"][0])
    assert series.caption.startswith("SR")
    assert series is reading.opened[-1]


def _opened(reading: Reading, result: KnownResult) -> OpenedSeries:
    (series,) = [series for series in reading.opened if _caption(result) in series.caption]
    return series


def _caption(result: KnownResult) -> str:
    """What OHIF writes under a thumbnail; the blanks of the page are single."""
    header = read(result.path, pixels=False)
    return f"S:{header.SeriesNumber} "


def _expected(segmentation: FileDataset, path: Path, image: DrawnImage) -> dict[int, np.ndarray]:
    masks = {number: iter(frames) for number, frames in masks_as_sent(path).items()}
    found = {}
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        mask = next(masks[number])
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        if source.ReferencedSOPInstanceUID == image.sop_instance_uid:
            found[number] = mask
    return found


def _gray(dataset: FileDataset) -> np.ndarray:
    pixels = dataset.pixel_array
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
