"""The peers themselves: a green interoperability test means nothing when the peer was not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop import dcmtk as scanner
from interop.fixtures import require
from interop.orthanc import AE_TITLE, Orthanc
from interop.tools import SCRIPTS, AbsentTool, tool

pytestmark = [pytest.mark.peers, pytest.mark.xdist_group("peers")]


def test_orthanc_answers_and_stores_what_dcmtk_sends(dcmtk: None, orthanc: Orthanc, sunnybrook_dir: Path) -> None:
    assert scanner.echoscu(port=orthanc.dicom_port, called=AE_TITLE).returncode == 0
    file = sorted(sunnybrook_dir.rglob("*.dcm"))[0]
    sent = scanner.storescu([file], port=orthanc.dicom_port, called=AE_TITLE)
    assert sent.returncode == 0, sent.stdout
    assert len(orthanc.sop_instance_uids()) == 1


def test_orthanc_refuses_another_called_title(dcmtk: None, orthanc: Orthanc) -> None:
    assert scanner.echoscu(port=orthanc.dicom_port, called="SOMEBODY").returncode != 0


def test_an_absent_tool_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(AbsentTool, match="apt-get install dcmtk"):
        tool("dsrdump")


def test_dcmtk_is_not_mistaken_for_the_scripts_of_pynetdicom() -> None:
    require("storescu")
    assert SCRIPTS not in tool("storescu").parents


def test_an_absent_peer_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is absent"):
        require("no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no-such-program is absent"):
        require("no-such-program")
