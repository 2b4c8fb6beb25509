"""Configuration: validated whole, errors that name the line and the key, environment overrides."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from dicom_node.config import Configuration, MailAddress, NumberRule, PeerPermission, RaySettings, WebSettings
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError

SHIPPED = Path(__file__).parents[1] / "config.yaml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_configuration_is_valid_and_shows_every_key() -> None:
    loaded = load_configuration(SHIPPED, {})
    assert loaded.peers["pacs"].may == {PeerPermission.SEND, PeerPermission.RECEIVE}
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    for name in Configuration.model_fields:
        if name in ("hosts", "peers", "routes"):
            continue
        keys = set(type(getattr(loaded, name)).model_fields)
        assert keys == set(shipped[name]), f"config.yaml does not show every key of {name}"


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all that its keys may hold."""
    yield model
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            kind = waiting.pop()
            waiting += get_args(kind)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


@pytest.mark.parametrize("section", sorted(set(sections(Configuration)), key=lambda one: one.__name__))
def test_the_shipped_configuration_shows_every_key_of_nested_sections_too(section: type[BaseModel]) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert [key for key in section.model_fields if not re.search(rf"(^|[#{{,-])\s*{key}:", text, re.MULTILINE)] == []


def test_shipped_configuration_equals_the_defaults_where_there_are_defaults() -> None:
    shipped = load_configuration(SHIPPED, {})
    assert shipped.node == Configuration().node
    assert shipped.execution == Configuration().execution
    assert shipped.delivery == Configuration().delivery


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    loaded = load_configuration(write(tmp_path, "storage:\n  directory: here\n"), {})
    assert loaded.storage.directory == tmp_path / "here"
    assert loaded.storage.database == f"sqlite:///{tmp_path}/var/ledger.sqlite"
    secure = load_configuration(write(tmp_path, "node:\n  tls: {certificate: a, key: /b, trusted: c}\n"), {}).node.tls
    assert secure is not None
    assert (secure.certificate, secure.key, secure.trusted) == (tmp_path / "a", Path("/b"), tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("node:\n  ae_title: A\n  prot: 1\n", 3, "node.prot"),
        ("node:\n  port: 99999\n", 2, "node.port"),
        ("nodes: {}\n", 1, "nodes"),
        ("\npeers:\n  pacs:\n    ae_title: X\n    may: [receive]\n", 3, "peers.pacs"),
        ("node:\n  ae_title: 'more than sixteen characters'\n", 2, "node.ae_title"),
        ("node:\n  ae_title: 'BACK\\SLASH'\n", 2, "node.ae_title"),
        ("storage:\n  low_watermark_mb: 9\n  high_watermark_mb: 3\n", 1, "storage"),
        ("execution:\n  devices: [cpu]\n  job_timeout_s: 0\n", 3, "execution.job_timeout_s"),
        ("routes:\n  r:\n    destinations: [nowhere]\n", 3, "no destination named 'nowhere'"),
        (
            "\npeers:\n  mr:\n    ae_title: MR\n    certificate: MR\n",
            3,
            "a peer with a 'certificate' needs 'tls: true'",
        ),
        ("peers:\n  mr:\n    ae_title: MR\n    tls: true\n", 4, "peers.mr.tls: this node has no certificate"),
        (
            "\nnode:\n  port: 1\n  tls: {certificate: a, key: b, trusted: c, port: 1}\n",
            2,
            "tls.port is node.port",
        ),
        ("routes:\n  r:\n    series:\n      - manufacturer: '('\n", 4, "routes.r.series.0.manufacturer"),
        ("routes:\n  r:\n    analyses: [fortune_telling]\n    destinations: []\n", 3, "routes.r.analyses.0"),
    ],
)
def test_errors_name_the_line_and_the_key(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path, {})
    assert f"{path}:{line}:" in str(caught.value)
    assert key in str(caught.value)


def test_every_error_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(write(tmp_path, "node:\n  port: 0\n  maximum_pdu: 1\n"), {})
    assert "node.port" in str(caught.value)
    assert "node.maximum_pdu" in str(caught.value)


