"""One study through assembly, analysis, encoding and gate."""

from __future__ import annotations

import datetime as dt
import io
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread, filereader
from pydicom.config import disable_value_validation
from results.same_bytes import differences
from results.synthetic import CREATED, STUDY_UID, findings_of, write_cine

from dicom_node.config import DestinationProfile, ResultSettings, Route
from dicom_node.errors import ProcessingFailureError
from dicom_node.execute import process
from dicom_node.execute.process import ProcessedStudy, process_study
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.content import Predecessor
from dicom_node.results.encode import EncodedStudy, encode_study
from dicom_node.results.encoders import encoder_of
from dicom_node.results.gate import check
from dicom_node.results.objects import ResultObject
from dicom_node.results.parts import EncodingRequest, Parts
from dicom_node.results.problems import GateCheck, Problem, in_short
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.verdict import VerdictKind
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.errors import Refusal, RefusalReason
from pipelines.study import PackageFindings
from pipelines.ventricular_function.package import PACKAGE


def processed(paths: list[Path], **changes: object) -> ProcessedStudy:
    arguments: dict[str, object] = {
        "study_instance_uid": STUDY_UID,
        "inputs": ["digest"],
        "created": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "route_name": "cine",
        "route": Route(destinations=("pacs",)),
        "results": ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    }
    return process_study(paths, **{**arguments, **changes})  # type: ignore[arg-type]


def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_cine(tmp_path, phases=12, slices=2, size=32).paths
    parsed: Counter[str] = Counter()
    read = filereader.read_partial

    def counted(file, *arguments, **keywords):
        parsed[str(getattr(file, "name", ""))] += 1
        return read(file, *arguments, **keywords)

    monkeypatch.setattr(filereader, "read_partial", counted)
    done = processed(paths)
    assert done.rejected == ()
    assert {path: parsed[str(path)] for path in paths} == dict.fromkeys(paths, 1)


def test_headers_taken_while_reading_give_the_bytes_of_headers_read_again(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=12, slices=4, size=48, series_per_slice=True, slope=1.7, intercept=-20.0)
    taken = SourceDatasets()
    assemble(cine.paths, taken.take)
    again = SourceDatasets.index(cine.paths)
    assert taken.paths == again.paths
    circumstances = Circumstances(("digest",), "cine", ResultSettings(), CREATED)
    found = [PackageFindings(PACKAGE, findings_of(cine))]
    first, second = (
        encode_study(cine.study, found, sources, {"pacs": DestinationProfile(peer="pacs")}, circumstances)
        for sources in (taken, again)
    )
    assert differences(first.objects, second.objects) == []
    assert not any(check(first.objects, taken))


def test_a_declined_package_has_its_verdict_and_another_identity_for_another_reason(tmp_path: Path) -> None:
    paths = write_cine(tmp_path, phases=12, slices=2, size=32).paths
    done = processed(paths)
    (verdict,) = done.verdicts
    assert (verdict.package, verdict.kind) == ("ventricular_function", VerdictKind.DECLINED)
    assert verdict.sentences == ("The study holds no short-axis cine stack.",)
    assert verdict.key_numbers == ()
    assert differences(done.objects, processed(paths).objects) == []


def test_a_package_that_runs_again_makes_the_same_objects_whatever_was_made_in_between(tmp_path: Path) -> None:
    """What a run in between had made was named as a predecessor, in an object that had been delivered before."""
    paths = write_cine(tmp_path, phases=12, slices=2, size=32).paths
    done = processed(paths)
    report = done.objects[0]
    own, between = (
        Predecessor(STUDY_UID, series, report.sop_class_uid, uid)
        for series, uid in ((report.series_instance_uid, report.sop_instance_uid), ("2.25.7", "2.25.8"))
    )
    again = processed(paths, predecessors=[own, between])
    assert differences(done.objects, again.objects) == []
    after = processed(paths, predecessors=[between, own])
    (study,) = dcmread(io.BytesIO(after.objects[0].content)).PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.8"


def _refused(reason: RefusalReason, sentence: str) -> Findings:
    return Findings({}, (Refusal("segmentation", reason, sentence),))


def test_a_failure_is_raised_while_attempts_are_left_and_told_at_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_cine(tmp_path, phases=12, slices=2, size=32).paths
    broken = _refused(RefusalReason.ANALYSIS_FAILED, "The step segmentation failed.")
    monkeypatch.setattr(process, "analyse_study", lambda *_arguments, **_keywords: broken)
    with pytest.raises(ProcessingFailureError, match="The step segmentation failed"):
        processed(paths, last_attempt=False)
    failed = processed(paths)
    assert failed.verdicts[0].kind is VerdictKind.FAILED
    assert failed.objects
    other = _refused(RefusalReason.NO_VENTRICLE_FOUND, "No left ventricle was found.")
    monkeypatch.setattr(process, "analyse_study", lambda *_arguments, **_keywords: other)
    declined = processed(paths)
    assert declined.verdicts[0].kind is VerdictKind.DECLINED
    uids = [{one.sop_instance_uid for one in each.objects} for each in (failed, declined)]
    assert not uids[0] & uids[1]


