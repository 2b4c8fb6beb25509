"""A folder on PYTHONPATH adds an analysis to every command and role of the node, without touching another file.

The folder is ``tests/toy``: a package, an encoder and a model card. Everything here runs in real processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from interop.ports import free_port, wait_until
from interop.tools import script
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from results.synthetic import STUDY_UID, write_cine

from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.results.iod import iod_findings

TOY = Path(__file__).parent / "toy"
FIRST = 9000 + 20 * 45
SLICES = 4


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(TOY), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def command(*arguments: object, status: int = 0) -> str:
    """Standard output of ``dicom-node``, as its users run it: the installed program, started in another folder."""
    ended = subprocess.run(
        [str(script("dicom-node")), *map(str, arguments)],
        env=environment(),
        cwd=TOY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "images"
    write_cine(folder, phases=12, slices=SLICES, size=64)
    return folder


def numbers_of(report: Dataset) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in report.get("ContentSequence") or []:
        if item.ValueType == "NUM":
            found[item.ConceptNameCodeSequence[0].CodeValue] = float(item.MeasuredValueSequence[0].NumericValue)
        found |= numbers_of(item)
    return found


def by_series_number(paths: list[Path]) -> dict[int, list[Dataset]]:
    found: dict[int, list[Dataset]] = {}
    for path in paths:
        dataset = dcmread(path)
        found.setdefault(int(dataset.SeriesNumber), []).append(dataset)
    return found


def check_results(paths: list[Path]) -> None:
    """One image series, one report with one group of the toy, pages, in its block, each clean."""
    series = by_series_number(paths)
    assert set(series) >= {FIRST + 1, FIRST + 5, FIRST + 6, FIRST + 7}
    assert [one.SOPClassUID for one in series[FIRST + 1]] == [MRImageStorage] * SLICES
    (report,) = series[FIRST + 5]
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert report.SeriesDescription == "AI toy brightness report - RESEARCH"
    assert set(numbers_of(report)) == {"BRIGHTNESS"}
    # Its network is of an architecture that only its folder knows.
    assert "toy-model" in str(report)
    assert {one.SOPClassUID for one in series[FIRST + 6]} == {SecondaryCaptureImageStorage}
    assert [one.SOPClassUID for one in series[FIRST + 7]] == [EncapsulatedPDFStorage]
    for path in paths:
        assert not [finding for finding in iod_findings(dcmread(path)) if finding.error]


def test_it_is_listed_with_its_model() -> None:
    listed = {one["name"]: one for one in json.loads(command("analyses", "--json"))}
    assert list(listed)[-1] == "toy"
    toy = listed["toy"]
    assert (toy["gives"], toy["needs"], toy["series_block"]) == ("Brightness", ["short-axis cine"], 45)
    assert toy["steps"] == ["short_axis", "brightness"]
    assert toy["effort"] == {"timeout_s": 60.0, "maximum_attempts": 3, "slot": "cpu", "priority": 5}
    assert "toy-model" in [one["name"] for one in json.loads(command("models", "--json"))]


def test_without_the_folder_a_route_that_names_it_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(configured(tmp_path, 1, 2)), encoding="utf-8")
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [str(script("dicom-node")), "check", "--config", str(config)],
        env=without,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "routes.cine.analyses.0" in ended.stderr
    assert "'toy'" in ended.stderr
    assert "ventricular_function" in ended.stderr


def test_a_package_without_an_encoder_keeps_the_node_from_starting(tmp_path: Path) -> None:
    (tmp_path / "plugin" / "pipelines").mkdir(parents=True)
    (tmp_path / "plugin" / "pipelines" / "toy").symlink_to(TOY / "pipelines" / "toy")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(configured(tmp_path, free_port(), 2)), encoding="utf-8")
    ended = subprocess.run(
        [str(script("dicom-node")), "serve", "--config", str(config)],
        env={**environment(), "PYTHONPATH": str(tmp_path / "plugin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "analysis toy has no encoder" in ended.stderr


def test_it_analyses_a_folder(images: Path, tmp_path: Path) -> None:
    document = json.loads(command("analyze", images, "--output", tmp_path, "--analysis", "toy", "--json"))
    (study,) = document["studies"]
    (analysis,) = study["analyses"]
    assert (analysis["name"], analysis["verdict"]) == ("toy", "delivered")
    assert analysis["numbers"]["largest_mean_grey"] > 0
    assert "Largest mean grey value" in analysis["key_numbers"][0]
    assert study["rejected"] == []
    check_results([tmp_path / one["path"] for one in study["objects"]])
    again = tmp_path / "again"
    command("analyze", images, "--output", again, "--analysis", "toy", "--json")
    for one in study["objects"]:
        assert (again / one["path"]).read_bytes() == (tmp_path / one["path"]).read_bytes()


def test_a_study_that_it_declines_gets_a_refusal_in_its_block(tmp_path: Path) -> None:
    write_cine(tmp_path / "images", phases=12, slices=2, size=64)
    out = tmp_path / "out"
    document = json.loads(
        command("analyze", tmp_path / "images", "--output", out, "--analysis", "toy", "--json", status=3)
    )
    (study,) = document["studies"]
    assert study["analyses"][0]["verdict"] == "declined"
    assert "no short-axis cine stack" in study["analyses"][0]["sentences"][0]
    series = by_series_number([out / one["path"] for one in study["objects"]])
    assert set(series) == {FIRST + 6, FIRST + 7, FIRST + 8}
    assert series[FIRST + 8][0].SeriesDescription == "AI toy brightness NOT ANALYSED - RESEARCH"


TOGETHER = """
import json, sys
from pathlib import Path
from dicom_node.config import ResultSettings
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.gate import check
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.errors import Refusal, RefusalReason
from pipelines.package import packages
from pipelines.study import PackageFindings
from pipelines.toy.package import Brightness
from results.synthetic import CREATED, findings_of, write_cine

