"""Patient and study arrive at the archive as the modality sent them."""

from __future__ import annotations

import datetime
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interop.tools import tool
from pydicom import dcmread, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from dicom_node.config import ResultSettings
from dicom_node.results.header import ResultContext, encoded, series_dataset
from dicom_node.results.identity import CarriedIdentity, ResultIdentity, ascii_text
from dicom_node.results.roles import REPORT
from dicom_node.results.uids import derive_uid
from pipelines.models.precision import Precision
from results.synthetic import MODEL

NAMES = {
    "cyrillic": (["ISO_IR 144"], "Люкceмбypг^Пётр", "Кардиология"),
    "japanese": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ｼﾝｿﾞｳ"),
    "arabic": (["ISO_IR 127"], "قباني^لنزار", "القلب"),
    "latin": (["ISO_IR 100"], "Buc^Jérôme", "Cœur"[:1] + "ur"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "MR"),
    "chinese": (["GB18030"], "Wang^XiaoDong=王^小东", "心脏"),
    "unicode": (["ISO_IR 192"], "Wang^XiaoDong=王^小東", "心臓"),
}


def source(tmp_path: Path, charset: list[str], elements: dict[str, object]) -> Dataset:
    """A source header as it comes from a file."""
    with disable_value_validation():
        dataset = Dataset()
        if charset:
            dataset.SpecificCharacterSet = charset
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, "1.2.3.4"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.5"
        dataset.Manufacturer = "ACME"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = tmp_path / "source.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(path)


def result_of(
    header: Dataset, created: datetime.datetime | None = None, settings: ResultSettings | None = None
) -> bytes:
    """A small result that belongs to the study of ``header``."""
    context = ResultContext(
        title="ventricular function",
        series_block=0,
        identity=ResultIdentity("0" * 64),
        carried=CarriedIdentity.of(header),
        reference=header,
        created=created or datetime.datetime(2025, 3, 1, 12, 0, tzinfo=datetime.UTC),
        settings=settings or ResultSettings(institution="Klinikum Süd"),
        models=(MODEL,),
    )
    with disable_value_validation():
        dataset = series_dataset(context, REPORT, sop_class_uid=MRImageStorage, modality="MR")
        dataset.ImageComments = "2 × 3 − 1 ≥ 4"
        return encoded(context, dataset)


def reread(tmp_path: Path, content: bytes) -> Dataset:
    path = tmp_path / "result.dcm"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(path)


@pytest.mark.parametrize("script", NAMES)
def test_text_of_every_script_arrives_in_its_own_bytes(tmp_path: Path, script: str) -> None:
    charset, name, description = NAMES[script]
    header = source(tmp_path, charset, {"PatientName": name, "StudyDescription": description, "PatientID": "1"})
    raw = [bytes(header.get_item(keyword).value) for keyword in ("PatientName", "StudyDescription")]
    content = result_of(header)
    result = reread(tmp_path, content)
    assert str(result.PatientName) == name
    assert result.StudyDescription == description
    assert result["SpecificCharacterSet"].value == header["SpecificCharacterSet"].value
    assert all(value in content for value in raw)


@pytest.mark.parametrize(
    ("script", "said", "institution"),
    [
        ("unicode", "2 × 3 − 1 ≥ 4", "Klinikum Süd"),
        ("chinese", "2 × 3 − 1 ≥ 4", "Klinikum Süd"),
        ("latin", "2 x 3 - 1 >= 4", "Klinikum Süd"),
        ("cyrillic", "2 x 3 - 1 >= 4", "Klinikum Sud"),
        ("japanese", "2 x 3 - 1 >= 4", "Klinikum Sud"),
    ],
)
def test_other_text_is_said_as_the_character_set_can(tmp_path: Path, script: str, said: str, institution: str) -> None:
    charset, name, _ = NAMES[script]
    result = reread(tmp_path, result_of(source(tmp_path, charset, {"PatientName": name})))
    assert (result.ImageComments, result.InstitutionName) == (said, institution)


@pytest.mark.peers
@pytest.mark.parametrize("script", ["cyrillic", "arabic", "latin", "chinese"])
def test_dcmtk_reads_the_same_name_in_source_and_result(tmp_path: Path, script: str, dcmtk: None) -> None:
    charset, name, _ = NAMES[script]
    header = source(tmp_path, charset, {"PatientName": name})
    (tmp_path / "result.dcm").write_bytes(result_of(header))

    def dumped(path: str) -> str:
        command = [tool("dcmdump"), "--convert-to-utf8", "+P", "PatientName", tmp_path / path]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode().split("[")[1].split("]")[0]

    assert dumped("result.dcm") == dumped("source.dcm") == name


