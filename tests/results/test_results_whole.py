"""A set of results leaves whole or a short report says why not; whatever the source breaks blocks nothing."""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.errors import GateError
from dicom_node.results.agreement import disagreements
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_refusal
from dicom_node.results.gate import check
from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import REFUSAL as REFUSAL_ROLE
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.whole import checked_set, identity_refusal
from pipelines.analysis import Findings
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.errors import Refusal, RefusalReason
from pipelines.study import PackageFindings
from pipelines.ventricular_function.package import PACKAGE
from results.conftest import Encoded
from results.synthetic import CREATED, STUDY_UID, encoded, write_cine
from results.test_results_gate import _flip_pixel, tampered

REFUSAL = Refusal("short_axis", RefusalReason.NO_SHORT_AXIS_STACK, "The study holds no short-axis cine stack.")


def with_raw(dataset: Dataset, values: Mapping[str, bytes]) -> Dataset:
    """The data set with elements of these very bytes."""
    for keyword, value in values.items():
        tag, vr = Tag(keyword), dictionary_VR(keyword)
        padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
        dataset[tag] = RawDataElement(BaseTag(tag), vr, len(padded), padded, 0, False, True)
    # So that it is written as it stands.
    dataset.set_original_encoding(False, True, dataset._character_set)
    return dataset


@functools.cache
def image() -> bytes:
    """One image of a cine, as a file."""
    folder = Path(tempfile.mkdtemp())
    return write_cine(folder, phases=1, slices=1, size=32).paths[0].read_bytes()


def refusal_of(study: CineStudy, refusal: Refusal, sources: SourceDatasets) -> list[ResultObject]:
    circumstances = Circumstances(("a",), "cine", ResultSettings(), CREATED)
    found = [PackageFindings(PACKAGE, Findings({}, (refusal,)))]
    profiles = {"pacs": DestinationProfile(peer="pacs")}
    return list(encode_refusal(study, found, refusal, sources, profiles, circumstances).objects)


def refused(
    folder: Path, values: Mapping[str, bytes], refusal: Refusal = REFUSAL
) -> tuple[list[ResultObject], SourceDatasets]:
    """The refusal of a study of one image with these elements."""
    dataset = with_raw(dcmread(io.BytesIO(image())), values)
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / "image.dcm")
    sources = SourceDatasets.index([folder / "image.dcm"])
    uid = str(dataset.StudyInstanceUID)
    study = CineStudy(dataclasses.replace(_context(), study_instance_uid=uid), (), ())
    return refusal_of(study, refusal, sources), sources


@functools.cache
def _context() -> StudyContext:
    return write_cine(Path(tempfile.mkdtemp()), phases=1, slices=1, size=32).study.context


CHARACTER_SETS = st.one_of(
    st.sampled_from(
        [
            b"UTF-8",
            b"iso8859-1",
            b"ISO_IR_192",
            b"ISO-IR 100",
            b"latin1",
            b"ISO_IR 999",
            b"",
            b"\\",
            b"ISO 2022 IR 6\\ISO 2022 IR 100",
            b"\\ISO 2022 IR 87",
            b"ISO_IR 100\\ISO_IR 144",
            b"GB18030",
        ]
    ),
    st.text("ABCISOiso_-0123456789 .", min_size=1, max_size=24).map(str.encode),
)
BYTES = st.one_of(
    st.text(max_size=90).map(lambda text: text.encode("utf-8")),
    st.binary(max_size=90),
    st.sampled_from(["Müller^Jörg".encode("latin-1"), b"NAME^^", b"a> - b\nError - </X(0001,0001)> - c", b"x" * 300]),
)
COMPONENT = st.one_of(st.integers(0, 10**40).map(str), st.sampled_from(["007", "0", "00", ""]))
UIDS = st.one_of(
    st.lists(COMPONENT, min_size=1, max_size=12).map(lambda parts: ("1.2." + ".".join(parts)).encode()),
    st.sampled_from([b"1.2.03", b"1.2.826." + b"9" * 80, b"1.2.abc", b"1..2", b".1.2", b"STUDY-17"]),
)