def test_environment_overrides_and_is_named_when_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, "node:\n  port: 1000\n")
    loaded = load_configuration(path, {"DICOM_NODE__NODE__PORT": "2000", "DICOM_NODE__EXECUTION__DEVICES": "[cuda:0]"})
    assert loaded.node.port == 2000
    assert loaded.execution.devices == ("cuda:0",)
    with pytest.raises(ConfigurationError, match="DICOM_NODE__NODE__PORT"):
        load_configuration(path, {"DICOM_NODE__NODE__PORT": "many"})
    with pytest.raises(ConfigurationError, match="DICOM_NODE__NODE__PORT__X"):
        load_configuration(path, {"DICOM_NODE__NODE__PORT__X": "1"})


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "just words\n"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError):
        load_configuration(write(tmp_path, text), {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        load_configuration(tmp_path / "absent.yaml", {})


SHA256 = "0" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("results: {destinations: {p: {}}}", "one of: a 'peer', a 'web' service"),
        ("results: {destinations: {p: {peer: x, web: {url: 'https://h'}}}}", "one of: a 'peer', a 'web' service"),
        ("results: {destinations: {p: {web: {url: 'ftp://h/x'}}}}", "begins with http"),
        ("results: {destinations: {p: {web: {url: 'https://'}}}}", "begins with http"),
        ("results: {destinations: {p: {web: {url: 'https://h:x/'}}}}", "ort"),
        ("results: {destinations: {p: {web: {url: 'https://u:p@h/'}}}}", "do not belong into a URL"),
        ("results: {destinations: {p: {web: {url: 'https://h/?a=b'}}}}", "no query"),
        ("results: {destinations: {p: {web: {url: 'https://h', token: s3cret}}}}", "token"),
        ("results: {destinations: {p: {web: {url: 'https://h', token: {}}}}}", "either 'environment' or 'file'"),
        ("results: {destinations: {p: {web: {url: 'https://h', certificate: c}}}}", "belong together"),
        ("results: {destinations: {p: {web: {url: 'http://h', trusted: c}}}}", "need an https"),
        ("results: {destinations: {p: {web: {url: 'http://h', basic: {file: f}}}}}", "can be read on the way"),
        ("web: {port: 8443, certificate: c}", "belong together"),
        ("web: {peers: {gateway: {token_sha256: s3cret}}}", "web.peers.gateway.token_sha256"),
        (f"web: {{peers: {{much-too-long-a-name: {{token_sha256: '{SHA256}'}}}}}}", "web.peers"),
        (f"web: {{peers: {{a: {{token_sha256: '{SHA256}'}}, b: {{token_sha256: '{SHA256}'}}}}}}", "the same token"),
        (f"web: {{peers: {{a: {{token_sha256: '{SHA256}', may: [receive]}}}}}}", "web.peers.a.may"),
    ],
)
def test_web_sections_are_held_to_what_they_mean(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_configuration(write(tmp_path, text), {})
    assert "s3cret" not in str(caught.value)


def test_web_destinations_find_their_files_beside_the_configuration(tmp_path: Path) -> None:
    text = "results: {destinations: {p: {web: {url: 'https://h/dicom-web/', token: {file: t}, trusted: ca.pem}}}}"
    web = load_configuration(write(tmp_path, text), {}).results.destinations["p"].web
    assert web is not None
    assert web.token is not None
    assert (web.url, web.token.file, web.trusted) == ("https://h/dicom-web", tmp_path / "t", tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        web.token.read()
    (tmp_path / "t").write_text("two\nlines", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="one line"):
        web.token.read()
    (tmp_path / "t").write_text(" abc\n", encoding="utf-8")
    assert web.token.read() == "abc"


def test_credentials_go_over_http_on_this_machine_or_when_told_so(tmp_path: Path) -> None:
    for service in ("url: 'http://127.0.0.1:8042'", "url: 'http://h', cleartext_credentials: true"):
        text = f"results: {{destinations: {{p: {{web: {{{service}, basic: {{environment: LOGIN}}}}}}}}}}"
        assert load_configuration(write(tmp_path, text), {}).results.destinations["p"].web is not None


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Configuration().node.port = 1  # type: ignore[misc]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_yaml_gives_a_configuration_or_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = write(tmp_path_factory.mktemp("any"), yaml.safe_dump(value))
    refused = None
    try:
        load_configuration(path, {})
    except ConfigurationError as error:
        refused = error
    assert refused is None or str(path) in str(refused)


def test_paths_of_the_audit_trail_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "audit: {file: audit.log, syslog: {host: audit.example.org, tls: {trusted: tls/ca.pem}}}"
    audit = load_configuration(write(tmp_path, text), {}).audit
    assert audit.file == tmp_path / "audit.log"
    assert audit.syslog is not None
    assert (audit.syslog.port, audit.syslog.tls.trusted) == (6514, tmp_path / "tls" / "ca.pem")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("audit: {syslog: {host: a, tls: {trusted: b}}}", "syslog needs file"),
        ("audit: {file: f, syslog: {host: a, tls: {trusted: b, key: c}}}", "belong together"),
        ("audit: {file: f, syslog: {host: a}}", "tls"),
        ("metrics: {port: 0}", "metrics.port"),
    ],
)
def test_what_is_wrong_with_metrics_and_audit_trail_is_named(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        load_configuration(write(tmp_path, text), {})


def test_an_analysis_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path, "routes:\n  r:\n    analyses: [fortune_telling]\n    destinations: []\n")
    with pytest.raises(ConfigurationError, match=r"'fortune_telling'.*there are: .*ventricular_function"):
        load_configuration(path, {})
    path = write(
        tmp_path, "routes:\n  r:\n    analyses: [ventricular_function, ventricular_function]\n    destinations: []\n"
    )
    with pytest.raises(ConfigurationError, match="twice"):
        load_configuration(path, {})


