"""HL7 and FHIR receivers: what they get, and what becomes of a delivery when they do not take it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import hl7
import pytest
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st
from interop.ports import free_port
from ledger_rows import DELIVERED, an_instance, associate, claim, receive_and_schedule, route
from network.running_node import configuration
from pydicom import dcmread
from result_rows import stored_results
from results.synthetic import CREATED, STUDY_UID, Cine, write_cine
from sqlalchemy import delete, select

from deliver.receivers import FhirReceiver, MllpReceiver, fhir_receiver, mllp_receiver
from deliver.results_due import overview, rounds_until, states
from dicom_node.config import (
    Configuration,
    DeliveryPolicy,
    DestinationProfile,
    FhirDestination,
    Hl7Destination,
    ParagraphSettings,
    ResultSettings,
    Route,
    Secret,
)
from dicom_node.deliver.deliver import Deliverer
from dicom_node.deliver.fhir_bundle import transaction
from dicom_node.deliver.oru import control_id, observation_message
from dicom_node.deliver.rejection import UNDECIDED, Withdraw, reject_set, reject_superseded
from dicom_node.deliver.study_report import StudyReport
from dicom_node.execute.process import Processed, process_front_page
from dicom_node.execute.worker import _outcome
from dicom_node.node_status import Concern, node_status
from dicom_node.results.front_page import ListedPackage
from dicom_node.results.numbers import ReportedNumber, numbers_record
from dicom_node.results.rejection import RejectionReason
from dicom_node.results.roles import FRONT_PAGE
from dicom_node.results.verdict import Verdict, VerdictKind
from storage.assessments import assess
from storage.deletion import delete_study
from storage.deliveries import (
    Selection,
    claim_deliveries,
    delivery_confirmed,
    delivery_sent,
    requeue_deliveries,
)
from storage.files import InstanceFiles
from storage.instances import close_association, record_instances
from storage.jobs import Outcome, add_jobs, complete_job, create_jobs, requeue_job, study_contents
from storage.ledger import Ledger, open_ledger, record_event, utc_now
from storage.overview import delivery_overviews, outages
from storage.rejection import REJECTION_ROLE, results_of_study
from storage.replacement import INSTANCE_REPLACED
from storage.schema import (
    AssessmentResult,
    CommitmentRequest,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    JobRow,
    ResultRow,
)
from storage.schema import Verdict as LedgerVerdict

COMMITTED, DEAD, QUEUED = DeliveryState.COMMITTED, DeliveryState.DEAD, DeliveryState.QUEUED
EF = ReportedNumber(
    "LVEF_percent", 46.4, "%", "(EDV − ESV) ÷ EDV", "ventricular_function 1.0.0", 43.4, 49.4, 48.2, 67.8, "Petersen"
)
GLS = ReportedNumber("GLS_percent", -17.2, "%", version="strain 1.0.0")
TOLD_GLS = dataclasses.replace(GLS, method="mean of contours and registration")
REPORT = StudyReport(
    patient_id="P|1",
    issuer_of_patient_id="HOSP",
    patient_name="Müller^Anna Maria^^Dr.^=ignored",
    birth_date="19500102",
    sex="F",
    accession_number="A^77",
    study_instance_uid="1.2.3.4",
    study_date="20260301",
    study_time="101112",
    referring_physician="Weiß^Karl",
    created="20260301113000+0100",
    report_uid="2.25.1",
    route="cine",
    numbers=(EF, GLS),
    paragraph="Linker Ventrikel: Ejektionsfraktion 46 % | ^ & ~ \\ Ende.\nZweite Zeile",
    sentences=("Ventricular function: analysed.",),
)
AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
RECEIVER = Hl7Destination(host="127.0.0.1", port=1, receiving_application="RIS", processing_id="T")
SERVER = FhirDestination(url="http://127.0.0.1:1/fhir", patient_system="urn:oid:1.2.3")


# -- what is written ---------------------------------------------------------------------------------------------------


def parsed(report: StudyReport) -> hl7.Message:
    return hl7.parse(observation_message(report, RECEIVER, AT))


def test_a_message_has_patient_study_paragraph_and_numbers() -> None:
    message = parsed(REPORT)
    assert str(message.segment("MSH")[9]) == "ORU^R01^ORU_R01"
    assert (str(message.segment("MSH")[5]), str(message.segment("MSH")[11])) == ("RIS", "T")
    assert str(message.segment("MSH")[10]) == control_id(REPORT)
    assert message.unescape(str(message.extract_field("PID", 1, 3, 1, 1))) == "P|1"
    assert message.extract_field("PID", 1, 3, 1, 4) == "HOSP"
    name = [str(message.extract_field("PID", 1, 5, 1, part)) for part in range(1, 6)]
    assert name == ["Müller", "Anna Maria", "", "", "Dr."]
    assert (str(message.segment("PID")[7]), str(message.segment("PID")[8])) == ("19500102", "F")
    request = message.segment("OBR")
    assert message.unescape(str(request[18])) == "A^77"
    assert (str(request[7]), str(request[22]), str(request[25])) == ("20260301101112", "20260301113000+0100", "P")
    study, text, ef, interval, gls = message.segments("OBX")
    assert "1.2.3.4" in str(study[5])
    assert str(text[2]) == "TX"
    said = str(text[5])
    assert "Ejektionsfraktion 46 % \\F\\ \\S\\ \\T\\ \\R\\ \\E\\ Ende.\\X0A\\Zweite Zeile" in said
    assert str(ef[3]) == "8811-2^Left ventricular ejection fraction by MR^LN^LVEF_percent^LVEF_percent^99DICOMNODE"
    assert [str(ef[number]) for number in (2, 5, 6, 7, 8, 11)] == ["NM", "46.4", "%^%^UCUM", "48.2-67.8", "L", "P"]
    assert "43.4 to 49.4" in str(interval[5])
    assert str(gls[3]).startswith("GLS_percent^GLS percent^99DICOMNODE")
    assert [int(str(one[1])) for one in message.segments("OBX")] == [1, 2, 3, 4, 5]


text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from("|^~\\&\r\x0b\x1c"), max_size=40
)
HEADER_TEXT = (
    "patient_id", "issuer_of_patient_id", "patient_name", "birth_date", "sex", "accession_number", "study_date",
    "study_time", "referring_physician", "study_instance_uid", "paragraph",
)  # fmt: skip
"""What comes out of a header is taken over as it stands there, whatever its value representation allows."""


@given(values=st.fixed_dictionaries(dict.fromkeys(HEADER_TEXT, text)))
def test_nothing_that_a_field_holds_breaks_the_message(values: dict[str, str]) -> None:
    message = observation_message(dataclasses.replace(REPORT, **values), RECEIVER, AT)  # type: ignore[arg-type]
    lines = message.removesuffix("\r").split("\r")
    assert [line[:3] for line in lines] == ["MSH", "PID", "PV1", "OBR", *["OBX"] * 5]
    assert [line.count("|") for line in lines[1:4]] == [8, 2, 25]
    assert all(line.count("|") <= 17 for line in lines[4:])
    # Marks of the frame among them (MLLP).
    assert not any(unicodedata.category(sign) == "Cc" for line in lines for sign in line)


def test_a_bundle_is_valid_and_its_references_resolve() -> None:
    bundle = Bundle.model_validate_json(transaction(REPORT, SERVER).model_dump_json(exclude_none=True))
    kinds = [type(one.resource).__name__ for one in bundle.entry]
    assert kinds == ["ImagingStudy", "Observation", "Observation", "DiagnosticReport"]
    urls = [one.fullUrl for one in bundle.entry]
    study, ef, gls, report = (one.resource for one in bundle.entry)
    assert [one.reference for one in report.result] == urls[1:3]
    assert [one.reference for one in report.imagingStudy] == urls[:1]
    assert ef.derivedFrom[0].reference == urls[0]
    assert {one.request.method for one in bundle.entry} == {"PUT"}
    assert study.identifier[0].value == "urn:oid:1.2.3.4"
    assert [(one.system, one.code) for one in ef.code.coding] == [
        ("http://loinc.org", "8811-2"), (ef.code.coding[1].system, "LVEF_percent")
    ]  # fmt: skip
    assert (float(ef.valueQuantity.value), ef.valueQuantity.code) == (46.4, "%")
    assert (float(ef.referenceRange[0].low.value), float(ef.referenceRange[0].high.value)) == (48.2, 67.8)
    assert ef.interpretation[0].coding[0].code == "L"
    assert "43.4 to 49.4" in ef.note[0].text
    assert gls.interpretation is None
    assert (ef.status, report.status) == ("preliminary", "preliminary")
    assert report.subject.identifier.value == "P|1"
    assert report.subject.identifier.system == "urn:oid:1.2.3"
    assert report.conclusion == REPORT.paragraph
    # The same again is the same; a later report takes the place of this one.
    assert transaction(REPORT, SERVER) == transaction(REPORT, SERVER)
    later = transaction(dataclasses.replace(REPORT, report_uid="2.25.2"), SERVER)
    assert [one.request.url for one in later.entry] == [one.request.url for one in bundle.entry]


def test_a_report_without_dates_patient_or_numbers_is_valid() -> None:
    bare = dataclasses.replace(
        REPORT, patient_id="", accession_number="", study_date="", study_time="", numbers=(), paragraph="",
        referring_physician="", patient_name="",
    )  # fmt: skip
    bundle = Bundle.model_validate_json(transaction(bare, SERVER).model_dump_json(exclude_none=True))
    assert bundle.entry[-1].resource.conclusion == "Ventricular function: analysed."
    assert str(parsed(bare).segment("OBR")[3]).endswith("^DICOMNODE")


def test_a_report_has_one_number_of_its_own_over_all_its_versions() -> None:
    """A receiver takes a message under a number that it knows for a correction of what it has (OBR-3)."""

    def number(**changes: str) -> str:
        return str(parsed(dataclasses.replace(REPORT, **changes)).segment("OBR")[3])  # type: ignore[arg-type]

    own = number()
    assert number(report_uid="2.25.2", told_as="rejected 1", paragraph="", accession_number="B") == own
    others = [
        number(route="infarct"),
        number(study_instance_uid="1.2.3.5"),
        number(patient_id="P|2"),
        number(issuer_of_patient_id="ELSEWHERE"),
    ]
    assert len({own, *others}) == 5


# -- what becomes of a delivery ----------------------------------------------------------------------------------------


class Bench:
    """A ledger with a front page that is due at both receivers.

    Parameters
    ----------
    numbers
        Of each package that the front page lists.
    """

    def __init__(
        self,
        folder: Path,
        node: Configuration,
        ledger: Ledger,
        processed: Processed,
        numbers: Mapping[str, Sequence[ReportedNumber]],
    ) -> None:
        self.folder, self.node, self.ledger = folder, node, ledger
        files = InstanceFiles(node.storage.directory)
        first, *others = (route(series=(f"{STUDY_UID}.1",), package=name) for name in numbers)
        receive_and_schedule(ledger, STUDY_UID, routed=first, also=others)
        self.jobs: dict[str, int] = {}
        for _ in numbers:
            job = claim(ledger, at=utc_now())
            self.jobs[job.package] = job.id
            reported = {"reported": numbers_record(numbers[job.package])}
            outcome = Outcome(LedgerVerdict.DELIVERED, summary=reported)
            assert complete_job(ledger, job, [], outcome, now=utc_now())
        self.files = files
        self._complete_front_page(processed)
        self.deliverer = Deliverer(node, ledger, files, "test")

    def completed(self, processed: Processed) -> None:
        """Do the jobs of one package and its front page."""
        assert complete_job(self.ledger, claim(self.ledger, at=utc_now()), [], DELIVERED, now=utc_now())
        self._complete_front_page(processed)

    def _complete_front_page(self, processed: Processed) -> None:
        job = claim(self.ledger, at=utc_now())
        records = stored_results(self.files, processed.objects)
        assert complete_job(self.ledger, job, records, _outcome(processed, {}, {}), now=utc_now())

    def rounds_until(self, *wanted: DeliveryState) -> None:
        rounds_until(self.deliverer, *wanted)


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("cine"), phases=2, slices=2, size=32)


def front_page_of(cine: Cine, listed: list[ListedPackage]) -> Processed:
    made = process_front_page(
        cine.paths,
        listed=listed,
        study_instance_uid=STUDY_UID,
        inputs=["digest"],
        created=CREATED,
        route_name="cine",
        route=Route(destinations=("ris", "fhir")),
        results=results(1, 2),
    )
    # No image goes to them.
    assert [one.destinations for one in made.objects if one.destinations] == [{"ris", "fhir"}]
    return made


@pytest.fixture(scope="module")
def processed(cine: Cine) -> Processed:
    verdict = Verdict("ventricular_function", VerdictKind.DELIVERED, (), ("Left ventricle: ejection fraction 46 %.",))
    return front_page_of(cine, [ListedPackage(verdict, (), (EF, GLS))])


@pytest.fixture(scope="module")
def processed_two(cine: Cine) -> Processed:
    function = Verdict("ventricular_function", VerdictKind.DELIVERED, (), ("Ejection fraction 46 %.",))
    motion = Verdict("motion", VerdictKind.DELIVERED, (), ("Longitudinal strain -17 %.",))
    return front_page_of(cine, [ListedPackage(function, (), (EF,)), ListedPackage(motion, (), (TOLD_GLS,))])


def results(hl7_port: int, fhir_port: int) -> ResultSettings:
    return ResultSettings(
        destinations={
            "ris": DestinationProfile(hl7=Hl7Destination(host="127.0.0.1", port=hl7_port)),
            "fhir": DestinationProfile(
                fhir=FhirDestination(url=f"http://127.0.0.1:{fhir_port}/fhir", token=Secret(environment="FHIR_TOKEN"))
            ),
        },
        paragraph=ParagraphSettings(language="german"),
    )


@contextmanager
def made_bench(folder: Path, processed: Processed, numbers: Mapping[str, Sequence[ReportedNumber]]) -> Iterator[Bench]:
    node = configuration(
        folder,
        results=results(free_port(), free_port()),
        delivery=DeliveryPolicy(first_delay_s=0.05, maximum_delay_s=0.1, maximum_attempts=3, response_timeout_s=5),
    )
    ledger = open_ledger(node.storage.database)
    try:
        yield Bench(folder, node, ledger, processed, numbers)
    finally:
        ledger.close()


@pytest.fixture
def bench(tmp_path: Path, processed: Processed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    with made_bench(tmp_path, processed, {"ventricular_function": (EF, GLS)}) as made:
        yield made


@contextmanager
def receivers_of(bench: Bench) -> Iterator[tuple[MllpReceiver, FhirReceiver]]:
    destinations = bench.node.results.destinations
    assert destinations["ris"].hl7 is not None
    assert destinations["fhir"].fhir is not None
    with ExitStack() as stack:
        yield (
            stack.enter_context(mllp_receiver(destinations["ris"].hl7.port)),
            stack.enter_context(fhir_receiver(urlsplit(destinations["fhir"].fhir.url).port or 0)),
        )


@pytest.fixture
def receivers(bench: Bench) -> Iterator[tuple[MllpReceiver, FhirReceiver]]:
    with receivers_of(bench) as both:
        yield both


def test_both_get_the_numbers_of_the_front_page_and_close_the_delivery(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    assert len(states(bench.ledger)) == 2
    (message,) = ris.messages
    # Beyond ASCII whatever the character set of the images was.
    assert any("für die Forschung" in str(one[5]) for one in message.segments("OBX"))
    assert any(str(one[5]) == "46.4" for one in message.segments("OBX"))
    # Nothing says how it was measured: it stays in the SR.
    assert not any("GLS" in str(one) for one in message.segments("OBX"))
    assert str(message.extract_field("PID", 1, 3, 1, 1)) == "P-1"
    (bundle,) = server.bundles
    assert [type(one.resource).__name__ for one in bundle.entry] == [
        "ImagingStudy", "Observation", "DiagnosticReport"
    ]  # fmt: skip
    assert server.headers[0]["Authorization"] == "Bearer secret"


def deleted(bench: Bench, why: RejectionReason) -> None:
    """Delete the study, as ``delete_everywhere`` does."""
    void = results_of_study(bench.ledger, STUDY_UID, now=utc_now())
    assert void is not None
    files = InstanceFiles(bench.node.storage.directory)
    about = {"sentence": "Wrong patient.", "reason": "study deleted", "by": "ann", "now": utc_now()}
    withdraw = Withdraw.ALWAYS if why is RejectionReason.PATIENT_SAFETY else Withdraw.NEVER
    assert reject_set(bench.ledger, files, bench.node, void, why, **about, withdraw=withdraw)  # type: ignore[arg-type]
    delete_study(bench.ledger, STUDY_UID, reason="wrong patient", by="ann", now=utc_now())


def test_a_deleted_study_is_withdrawn_at_both(bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]) -> None:
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    deleted(bench, RejectionReason.PATIENT_SAFETY)
    bench.rounds_until(COMMITTED)
    assert len(states(bench.ledger)) == 4
    first, second = ris.messages
    # The same report of the same patient, of which nothing holds any longer.
    for segment, field in (("PID", 3), ("OBR", 3), ("OBR", 18)):
        assert str(first.segment(segment)[field]) == str(second.segment(segment)[field])
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "X"]
    assert {str(one[11]) for one in second.segments("OBX")} == {"W"}
    assert {str(one[3]) for one in second.segments("OBX")} == {str(one[3]) for one in first.segments("OBX")}
    assert any("Wrong patient." in str(one[5]) for one in second.segments("OBX"))
    assert str(first.segment("MSH")[10]) != str(second.segment("MSH")[10])
    before, after = server.bundles
    assert [one.request.url for one in before.entry] == [one.request.url for one in after.entry]
    assert [one.resource.status for one in before.entry] == ["available", "preliminary", "preliminary"]
    # The images are there still; what was said of them was entered in error.
    assert [one.resource.status for one in after.entry] == ["available", "entered-in-error", "entered-in-error"]
    assert after.entry[-1].resource.conclusion == "Wrong patient."


def judge(bench: Bench, package: str, result: AssessmentResult) -> None:
    """A radiologist's verdict, as the console keeps it."""
    told = bench.node.results.message_receivers
    assess(bench.ledger, bench.jobs[package], result, comment="", by="ann", now=utc_now(), receivers=told)