# Each example runs dciodvfy, so a failure is told as it was found.
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    character_set=CHARACTER_SETS,
    name=BYTES,
    patient=BYTES,
    accession=BYTES,
    date=st.one_of(st.binary(max_size=12), st.sampled_from([b"20120000", b"1970.01.01", b"today", b"70-01-01"])),
    weight=st.one_of(st.sampled_from([b"70,5", b"NaN", b"heavy", b"", b"1e400"]), st.binary(max_size=20)),
    institution=BYTES,
    study=UIDS,
    series=UIDS,
    instance=UIDS,
    frame=UIDS,
)
def test_whatever_the_source_breaks_is_carried_and_blocks_nothing(
    tmp_path: Path,
    character_set: bytes,
    name: bytes,
    patient: bytes,
    accession: bytes,
    date: bytes,
    weight: bytes,
    institution: bytes,
    study: bytes,
    series: bytes,
    instance: bytes,
    frame: bytes,
) -> None:
    values = {
        "SpecificCharacterSet": character_set,
        "PatientName": name,
        "PatientID": patient,
        "AccessionNumber": accession,
        "PatientBirthDate": date,
        "StudyDate": date,
        "PatientWeight": weight,
        "PatientSex": date,
        "InstitutionName": institution,
        "StationName": institution,
        "SoftwareVersions": institution,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "SOPInstanceUID": instance,
        "FrameOfReferenceUID": frame,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objects, sources = refused(tmp_path, values)
        assert [str(problem) for found in check(objects, sources) for problem in found] == []
        written = dcmread(io.BytesIO(objects[0].content))
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "PatientBirthDate", "PatientWeight"):
        # A decimal comma is mended to a point on the way (docs/conformance.md); all else is as it came.
        expected = values[keyword].replace(b",", b".") if keyword == "PatientWeight" else values[keyword]
        assert bytes(written.get_item(keyword).value or b"").rstrip(b" \0") == expected.rstrip(b" \0")


