"""The summary: complete, with the patient on each page, drawn for every kind of study, the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from dicom_node.config import ResultSettings
from dicom_node.results import canvas, summary
from dicom_node.results.canvas import DARK, HEIGHT, LIGHT, WIDTH, Page, Theme, clipped, text_width, wrapped
from dicom_node.results.capture import DPI, pdf, raster
from dicom_node.results.charts import heart_crop, without_minus_zero
from dicom_node.results.header import BANNER
from dicom_node.results.parts import Paragraph, SummaryPart
from dicom_node.results.patient import PatientLine, patient_line
from dicom_node.results.provenance import InputSeries, Provenance
from dicom_node.results.roles import SUMMARY, SUMMARY_PDF
from dicom_node.results.summary import FOOT_SIZE, LEFT, RIGHT, foot_lines, listing_pages, text_pages
from dicom_node.results.ventricular_function import pages
from dicom_node.results.ventricular_function.groups import ReportContent
from dicom_node.results.ventricular_function.pages import function_text
from pipelines.cine.stack import Omission, OmissionReason
from pipelines.errors import Refusal, RefusalReason
from pipelines.function.findings import Quantity, VentricularFunction
from pipelines.function.normals import reference_interval
from pipelines.function.slices import SliceMeasures
from pipelines.quality.findings import Grade, QualityAssessment, QualityCheck, QualityFinding
from pipelines.segmentation.labels import Label
from results.conftest import Encoded
from results.synthetic import CREATED, MODEL, Cine, encoded, findings_of, write_cine

PATIENT_DETAILS = ("ID P-1 (HOSPITAL)", "born 1960-02-29", "study of 2025-03-01", "accession A123")
PROVENANCE = Provenance(
    series=(InputSeries("5", "sax 心臓 stack", 72, "SAX view, used"),),
    scanner="ACME Scanner 9 1.5 T",
    models=(MODEL,),
    device_uid="2.25.1",
    created="2025-03-01 12:30 UTC",
    institution="Klinikum Süd",
    contact="room 9",
    patient=PatientLine("Müller, Jörg", PATIENT_DETAILS),
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
    content = ReportContent(
        cine.study, stack, found[SliceMeasures], found[VentricularFunction], found[QualityAssessment], ranges
    )
    return dataclasses.replace(content, **changed)


def function_pages(theme: Theme, content: ReportContent, provenance: Provenance) -> list[Figure]:
    part = SummaryPart(
        stacks=(content.stack,),
        pages=lambda drawn_in: pages.function_pages(drawn_in, content),
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
    figures = function_pages(DARK, content, PROVENANCE)
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


def test_each_page_names_its_patient(result: Encoded) -> None:
    """Pages are printed and passed on alone."""
    header = result.sources.reference(result.cine.study)
    provenance = dataclasses.replace(PROVENANCE, patient=patient_line(header))
    content = content_of(result.cine)
    figures = function_pages(DARK, content, provenance)
    figures += refusal_pages(
        DARK, result.cine.study, [Refusal("x", RefusalReason.TOO_FEW_SLICES, "too few")], None, provenance
    )
    for figure in figures:
        said = words([figure])
        for expected in (
            "Müller, Jörg",
            "ID P-1 (HOSPITAL)",
            "born 1960-02-29",
            "study of 2025-03-01",
            "accession A123",
        ):
            assert expected in said
    for made in (*result.written(SUMMARY), *result.written(SUMMARY_PDF)):
        assert made.BurnedInAnnotation == "YES"


def test_a_research_site_can_turn_the_identity_off(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=5, size=64)
    objects, sources = encoded(cine, settings=ResultSettings(patient_on_pages=False))
    header = sources.reference(cine.study)
    context_free = dataclasses.replace(PROVENANCE, patient=None)
    said = words(function_pages(DARK, content_of(cine), context_free))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName"):
        for part in str(header[keyword].value).split("^"):
            assert part not in said
    made = [each.dataset for each in objects if each.role in (SUMMARY, SUMMARY_PDF)]
    assert made
    assert {dataset.BurnedInAnnotation for dataset in made} == {"NO"}
    named, _ = encoded(cine)
    drawn = {each.dataset.InstanceNumber: each for each in named if each.role == SUMMARY}
    for each in objects:
        if each.role == SUMMARY:
            assert (each.dataset.pixel_array != drawn[each.dataset.InstanceNumber].dataset.pixel_array).any()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou / 山田 太郎 / やまだ たろう"),
        ("=王^小東", "王 小東"),
        ("Иванов^Пётр^^д-р", "Иванов, Пётр д-р"),
        ("قباني^لنزار", "قباني, لنزار"),
        ("MONONYM", "MONONYM"),
        ("", "name not in the source"),
    ],
)
def test_a_name_is_said_as_it_stands_and_can_be_drawn(value: str, said: str) -> None:
    header = Dataset()
    header.PatientName = value
    line = patient_line(header)
    assert line.name == said
    page = Page(DARK)
    page.text(10, 10, line.name)
    assert words([page.figure]) == said  # no character was replaced for want of a font
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raster(page.figure)


def test_what_is_no_date_is_said_as_it_stands() -> None:
    header = Dataset()
    with disable_value_validation():
        header.PatientBirthDate, header.StudyDate = "20120000", "00000000"
        header.AcquisitionDateTime = "20120102101500.5"
    assert {"born 20120000", "study of 00000000", "acquired 2012-01-02 10:15"} <= set(patient_line(header).details)
    assert "acquired on a date not in the source" in patient_line(Dataset()).details
    assert "ID not in the source" in patient_line(Dataset()).details


def test_a_long_name_leaves_room_for_the_identifier(cine: Cine) -> None:
    patient = PatientLine("Wolfeschlegelsteinhausenbergerdorff, Adolph Blaine " * 4, PATIENT_DETAILS)
    provenance = dataclasses.replace(PROVENANCE, patient=patient)
    figure = function_pages(DARK, content_of(cine), provenance)[0]
    assert any("ID P-1 (HOSPITAL)" in text for text in texts([figure]))
    renderer = FigureCanvasAgg(figure).get_renderer()
    (name,) = [text for text in figure.findobj(Text) if text.get_text().startswith("Wolfe")]
    (details,) = [text for text in figure.findobj(Text) if "ID P-1" in text.get_text()]
    assert name.get_window_extent(renderer).x1 <= details.get_window_extent(renderer).x0


def test_nothing_is_green_where_nothing_is_proved(cine: Cine) -> None:
    content = content_of(cine)

    def one(grade: Grade) -> QualityAssessment:
        finding = QualityFinding(QualityCheck.SLICE_GAP, grade, "Slices 11.0 mm apart.")
        return QualityAssessment((finding,), max(grade, Grade.GOOD))

    departing = function_pages(DARK, dataclasses.replace(content, quality=one(Grade.GOOD)), PROVENANCE)[0]
    assert "Slices 11.0 mm apart." in words([departing])
    assert "Read with these findings in mind" in words([departing])
    within = function_pages(DARK, dataclasses.replace(content, quality=one(Grade.EXCELLENT)), PROVENANCE)[0]
    assert "does not prove the numbers right" in words([within])
    for figure in (departing, within):
        assert all(text.get_color() != DARK.good for text in figure.findobj(Text))
        assert "CONFIDENCE  GOOD" in words([figure])


def test_intervals_and_a_foreign_reference_range_stand_on_the_first_page(cine: Cine) -> None:
    young = dataclasses.replace(cine.study.context, age_years=22.0)
    study = dataclasses.replace(cine.study, context=young)
    ranges = {q: i for q in Quantity if (i := reference_interval(q, young)) is not None}
    content = content_of(cine, study=study, ranges=ranges)
    said = words(function_pages(DARK, content, PROVENANCE)[:1])
    for interval in (content.function.lv.edv_interval_ml, content.function.lv.ejection_fraction_interval_percent):
        assert f"{interval.lower:.0f} to {interval.upper:.0f}" in said
    assert "aged 45 to 74; this patient is 22" in said
    fitting = dataclasses.replace(young, age_years=60.0)
    ranges = {q: i for q in Quantity if (i := reference_interval(q, fitting)) is not None}
    content = content_of(cine, study=dataclasses.replace(study, context=fitting), ranges=ranges)
    assert "this patient is" not in words(function_pages(DARK, content, PROVENANCE)[:1])


@pytest.mark.parametrize(
    ("number", "said"), [("-0", "0"), ("-0.0", "0.0"), ("-0.1", "-0.1"), ("0", "0"), ("-10", "-10")]
)
def test_zero_has_no_sign(number: str, said: str) -> None:
    assert without_minus_zero(number) == said


def test_what_is_not_counted_is_dotted(cine: Cine) -> None:
    content = content_of(cine)
    phase = content.function.keyframes.end_diastole
    whole = function_pages(DARK, content, PROVENANCE)[1]
    counted = content.slices.counted.copy()
    counted[phase, 1] = False
    slices = dataclasses.replace(content.slices, counted=counted)
    function = dataclasses.replace(content.function, counted_slices=counted)
    left_out = function_pages(DARK, dataclasses.replace(content, slices=slices, function=function), PROVENANCE)[1]

    def dotted(figure: Figure) -> int:
        collections = [each for each in figure.findobj(LineCollection) if each.get_linestyle()[0][1] is not None]
        return sum(len(each.get_segments()) for each in collections)

    assert dotted(whole) == 0
    assert dotted(left_out) == 1
    assert "LV not counted" in words([left_out])
    assert "dotted: found, not counted" in words([left_out])
    assert "dotted" not in words([whole])


def test_numbers_of_slices_stand_on_a_dark_ground_above_the_image(cine: Cine) -> None:
    figure = function_pages(DARK, content_of(cine), PROVENANCE)[1]
    images = max(image.get_zorder() for image in figure.findobj(AxesImage))
    grounds = [
        each for each in figure.findobj(Rectangle) if to_hex(each.get_facecolor(), keep_alpha=True) == "#000000d8"
    ]
    assert len(grounds) == 2 * content_of(cine).stack.slices
    assert all(each.get_zorder() > images for each in grounds)


def test_a_last_page_with_little_on_it_is_avoided() -> None:
    """Text that is a few lines too long for two columns gets smaller; text for many pages does not."""

    def paragraphs(count: int) -> list[Paragraph]:
        return [Paragraph(f"Paragraph {number}.") for number in range(count)]

    fits = next(count for count in range(10, 200) if len(text_pages(DARK, paragraphs(count + 1))) > 1)
    assert len(text_pages(DARK, paragraphs(60))) == 1
    pages_of_many = text_pages(DARK, paragraphs(fits + 30))
    assert len(pages_of_many) == 2
    sizes = {text.get_fontsize() for page in text_pages(DARK, paragraphs(fits)) for text in page.figure.findobj(Text)}
    assert min(size for size in sizes if size) < 8.0
    assert fits > 60
    said = words([page.figure for page in pages_of_many])
    assert all(f"Paragraph {number}." in said for number in range(fits + 30))


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
    figures = function_pages(theme, content, PROVENANCE)
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
    said = words(function_pages(DARK, content, PROVENANCE))
    assert "insertion points of the right ventricle were not found" in said
    assert "no reference range" in said


def test_values_outside_the_reference_range_stand_out(cine: Cine) -> None:
    content = content_of(cine)
    lv = dataclasses.replace(content.function.lv, ejection_fraction_percent=21.0)
    figures = function_pages(DARK, content_of(cine, function=dataclasses.replace(content.function, lv=lv)), PROVENANCE)
    value = next(text for text in figures[0].findobj(Text) if text.get_text() == "21")
    assert value.get_color() == DARK.caution


def test_contours_lie_on_the_edge_of_the_mask(cine: Cine) -> None:
    """Seen in the pixels: around the LV cavity of a tile the page has the colour of the LV contour."""
    content = content_of(cine)
    page = raster(function_pages(DARK, content, PROVENANCE)[1]).astype(int)
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


def test_the_pdf_is_the_same_in_every_process_and_whatever_was_drawn_before(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
import hashlib
from pathlib import Path
from dicom_node.results.canvas import DARK, LIGHT, Page
from dicom_node.results.capture import pdf, raster, warm_fonts
from results.test_results_summary import PROVENANCE, content_of, function_pages
from results.synthetic import CREATED, write_cine
cine = write_cine(Path(sys.argv[1]), phases=8, slices=4, size=64)
def draw():
    pages = function_pages(LIGHT, content_of(cine), PROVENANCE)
    print(hashlib.sha256(pdf(pages, "title", CREATED)).hexdigest())
if sys.argv[2] == "2":
    warm_fonts()
draw()
page = Page(DARK)
for size in (3.0, 7.3, 41.0):
    page.text(10, 10, "Müller 測試 αβγ اختبار", size, bold=size > 5)
raster(page.figure)
pdf([page.figure], "another", CREATED)
draw()
"""
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(tmp_path / seed), seed]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        drawn = run.stdout.split()
        assert len(drawn) == 2
        seen.update(drawn)
    assert len(seen) == 1


