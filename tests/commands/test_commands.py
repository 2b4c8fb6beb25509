"""The command line as its users see it: exit status, tables, JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom.config
import pytest
import structlog
from deliver.web_pacs import Said, web_pacs
from interop.ports import free_port
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from dicom_node import cli
from dicom_node.commands.send import parse_address
from dicom_node.commands.terminal import ExitCode
from dicom_node.errors import ConfigurationError
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.plain_json import jsonable
from pipelines.package import packages


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]
COMMANDS = (
    *("serve", "demo", "send", "analyze", "status", "studies"),
    *("delete", "deliveries", "quarantine", "adopt"),
    *("jobs", "explain", "train", "evaluate", "analyses", "models", "phantom", "check"),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    validation = pydicom.config.settings.reading_validation_mode

    def ran(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["dicom-node", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), out, err)

    yield ran
    # What a command sets for its process must not outlive it here.
    structlog.reset_defaults()
    pydicom.config.settings.reading_validation_mode = validation


def write_localizer(path: Path, study: str = "1.2.3.4") -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, study + ".1"
    dataset.FrameOfReferenceUID = study + ".2"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Nobody^A", "1", "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20260101", "120000", "", ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription = "MR", "", "localizer"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [2, 2], 8
    dataset.Rows = dataset.Columns = 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.arange(32 * 32, dtype=np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_configuration(tmp_path: Path, pacs_port: int) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
node: {{port: {free_port()}}}
peers:
  scanner: {{ae_title: SCANNER, may: [send]}}
  pacs: {{ae_title: PACS, host: 127.0.0.1, port: {pacs_port}, may: [receive]}}
routes:
  cine: {{destinations: [pacs]}}
results:
  destinations:
    pacs: {{peer: pacs}}
""",
        encoding="utf-8",
    )
    return path


def test_help_names_every_command(run: Run) -> None:
    shown = run("--help")
    assert shown.status == ExitCode.OK
    for command in [
        "serve",
        "demo",
        "send",
        "analyze",
        "status",
        "studies",
        "jobs",
        "explain",
        "train",
        "evaluate",
        "models",
        "check",
    ]:
        assert command in shown.out


def test_check_says_which_peers_answer(run: Run, tmp_path: Path) -> None:
    port = free_port()
    config = write_configuration(tmp_path, port)
    silent = run("check", "--config", config)
    assert silent.status == ExitCode.PEER
    with Pacs(PacsSettings(tmp_path / "pacs", port)):
        answered = run("check", "--config", config, "--json")
    assert answered.status == ExitCode.OK
    document = json.loads(answered.out)
    assert document["peers"]["pacs"]["reachable"] is True
    assert document["peers"]["scanner"] is None


def test_check_asks_web_destinations(run: Run, tmp_path: Path) -> None:
    with web_pacs() as pacs:
        config = write_configuration(tmp_path, free_port())
        config.write_text(
            f"storage: {{database: 'sqlite:///{tmp_path}/ledger.sqlite', directory: '{tmp_path}/instances'}}\n"
            f"results: {{destinations: {{archive: {{web: {{url: '{pacs.root}'}}}}}}}}\n"
            "routes: {cine: {destinations: [archive]}}\n",
            encoding="utf-8",
        )
        answered = run("check", "--config", config, "--json")
        assert json.loads(answered.out)["web_destinations"]["archive"]["reachable"] is True
        pacs.on_query = lambda _asked: Said(401)
        refused = run("check", "--config", config)
    assert refused.status == ExitCode.PEER
    assert "archive" in refused.out
    assert "401" in refused.out


