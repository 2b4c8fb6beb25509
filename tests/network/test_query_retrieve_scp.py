"""What workstations find and fetch from the node: dcmtk and Orthanc as peers, and an SCU that does what they do not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit.reading import ReadMessage, read_trail
from interop.dcmtk import findscu, getscu, movescu, storescp
from interop.orthanc import AE_TITLE as ORTHANC
from interop.orthanc import Orthanc
from interop.ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.config import AuditSettings, NodeSettings, Peer, PeerPermission
from dicom_node.network.sender import ScuSettings, send_files
from network.objects import MR, data_set_bytes, mr_image, new_uid, save
from network.running_node import NODE, SCANNER, RunningReceiver, configuration, receiver_thread
from storage.ledger import utc_now
from storage.retention import expire_studies
from storage.schema import InstanceRow, StudyAttributesRow

pytestmark = pytest.mark.peers

WORKSTATION = "WS1"
FIND, GET, MOVE = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)


def image(number: int, *, study: str, series: str, patient: str, name: str, day: str) -> Dataset:
    made = mr_image(study=study, series=series, seed=number)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    made.PatientID, made.PatientName, made.StudyDate = patient, name, day
    made.InstanceNumber, made.SeriesNumber, made.AccessionNumber = number, 7, f"A{patient}"
    return made


STUDIES = {
    "1.2.1": ("P1", "Müller^Jörg", "20240101", 3),
    "1.2.2": ("P1", "Müller^Jörg", "20250315", 2),
    "1.2.3": ("P2", "Doe^Jane", "20250316", 1),
}


@contextlib.contextmanager
def filled_node(folder: Path) -> Iterator[RunningReceiver]:
    """A node that holds three studies of two patients; a workstation may query it, and has a port for C-MOVE."""
    may = frozenset({PeerPermission.QUERY})
    node = configuration(
        folder,
        audit=AuditSettings(file=folder / "audit.log"),
        node=NodeSettings(ae_title=NODE, address="127.0.0.1", port=free_port(), acse_timeout_s=5, maximum_matches=4),
        peers={
            "scanner": Peer(ae_title=SCANNER),
            "workstation": Peer(ae_title=WORKSTATION, host="127.0.0.1", port=free_port(), may=may),
            "down": Peer(ae_title="DOWN", host="127.0.0.1", port=1, may=frozenset()),
            "orthanc": Peer(ae_title=ORTHANC, host="127.0.0.1", port=free_port(), may=frozenset()),
        },
    )
    with receiver_thread(node) as running:
        paths = [
            save(image(number, study=study, series=f"{study}.1", patient=patient, name=name, day=day), folder)
            for study, (patient, name, day, count) in STUDIES.items()
            for number in range(1, count + 1)
        ]
        sent = send_files(paths, Peer(ae_title=NODE, host="127.0.0.1", port=running.port), ScuSettings(SCANNER))
        assert [outcome.status for outcome in sent] == [0x0000] * len(paths)
        yield running


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    with filled_node(tmp_path_factory.mktemp("filled")) as running:
        yield running


@pytest.fixture
def node(filled: RunningReceiver, dcmtk: None) -> RunningReceiver:
    return filled


@contextlib.contextmanager
def workstation(
    node: RunningReceiver,
    *models: str,
    title: str = WORKSTATION,
    storage: tuple[str, ...] = (),
    syntax: str = ExplicitVRLittleEndian,
    store: object = lambda _event: 0x0000,
) -> Iterator[Association]:
    entity = AE(title)
    for model in models:
        entity.add_requested_context(model, [ExplicitVRLittleEndian])
    roles = []
    for uid in storage:
        entity.add_requested_context(uid, [syntax])
        roles.append(build_role(uid, scp_role=True))
    association = entity.associate(
        "127.0.0.1", node.port, ae_title=NODE, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def keys(level: str, **values: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier


def find(node: RunningReceiver, identifier: Dataset, model: str = FIND) -> tuple[list[Dataset], list[int]]:
    """Matches, and the statuses in the order they came, equal neighbours once."""
    matches, statuses = [], list[int]()
    with workstation(node, model) as association:
        for response, match in association.send_c_find(identifier, model):
            if not statuses or statuses[-1] != response.Status:
                statuses.append(int(response.Status))
            if match is not None:
                matches.append(match)
    return matches, statuses


def test_findscu_gets_studies_series_and_images(node: RunningReceiver, tmp_path: Path) -> None:
    here = {"port": node.port, "called": NODE, "calling": WORKSTATION}
    wanted = ("PatientID", "PatientName", "StudyInstanceUID", "ModalitiesInStudy", "NumberOfStudyRelatedInstances")
    done, studies = findscu(
        tmp_path / "studies",
        ["QueryRetrieveLevel=STUDY", "StudyDate=20250101-20251231", *(f"{keyword}" for keyword in wanted)],
        **here,
    )
    assert done.returncode == 0, done.stderr
    found = {
        str(one.StudyInstanceUID): (one.PatientID, str(one.PatientName), one.NumberOfStudyRelatedInstances)
        for one in studies
    }
    assert found == {"1.2.2": ("P1", "Müller^Jörg", 2), "1.2.3": ("P2", "Doe^Jane", 1)}
    assert {(one.ModalitiesInStudy, one.RetrieveAETitle, one.InstanceAvailability) for one in studies} == {
        ("MR", NODE, "ONLINE")
    }
    _, series = findscu(
        tmp_path / "series",
        ["QueryRetrieveLevel=SERIES", "StudyInstanceUID=1.2.1", "SeriesInstanceUID", "Modality", "SeriesNumber"],
        **here,
    )
    assert [(str(one.SeriesInstanceUID), one.Modality, one.SeriesNumber) for one in series] == [("1.2.1.1", "MR", 7)]
    _, images = findscu(
        tmp_path / "images",
        [
            "QueryRetrieveLevel=IMAGE",
            "StudyInstanceUID=1.2.1",
            "SeriesInstanceUID=1.2.1.1",
            "SOPInstanceUID=1.2.1.1.1\\1.2.1.1.3\\9.9",
            "InstanceNumber",
            "Rows",
        ],
        **here,
    )
    assert [(str(one.SOPInstanceUID), one.InstanceNumber, one.Rows) for one in images] == [
        ("1.2.1.1.1", 1, 32),
        ("1.2.1.1.3", 3, 32),
    ]


def test_findscu_asks_for_patients(node: RunningReceiver, tmp_path: Path) -> None:
    done, patients = findscu(
        tmp_path / "patients",
        ["QueryRetrieveLevel=PATIENT", "PatientID", "PatientName=m*", "NumberOfPatientRelatedStudies"],
        port=node.port,
        called=NODE,
        calling=WORKSTATION,
        model="-P",
    )
    assert done.returncode == 0, done.stderr
    assert [(one.PatientID, one.NumberOfPatientRelatedStudies) for one in patients] == [("P1", 2)]


def test_keys_match_and_come_back_as_the_standard_says(node: RunningReceiver) -> None:
    everything = keys("STUDY", StudyInstanceUID="")
    assert len(find(node, everything)[0]) == 3
    assert find(node, everything)[1] == [0xFF00, 0x0000]
    accented = keys("STUDY", PatientName="müller^J*", StudyInstanceUID="")
    accented.SpecificCharacterSet = "ISO_IR 100"
    assert [str(one.StudyInstanceUID) for one in find(node, accented)[0]] == ["1.2.1", "1.2.2"]
    (match,), statuses = find(node, keys("STUDY", AccessionNumber="AP2", Modality="", PatientComments="x"))
    assert statuses == [0xFF01, 0x0000]
    assert (match.StudyInstanceUID, match.Modality, match.PatientComments) == ("1.2.3", "", "")
    assert find(node, keys("STUDY", AccessionNumber="nobody's"))[1] == [0x0000]
    with_sequence = keys("STUDY", StudyInstanceUID="1.2.3")
    with_sequence.RequestAttributesSequence = []
    (match,), statuses = find(node, with_sequence)
    assert (len(match.RequestAttributesSequence), statuses) == (0, [0xFF01, 0x0000])
    of_patient = keys("STUDY", PatientID="P1", StudyInstanceUID="")
    assert len(find(node, of_patient, PatientRootQueryRetrieveInformationModelFind)[0]) == 2


@pytest.mark.parametrize(
    ("level", "values"),
    [
        ("SERIES", {"SeriesInstanceUID": ""}),
        ("SERIES", {"StudyInstanceUID": "1.2.1\\1.2.2"}),
        ("IMAGE", {"StudyInstanceUID": "1.2.1"}),
        ("PATIENT", {"PatientID": ""}),
        ("FRAME", {}),
        ("", {}),
    ],
)
def test_a_query_that_is_not_hierarchical_is_refused(node: RunningReceiver, level: str, values: dict[str, str]) -> None:
    assert find(node, keys(level, **values)) == ([], [0xA900])


@pytest.fixture
def own_node(tmp_path: Path, dcmtk: None) -> Iterator[RunningReceiver]:
    """A node of one test that sends it more."""
    with filled_node(tmp_path) as running:
        yield running


def test_too_many_matches_and_cancelled_queries_end_early(own_node: RunningReceiver, tmp_path: Path) -> None:
    node = own_node
    more = [
        save(image(1, study=f"1.9.{n}", series=f"1.9.{n}.1", patient="P9", name="Nine", day="20200101"), tmp_path)
        for n in range(5)
    ]
    send_files(more, Peer(ae_title=NODE, host="127.0.0.1", port=node.port), ScuSettings(SCANNER))
    many = keys("STUDY", PatientID="P9", StudyInstanceUID="")
    matches, statuses = find(node, many)
    assert (len(matches), statuses) == (4, [0xFF00, 0xA700])
    with workstation(node, FIND) as association:
        seen = []
        for response, _ in association.send_c_find(many, FIND, msg_id=3):
            if not seen:
                association.send_c_cancel(3, query_model=FIND)
            seen.append(response.Status)
        # The cancel may come too late for so few matches; then the answer is what it would have been.
        assert seen[-1] in (0xFE00, 0xA700)


def test_getscu_gets_the_bytes_that_came(node: RunningReceiver, tmp_path: Path) -> None:
    done = getscu(
        tmp_path / "got",
        ["QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.1"],
        port=node.port,
        called=NODE,
        calling=WORKSTATION,
    )
    assert done.returncode == 0, done.stderr
    held = {row.sop_instance_uid: node.file_of(row) for row in node.instances()}
    got = {str(dcmread(path).SOPInstanceUID): path for path in (tmp_path / "got").iterdir()}
    assert set(got) == {f"1.2.1.1.{number}" for number in (1, 2, 3)}
    for uid, path in got.items():
        assert data_set_bytes(path) == data_set_bytes(held[uid])


def test_movescu_moves_to_storescp(node: RunningReceiver, tmp_path: Path) -> None:
    port = node.configuration.peers["workstation"].port
    assert port is not None
    with storescp(tmp_path / "moved", port=port):
        done = movescu(
            ["QueryRetrieveLevel=SERIES", "StudyInstanceUID=1.2.1", "SeriesInstanceUID=1.2.1.1"],
            port=node.port,
            called=NODE,
            calling=WORKSTATION,
            destination=WORKSTATION,
        )
    assert done.returncode == 0, done.stderr
    held = {row.sop_instance_uid: node.file_of(row) for row in node.instances()}
    moved = {str(dcmread(path).SOPInstanceUID): path for path in (tmp_path / "moved").iterdir()}
    assert set(moved) == {f"1.2.1.1.{number}" for number in (1, 2, 3)}
    assert all(data_set_bytes(path) == data_set_bytes(held[uid]) for uid, path in moved.items())


def test_movescu_moves_to_orthanc(node: RunningReceiver, tmp_path: Path, orthanc: Orthanc) -> None:
    # The peer's port is configured before Orthanc chooses its own.
    orthanc.stop()
    port = node.configuration.peers["orthanc"].port
    assert port is not None
    orthanc.dicom_port = port
    orthanc.start()
    done = movescu(
        ["QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.1\\1.2.3"],
        port=node.port,
        called=NODE,
        calling=WORKSTATION,
        destination=ORTHANC,
    )
    assert done.returncode == 0, done.stderr
    assert set(orthanc.sop_instance_uids()) == {"1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3", "1.2.3.1.1"}


def move(node: RunningReceiver, identifier: Dataset, destination: str) -> list[tuple[int, list[int], list[str]]]:
    """Statuses with the counts remaining, completed, failed, warning, and the failed UIDs."""
    answers = []
    with workstation(node, MOVE) as association:
        for response, failed in association.send_c_move(identifier, destination, MOVE):
            answers.append(_answer(response, failed))
    return answers


def _answer(response: Dataset, identifier: Dataset | None) -> tuple[int, list[int], list[str]]:
    names = ("Remaining", "Completed", "Failed", "Warning")
    counts = [int(response.get(f"NumberOf{name}Suboperations", -1)) for name in names]
    failed = identifier.get("FailedSOPInstanceUIDList", []) if identifier is not None else []
    return int(response.Status), counts, [failed] if isinstance(failed, str) else list(failed)


def test_moves_that_cannot_be_done_say_so(node: RunningReceiver) -> None:
    study = keys("STUDY", StudyInstanceUID="1.2.2")
    assert [status for status, _, _ in move(node, study, "NOBODY")] == [0xA801]
    assert move(node, study, "DOWN")[-1] == (0xA702, [-1, 0, 2, 0], ["1.2.2.1.1", "1.2.2.1.2"])
    assert move(node, keys("STUDY", StudyInstanceUID="9.9"), WORKSTATION) == [(0x0000, [-1, 0, 0, 0], [])]
    assert [status for status, _, _ in move(node, keys("STUDY", StudyInstanceUID=""), WORKSTATION)] == [0xA900]
    assert [status for status, _, _ in move(node, keys("IMAGE", SOPInstanceUID="1.2"), WORKSTATION)] == [0xA900]


def test_what_the_workstation_refuses_is_listed_as_failed(node: RunningReceiver) -> None:
    answers, messages = [], []

    def store(event: evt.Event) -> int:
        messages.append(event.dataset.SOPInstanceUID)
        return 0xA700 if event.dataset.InstanceNumber == 2 else 0x0000

    with workstation(node, GET, storage=(MR,), store=store) as association:
        for response, identifier in association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.1"), GET):
            answers.append(_answer(response, identifier))
    assert messages == ["1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3"]
    assert answers == [
        (0xFF00, [2, 1, 0, 0], []),
        (0xFF00, [1, 1, 1, 0], []),
        (0xB000, [-1, 2, 1, 0], ["1.2.1.1.2"]),
    ]


def test_the_audit_trail_tells_who_asked_and_who_got_what(node: RunningReceiver) -> None:
    trail = node.configuration.audit.file
    assert trail is not None

    def new() -> list[ReadMessage]:
        return read_trail(trail)[before:]

    before = len(read_trail(trail)) if trail.exists() else 0
    find(node, keys("STUDY", PatientName="Doe^Jane", PatientID="P2"))
    (asked,) = new()
    assert (asked.event, [one["UserID"] for one in asked.participants("110153")]) == ("110112", [WORKSTATION])
    assert b"Doe" not in trail.read_bytes()
    before += 1

    def store(event: evt.Event) -> int:
        return 0xA700 if event.dataset.InstanceNumber == 2 else 0x0000

    with workstation(node, GET, storage=(MR,), store=store) as association:
        list(association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.1"), GET))
    begun, got, failed = new()
    assert [one.event for one in (begun, got, failed)] == ["110102", "110104", "110104"]
    assert [(one.outcome, one.instances()) for one in (got, failed)] == [(0, {MR: 2}), (4, {MR: 1})]
    for one in (begun, got, failed):
        assert (one.studies, [to["UserID"] for to in one.participants("110152")]) == (["1.2.1"], [WORKSTATION])
    before += 3
    move(node, keys("STUDY", StudyInstanceUID="1.2.3"), "DOWN")
    assert [(one.event, one.outcome, one.participants("110152")[0]["UserID"]) for one in new()] == [
        ("110102", 0, "DOWN"),
        ("110104", 4, "DOWN"),
    ]


def test_without_the_scp_role_nothing_can_be_got(node: RunningReceiver) -> None:
    with workstation(node, GET) as association:
        answers = [_answer(*one) for one in association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.3"), GET)]
    assert answers == [(0xA702, [-1, 0, 1, 0], ["1.2.3.1.1"])]


def test_a_cancelled_retrieval_stops(node: RunningReceiver) -> None:
    stored, answers = [], []
    with workstation(node, GET, storage=(MR,), store=lambda event: store(event)) as association:

        def store(event: evt.Event) -> int:
            if not stored:
                association.send_c_cancel(5, query_model=GET)
            stored.append(event.request.AffectedSOPInstanceUID)
            return 0x0000

        for response, identifier in association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.1"), GET, msg_id=5):
            answers.append(_answer(response, identifier))
    assert (answers[-1], len(stored)) == ((0xFE00, [2, 1, 0, 0], []), 1)


def test_a_lost_file_fails_alone_and_a_removed_study_is_not_found(tmp_path: Path) -> None:
    may = frozenset({PeerPermission.QUERY, PeerPermission.SEND})
    node = configuration(tmp_path, peers={"both": Peer(ae_title=WORKSTATION, may=may)})
    got = []
    with receiver_thread(node) as receiver:
        images = [image(n, study="1.2.1", series="1.2.1.1", patient="P1", name="N", day="20240101") for n in (1, 2)]
        with workstation(receiver, FIND, storage=(MR,)) as association:
            # A peer that may do both negotiates one role or the other.
            assert association.accepted_contexts[1].as_scp
        sent = send_files(
            [save(one, tmp_path) for one in images],
            Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port),
            ScuSettings(WORKSTATION),
        )
        assert all(outcome.error is None for outcome in sent)
        assert len(find(receiver, keys("STUDY", PatientID="P1"))[0]) == 1
        receiver.file_of(receiver.instances()[0]).unlink()
        with workstation(receiver, GET, storage=(MR,), store=lambda event: got.append(event) or 0x0000) as association:
            *_, last = association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.1"), GET)
        assert (_answer(*last), len(got)) == ((0xB000, [-1, 1, 1, 0], ["1.2.1.1.1"]), 1)
        with receiver.ledger.transaction() as session:
            for row in session.query(InstanceRow):
                row.study_version = 1
        wait = utc_now() - utc_now()
        assert expire_studies(receiver.ledger, retention=wait, now=utc_now()) == ("1.2.1",)
        assert find(receiver, keys("STUDY", PatientID="P1")) == ([], [0x0000])
        with receiver.ledger.reading() as session:
            # Patient data leaves with the files.
            assert session.query(StudyAttributesRow).count() == 0


def test_compressed_images_go_out_compressed_or_decompressed(tmp_path: Path) -> None:
    may = frozenset({PeerPermission.QUERY, PeerPermission.SEND})
    node = configuration(tmp_path, peers={"both": Peer(ae_title=WORKSTATION, may=may)})
    compressed = mr_image(study="1.2.1", series="1.2.1.1")
    pixels = compressed.pixel_array
    compressed.compress(RLELossless, generate_instance_uid=False)
    with receiver_thread(node) as receiver:
        here = {"port": receiver.port, "called": NODE, "calling": WORKSTATION}
        peer = Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)
        (sent,) = send_files([save(compressed, tmp_path)], peer, ScuSettings(WORKSTATION))
        assert (sent.error, sent.transcoded) == (None, False)
        done = getscu(tmp_path / "plain", ["QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.1"], **here)
        assert done.returncode == 0, done.stderr
        (plain,) = (tmp_path / "plain").iterdir()
        assert dcmread(plain).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (dcmread(plain).pixel_array == pixels).all()
        got = []

        def store(event: evt.Event) -> int:
            got.append((event.context.transfer_syntax, event.request.DataSet.getvalue()))
            return 0x0000

        with workstation(receiver, GET, storage=(MR,), syntax=RLELossless, store=store) as association:
            *_, (last, _) = association.send_c_get(keys("STUDY", StudyInstanceUID="1.2.1"), GET)
        assert last.Status == 0x0000
        (row,) = receiver.instances()
        assert got == [(RLELossless, data_set_bytes(receiver.file_of(row)))]


def test_who_may_not_query_is_offered_nothing_and_who_may_only_query_cannot_send(node: RunningReceiver) -> None:
    with workstation(node, FIND, GET, MOVE, MR, title=SCANNER) as association:
        assert {str(context.abstract_syntax) for context in association.rejected_contexts} == {FIND, GET, MOVE}
    count = len(node.instances())
    with workstation(node, FIND, MR) as association:
        assert association.send_c_store(mr_image(study=new_uid())).Status == 0x0124
    assert len(node.instances()) == count