@pytest.mark.parametrize("term", sorted(python_encoding))
def test_text_of_our_own_is_read_under_each_character_set_of_the_source(tmp_path: Path, term: str) -> None:
    """Code extensions that stand alone, too, and terms that validators do not know, such as GBK."""
    values = {"SpecificCharacterSet": term.encode(), "PatientName": b"A^B"}
    refusal = dataclasses.replace(REFUSAL, sentence="Tilted by 5° ± 1°; a volume of 45 ml/m² – too little · нет.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objects, sources = refused(tmp_path, values, refusal)
        assert [str(problem) for found in check(objects, sources) for problem in found] == []
        said = [str(element.value) for element in objects[0].dataset.iterall() if element.keyword == "TextValue"]
    assert any("Tilted by 5" in text for text in said)


def test_an_error_of_ours_is_found_beside_what_the_source_breaks(tmp_path: Path) -> None:
    values = {"SpecificCharacterSet": b"UTF-8", "PatientID": b"X" * 70, "StudyInstanceUID": b"1.2.03"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (each,), sources = refused(tmp_path, values)
        for change, says in (
            (lambda dataset: setattr(dataset, "CompletionFlag", "MAYBE"), "CompletionFlag"),
            (lambda dataset: setattr(dataset, "SeriesInstanceUID", "1.2.04"), "SeriesInstanceUID"),
            (lambda dataset: setattr(dataset, "PatientID", "X" * 71), "PatientID differs"),
            (lambda dataset: dataset.pop("Modality"), "Modality"),
        ):
            assert any(says in str(problem) for problem in check([tampered(each, change)], sources)[0])


def test_values_of_the_source_that_cannot_be_read_are_values_that_it_does_not_have(tmp_path: Path) -> None:
    """Words where numbers belong, and bytes that are no sequence, in what the results take over from the images."""
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    values = {"WindowCenter": b"auto", "WindowWidth": b"auto", "RepetitionTime": b"short", "EchoTrainLength": b"1.5x"}
    for path in cine.paths:
        dataset = with_raw(dcmread(path), values)
        tag = BaseTag(Tag("ReferencedStudySequence"))
        dataset._dict[tag] = RawDataElement(tag, "UN", 6, b"abcdef", 0, False, True)
        dataset.save_as(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objects, sources = encoded(cine)
        assert [str(problem) for found in check(objects, sources) for problem in found] == []
    image = dcmread(io.BytesIO(objects[0].content))
    assert float(image.WindowWidth) >= 1
    assert "ReferencedStudySequence" not in image


@pytest.mark.parametrize(
    ("centre", "width"),
    [(b"500.0000000000000000000", b"1000"), (b"500\\400", b"1000"), (b"500", b"1e30x")],
)
def test_a_window_is_taken_over_whole_or_made(tmp_path: Path, centre: bytes, width: bytes) -> None:
    cine = write_cine(tmp_path, phases=6, slices=3, size=32)
    for path in cine.paths:
        with_raw(dcmread(path), {"WindowCenter": centre, "WindowWidth": width}).save_as(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objects, sources = encoded(cine, destinations={"pacs": DestinationProfile(peer="pacs", summary_pdf=False)})
        images = [each for each in objects if each.role.value.startswith("key-phase")]
        assert [str(problem) for found in check(images, sources) for problem in found] == []
    image = dcmread(io.BytesIO(images[0].content))
    assert float(image.WindowCenter) < 1500
    assert 1 <= float(image.WindowWidth) < 3000


@pytest.mark.parametrize(
    "values",
    [
        {"SpecificCharacterSet": b"UTF-8", "PatientName": "Müller^Jörg".encode()},
        {"SpecificCharacterSet": b"iso8859-1", "PatientName": "Müller^Jörg".encode("latin-1")},
        {"PatientID": b"P" * 70, "AccessionNumber": b"A" * 40, "StudyID": b"S" * 30, "FlipAngle": b"50,0"},
        {"StudyInstanceUID": b"1.2.826.0.1.3680043.8.498.007", "SOPClassUID": b"1.2.840.10008.5.1.4.1.1.4"},
        {
            "Manufacturer": b"A" * 70 + b"\\B",
            "ManufacturerModelName": b"M\\N\n",
            "DeviceSerialNumber": b"1" * 100,
            "BodyPartExamined": b"HEART AND GREAT VESSELS",
            "ProtocolName": b"p" * 90 + b"\x01",
            "SequenceName": b"*tfi2d1_12_and_more_than_16",
            "ScanOptions": b"lower case and long option",
            "MRAcquisitionType": b"2d",
            "MagneticFieldStrength": b"1.5T",
            "PatientPosition": b"head first",
            "SliceThickness": b"8 mm",
            "TimezoneOffsetFromUTC": b"CET",
            "AcquisitionDate": b"2025-03-01",
            "AcquisitionTime": b"10:15",
            "SeriesDate": b"20251301",
            "BurnedInAnnotation": b"MAYBE",
            "InstitutionName": b"I" * 130,
        },
    ],
    ids=["UTF-8", "iso8859-1", "long identifiers", "study UID", "scanner and acquisition"],
)
def test_a_whole_set_of_an_odd_source_leaves(tmp_path: Path, values: dict[str, bytes]) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in cine.paths:
            with_raw(dcmread(path), values).save_as(path)
        uid = values.get("StudyInstanceUID", STUDY_UID.encode()).decode()
        context = dataclasses.replace(cine.study.context, study_instance_uid=uid)
        cine = dataclasses.replace(cine, study=dataclasses.replace(cine.study, context=context))
        objects, sources = encoded(cine)
        assert [str(problem) for found in check(objects, sources) for problem in found] == []


def test_a_source_without_frame_of_reference_gets_one_for_images_segmentation_and_report(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=8, slices=4, size=64)
    for path in cine.paths:
        dataset = dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    stack = dataclasses.replace(cine.study.stacks[0], frame_of_reference_uid="")
    cine = dataclasses.replace(cine, study=dataclasses.replace(cine.study, stacks=(stack,)))
    objects, sources = encoded(cine)
    assert not any(check(objects, sources))
    uids = {str(each.dataset.FrameOfReferenceUID) for each in objects if "FrameOfReferenceUID" in each.dataset}
    assert len(uids) == 1
    assert uids.pop().startswith("2.25.")


def test_one_unfit_object_withholds_the_set_and_the_refusal_goes_alone(result: Encoded) -> None:
    objects = [tampered(result.objects[0], _flip_pixel), *result.objects[1:]]
    asked: list[Refusal] = []

    def refuse(refusal: Refusal) -> list[ResultObject]:
        asked.append(refusal)
        return refusal_of(result.cine.study, refusal, result.sources)

    checked = checked_set(objects, functools.partial(check, sources=result.sources), refuse)
    assert [each.role for each in checked.objects] == [REFUSAL_ROLE]
    assert [one.object.sop_instance_uid for one in checked.rejected] == [objects[0].sop_instance_uid]
    assert checked.withheld == asked[0]
    assert "pixels of key-phase-ed" in asked[0].sentence
    assert asked[0].sentence in {
        str(element.value) for element in checked.objects[0].dataset.iterall() if element.keyword == "TextValue"
    }
    whole = checked_set(result.objects, functools.partial(check, sources=result.sources), refuse)
    assert (whole.objects, whole.rejected, whole.withheld) == (tuple(result.objects), (), None)


def test_a_refusal_that_is_unfit_itself_is_a_failure(result: Encoded) -> None:
    unfit = tampered(result.objects[0], _flip_pixel)
    with pytest.raises(GateError, match="neither the results nor the report"):
        checked_set([unfit], functools.partial(check, sources=result.sources), lambda _refusal: [unfit])


# -- identity of the images of one study -------------------------------------------------------------------------------


def identity(**values: str) -> Dataset:
    dataset = Dataset()
    with disable_value_validation():
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    return dataset


LETTERS = st.text("abcxyzäöüéñøαβγжщя", min_size=1, max_size=8)


@given(family=LETTERS, given_name=LETTERS, carets=st.integers(0, 3), blanks=st.integers(0, 2), equals=st.integers(0, 2))
def test_names_that_differ_in_what_says_nothing_agree(
    family: str, given_name: str, carets: int, blanks: int, equals: int
) -> None:
    one = identity(PatientID="1", PatientName=f"{family}^{given_name}")
    spelt = f"{family}{' ' * blanks}^{given_name}{'^' * carets}{'=' * equals}{' ' * blanks}"
    assert disagreements([one, identity(PatientID="1 ", PatientName=spelt)]) == ()
    assert disagreements([one, identity(PatientID="1", PatientName=spelt.upper())]) == ()
    assert disagreements([one, identity(PatientID="1", PatientName="")]) == ()
    assert disagreements([one, identity(PatientID="1", PatientName=f"{family}^{given_name}x")]) == ("PatientName",)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"PatientID": "1"}, {"PatientID": "2"}, ("PatientID",)),
        ({"PatientID": "1"}, {"PatientID": ""}, ("PatientID",)),
        ({"PatientID": "1", "IssuerOfPatientID": "HOSP"}, {"PatientID": "1", "IssuerOfPatientID": "ARCHIVE"}, None),
        ({"PatientID": "1", "IssuerOfPatientID": "HOSP"}, {"PatientID": "1"}, ()),
        ({"IssuerOfPatientID": "Hospital"}, {"IssuerOfPatientID": "HOSPITAL"}, ()),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "1970.01.01"}, ()),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "00000000"}, ()),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "19710101"}, ("PatientBirthDate",)),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "19700101000000"}, ()),
        ({"PatientSex": "M"}, {"PatientSex": "O"}, ()),
        ({"PatientSex": "M"}, {"PatientSex": "F"}, ("PatientSex",)),
        ({"PatientName": "Yamada^Tarou=山田^太郎"}, {"PatientName": "Yamada^Tarou"}, ()),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "Doe^Jane^^Dr"}, ()),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "DOE, Jane"}, ()),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "Doe^John"}, ("PatientName",)),
        ({"PatientName": "Doe^Jane"}, {"PatientName": "Jane, Doe"}, ("PatientName",)),
        ({"PatientName": "=山田^太郎"}, {"PatientName": "Doe^John"}, ("PatientName",)),
    ],
)
def test_contradictions_are_told_by_attribute(
    first: dict[str, str], second: dict[str, str], told: tuple[str, ...] | None
) -> None:
    expected = ("IssuerOfPatientID",) if told is None else told
    assert disagreements([identity(**first), identity(**second)]) == expected
    assert disagreements([identity(**second), identity(**first)]) == expected


