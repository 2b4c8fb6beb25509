"""What ``dicom-node evaluate lge`` says of options that do not belong together, before any heart is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import ConfigurationError
from pipelines.phantom.recipe import Fault


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--phantoms", "1", "--fault", "ghosting"], "--fault needs --by-fault"),
        (["--by-fault", "--fault", "ghosting", "--data", "."], "--by-fault and --ablations need --phantoms"),
        (["--phantoms", "1", "--by-fault", "--pessimistic"], "--by-fault goes with --phantoms and --seed alone"),
        (["--phantoms", "1", "--by-fault", "--keep", "kept"], "--by-fault goes with --phantoms and --seed alone"),
        (["--phantoms", "1", "--by-fault", "--fault", "ghosting", "--fault", "rain", "--fault", "fog"], "fog, rain"),
    ],
)
def test_faults_that_cannot_be_tried_are_refused_with_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["evaluate", "lge", *arguments])
    assert isinstance(result.exception, ConfigurationError)
    assert said in result.exception.what
    assert result.exception.subject == "evaluate lge"
    if said == "fog, rain":
        # All that there are are named, and none of those that were right.
        wrong, _, right = result.exception.what.partition(": one of ")
        assert "ghosting" not in wrong
        assert right.split(", ") == list(Fault)