def statuses(bundle: Bundle) -> list[str]:
    return [one.resource.status for one in bundle.entry]


def test_rejected_results_are_withdrawn_at_both_and_told_again_once_they_are_accepted(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    judge(bench, "ventricular_function", AssessmentResult.ACCEPTED)
    # That they may be used is what receivers know already.
    assert states(bench.ledger) == [COMMITTED, COMMITTED]
    judge(bench, "ventricular_function", AssessmentResult.REJECTED)
    judge(bench, "ventricular_function", AssessmentResult.REJECTED)
    bench.rounds_until(COMMITTED)
    first, second = ris.messages
    for segment, field in (("PID", 3), ("OBR", 3), ("OBR", 18)):
        assert str(first.segment(segment)[field]) == str(second.segment(segment)[field])
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "X"]
    assert {str(one[11]) for one in second.segments("OBX")} == {"W"}
    assert {str(one[3]) for one in second.segments("OBX")} == {str(one[3]) for one in first.segments("OBX")}
    assert "rejected by a radiologist" in str(second.segments("OBX")[1][5])
    before, after = server.bundles
    assert [one.request.url for one in before.entry] == [one.request.url for one in after.entry]
    assert statuses(after) == ["available", "entered-in-error", "entered-in-error"]
    assert "rejected by a radiologist" in after.entry[-1].resource.conclusion
    # A correction says that other results follow: nothing of these holds again.
    judge(bench, "ventricular_function", AssessmentResult.CORRECTED)
    assert states(bench.ledger) == [COMMITTED, COMMITTED]
    judge(bench, "ventricular_function", AssessmentResult.ACCEPTED)
    bench.rounds_until(COMMITTED)
    third = ris.messages[-1]
    assert str(third.segment("OBR")[25]) == "P"
    assert [str(one[5]) for one in third.segments("OBX")] == [str(one[5]) for one in first.segments("OBX")]
    assert statuses(server.bundles[-1]) == ["available", "preliminary", "preliminary"]
    assert len({str(one.segment("MSH")[10]) for one in ris.messages}) == 3


