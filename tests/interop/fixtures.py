"""Fixtures with real peers, for every test folder.

In CI (environment variable ``CI=true``) an absent peer is a failure; elsewhere the test skips and says what to install.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from interop.orthanc import DICOM_WEB_PLUGIN, Modality, Orthanc
from interop.ports import free_port
from interop.tools import AbsentTool, tool


def require(*names: str) -> None:
    """Skip without a program, or fail in CI."""
    try:
        for name in names:
            tool(name)
    except AbsentTool as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def dcmtk() -> None:
    """dcmtk is installed."""
    require("storescu", "echoscu", "dsrdump")


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty Orthanc that knows a modality NODE."""
    require("Orthanc", DICOM_WEB_PLUGIN)
    with Orthanc(tmp_path_factory.mktemp("orthanc"), (Modality("NODE", free_port()),)) as running:
        yield running