@pytest.mark.parametrize(
    ("charset", "raw"),
    [
        pytest.param([], "Müller^Jörg".encode("latin-1"), id="undeclared"),
        pytest.param(["ISO_IR 192"], "Müller^Jörg".encode("latin-1"), id="declared wrongly"),
        pytest.param(["ISO_IR 999"], "Иванов^Пётр".encode("iso8859-5"), id="declared unknown"),
    ],
)
def test_text_that_cannot_be_read_for_certain_keeps_its_bytes_and_declaration(
    tmp_path: Path, charset: list[str], raw: bytes
) -> None:
    source(tmp_path, charset, {"PatientName": "X" * len(raw)})
    path = tmp_path / "source.dcm"
    path.write_bytes(path.read_bytes().replace(b"X" * len(raw), raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = result_of(dcmread(path))
    result = reread(tmp_path, content)
    assert raw in content
    assert result.get("SpecificCharacterSet", "") == (charset[0] if charset else "")
    # Everything else is said as the declaration goes, in ASCII without a known one.
    assert result.InstitutionName == ("Klinikum Süd" if charset == ["ISO_IR 192"] else "Klinikum Sud")


def test_odd_values_are_not_corrected(tmp_path: Path) -> None:
    odd = {
        "StudyInstanceUID": "2.16.124.113543.6006.99.08980635789900778171",
        "StudyDate": "20120000",
        "StudyTime": "",
        "PatientBirthDate": "00000000",
        "PatientSex": "X",
        "PatientID": " 007",
        "IssuerOfPatientID": "HOSPITAL",
        "StudyID": "",
        "PatientAge": "53",
    }
    result = reread(tmp_path, result_of(source(tmp_path, ["ISO_IR 100"], odd)))
    assert {keyword: str(result[keyword].value) for keyword in odd} == odd
    assert result.AccessionNumber == ""


def test_sequences_are_carried_with_their_text(tmp_path: Path) -> None:
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "Ж-1", "Клиника"
    header = source(tmp_path, ["ISO_IR 144"], {"OtherPatientIDsSequence": [other]})
    result = reread(tmp_path, result_of(header))
    assert result.OtherPatientIDsSequence[0].PatientID == "Ж-1"
    assert result.OtherPatientIDsSequence[0].IssuerOfPatientID == "Клиника"


def test_a_number_that_is_no_number_arrives_as_it_stands(tmp_path: Path) -> None:
    source(tmp_path, [], {"PatientWeight": "70.55"})
    path = tmp_path / "source.dcm"
    path.write_bytes(path.read_bytes().replace(b"70.55", b"70,55"))
    result = reread(tmp_path, result_of(dcmread(path)))
    assert result.PatientWeight == "70,55"


def test_dates_follow_the_offset_that_governs_the_object(tmp_path: Path) -> None:
    header = source(tmp_path, [], {"TimezoneOffsetFromUTC": "+0930"})
    result = reread(tmp_path, result_of(header, datetime.datetime(2025, 3, 1, 23, 0, tzinfo=datetime.UTC)))
    assert result.TimezoneOffsetFromUTC == "+0930"
    assert (result.ContentDate, result.ContentTime) == ("20250302", "083000")
    assert result.ContributingEquipmentSequence[1].ContributionDateTime == "20250302083000+0930"


def test_a_date_without_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="time zone"):
        result_of(source(tmp_path, [], {}), datetime.datetime(2025, 3, 1, 23, 0))


def test_elements_that_are_no_identity_stay_behind(tmp_path: Path) -> None:
    header = source(tmp_path, [], {"ImageComments": "private", "DeviceSerialNumber": "77", "OperatorsName": "A^B"})
    result = reread(tmp_path, result_of(header))
    assert "OperatorsName" not in result
    assert "ReferencedPerformedProcedureStepSequence" not in result


@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda part: "\x1f" not in part), min_size=1, max_size=4))
def test_derived_uids_are_valid_and_repeatable(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert UID(uid).is_valid
    assert len(uid) <= 64
    assert uid == derive_uid(*parts)
    assert uid != derive_uid(*parts, "")
    assert uid != derive_uid("".join(parts) + "x")


def test_derived_uids_do_not_depend_on_the_process() -> None:
    program = "from dicom_node.results.uids import derive_uid; print(derive_uid('series', 'report'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {derive_uid("series", "report")}


def test_every_input_of_the_identity_changes_it_and_the_order_of_inputs_does_not() -> None:
    def identity(**changed: object) -> str:
        parts = {
            "study_instance_uid": "1.2",
            "inputs": ["a", "b"],
            "route_name": "cine",
            "packages": ["ventricular_function 1.0.0"],
            "models": (MODEL,),
            "settings": "{}",
            "software_version": "1",
        } | changed
        return ResultIdentity.of(**parts).digest  # type: ignore[arg-type]

    changes = [
        {"study_instance_uid": "1.3"},
        {"inputs": ["a"]},
        {"inputs": ["a", "c"]},
        {"route_name": "other"},
        {"packages": ["ventricular_function 1.0.1"]},
        {"packages": ["ventricular_function 1.0.0", "motion 1.0.0"]},
        {"models": ()},
        {"models": (replace(MODEL, precision=Precision.BFLOAT16),)},
        {"settings": '{"contact": "x"}'},
        {"software_version": "2"},
    ]
    assert len({identity(), *(identity(**change) for change in changes)}) == len(changes) + 1
    assert identity(inputs=["b", "a"]) == identity()


@given(st.text())
def test_folded_text_is_ascii(text: str) -> None:
    assert ascii_text(text).isascii()


def test_folding_keeps_what_is_ascii() -> None:
    assert ascii_text("EF 54 % (53–55), Süd, 8 × 2 mm²") == "EF 54 % (53-55), Sud, 8 x 2 mm2"


def test_what_is_empty_in_the_source_is_carried_empty_whether_it_was_converted_yet_or_not() -> None:
    header = Dataset()
    header.PatientID = "1"
    header.PatientWeight = None
    assert header["PatientWeight"].is_empty
    carried = {element.tag: element for element in CarriedIdentity.of(header).elements}
    weight = carried[header["PatientWeight"].tag]
    assert not weight.value