cine = write_cine(Path(sys.argv[1]), phases=12, slices=4, size=64)
function = PackageFindings(packages()["ventricular_function"], findings_of(cine))
toy = PackageFindings(packages()["toy"], Findings({Brightness: Brightness((1.0, 2.0) * 6, 1)}))
refusal = Refusal("brightness", RefusalReason.NOT_SUITABLE, "The short-axis stack is black.")
declined = PackageFindings(packages()["toy"], Findings({}, (refusal,)))
sources = SourceDatasets.index(cine.paths)
told = {}
for name, found in {"both": [function, toy], "turned": [toy, function], "one": [function, declined]}.items():
    made = encode_study(cine.study, found, sources, {}, Circumstances(("x",), "cine", ResultSettings(), CREATED))
    assert not any(check(made.objects, sources)), check(made.objects, sources)
    (report,) = [each.dataset for each in made.objects if each.role.value == "report"]
    groups = [item for item in report.ContentSequence[-1].ContentSequence]
    told[name] = {
        "series": sorted({int(each.dataset.SeriesNumber) for each in made.objects}),
        "groups": [group.ContentSequence[0].TextValue for group in groups],
        "texts": [each.TextValue for group in groups for each in group.ContentSequence if each.ValueType == "TEXT"],
        "pages": sum(each.role.value == "summary" for each in made.objects),
        "roles": list(dict.fromkeys(each.role.value for each in made.objects)),
        "description": report.SeriesDescription,
    }