def test_reading_the_configuration_loads_no_analysis(tmp_path: Path) -> None:
    path = write(tmp_path, "routes:\n  r:\n    analyses: [ventricular_function]\n    destinations: []\n")
    script = (
        "import sys; from pathlib import Path; from dicom_node.config_file import load_configuration; "
        "load_configuration(Path(sys.argv[1]), {}); "
        "print(*sorted({'torch', 'monai', 'scipy', 'pipelines.ventricular_function.package'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


@pytest.mark.parametrize(
    ("address", "said", "fits"),
    [
        ("127.0.0.1", {}, True),
        ("localhost", {}, True),
        ("::1", {}, True),
        ("0.0.0.0", {}, False),
        ("::", {}, False),
        ("", {}, False),
        ("10.1.2.3", {}, False),
        ("10.1.2.3", {"without_tls": True}, True),
        ("10.1.2.3", {"certificate": "node.pem", "key": "node.key"}, True),
        ("10.1.2.3", {"port": None}, True),
    ],
)
def test_web_services_without_tls_are_for_this_machine_unless_said_otherwise(
    address: str, said: dict[str, object], fits: bool
) -> None:
    settings = {"address": address, "port": 8443, **said}
    if fits:
        assert WebSettings.model_validate(settings).address == address
    else:
        with pytest.raises(ValidationError, match="without_tls: true"):
            WebSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (MailAddress, "node@example.org", ("Node <node@example.org>", "a@b, c@d")),
        (RaySettings, {"address": "head:6379"}, ({"address": "ray://head:6379"}, {"address": "head:6379 or so"})),
        (NumberRule, {"number": "EF", "below": 30}, ({"number": "E F", "below": 30}, {"number": "1EF", "below": 30})),
    ],
)
def test_what_only_holds_a_right_value_is_refused(kind: type, taken: object, refused: tuple[object, ...]) -> None:
    reader: TypeAdapter[object] = TypeAdapter(kind)
    reader.validate_python(taken)
    for one in refused:
        with pytest.raises(ValidationError):
            reader.validate_python(one)