def test_wrong_configuration_is_one_line_and_usage(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("node:\n  prot: 1\n", encoding="utf-8")
    for command in (("check",), ("serve",), ("status",), ("jobs",), ("studies",), ("explain", "1.2.3")):
        wrong = run(*command, "--config", path)
        assert wrong.status == ExitCode.USAGE
        assert f"{path}:2: node.prot" in wrong.err
        assert "Traceback" not in wrong.err


def test_send_reports_each_object(run: Run, tmp_path: Path) -> None:
    for number in range(3):
        write_localizer(tmp_path / "images" / "deep" / f"{number}")
    (tmp_path / "images" / "notes.txt").write_text("not DICOM", encoding="utf-8")
    port = free_port()
    address = f"PACS@127.0.0.1:{port}"
    unreachable = run("send", tmp_path / "images", "--to", address)
    assert unreachable.status == ExitCode.PEER
    assert "cannot be reached" in unreachable.out
    with Pacs(PacsSettings(tmp_path / "pacs", port)) as pacs:
        sent = run("send", tmp_path / "images", "--to", address, "--json")
        held = pacs.held()
        config = write_configuration(tmp_path, port)
        by_name = run("send", tmp_path / "images", "--to", "pacs", "--config", config, "--json")
    assert sent.out == by_name.out
    assert sent.status == ExitCode.OK
    assert json.loads(sent.out) == {"sent": 3, "failed": []}
    assert len(held) == 3
    for unknown in ("nonsense", "scanner"):
        refused = run("send", tmp_path, "--to", unknown, "--config", config)
        assert refused.status == ExitCode.USAGE
        assert "neither an address nor a peer with host and port" in refused.err


@pytest.mark.parametrize(
    "text", ["PACS", "PACS@host", "@host:1", "PACS@host:0", "PACS@host:70000", "SEVENTEEN-LETTERS@h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an address"):
        parse_address(text)


def test_address() -> None:
    peer = parse_address("MY PACS@[::1]:104")
    assert (peer.ae_title, peer.host, peer.port) == ("MY PACS", "::1", 104)


def test_commands_on_an_empty_ledger(run: Run, tmp_path: Path) -> None:
    config = write_configuration(tmp_path, free_port())
    ledger = json.loads(run("status", "--config", config, "--json").out)["ledger"]
    assert ledger["studies"] == ledger["instances"] == ledger["quarantined"] == 0
    assert json.loads(run("studies", "--config", config, "--json").out) == []
    assert json.loads(run("jobs", "--config", config, "--json").out) == {
        "jobs": [],
        "jobs_in_all": 0,
        "dead_letters": [],
        "dead_letters_in_all": 0,
        "quarantined": [],
    }
    for command in ("studies", "jobs"):
        assert run(command, "--config", config).status == ExitCode.OK
    unknown = run("explain", "1.2.3", "--config", config)
    assert unknown.status == ExitCode.FAILED
    assert "1.2.3" in unknown.err
    missing = run("jobs", "--retry", 99, "--config", config)
    assert missing.status == ExitCode.FAILED
    assert "99" in missing.err


def test_analyze_declines_what_is_not_cine_with_a_report(run: Run, tmp_path: Path) -> None:
    for number in range(2):
        write_localizer(tmp_path / "in" / str(number))
    write_localizer(tmp_path / "in" / "other" / "a.dcm", study="1.2.3.5")
    (tmp_path / "in" / "README").write_text("words", encoding="utf-8")
    out = tmp_path / "out"
    declined = run("analyze", tmp_path / "in", "--output", out, "--json")
    assert declined.status == ExitCode.REFUSED, declined.err
    document = json.loads(declined.out)
    assert document == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [one["study_instance_uid"] for one in document["studies"]] == ["1.2.3.4", "1.2.3.5"]
    for one in document["studies"]:
        assert [(each["verdict"], each["numbers"]) for each in one["analyses"]] == [("declined", {})] * len(packages())
        assert one["stacks"] == []
        assert one["omissions"]
        assert one["rejected"] == []
        assert any("short-axis" in refusal["sentence"] for refusal in one["refusals"])
        objects = [dcmread(out / each["path"]) for each in one["objects"]]
        assert [each.Modality for each in objects].count("SR") == 1
        assert {each.StudyInstanceUID for each in objects} == {one["study_instance_uid"]}
        assert {"assemble", "encode", "gate"} <= set(one["seconds"])


def test_analyze_twice_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    write_localizer(tmp_path / "in" / "1")
    files = []
    for name in ("first", "second"):
        run("analyze", tmp_path / "in", "--output", tmp_path / name)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.dcm")})
    digests = [{name: hashlib.sha256(content).hexdigest() for name, content in each.items()} for each in files]
    assert digests[0] == digests[1]
    assert files[0]


@pytest.mark.parametrize("failing", ["1.2.3.4", "1.2.3.5"])
def test_a_study_that_fails_costs_the_others_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    from dicom_node.execute import process

    real = process.process_study

    def fails(paths: object, *, study_instance_uid: str, **rest: object) -> object:
        if study_instance_uid == failing:
            raise MemoryError
        return real(paths, study_instance_uid=study_instance_uid, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(process, "process_study", fails)
    write_localizer(tmp_path / "in" / "a")
    write_localizer(tmp_path / "in" / "b", study="1.2.3.5")
    out = tmp_path / "out"
    assert run("analyze", tmp_path / "in", "--output", out).status == ExitCode.FAILED
    studies = json.loads((out / "results.json").read_text(encoding="utf-8"))["studies"]
    for one in studies:
        assert (one["failed"] is not None) == (one["study_instance_uid"] == failing)
        assert bool(one["objects"]) == (one["study_instance_uid"] != failing)
    assert len(studies) == 2


def test_analyze_without_dicom_is_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("words", encoding="utf-8")
    assert run("analyze", tmp_path / "in", "--output", tmp_path / "out").status == ExitCode.USAGE


def test_an_output_folder_that_cannot_be_made_is_one_line(run: Run, tmp_path: Path) -> None:
    write_localizer(tmp_path / "in" / "a.dcm")
    (tmp_path / "file").write_text("", encoding="utf-8")
    refused = run("analyze", tmp_path / "in", "--output", tmp_path / "file" / "out")
    assert refused.status == ExitCode.FAILED
    assert refused.err == f"dicom-node: {tmp_path / 'file' / 'out'}: Not a directory\n"


def test_models_print_their_cards(run: Run) -> None:
    cards = json.loads(run("models", "--json").out)
    assert {"heart-localiser", "ventricle-segmentation"} <= {card["name"] for card in cards}
    assert all(card["weights_sha256"] and card["licence"] for card in cards)
    assert run("models").status == ExitCode.OK


def test_training_wants_patients_or_phantoms(run: Run, tmp_path: Path) -> None:
    for arguments in ((), ("--data", tmp_path, "--phantoms", 2)):
        result = run("train", "segmentation", "--output", tmp_path / "runs", *arguments)
        assert result.status == ExitCode.USAGE
        assert "either --data or --phantoms" in result.err
    assert not (tmp_path / "runs").exists()


def test_evaluate_refuses_a_folder_that_is_not_acdc(run: Run, tmp_path: Path) -> None:
    wrong = run("evaluate", "segmentation", "--data", tmp_path)
    assert wrong.status == ExitCode.USAGE
    assert "Traceback" not in wrong.err


def test_jsonable_has_no_nan_and_refuses_what_it_does_not_know() -> None:
    assert jsonable({ExitCode.OK: np.array([1.0, np.nan]), "set": {2, 1}}) == {"ok": [1.0, None], "set": [1, 2]}
    with pytest.raises(TypeError):
        jsonable(object())


def test_no_command_prints_patient_data(run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_localizer(tmp_path / "in" / "1")
    dataset = dcmread(tmp_path / "in" / "1")
    dataset.PatientName = "Secretive^Sally"
    with disable_value_validation():
        dataset.PatientBirthDate = "19-MAR-1931"
        dataset.StudyDate = "20120000"
        dataset.save_as(tmp_path / "in" / "1")
    declined = run("analyze", tmp_path / "in", "--output", tmp_path / "out")
    told = declined.out + declined.err + "".join(str(warning.message) for warning in recwarn)
    assert declined.status == ExitCode.REFUSED
    assert "Secretive" not in told
    assert "1931" not in told