print(json.dumps(told))
"""


def test_packages_that_report_together_share_report_and_pages_in_the_order_of_the_route(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TOY), str(TOY.parent)])
    ended = subprocess.run(
        [sys.executable, "-c", TOGETHER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    both, turned, one = told["both"], told["turned"], told["one"]
    assert set(both["series"]) == {9001, 9002, 9003, 9004, 9005, 9006, 9007, FIRST + 1}
    assert set(turned["series"]) == {9001, 9002, 9003, 9004, FIRST + 1, FIRST + 5, FIRST + 6, FIRST + 7}
    assert both["description"] == "AI cardiac MR report - RESEARCH"
    assert both["groups"][-2:] == ["Brightness", "Quality"]
    assert turned["groups"][0] == "Brightness"
    assert sorted(both["groups"]) == sorted(turned["groups"])
    assert both["roles"][-3:] == ["report", "summary", "summary-pdf"]
    # The one that was declined withholds nothing of the other, and the report says why it is not there.
    assert set(one["series"]) == set(both["series"]) - {FIRST + 1}
    assert both["pages"] == one["pages"] + 1
    assert "Toy brightness: The short-axis stack is black." in one["texts"]


def configured(folder: Path, node_port: int, pacs_port: int) -> dict[str, object]:
    return {
        "node": {"address": "127.0.0.1", "port": node_port, "receiver_processes": 1},
        "peers": {
            "scanner": {"ae_title": "SCANNER", "may": ["send"]},
            "pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "may": ["receive", "send"]},
        },
        "routes": {"cine": {"analyses": ["toy"], "destinations": ["pacs"]}},
        "storage": {
            "database": f"sqlite:///{folder}/ledger.sqlite",
            "directory": str(folder / "instances"),
            "low_watermark_mb": 0,
            "high_watermark_mb": 0,
        },
        "execution": {"quiet_time_s": 2, "incomplete_quiet_time_s": 2, "background_slots": 0},
        "results": {"destinations": {"pacs": {"peer": "pacs"}}},
        "metrics": {"port": free_port()},
    }


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Path, int, Pacs]]:
    """A node that serves the toy, its configuration and port, and a PACS that it delivers to."""
    node_port, pacs_port = free_port(), free_port()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(configured(tmp_path, node_port, pacs_port)), encoding="utf-8")
    callers = {"DICOMNODE": Peer(ae_title="DICOMNODE", host="127.0.0.1", port=node_port)}
    log = tmp_path / "node.log"
    with Pacs(PacsSettings(tmp_path / "pacs", pacs_port, callers=callers)) as pacs, log.open("wb") as errors:
        process = subprocess.Popen(
            [str(script("dicom-node")), "serve", "--config", str(config)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready", log.read_text(encoding="utf-8")
            yield config, node_port, pacs
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.timeout(600)
def test_it_is_served_from_the_scanner_to_the_pacs(node: tuple[Path, int, Pacs], images: Path) -> None:
    config, port, pacs = node
    command("send", images, "--to", f"DICOMNODE@127.0.0.1:{port}", "--from", "SCANNER")

    def manifest_is_there() -> bool:
        return any(
            dcmread(path).SOPClassUID == KeyObjectSelectionDocumentStorage for path in list(pacs.held().values())
        )

    wait_until(manifest_is_there, seconds=400, what="the manifest is in the PACS")
    paths = list(pacs.held().values())
    check_results(paths)
    series = by_series_number(paths)
    (front,), (manifest,) = series[9000], series[9019]
    assert front.SOPClassUID == BasicTextSRStorage
    sections = [item for item in front.ContentSequence if item.ValueType == "CONTAINER"]
    said = [item.TextValue for item in sections[0].ContentSequence if item.ValueType == "TEXT"]
    assert said[0] == "Toy brightness: analysed."
    assert said[1].startswith("Largest mean grey value")
    listed = {str(each.value) for each in manifest.iterall() if each.keyword == "ReferencedSOPInstanceUID"}
    made = {str(one.SOPInstanceUID) for number in series if number > FIRST for one in series[number]}
    assert listed == made | {str(front.SOPInstanceUID)}
    jobs = json.loads(command("jobs", "--config", config, "--json"))["jobs"]
    assert [one["package"] for one in jobs if one["package"] != "front_page"] == ["toy"]
    explained = command("explain", STUDY_UID, "--config", config)
    assert "toy" in explained
    metrics = yaml.safe_load(config.read_text(encoding="utf-8"))["metrics"]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        assert "dicom_node_" in answer.read().decode()