def test_refusal_and_success_share_no_uid(tmp_path: Path) -> None:
    cine = write_cine(tmp_path, phases=12, slices=4, size=48)
    found = findings_of(cine)
    values = {kind: value for kind, value in found.values.items() if kind is not PACKAGE.gives}
    refusal = Refusal("ventricular_function", RefusalReason.QUALITY_TOO_LOW, "Quality is too low.")
    sources = SourceDatasets.index(cine.paths)
    circumstances = Circumstances(("digest",), "cine", ResultSettings(), CREATED)
    success, refused = (
        encode_study(cine.study, [PackageFindings(PACKAGE, each)], sources, {}, circumstances)
        for each in (found, Findings(values, (refusal,)))
    )
    uids = [
        {uid for one in each.objects for uid in (one.sop_instance_uid, one.series_instance_uid)}
        for each in (success, refused)
    ]
    assert not uids[0] & uids[1]


def test_a_failing_encoder_is_a_recorded_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cine = write_cine(tmp_path, phases=12, slices=4, size=48)

    def broken(_request: object) -> None:
        raise ZeroDivisionError("Müller^Jörg")

    monkeypatch.setattr("dicom_node.results.encode.encoder_of", lambda _package: broken)
    circumstances = Circumstances(("digest",), "cine", ResultSettings(), CREATED)
    sources = SourceDatasets.index(cine.paths)
    made = encode_study(cine.study, [PackageFindings(PACKAGE, findings_of(cine))], sources, {}, circumstances)
    (cause,) = made.packages[0].causes
    assert cause.reason is RefusalReason.ANALYSIS_FAILED
    assert "ZeroDivisionError" in cause.sentence
    assert "Müller" not in cause.sentence
    assert made.objects[0].role.value == "refusal"


def test_objects_that_cannot_be_made_are_a_recorded_failure_though_pages_were_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cine = write_cine(tmp_path, phases=12, slices=4, size=48)
    encode = encoder_of(PACKAGE)

    def broken() -> list[ResultObject]:
        raise ZeroDivisionError("Müller^Jörg")

    def without_objects(request: EncodingRequest) -> Parts:
        return replace(encode(request), objects=broken)

    monkeypatch.setattr("dicom_node.results.encode.encoder_of", lambda _package: without_objects)
    circumstances = Circumstances(("digest",), "cine", ResultSettings(), CREATED)
    sources = SourceDatasets.index(cine.paths)
    made = encode_study(cine.study, [PackageFindings(PACKAGE, findings_of(cine))], sources, {}, circumstances)
    (cause,) = made.packages[0].causes
    assert "ZeroDivisionError" in cause.sentence
    assert {each.role.value for each in made.objects} == {"refusal", "refusal-summary", "refusal-summary-pdf"}


def test_a_set_in_which_the_gate_finds_something_is_a_failure_and_a_report_alone_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as a success, and nobody was told."""
    paths = write_cine(tmp_path, phases=12, slices=2, size=32).paths
    whole = processed(paths)
    encode = process.encode_study

    def spoilt(*arguments: object, **keywords: object) -> EncodedStudy:
        made = encode(*arguments, **keywords)  # type: ignore[arg-type]
        first, *others = made.objects
        return replace(made, objects=(replace(first, content=first.content[:-2000]), *others))

    monkeypatch.setattr(process, "encode_study", spoilt)
    done = processed(paths)
    (verdict,) = done.verdicts
    assert verdict.kind is VerdictKind.FAILED
    assert "found them unfit and they were withheld" in verdict.sentences[0]
    assert [one.role.value for one in done.objects] == ["refusal"]
    assert [one.object.sop_instance_uid for one in done.rejected] == [whole.objects[0].sop_instance_uid]
    assert done.objects[0].sop_instance_uid not in {one.sop_instance_uid for one in whole.objects}
    assert verdict.sentences[0] in {
        str(each.value)
        for each in dcmread(io.BytesIO(done.objects[0].content)).iterall()
        if each.keyword == "TextValue"
    }


def test_a_refusal_names_images_whose_uids_break_the_standard(tmp_path: Path) -> None:
    """A study of two patients whose UIDs have leading zeros failed: the gate blamed its refusal for each of them."""
    paths = write_cine(tmp_path, phases=12, slices=4, size=32).paths
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, path in enumerate(paths):
            image = dcmread(path)
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.0{number}"
            image.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1.07"
            image.PatientID = "P-2" if number % 2 else "P-1"
            image.save_as(path)
        done = processed(paths)
    (verdict,) = done.verdicts
    assert verdict.kind is VerdictKind.DECLINED
    assert "PatientID" in verdict.sentences[0]
    assert done.objects
    assert done.rejected == ()
    referred = dcmread(io.BytesIO(done.objects[0].content)).PertinentOtherEvidenceSequence[0].ReferencedSeriesSequence
    assert len(referred[0].ReferencedSOPSequence) == len(paths)


def test_many_problems_are_told_in_short() -> None:
    problems = [Problem(GateCheck.IOD, f"value {number} is wrong") for number in range(240)]
    assert in_short(problems) == ("IOD: value 0 is wrong; IOD: value 1 is wrong; IOD: value 2 is wrong; and 237 more")
    assert in_short(problems[:3]).endswith("value 2 is wrong")