def test_one_name_in_two_character_sets_is_one_name() -> None:
    latin = with_raw(Dataset(), {"SpecificCharacterSet": b"ISO_IR 100", "PatientName": "Müller".encode("latin-1")})
    unicode = with_raw(Dataset(), {"SpecificCharacterSet": b"ISO_IR 192", "PatientName": "Müller".encode()})
    undeclared = with_raw(Dataset(), {"PatientName": "Müller".encode()})
    assert disagreements([latin, unicode]) == ()
    assert disagreements([unicode, undeclared]) == ()


def test_a_study_of_two_issuers_is_declined_and_the_value_is_not_told(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=4, slices=2, size=32)
    for number, path in enumerate(cine.paths):
        dataset = dcmread(path)
        dataset.IssuerOfPatientID = "HOSP" if number % 2 else "ARCHIVE"
        dataset.save_as(path)
    sources = SourceDatasets.index(cine.paths)
    refusal = identity_refusal(sources, STUDY_UID)
    assert refusal is not None
    assert "IssuerOfPatientID" in refusal.sentence
    assert "HOSP" not in refusal.sentence
    objects = refusal_of(cine.study, refusal, sources)
    assert not any(check(objects, sources))
    assert identity_refusal(SourceDatasets.index(cine.paths[::2]), STUDY_UID) is None