def test_lines_that_are_not_measured_are_drawn_as_matplotlib_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> tuple[bytes, bytes]:
        page = Page(DARK)
        for index, text in enumerate(
            ("LVEF 55 % (51 to 59)", "$5^2$ and 6 $", "Müller^Jörg", "測試 αβγ", "اختبار مرحبا")
        ):
            page.text(12.3 + index, 20.7 + 7.1 * index, text, 6.5 + index, bold=index % 2 == 1)
            page.text(200, 20 + 7 * index, text, 9, align="right")
        return raster(page.figure).tobytes(), pdf([page.figure], "title", CREATED)

    as_lines = drawn()
    monkeypatch.setattr(canvas, "_Line", Text)
    assert drawn() == as_lines


def test_the_pdf_has_its_pages_and_says_so(cine: Cine) -> None:
    pages = function_pages(LIGHT, content_of(cine), PROVENANCE)
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
    assert dataset.BurnedInAnnotation == "YES"


def test_the_foot_of_a_page_tells_its_date_however_many_networks_took_part() -> None:
    names = ", ".join(
        f"{name} 1.{number}.0"
        for number, name in enumerate(
            ("ventricles-short-axis", "long-axis-contours", "scar-image", "scar-sequence", "scar-radiomics", "more") * 3
        )
    )
    created = "2026-11-29 12:00:00+01:00"
    assert foot_lines("dicom-node 1", "ventricles 1.0.0", created, "") == (
        f"dicom-node 1  ·  ventricles 1.0.0  ·  {created}",
    )
    first, second = foot_lines("dicom-node 1", names, created, "contact: radiology")
    assert first == f"dicom-node 1  ·  {created}  ·  contact: radiology"
    assert second.startswith("ventricles-short-axis 1.0.0, long-axis")
    for lines in ((first, second), foot_lines("dicom-node 1", "", created, "contact: " + 90 * "radiology ")):
        assert all(text_width(line, FOOT_SIZE) <= RIGHT - LEFT for line in lines)
        assert created in lines[0]


def test_a_long_name_of_a_scanner_leaves_room_for_the_number_of_the_page() -> None:
    named = dataclasses.replace(PROVENANCE, scanner=f"{64 * 'M'} {64 * 'W'} 1.5 T")
    (page,) = listing_pages(LIGHT, "automatic analysis", [Paragraph("Nothing.")], named)
    (scanner,) = [one for one in page.findobj(Text) if one.get_text().startswith("cardiac MR")]
    (number,) = [one for one in page.findobj(Text) if one.get_text().startswith("page 1")]
    end = scanner.get_position()[0] + text_width(scanner.get_text(), 9)
    assert end < number.get_position()[0] - text_width(number.get_text(), 8.5)
