"""Mistakes that people make with config.yaml: each gets exit status 2 and one sentence with file, line and key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dicom_node import cli
from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError

SOUND = """\
storage: {low_watermark_mb: 0, high_watermark_mb: 0}
peers:
  scanner: {ae_title: MR1}
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 4242, may: [receive]}
routes:
  cine: {destinations: [pacs]}
results:
  destinations:
    pacs: {peer: pacs}
"""
NO_WATERMARKS = "{low_watermark_mb: 0, high_watermark_mb: 0}"
PYDANTIC = re.compile(r"Input should|Extra inputs|valid (frozenset|tuple|dictionary|integer)|pydantic|Traceback|ctx")


Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Exit status and standard error of a command on a configuration."""

    def said(text: str | bytes, *, command: str = "check") -> tuple[int, str]:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setattr("sys.argv", ["dicom-node", command, "--config", str(path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    yield said
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("replaced", "by", "line", "key", "words"),
    [
        ("ae_title: PACS", "ae_title: MR1", 4, "peers.pacs.ae_title", "two peers have the AE title 'MR1'"),
        ("  pacs: {ae_title", "  scanner: {ae_title", 4, "peers.scanner", "written twice (first in line 3)"),
        ("ae_title: PACS", "ae_title: DICOMNODE", 4, "peers.pacs.ae_title", "this node itself"),
        ("host: 127.0.0.1", "host: pacs..example", 4, "peers.pacs.host", "'pacs..example' can be no host"),
        ("{peer: pacs}", "{web: {url: 'http://.pacs/web'}}", 9, "results.destinations.pacs.web.url", "'.pacs' can be"),
        ("routes:\n  cine: {destinations: [pacs]}\n", "", 1, "routes", "no route"),
        ("[pacs]}", "[pasc]}", 6, "routes.cine.destinations.0", "did you mean 'pacs'?"),
        (
            "[pacs]}",
            "[pacs], leaves_to: [sine]}",
            6,
            "routes.cine.leaves_to",
            "no route named 'sine': did you mean 'cine'?",
        ),
        ("[pacs]}", "[pacs], leaves_to: [cine]}", 6, "routes.cine.leaves_to", "it would stand back before itself"),
        ("peer: pacs", "peer: pasc", 9, "results.destinations.pacs.peer", "did you mean 'pacs'?"),
        ("may: [receive]", "may: [recieve]", 4, "peers.pacs.may.0", "did you mean 'receive'?"),
        ("may: [receive]", "may: receive", 4, "peers.pacs.may", "must be a list: write [receive]"),
        ("127.0.0.1", "10.0.0.20:104", 4, "peers.pacs.host", "write host: 10.0.0.20 and port: 104"),
        ("port: 4242", "prot: 4242", 4, "peers.pacs.prot", "did you mean 'port'?"),
        ("port: 4242", "port: many", 4, "peers.pacs.port", "must be a whole number, not 'many'"),
        ("port: 4242", "port: 70000", 4, "peers.pacs.port", "must be at most 65535, not 70000"),
        ("results:", "execution: {devices: [gpu]}\nresults:", 7, "execution.devices.0", "cuda:0"),
        ("results:", "execution: {devices: ['cuda:97']}\nresults:", 7, "execution.devices.0", "is not there"),
        ("results:", "web: {port: 11112}\nresults:", 7, "web.port", "port 11112 is taken by node.port"),
        ("results:", "metrics: {port: 11112}\nresults:", 7, "metrics.port", "port 11112 is taken by node.port"),
        (
            "{low_watermark_mb: 0, high_watermark_mb: 0}",
            "{database: 'mysql://u:s3cret@h/d'}",
            1,
            "storage.database",
            "SQLite or PostgreSQL",
        ),
        (
            NO_WATERMARKS,
            "{low_watermark_mb: 900000000, high_watermark_mb: 900000000}",
            1,
            "storage.low_watermark_mb",
            "every image would be refused",
        ),
        (
            "{low_watermark_mb: 0, high_watermark_mb: 0}",
            "{directory: config.yaml/x}",
            1,
            "storage.directory",
            "cannot be written",
        ),
        (
            "{low_watermark_mb: 0, high_watermark_mb: 0}",
            "{database: 'sqlite:///config.yaml/x'}",
            1,
            "storage.database",
            "cannot be written",
        ),
        (
            "{low_watermark_mb: 0, high_watermark_mb: 0}",
            "{database: 'sqlite:///.'}",
            1,
            "storage.database",
            "is a folder",
        ),
    ],
)
def test_each_mistake_has_its_sentence(said: Said, replaced: str, by: str, line: int, key: str, words: str) -> None:
    assert replaced in SOUND
    status, error = said(SOUND.replace(replaced, by, 1))
    assert status == ExitCode.USAGE, error
    assert f"config.yaml:{line}: {key}: " in error
    assert words in error
    assert not PYDANTIC.search(error)
    assert "s3cret" not in error


def test_both_lines_are_named_where_two_keys_disagree(said: Said) -> None:
    _, error = said(SOUND.replace("ae_title: PACS", "ae_title: MR1"))
    assert "config.yaml:4: peers.pacs.ae_title" in error
    assert "config.yaml:3: peers.scanner.ae_title" in error


@pytest.mark.parametrize("content", [b"node:\n  ae_title: K\xf6ln\n", bytes(range(256)), b"\x00\x01"])
def test_a_file_that_is_not_text_is_named(said: Said, content: bytes) -> None:
    status, error = said(content)
    assert status == ExitCode.USAGE
    assert "config.yaml" in error
    assert not PYDANTIC.search(error)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "node: {}\n"])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_configuration_without_routes_is_not_sound(said: Said, text: str, command: str) -> None:
    status, error = said(text, command=command)
    assert status == ExitCode.USAGE
    assert "no route" in error


def test_peers_of_one_title_on_different_hosts_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("peers:\n  a: {ae_title: MR, host: 10.0.0.1}\n  b: {ae_title: MR, host: 10.0.0.2}\n")
    assert len(load_configuration(path, {}).peers) == 2


SECTIONS = sorted(Configuration.model_fields)
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.lists(st.text(max_size=3), max_size=2)


@given(section=st.sampled_from(SECTIONS), data=st.data())
def test_no_message_speaks_in_the_words_of_the_validator(
    tmp_path_factory: pytest.TempPathFactory, section: str, data: st.DataObject
) -> None:
    default = getattr(Configuration(), section)
    keys = sorted(type(default).model_fields) if hasattr(type(default), "model_fields") else ["a"]
    values = {
        section: {data.draw(st.sampled_from(keys)): data.draw(VALUES | st.dictionaries(st.text(max_size=3), VALUES))}
    }
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        load_configuration(path, {})
    except ConfigurationError as error:
        message = str(error)
    else:
        message = f"{path}: sound"
    assert str(path) in message
    assert not PYDANTIC.search(message)
