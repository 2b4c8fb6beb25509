"""The summary: complete, free of identity, drawn for every kind of study, the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from pydicom import dcmread

from dicom_node.results import summary
from dicom_node.results.canvas import DARK, HEIGHT, LIGHT, WIDTH, Theme, clipped, text_width, wrapped
from dicom_node.results.capture import DPI, pdf, raster
from dicom_node.results.charts import heart_crop
from dicom_node.results.header import BANNER
from dicom_node.results.parts import SummaryPart
from dicom_node.results.provenance import InputSeries, Provenance
from dicom_node.results.roles import SUMMARY, SUMMARY_PDF
from dicom_node.results.ventricular_function import pages
from dicom_node.results.ventricular_function.groups import ReportContent
from dicom_node.results.ventricular_function.pages import function_text
from pipelines.cine.stack import Omission, OmissionReason
from pipelines.errors import Refusal, RefusalReason
from pipelines.function.findings import Quantity, VentricularFunction
from pipelines.function.normals import reference_interval
from pipelines.quality.findings import Grade, QualityAssessment, QualityCheck, QualityFinding
from pipelines.segmentation.labels import Label
from results.conftest import Encoded
from results.synthetic import CREATED, MODEL, Cine, findings_of, write_cine

PROVENANCE = Provenance(
    series=(InputSeries("5", "sax 心臓 stack", 72, "SAX view, measured"),),
    scanner="ACME Scanner 9 1.5 T",
    models=(MODEL,),
    device_uid="2.25.1",
    created="2025-03-01 12:30 UTC",
    institution="Klinikum Süd",
    contact="room 9",
)


def content_of(cine: Cine, **changed: object) -> ReportContent:
    found = findings_of(cine)
    stack = cine.study.short_axis
    assert stack is not None
    ranges = {
        quantity: interval
        for quantity in Quantity
        if (interval := reference_interval(quantity, cine.study.context)) is not None
    }
    content = ReportContent(cine.study, stack, found[VentricularFunction], found[QualityAssessment], ranges)
    return dataclasses.replace(content, **changed)


def function_pages(theme: Theme, content: ReportContent, segmentation, provenance: Provenance) -> list[Figure]:
    part = SummaryPart(
        stacks=(content.stack,),
        pages=lambda drawn_in: pages.function_pages(drawn_in, content, segmentation),
        text=function_text(content),
    )
    return summary.summary_pages(theme, "ventricular function", content.study, [part], {}, content.quality, provenance)


def refusal_pages(theme: Theme, study, refusals, quality, provenance: Provenance) -> list[Figure]:
    return summary.refusal_pages(
        theme, "ventricular function", study, {"ventricular function": refusals}, quality, provenance
    )


def texts(figures: list[Figure]) -> list[str]:
    return [text.get_text() for figure in figures for text in figure.findobj(Text) if text.get_text()]


def words(figures: list[Figure]) -> str:
    return " ".join(texts(figures))


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("cine"), phases=8, slices=5, size=64)


def test_the_pages_say_what_they_must(cine: Cine) -> None:
    content = content_of(cine)
    figures = function_pages(DARK, content, cine.segmentation, PROVENANCE)
    said = words(figures)
    for figure in figures:
        assert BANNER in [text.get_text() for text in figure.findobj(Text)]
    function = content.function
    for expected in (
        f"{function.lv.edv_ml:.0f}",
        f"{function.lv.ejection_fraction_percent:.0f}",
        f"{function.lv_mass_g:.0f}",
        "93–232",
        "Petersen",
        "End diastole",
        "End systole",
        MODEL.name,
        MODEL.version,
        MODEL.weights_sha256,
        "ACDC training set",
        "2.25.1",
        "room 9",
        "72 images",
        "Localizer of 3 images",
        "Congenital disease",
    ):
        assert expected in said, expected
    for finding in content.quality.findings:
        assert finding.sentence.split(":")[0][:30] in said


def test_no_patient_is_named_on_the_pages(result: Encoded) -> None:
    header = result.sources.reference(result.cine.study)
    content = content_of(result.cine)
    figures = function_pages(DARK, content, result.cine.segmentation, PROVENANCE)
    figures += refusal_pages(
        DARK, result.cine.study, [Refusal("x", RefusalReason.TOO_FEW_SLICES, "too few")], None, PROVENANCE
    )
    said = words(figures)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"):
        for part in str(header[keyword].value).split("^"):
            assert part not in said
    for capture in result.written(SUMMARY):
        assert capture.BurnedInAnnotation == "NO"


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
def test_text_stays_on_the_page_and_does_not_collide_with_the_footer(cine: Cine, theme) -> None:
    content = content_of(cine)
    long = "A sentence that goes on for quite a while, so that it must be wrapped more than once on any page. " * 3
    findings = tuple(
        QualityFinding(check, Grade.POOR if number % 3 else Grade.EXCELLENT, long)
        for number, check in enumerate(QualityCheck)
    )
    omissions = tuple(
        Omission(OmissionReason.NOT_CINE, long, f"1.2.3.{number}", ("1.2",) * number) for number in range(30)
    )
    content = dataclasses.replace(
        content,
        quality=QualityAssessment(findings, Grade.POOR),
        study=dataclasses.replace(content.study, omissions=omissions),
    )
    figures = function_pages(theme, content, cine.segmentation, PROVENANCE)
    assert len(figures) > 4
    for figure in figures:
        pixels = raster(figure)
        renderer = figure.canvas.get_renderer()
        width, height = WIDTH / 25.4 * DPI, HEIGHT / 25.4 * DPI
        assert pixels.shape == (round(height), round(width), 3) or abs(pixels.shape[0] - height) < 1
        for text in figure.findobj(Text):
            if not text.get_text().strip() or not text.get_visible():
                continue
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0
            assert box.x1 <= width + 1, text.get_text()
            assert box.y0 >= 0
            assert box.y1 <= height
    # The last finding and the last omission are drawn, not lost at the end of a page.
    assert "(series 1.2.3.29)" in words(figures)


def test_a_study_with_little_in_it_is_drawn(cine: Cine) -> None:
    function = content_of(cine).function
    bare = dataclasses.replace(
        function, rv=None, wall=None, bsa_m2=None, bsa_formula=None, heart_rate_bpm=None, lv_mass_index_g_m2=None
    )
    content = content_of(cine, function=bare, ranges={})
    said = words(function_pages(DARK, content, cine.segmentation, PROVENANCE))
    assert "insertion points of the right ventricle were not found" in said
    assert "no reference range" in said


def test_values_outside_the_reference_range_stand_out(cine: Cine) -> None:
    content = content_of(cine)
    lv = dataclasses.replace(content.function.lv, ejection_fraction_percent=21.0)
    figures = function_pages(
        DARK, content_of(cine, function=dataclasses.replace(content.function, lv=lv)), cine.segmentation, PROVENANCE
    )
    value = next(text for text in figures[0].findobj(Text) if text.get_text() == "21")
    assert value.get_color() == DARK.caution


def test_contours_lie_on_the_edge_of_the_mask(cine: Cine) -> None:
    """Seen in the pixels: around the LV cavity of a tile the page has the colour of the LV contour."""
    content = content_of(cine)
    page = raster(function_pages(DARK, content, cine.segmentation, PROVENANCE)[1]).astype(int)
    red = (page[..., 0] > 200) & (page[..., 1] < 140) & (page[..., 2] < 140)
    green = (page[..., 1] > 170) & (page[..., 0] < 140) & (page[..., 2] < 170)
    blue = (page[..., 2] > 220) & (page[..., 0] < 120)
    assert red.sum() > 500
    assert green.sum() > 500
    assert blue.sum() > 500


def test_the_crop_holds_everything_labelled(cine: Cine) -> None:
    stack = cine.study.short_axis
    assert stack is not None
    first_row, end_row, first_column, end_column = heart_crop(stack, cine.segmentation.labels)
    outside = cine.segmentation.labels.copy()
    outside[..., first_row:end_row, first_column:end_column] = 0
    assert not outside.any()
    empty = np.zeros_like(cine.segmentation.labels)
    assert heart_crop(stack, empty) == (0, 64, 0, 64)
    assert Label.LV in cine.segmentation.labels


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200), st.floats(15, 120))
def test_wrapped_lines_fit_and_lose_no_word(text: str, width: float) -> None:
    lines = wrapped(text, 8.5, width)
    assert all(text_width(line, 8.5) <= width + 1e-6 or len(line) <= 2 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text(max_size=80), st.floats(5, 60))
def test_clipped_text_fits(text: str, width: float) -> None:
    assert text_width(clipped(text, 8, width), 8) <= max(width, text_width("…", 8)) + 1e-6


def test_the_pdf_is_the_same_in_every_process(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
import hashlib
from pathlib import Path
from dicom_node.results.canvas import LIGHT
from dicom_node.results.capture import pdf
from dicom_node.results.summary import function_pages
from results.test_results_summary import PROVENANCE, content_of
from results.synthetic import CREATED, write_cine
cine = write_cine(Path(sys.argv[1]), phases=8, slices=4, size=64)
pages = function_pages(LIGHT, content_of(cine), cine.segmentation, PROVENANCE)
print(hashlib.sha256(pdf(pages, "title", CREATED)).hexdigest())
"""
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(tmp_path / seed)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        seen.add(run.stdout.strip())
    assert len(seen) == 1


def test_the_pdf_has_its_pages_and_says_so(cine: Cine) -> None:
    pages = function_pages(LIGHT, content_of(cine), cine.segmentation, PROVENANCE)
    document = pdf(pages, "Ventricular function", CREATED)
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    assert document.count(b"/Type /Page ") + document.count(b"/Type /Page\n") == len(pages)
    assert b"D:20250301123015" in document


def test_the_secondary_captures_are_one_series_of_pages(result: Encoded) -> None:
    captures = result.written(SUMMARY)
    assert len({capture.SeriesInstanceUID for capture in captures}) == 1
    assert [capture.InstanceNumber for capture in captures] == list(range(1, len(captures) + 1))
    assert all(capture.pixel_array.std() > 5 for capture in captures)
    digests = {hashlib.sha256(capture.PixelData).hexdigest() for capture in captures}
    assert len(digests) == len(captures)


def test_the_encapsulated_document_is_the_pdf(result: Encoded) -> None:
    dataset = dcmread(io.BytesIO(result.of(SUMMARY_PDF)[0].content))
    document = dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength]
    assert document.rstrip().endswith(b"%%EOF")
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert dataset.BurnedInAnnotation == "NO"