def test_a_rejected_answer_takes_its_numbers_back_and_leaves_those_of_the_others(
    tmp_path: Path, processed_two: Processed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    numbers = {"ventricular_function": (EF,), "motion": (TOLD_GLS,)}
    with made_bench(tmp_path, processed_two, numbers) as bench, receivers_of(bench) as (ris, server):
        # Before anything was told: they never hear of it as if it held.
        judge(bench, "motion", AssessmentResult.REJECTED)
        bench.rounds_until(COMMITTED)
        (message,), (bundle,) = ris.messages, server.bundles
        assert str(message.segment("OBR")[25]) == "P"
        marks = {str(one[3]).split("^")[0]: str(one[11]) for one in message.segments("OBX")}
        assert (marks["8811-2"], marks["GLS_percent"]) == ("P", "W")
        text = str(message.segments("OBX")[1][5])
        assert text.startswith("Motion and strain: rejected by a radiologist.")
        assert "Ejection fraction 46 %." in text
        assert "Longitudinal strain" not in text
        assert statuses(bundle) == ["available", "preliminary", "entered-in-error", "preliminary"]
        assert [one.reference for one in bundle.entry[-1].resource.result] == [bundle.entry[1].fullUrl]
        judge(bench, "ventricular_function", AssessmentResult.REJECTED)
        bench.rounds_until(COMMITTED)
        assert str(ris.messages[-1].segment("OBR")[25]) == "X"
        assert statuses(server.bundles[-1])[-1] == "entered-in-error"


def test_a_verdict_that_comes_while_a_message_is_on_its_way_is_told_after_it(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, _ = receivers
    (sending,) = claim_deliveries(bench.ledger, "ris", 5, "test", utc_now(), 0.5)
    judge(bench, "ventricular_function", AssessmentResult.REJECTED)
    # Whoever sends it says that it arrived, and does not know better.
    delivery_sent(bench.ledger, [sending.id], "2.25.1", utc_now(), now=utc_now())
    delivery_confirmed(bench.ledger, [sending.id], how="acknowledged", now=utc_now())
    bench.rounds_until(COMMITTED)
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["X"]


@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_study_that_is_deleted_while_a_verdict_waits_to_be_told_is_withdrawn(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver], arrives: str
) -> None:
    """The verdict came while the first message was on its way: nobody noted that it arrived."""
    ris, _ = receivers
    (sending,) = claim_deliveries(bench.ledger, "ris", 5, "test", utc_now(), 300)
    judge(bench, "ventricular_function", AssessmentResult.REJECTED)
    if arrives == "after":
        deleted(bench, RejectionReason.PATIENT_SAFETY)
    delivery_sent(bench.ledger, [sending.id], "2.25.1", utc_now(), now=utc_now())
    delivery_confirmed(bench.ledger, [sending.id], how="acknowledged", now=utc_now())
    if arrives == "before":
        deleted(bench, RejectionReason.PATIENT_SAFETY)
    bench.deliverer.deliver_once("ris")
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["X"]


def test_results_whose_time_has_come_are_not_withdrawn(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    bench.rounds_until(COMMITTED)
    deleted(bench, RejectionReason.RETENTION)
    assert len(states(bench.ledger)) == 2
    assert len(receivers[0].messages) == len(receivers[1].bundles) == 1


def changed(processed: Processed, ends: str = "", **attributes: str) -> Processed:
    """The same objects with other attributes, by DICOM keyword, and with UIDs that end otherwise."""
    objects = []
    for one in processed.objects:
        header = dcmread(BytesIO(one.content))
        for keyword, value in attributes.items():
            setattr(header, keyword, value)
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"{header.SOPInstanceUID}{ends}"
        header.save_as(content := BytesIO())
        objects.append(dataclasses.replace(one, content=content.getvalue(), dataset=header))
    told = {f"{uid}{ends}": told for uid, told in processed.told.items()}
    return dataclasses.replace(processed, objects=tuple(objects), told=told)


@pytest.mark.parametrize("accession", ["A-1", ""])
def test_a_report_that_another_route_took_over_is_withdrawn(
    tmp_path: Path, processed: Processed, monkeypatch: pytest.MonkeyPatch, accession: str
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    first = changed(processed, AccessionNumber=accession)
    with (
        made_bench(tmp_path, first, {"ventricular_function": (EF,)}) as bench,
        receivers_of(bench) as (ris, server),
    ):
        bench.rounds_until(COMMITTED)
        contents = study_contents(bench.ledger, STUDY_UID)
        routed = [route("infarct", (f"{STUDY_UID}.1",))]
        assert add_jobs(bench.ledger, contents, routed, reason="an order came", by="scheduler", now=utc_now())
        bench.completed(changed(first, ".2"))
        routes = {
            "cine": Route(destinations=("ris", "fhir"), leaves_to=frozenset({"infarct"})),
            "infarct": Route(destinations=("ris", "fhir")),
        }
        node = bench.node.model_copy(update={"routes": routes})
        assert reject_superseded(bench.ledger, InstanceFiles(node.storage.directory), node, utc_now()) == 1
        bench.rounds_until(COMMITTED)
        of_first = [one for one in server.bundles if "/cine" in one.entry[-1].request.url]
        assert [statuses(one) for one in of_first] == [
            ["available", "preliminary", "preliminary"],
            ["available", "entered-in-error", "entered-in-error"],
        ]
        assert "analysed again" in of_first[-1].entry[-1].resource.conclusion
        # Of one order and of two reports: what takes back the one leaves the other.
        told = [one.segment("OBR") for one in ris.messages]
        assert {str(one[18]) for one in told} == {accession}
        numbers = list(dict.fromkeys(str(one[3]) for one in told))
        assert len(numbers) == 2
        assert {number: [str(one[25]) for one in told if str(one[3]) == number] for number in numbers} == {
            numbers[0]: ["P", "X"],
            numbers[1]: ["P"],
        }


def later_version(bench: Bench, processed: Processed, *, image: Path | None = None) -> None:
    """An image comes late, and the study's later version is analysed and told about; then the scheduler looks."""
    analysed_later(bench, processed, image)
    assert reject_superseded(bench.ledger, bench.files, bench.node, utc_now()) == 1


def analysed_later(bench: Bench, processed: Processed, image: Path | None = None) -> None:
    association = associate(bench.ledger, at=utc_now())
    late = an_instance(association, 9, study=STUDY_UID, series=f"{STUDY_UID}.1")
    if image is not None:
        path = str(image.relative_to(bench.files.root))
        late = dataclasses.replace(late, series_instance_uid=f"{STUDY_UID}.2", path=path)
    record_instances(bench.ledger, [late], at=utc_now())
    close_association(bench.ledger, association, outcome="released", at=utc_now())
    contents = study_contents(bench.ledger, STUDY_UID)
    routed = [route(series=tuple(one.series_instance_uid for one in contents.series))]
    assert create_jobs(bench.ledger, contents, routed, reason="test", now=utc_now())
    bench.completed(processed)


@pytest.mark.parametrize("accession", ["A-1", ""])
def test_a_later_version_of_the_same_patient_is_told_under_the_same_number(
    tmp_path: Path, processed: Processed, monkeypatch: pytest.MonkeyPatch, accession: str
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    first = changed(processed, AccessionNumber=accession)
    with (
        made_bench(tmp_path, first, {"ventricular_function": (EF,)}) as bench,
        receivers_of(bench) as (ris, server),
    ):
        bench.rounds_until(COMMITTED)
        # The accession number is corrected, too: it says of which order the one report is.
        later_version(bench, changed(first, ".2", AccessionNumber="A-2"))
        bench.rounds_until(COMMITTED)
        told = [one.segment("OBR") for one in ris.messages]
        assert [str(one[25]) for one in told] == ["P", "P"]
        assert [str(one[18]) for one in told] == [accession, "A-2"]
        assert len({str(one[3]) for one in told}) == 1
        assert len(server.bundles) == 2


@pytest.mark.parametrize("accession", ["A-1", ""])
@pytest.mark.parametrize("corrected", [{"PatientID": "P-2"}, {"IssuerOfPatientID": "ELSEWHERE"}])
def test_the_report_of_a_patient_who_was_corrected_is_withdrawn_from_the_earlier_one(
    tmp_path: Path,
    processed: Processed,
    monkeypatch: pytest.MonkeyPatch,
    accession: str,
    corrected: dict[str, str],
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    first = changed(processed, AccessionNumber=accession)
    with (
        made_bench(tmp_path, first, {"ventricular_function": (EF,)}) as bench,
        receivers_of(bench) as (ris, server),
    ):
        bench.rounds_until(COMMITTED)
        later_version(bench, changed(first, ".2", **corrected))
        bench.rounds_until(COMMITTED)
        told: dict[str, list[tuple[str, str]]] = {}
        for one in ris.messages:
            told.setdefault(str(one.segment("PID")[3]), []).append(
                (str(one.segment("OBR")[3]), str(one.segment("OBR")[25]))
            )
        wrong, right = told.values()
        assert [status for _, status in wrong] == ["P", "X"]
        assert [status for _, status in right] == ["P"]
        # Whichever comes first, what takes back the wrong one leaves the right one.
        assert len({number for number, _ in wrong}) == 1
        assert {number for number, _ in wrong}.isdisjoint({number for number, _ in right})
        # The server has one set of resources, of the patient who was told last.
        assert [statuses(one)[-1] for one in server.bundles] == ["preliminary", "preliminary"]
        last = server.bundles[-1].entry[-1].resource.subject
        assert corrected.get("PatientID", "P-1") == last.identifier.value


def test_the_report_of_a_corrected_study_that_no_route_takes_any_more_is_withdrawn(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    association = associate(bench.ledger, at=utc_now())
    with bench.ledger.transaction() as session:
        record_event(session, INSTANCE_REPLACED, f"{STUDY_UID}.1.1", at=utc_now(), study_id=1)
    corrected = an_instance(association, 9, study=STUDY_UID, series=f"{STUDY_UID}.1")
    record_instances(bench.ledger, [corrected], at=utc_now())
    close_association(bench.ledger, association, outcome="released", at=utc_now())
    contents = study_contents(bench.ledger, STUDY_UID)
    assert create_jobs(bench.ledger, contents, [], reason="test", now=utc_now()) == ()
    assert reject_superseded(bench.ledger, bench.files, bench.node, utc_now()) == 1
    bench.rounds_until(COMMITTED)
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "X"]
    assert statuses(server.bundles[-1])[-1] == "entered-in-error"


def test_a_front_page_that_cannot_be_told_of_holds_up_no_other(
    bench: Bench, processed: Processed, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    """What its damage raised ended each round, and nothing that came after it was ever told."""
    of_front_page = select(ResultRow.path).where(ResultRow.role == FRONT_PAGE.value)
    with bench.ledger.reading() as session:
        (path,) = (bench.files.absolute(one) for one in session.scalars(of_front_page))
    header = dcmread(path)
    del header.ContentSequence
    path.chmod(0o600)
    header.save_as(path)
    analysed_later(bench, changed(processed, ".2"))
    bench.rounds_until(COMMITTED, DEAD)
    assert sorted(states(bench.ledger)) == sorted([COMMITTED, COMMITTED, DEAD, DEAD])
    assert "it cannot be told: AttributeError" in (delivery_overviews(bench.ledger, states=(DEAD,))[0].error or "")
    ris, server = receivers
    assert (len(ris.messages), len(server.bundles)) == (1, 1)


def remove_later_results(bench: Bench) -> None:
    with bench.ledger.reading() as session:
        last = session.scalars(select(JobRow).order_by(JobRow.id.desc())).first()
        assert last is not None
        for one in last.results:
            bench.files.remove(one.path)


def image_of(bench: Bench, cine: Cine, patient_id: str) -> Path:
    image = dcmread(cine.paths[0])
    image.PatientID = patient_id
    path = bench.files.root / "image.dcm"
    image.save_as(path)
    return path


@pytest.mark.parametrize(("patient_id", "withdrawn"), [("P-1", False), ("P-2", True)])
def test_the_images_tell_whether_the_patient_was_corrected_where_the_later_results_are_gone(
    tmp_path: Path,
    cine: Cine,
    processed: Processed,
    monkeypatch: pytest.MonkeyPatch,
    patient_id: str,
    withdrawn: bool,
) -> None:
    """Nothing was rejected then, anywhere, and the log said so every two seconds."""
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    with made_bench(tmp_path, processed, {"ventricular_function": (EF,)}) as bench, receivers_of(bench) as (ris, _):
        bench.rounds_until(COMMITTED)
        analysed_later(bench, changed(processed, ".2"), image_of(bench, cine, patient_id))
        bench.rounds_until(COMMITTED)
        remove_later_results(bench)
        assert reject_superseded(bench.ledger, bench.files, bench.node, utc_now()) == 1
        bench.rounds_until(COMMITTED)
        assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "P", *(["X"] if withdrawn else [])]


def test_a_person_decides_whether_a_report_is_withdrawn_where_nobody_can_tell_whose_the_study_is(
    bench: Bench, processed: Processed, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, _ = receivers
    bench.rounds_until(COMMITTED)
    analysed_later(bench, changed(processed, ".2"))
    bench.rounds_until(COMMITTED)
    remove_later_results(bench)
    assert reject_superseded(bench.ledger, bench.files, bench.node, utc_now()) == 1
    assert reject_superseded(bench.ledger, bench.files, bench.node, utc_now()) == 0
    (waiting,) = [one for one in node_status(bench.node, bench.ledger).alarms if one.concern is Concern.DELIVERIES]
    assert "1 result(s) could not be delivered to ris" in waiting.sentence
    (left,) = delivery_overviews(bench.ledger, states=(DEAD,))
    assert (left.destination, left.error) == ("ris", UNDECIDED)
    bench.rounds_until(COMMITTED, DEAD)
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "P"]
    assert requeue_deliveries(bench.ledger, Selection(), now=utc_now()) == 1
    bench.rounds_until(COMMITTED)
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "P", "X"]


def test_a_number_that_a_later_version_does_not_have_stays_with_nobody(
    tmp_path: Path, processed: Processed, processed_two: Processed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    with (
        made_bench(tmp_path, processed_two, {"ventricular_function": (EF,), "motion": (TOLD_GLS,)}) as bench,
        receivers_of(bench) as (ris, server),
    ):
        bench.rounds_until(COMMITTED)
        later_version(bench, changed(processed, ".2", PatientID="P-2"))
        bench.rounds_until(COMMITTED)
        before, after = server.bundles
        assert [one.resource.status for one in before.entry[1:-1]] == ["preliminary", "preliminary"]
        # The same two, of which the one that was not measured again names the other patient no longer, and holds not.
        assert [one.request.url for one in after.entry] == [one.request.url for one in before.entry]
        assert [one.resource.status for one in after.entry[1:-1]] == ["preliminary", "entered-in-error"]
        assert {one.resource.subject.identifier.value for one in after.entry} == {"P-2"}
        assert [one.reference for one in after.entry[-1].resource.result] == [after.entry[1].fullUrl]
        # Under an OBR-3 of its own the other patient was told of neither.
        (right,) = [one for one in ris.messages if str(one.segment("PID")[3]).startswith("P-2")]
        assert not any("GLS" in str(one[3]) for one in right.segments("OBX"))


def forget_front_page(bench: Bench, *, and_what_it_told: bool) -> None:
    """Take a front page out of the ledger, as if retention had."""
    with bench.ledger.transaction() as session:
        one = session.scalars(select(ResultRow).where(ResultRow.role == FRONT_PAGE.value)).one()
        session.execute(
            delete(CommitmentRequest).where(
                CommitmentRequest.delivery_id.in_(select(DeliveryRow.id).where(DeliveryRow.result_id == one.id))
            )
        )
        session.execute(delete(DeliveryRow).where(DeliveryRow.result_id == one.id))
        if and_what_it_told:
            one.job.summary = {}
        session.execute(delete(ResultRow).where(ResultRow.id == one.id))


def test_a_withdrawal_is_made_of_what_the_ledger_keeps_of_a_front_page_that_it_has_forgotten(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    deleted(bench, RejectionReason.PATIENT_SAFETY)
    forget_front_page(bench, and_what_it_told=False)
    bench.rounds_until(COMMITTED)
    first, second = ris.messages
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "X"]
    assert str(first.segment("OBR")[3]) == str(second.segment("OBR")[3])
    assert {str(one[3]) for one in second.segments("OBX")} == {str(one[3]) for one in first.segments("OBX")}
    assert statuses(server.bundles[-1]) == ["available", "entered-in-error", "entered-in-error"]


def test_a_withdrawal_that_cannot_be_made_any_more_is_left_to_a_person_and_not_noted_as_sent(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    """It was noted as acknowledged by receivers that had never heard of it."""
    ris, server = receivers
    bench.rounds_until(COMMITTED)
    deleted(bench, RejectionReason.PATIENT_SAFETY)
    forget_front_page(bench, and_what_it_told=True)
    bench.rounds_until(DEAD)
    assert len(ris.messages) == len(server.bundles) == 1
    left = delivery_overviews(bench.ledger, states=(DEAD,))
    assert {one.destination for one in left} == {"ris", "fhir"}
    assert all("1 of the reports that it withdraws cannot be" in (one.error or "") for one in left)
    with bench.ledger.reading() as session:
        sent = session.scalars(
            select(DeliveryRow.sent_at)
            .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
            .where(ResultRow.role == REJECTION_ROLE)
        )
        assert set(sent) == {None}


def test_a_front_page_that_is_made_again_while_its_message_waits_is_told_with_its_numbers(
    bench: Bench, processed: Processed
) -> None:
    """Its job had lost them until it ended, and what is made again with the same bytes is not sent again."""
    bench.deliverer.deliver_once("ris")
    assert QUEUED in states(bench.ledger)
    with bench.ledger.reading() as session:
        closing = session.scalars(select(JobRow.id).order_by(JobRow.id.desc())).first()
    assert closing is not None
    requeue_job(bench.ledger, closing, now=utc_now())
    with receivers_of(bench) as (ris, server):
        bench.rounds_until(COMMITTED)
        assert any(str(one[5]) == "46.4" for one in ris.messages[-1].segments("OBX"))
        assert any("für die Forschung" in str(one[5]) for one in ris.messages[-1].segments("OBX"))
        assert len(server.bundles[-1].entry) == 3
        # It says something else now, and the first one has to be taken back.
        bench._complete_front_page(changed(processed, ".2"))
        bench.rounds_until(COMMITTED)
        deleted(bench, RejectionReason.PATIENT_SAFETY)
        bench.rounds_until(COMMITTED)
        told = [one for one in ris.messages if str(one.segment("OBR")[25]) == "X"]
        assert [sum(str(obx[5]) == "46.4" for obx in one.segments("OBX")) for one in told] == [1, 1]


def keep_images(bench: Bench, cine: Cine, patient_id: str) -> None:
    """The files of the images that the bench's ledger holds."""
    with bench.ledger.reading() as session:
        paths = [bench.files.absolute(one) for one in session.scalars(select(InstanceRow.path))]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = dcmread(cine.paths[0])
        image.PatientID = patient_id
        image.save_as(path)


def remove_front_page_file(bench: Bench) -> None:
    with bench.ledger.reading() as session:
        (path,) = session.scalars(select(ResultRow.path).where(ResultRow.role == FRONT_PAGE.value))
    bench.files.remove(path)


def test_a_report_that_another_route_took_over_is_withdrawn_though_its_file_is_gone(
    bench: Bench, cine: Cine, processed: Processed, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    keep_images(bench, cine, "P-1")
    bench.rounds_until(COMMITTED)
    remove_front_page_file(bench)
    contents = study_contents(bench.ledger, STUDY_UID)
    routed = [route("infarct", (f"{STUDY_UID}.1",))]
    assert add_jobs(bench.ledger, contents, routed, reason="an order came", by="scheduler", now=utc_now())
    bench.completed(changed(processed, ".2"))
    routes = {
        "cine": Route(destinations=("ris", "fhir"), leaves_to=frozenset({"infarct"})),
        "infarct": Route(destinations=("ris", "fhir")),
    }
    node = bench.node.model_copy(update={"routes": routes})
    assert reject_superseded(bench.ledger, bench.files, node, utc_now()) == 1
    bench.rounds_until(COMMITTED)
    told: dict[str, list[str]] = {}
    for one in ris.messages:
        told.setdefault(str(one.segment("OBR")[3]), []).append(str(one.segment("OBR")[25]))
    assert sorted(told.values()) == [["P"], ["P", "X"]]
    of_first = [one for one in server.bundles if "/cine" in one.entry[-1].request.url]
    assert statuses(of_first[-1]) == ["available", "entered-in-error", "entered-in-error"]


@pytest.mark.parametrize(("patient_id", "withdrawn"), [("P-1", False), ("P-0", True)])
def test_the_images_tell_whose_an_earlier_report_is_whose_file_is_gone(
    bench: Bench,
    cine: Cine,
    processed: Processed,
    receivers: tuple[MllpReceiver, FhirReceiver],
    patient_id: str,
    withdrawn: bool,
) -> None:
    """A withdrawal under the number of the later report would take that one back."""
    ris, _ = receivers
    keep_images(bench, cine, patient_id)
    bench.rounds_until(COMMITTED)
    remove_front_page_file(bench)
    later_version(bench, changed(processed, ".2"))
    bench.rounds_until(COMMITTED)
    assert [str(one.segment("OBR")[25]) for one in ris.messages] == ["P", "P", *(["X"] if withdrawn else [])]
    with bench.ledger.reading() as session:
        (rejected,) = session.scalars(select(EventRow).where(EventRow.kind == "results rejected"))
    assert "not_told" not in rejected.detail


def test_reports_of_two_earlier_patients_are_withdrawn_from_each(
    tmp_path: Path, processed: Processed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret")
    with (
        made_bench(tmp_path, processed, {"ventricular_function": (EF,)}) as bench,
        receivers_of(bench) as (ris, _),
    ):
        bench.rounds_until(COMMITTED)
        association = associate(bench.ledger, at=utc_now())
        late = an_instance(association, 8, study=STUDY_UID, series=f"{STUDY_UID}.1")
        record_instances(bench.ledger, [late], at=utc_now())
        close_association(bench.ledger, association, outcome="released", at=utc_now())
        routed = [route(series=(f"{STUDY_UID}.1",))]
        assert create_jobs(bench.ledger, study_contents(bench.ledger, STUDY_UID), routed, reason="test", now=utc_now())
        bench.completed(changed(processed, ".2", PatientID="P-2"))
        bench.rounds_until(COMMITTED)
        # The scheduler did not come to look before a third version.
        later_version(bench, changed(processed, ".3", PatientID="P-3"))
        bench.rounds_until(COMMITTED)
        told = [(str(one.segment("PID")[3])[:3], str(one.segment("OBR")[25])) for one in ris.messages]
        assert sorted(told) == [("P-1", "P"), ("P-1", "X"), ("P-2", "P"), ("P-2", "X"), ("P-3", "P")]


def test_what_fails_is_tried_again_and_sent_under_the_same_identity(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    ris.answers += ["AE", "silence"]
    server.statuses += [500, 503]
    bench.rounds_until(COMMITTED)
    assert len(ris.messages) == len(server.bundles) == 1
    failed = {one.destination: one.failed_attempts for one in overview(bench.ledger)}
    # 503 is an outage and counts against nothing.
    assert failed == {"ris": 2, "fhir": 1}
    assert not outages(bench.ledger)


def test_what_is_rejected_is_a_dead_letter_at_once_and_can_be_sent_again(
    bench: Bench, receivers: tuple[MllpReceiver, FhirReceiver]
) -> None:
    ris, server = receivers
    ris.answers.append("AR")
    server.statuses.append(422)
    bench.rounds_until(DEAD)
    assert {one.failed_attempts for one in overview(bench.ledger)} == {1}
    assert any("AR" in str(one.error) for one in overview(bench.ledger))
    assert requeue_deliveries(bench.ledger, Selection(), now=utc_now()) == 2
    bench.rounds_until(COMMITTED)
    assert len(ris.messages) == len(server.bundles) == 1


def test_receivers_that_are_away_are_waited_for(bench: Bench) -> None:
    for _ in range(8):
        for destination in ("ris", "fhir"):
            bench.deliverer.deliver_once(destination)
    assert states(bench.ledger) == [QUEUED, QUEUED]
    assert {one.destination for one in outages(bench.ledger)} == {"ris", "fhir"}
    assert {one.failed_attempts for one in overview(bench.ledger)} == {0}
    destinations = bench.node.results.destinations
    assert destinations["ris"].hl7 is not None
    assert destinations["fhir"].fhir is not None
    with mllp_receiver(destinations["ris"].hl7.port), fhir_receiver(urlsplit(destinations["fhir"].fhir.url).port or 0):
        bench.rounds_until(COMMITTED)


def test_a_destination_is_of_one_kind() -> None:
    with pytest.raises(ValueError, match="one of"):
        DestinationProfile(peer="pacs", hl7=RECEIVER)
    with pytest.raises(ValueError, match="one of"):
        DestinationProfile()
    assert not DestinationProfile(hl7=RECEIVER).takes_objects
    assert DestinationProfile(peer="pacs").takes_objects
