"""The paragraph for the radiologist's report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import yaml
from pydicom.uid import BasicTextSRStorage

from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ParagraphSettings,
    ResultSettings,
    Route,
    StorageSettings,
)
from dicom_node.errors import ConfigurationError
from dicom_node.execute.process import process_front_page
from dicom_node.machine import serving_mistakes
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.front_page import ListedPackage
from dicom_node.results.iod import iod_findings
from dicom_node.results.normal_ranges import normal_table
from dicom_node.results.numbers import ReportedNumber, numbers_from, numbers_record, reported_numbers, unit_of
from dicom_node.results.paragraph import EarlierExamination, compared, paragraph, read_template
from dicom_node.results.verdict import Verdict, VerdictKind
from pipelines.cine.stack import StudyContext
from pipelines.function.findings import Quantity
from pipelines.function.normals import PACKAGED, NormalTableError, read_normals, reference_interval
from pipelines.study import PackageFindings
from pipelines.ventricular_function.package import PACKAGE
from results.conftest import Encoded
from results.synthetic import CREATED, STUDY_UID, Cine, write_cine

ENGLISH, GERMAN = ParagraphSettings(), ParagraphSettings(language="german")
EF = ReportedNumber(
    "LVEF_percent", 46.4, "%", "(EDV − ESV) ÷ EDV", "ventricular_function 1.0.0", 43.4, 49.4, 48.2, 67.8, "Petersen"
)
EDV = ReportedNumber("LVEDV_ml", 151.0, "ml", "sum", EF.version, 140.0, 162.0, 93.0, 232.0, "Petersen")
CI = ReportedNumber("LVCI_l_min_m2", 2.81, "l/min/m2")


def before(value: float, half: float = 3.0, version: str = "ventricular_function 1.0.0") -> EarlierExamination:
    number = dataclasses.replace(EF, value=value, lower=value - half, upper=value + half, version=version)
    return EarlierExamination("1.2.9", "20250301", (number,))


def said(
    *numbers: ReportedNumber, settings: ParagraphSettings = ENGLISH, earlier: EarlierExamination | None = None
) -> str:
    wording = paragraph(numbers, read_template(settings), earlier)
    assert wording is not None
    return wording.text


def test_numbers_come_with_unit_interval_and_where_they_stand() -> None:
    text = said(EF, EDV)
    assert (
        "Left ventricle: end-diastolic volume 151 ml (95 % interval 140 to 162; normal 93 to 232), "
        "ejection fraction 46 % (95 % interval 43 to 49; below normal, 48 to 68)." in text
    )
    assert text.endswith("Normal ranges: Petersen.")
    assert "research use only" in text
    # What was not measured is not spoken of.
    assert "Right ventricle" not in text
    assert "mass" not in text


def test_german_has_its_own_words_and_decimal_mark() -> None:
    wording = paragraph([EF, EDV], read_template(GERMAN), before(52))
    assert wording is not None
    assert (wording.language_code, wording.language_name) == ("de", "German")
    assert "Ejektionsfraktion 46 % (95-%-Intervall 43 bis 49; unter der Norm, 48 bis 68)" in wording.text
    assert "Im Vergleich zum 01.03.2025: LVEF 52 → 46 %: jenseits der Wiederholbarkeit" in wording.text


def test_a_german_paragraph_has_no_word_of_english() -> None:
    source = read_normals(PACKAGED).source
    assert "papillary muscles in the cavity" in source
    german = said(dataclasses.replace(EF, normal_source=source), settings=GERMAN)
    assert german.endswith("JCMR 2017;19:18 (UK Biobank; Papillarmuskeln im Cavum).")


def test_a_change_is_judged_against_the_intervals_of_both(tmp_path: Path) -> None:
    template = read_template(ENGLISH)
    (change,) = compared([EF, EDV], before(52))
    assert change.limit == pytest.approx(math.hypot(3, 3))
    assert change.beyond_repeatability
    assert "Compared with 2025-03-01: LVEF 52 → 46 %: beyond repeatability" in said(EF, earlier=before(52))
    assert "LVEF 50 → 46 %: within repeatability" in said(EF, earlier=before(50))
    assert "within repeatability" in said(EF, earlier=before(52, half=6.0))
    assert "another version of the method" in said(EF, earlier=before(52, version="ventricular_function 0.9.0"))
    # Without an interval on either side nothing is judged.
    plain = dataclasses.replace(EF, lower=None, upper=None)
    assert "Compared" not in said(plain, earlier=before(52))
    assert compared([EF], EarlierExamination("1.2.9", "20250301", (plain,))) == ()
    assert paragraph([], template, before(52)) is None


def test_numbers_go_into_the_ledger_and_come_back() -> None:
    assert numbers_from(numbers_record([EF, CI])) == (EF, CI)
    assert numbers_from([{"name": "x", "value": 1.0, "unit": "1", "of a later version": 3}]) == (
        ReportedNumber("x", 1.0, "1"),
    )
    described = dataclasses.replace(EF, version="")
    made = reported_numbers([described], {"LVEF_percent": 46.4, "GLS_percent": -17.0, "bad_ml": math.nan}, "p 1.0.0")
    assert [(one.name, one.unit, one.version) for one in made] == [
        ("LVEF_percent", "%", "p 1.0.0"), ("GLS_percent", "%", "p 1.0.0")
    ]  # fmt: skip


@pytest.mark.parametrize("quantity", Quantity)
def test_the_unit_at_the_end_of_a_name_is_that_of_the_quantity(quantity: Quantity) -> None:
    assert unit_of(quantity.value) == quantity.unit


def test_a_negative_number_has_a_minus_and_zero_has_none() -> None:
    strain = ReportedNumber("GLS_percent", -17.4, "%")
    assert "global longitudinal strain −17 %" in said(strain)
    assert "strain 0 %" in said(dataclasses.replace(strain, value=-0.2))


def edited(tmp_path: Path, **changes: object) -> ParagraphSettings:
    packaged = read_template(ENGLISH).model_dump()
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump({**packaged, **changes}))
    return ParagraphSettings(template=path)


def test_a_template_of_before_dates_had_words_is_read(tmp_path: Path) -> None:
    template = read_template(ENGLISH).model_dump()
    del template["words_in_sources"], template["comparison"]["date"]
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(template))
    text = said(EF, settings=ParagraphSettings(template=path), earlier=before(52))
    assert "Compared with 2025-03-01" in text


def test_a_department_has_its_own_words(tmp_path: Path) -> None:
    own = [{"lead": "Heart:", "numbers": {"LVCI_l_min_m2": "index $number"}}]
    assert "Heart: index 2.8 l/min/m²." in said(CI, EF, settings=edited(tmp_path, sentences=own))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": "$figure $unit"}, r"number.*\$figure stands for nothing"),
        ({"opening": "$"}, "opening.*dollar"),
        ({"further": 1}, "further"),
        ({"decimal_mark": ""}, "decimal_mark"),
    ],
)
def test_a_mistake_in_a_template_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_template(edited(tmp_path, **changes))


def test_a_template_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absent"):
        read_template(ParagraphSettings(template=tmp_path / "absent.yaml"))


def test_a_table_of_normal_ranges_has_sexes_and_ages(tmp_path: Path) -> None:
    table = yaml.safe_load(PACKAGED.read_text(encoding="utf-8"))
    ranges = {"LVEF_percent": [55, 70, "spread"]}
    young = {"sex": "F", "age_years": [18, 45], "population": "young women", "ranges": ranges}
    table["source"] = "our own"
    table["groups"].append(young)
    (tmp_path / "normals.yaml").write_text(yaml.safe_dump(table))
    own = normal_table(ResultSettings(normal_ranges=tmp_path / "normals.yaml"))
    found = reference_interval(Quantity.LVEF, StudyContext("1", "F", 30.0), own)
    assert found is not None
    assert (found.lower, found.upper, found.source, found.age_fits) == (55, 70, "our own", True)
    old = reference_interval(Quantity.LVEF, StudyContext("1", "F", 60.0), own)
    assert old is not None
    assert old.population == "432 women aged 45 to 74"
    # A table that was edited is read again.
    table["groups"][-1]["ranges"]["LVEF_percent"] = [70, 55, "spread"]
    (tmp_path / "normals.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(NormalTableError, match="below the second"):
        read_normals(tmp_path / "normals.yaml")
    with pytest.raises(ConfigurationError, match="absent"):
        normal_table(ResultSettings(normal_ranges=tmp_path / "absent.yaml"))


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("cine"), phases=2, slices=2, size=32)


@pytest.mark.parametrize("settings", [ENGLISH, GERMAN])
def test_the_front_page_begins_with_the_paragraph_and_is_clean(cine: Cine, settings: ParagraphSettings) -> None:
    listed = ListedPackage(Verdict("ventricular_function", VerdictKind.DELIVERED), (), (EF, EDV))

    def made(earlier: EarlierExamination | None) -> object:
        return process_front_page(
            cine.paths,
            listed=[listed],
            study_instance_uid=STUDY_UID,
            inputs=["digest"],
            created=CREATED,
            route_name="cine",
            route=Route(destinations=("pacs",)),
            results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}, paragraph=settings),
            earlier=earlier,
        ).objects[0]

    report = made(before(52))
    assert report.sop_class_uid == BasicTextSRStorage
    (summary,) = [
        item for item in report.dataset.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121111"
    ]
    # Only ASCII fits whatever character set the source has.
    assert summary.TextValue.isascii()
    assert "?" not in summary.TextValue
    assert "LVEF 52 -> 46 %" in summary.TextValue
    assert ("fuer die Forschung" in summary.TextValue) == (settings is GERMAN)
    assert not [one for one in iod_findings(report.dataset) if one.error]
    # Another story, another identity.
    assert made(None).sop_instance_uid != report.sop_instance_uid
    assert made(before(52)).sop_instance_uid == report.sop_instance_uid


def test_the_encoder_of_ventricular_function_describes_its_numbers(result: Encoded) -> None:
    found = PackageFindings(PACKAGE, result.findings)
    circumstances = Circumstances(("x",), "cine", ResultSettings(), CREATED)
    profiles = {"pacs": DestinationProfile(peer="pacs")}
    (encoded,) = encode_study(result.cine.study, [found], result.sources, profiles, circumstances).packages
    described = {one.name: one for one in encoded.reported}
    assert {name: one.value for name, one in described.items()} == dict(encoded.numbers)
    volume = described["LVEDV_ml"]
    assert volume.version == f"ventricular_function {PACKAGE.version}"
    assert volume.lower is not None
    assert volume.upper is not None
    assert volume.lower < volume.value < volume.upper
    assert (volume.normal_lower, volume.normal_upper) == (93, 232)
    assert "Petersen" in volume.normal_source
    assert volume.method
    assert "Left ventricle:" in said(*encoded.reported)


def test_a_mistake_in_a_departments_file_is_told_before_the_node_starts(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text("opening: $")
    (tmp_path / "normals.yaml").write_text("source: ''")
    results = ResultSettings(
        paragraph=ParagraphSettings(template=tmp_path / "template.yaml"), normal_ranges=tmp_path / "normals.yaml"
    )
    storage = StorageSettings(directory=tmp_path, database=f"sqlite:///{tmp_path}/l.sqlite")
    keys = [one.keys[0] for one in serving_mistakes(Configuration(results=results, storage=storage))]
    assert ("results", "paragraph", "template") in keys
    assert ("results", "normal_ranges") in keys
