"""Secure associations: both sides show a certificate, and an AE title alone opens nothing."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from interop.dcmtk import echoscu, storescu
from interop.ports import free_port, wait_until
from interop.tools import TOOL_ENVIRONMENT, tool
from structlog.testing import capture_logs

from dicom_node.config import Peer
from dicom_node.errors import ConfigurationError, PeerUnavailableError
from dicom_node.network.sender import ScuSettings, echo, send_files
from dicom_node.network.tls import check_credentials
from network.certificates import Authority, Credentials
from network.objects import data_set_bytes, mr_image, save
from network.running_node import (
    NODE,
    SCANNER,
    RunningReceiver,
    configuration,
    receiver_thread,
    shared_receivers,
    with_node,
)
from network.secured import client_context
from network.wire import ABORT_BY_USER, ASSOCIATE_AC, answer, associate_request, connected, seconds_until_closed

REQUEST = associate_request(SCANNER.encode(), NODE.encode())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def node_credentials(authority: Authority) -> Credentials:
    return authority.signs("node")


@pytest.fixture(scope="module")
def scanner_credentials(authority: Authority) -> Credentials:
    return authority.signs("scanner")


@pytest.fixture
def secure(tmp_path: Path, authority: Authority, node_credentials: Credentials) -> Iterator[RunningReceiver]:
    """A receiver whose one port takes nothing but TLS."""
    node = with_node(configuration(tmp_path), tls=authority.settings(node_credentials))
    with receiver_thread(node) as running:
        yield running


def dcmtk_tls(credentials: Credentials, authority: Authority) -> tuple[str, ...]:
    return ("+tls", str(credentials.key), str(credentials.certificate), "+cf", str(authority.certificate))


def refused_in_handshake(port: int, context: ssl.SSLContext) -> bool:
    """Whether the node breaks off before an association can be requested."""
    with connected(port) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                # With TLS 1.3 the client has finished before the node has looked at its certificate.
                secured.sendall(REQUEST)
                return secured.recv(1) != ASSOCIATE_AC
        except OSError:
            return True


def test_dcmtk_stores_over_tls_byte_for_byte(
    dcmtk: None, secure: RunningReceiver, tmp_path: Path, authority: Authority, scanner_credentials: Credentials
) -> None:
    paths = [save(mr_image(side=side), tmp_path) for side in (16, 256, 1024)]
    arguments = dcmtk_tls(scanner_credentials, authority)
    verified = echoscu(port=secure.port, called=NODE, arguments=arguments)
    assert verified.returncode == 0, verified.stderr
    sent = storescu(paths, port=secure.port, called=NODE, arguments=arguments)
    assert sent.returncode == 0, sent.stderr
    assert {data_set_bytes(secure.file_of(row)) for row in secure.instances()} == {
        data_set_bytes(path) for path in paths
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(
    secure: RunningReceiver, authority: Authority, scanner_credentials: Credentials, version: ssl.TLSVersion
) -> None:
    context = client_context(scanner_credentials, authority)
    context.minimum_version = context.maximum_version = version
    assert not refused_in_handshake(secure.port, context)


def test_who_shows_no_or_no_good_certificate_gets_no_association(
    secure: RunningReceiver, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    expired = authority.signs("expired", days=-1)
    for credentials in (None, stranger.signs("impostor"), expired):
        assert refused_in_handshake(secure.port, client_context(credentials, authority))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_older_tls_and_ciphers_without_forward_secrecy_are_refused(
    secure: RunningReceiver, authority: Authority, scanner_credentials: Credentials
) -> None:
    old = client_context(scanner_credentials, authority)
    # Debian's OpenSSL does not offer TLS 1.1 either unless it is told to.
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert refused_in_handshake(secure.port, old)
    weak = client_context(scanner_credentials, authority)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0")
    assert refused_in_handshake(secure.port, weak)


def test_plain_dicom_at_the_secure_port_gets_nothing(secure: RunningReceiver) -> None:
    with connected(secure.port) as connection:
        connection.sendall(REQUEST)
        assert answer(connection) == b""


def test_a_wrong_first_pdu_over_tls_is_aborted(
    secure: RunningReceiver, authority: Authority, scanner_credentials: Credentials
) -> None:
    with (
        connected(secure.port) as connection,
        client_context(scanner_credentials, authority).wrap_socket(connection) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert secured.recv(100) == ABORT_BY_USER


def test_a_peer_may_be_tied_to_tls_and_to_its_certificate(
    tmp_path: Path, authority: Authority, node_credentials: Credentials, scanner_credentials: Credentials
) -> None:
    other = authority.signs("another")
    peers = {
        "plain": Peer(ae_title="ANY"),
        "secure": Peer(ae_title="SECURE", tls=True),
        "named": Peer(ae_title="NAMED", tls=True, certificate="scanner"),
        "pinned": Peer(ae_title="PINNED", tls=True, certificate=scanner_credentials.fingerprint()),
    }
    tls = authority.settings(node_credentials, port=free_port())
    node = with_node(configuration(tmp_path), tls=tls, receiver_processes=1).model_copy(update={"peers": peers})

    def reachable(title: str, credentials: Credentials | None) -> bool:
        port = node.node.port if credentials is None else tls.port
        peer = Peer(ae_title=NODE, host="127.0.0.1", port=port, tls=credentials is not None)
        own = None if credentials is None else authority.settings(credentials)
        return echo(peer, ScuSettings(title, acse_timeout_s=20, tls=own)).reachable

    with shared_receivers(node) as (receiver,):
        assert [reachable("ANY", with_it) for with_it in (None, scanner_credentials)] == [True, True]
        assert [reachable("SECURE", with_it) for with_it in (None, scanner_credentials, other)] == [False, True, True]
        for title in ("NAMED", "PINNED"):
            assert [reachable(title, with_it) for with_it in (None, scanner_credentials, other)] == [False, True, False]
        log = receiver.log.read_text()
        assert "'SECURE' may not call without TLS (peers: tls)" in log
        assert "'another', SHA-256" in log


def test_the_node_calls_over_tls_only_whom_it_can_identify(
    secure: RunningReceiver,
    tmp_path: Path,
    authority: Authority,
    stranger: Authority,
    scanner_credentials: Credentials,
) -> None:
    own = ScuSettings(SCANNER, acse_timeout_s=20, tls=authority.settings(scanner_credentials))

    def error(settings: ScuSettings, **changes: object) -> str:
        fields = {"ae_title": NODE, "host": "127.0.0.1", "port": secure.port, "tls": True, **changes}
        failure = echo(Peer(**fields), settings).error  # type: ignore[arg-type]
        assert failure is None or isinstance(failure, PeerUnavailableError)
        return str(failure or "")

    assert error(own) == ""
    assert error(own, certificate="node", host="localhost") == ""
    assert "not valid for 'localhost'" in error(own, host="localhost")
    assert "it shows the certificate of 'node', SHA-256" in error(own, certificate="pacs")
    strange = stranger.settings(scanner_credentials)
    assert "self-signed certificate in certificate chain" in error(ScuSettings(SCANNER, tls=strange))
    impostor = authority.settings(stranger.signs("impostor"))
    assert "trusts the certificate of this node" in error(ScuSettings(SCANNER, acse_timeout_s=20, tls=impostor))
    path = save(mr_image(), tmp_path)
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=secure.port, tls=True)
    assert [outcome.status for outcome in send_files([path], peer, own)] == [0x0000]


def test_results_can_be_sent_to_dcmtk_over_tls(
    dcmtk: None, tmp_path: Path, authority: Authority, node_credentials: Credentials
) -> None:
    pacs, port = authority.signs("pacs"), free_port()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    command = [str(tool("storescp")), *dcmtk_tls(pacs, authority), "-aet", "PACS", "-od", str(inbox), str(port)]
    path = save(mr_image(), tmp_path)
    with subprocess.Popen(command, env=TOOL_ENVIRONMENT, stderr=subprocess.DEVNULL) as storescp:
        try:
            own = ScuSettings(NODE, acse_timeout_s=20, tls=authority.settings(node_credentials))
            peer = Peer(ae_title="PACS", host="127.0.0.1", port=port, tls=True, certificate="pacs")
            wait_until(lambda: echo(peer, own).reachable, seconds=30, what="storescp listens", every=0.2)
            assert [outcome.status for outcome in send_files([path], peer, own)] == [0x0000]
        finally:
            storescp.terminate()
    assert len(list(inbox.iterdir())) == 1


def test_a_failed_handshake_is_told_once_and_a_probe_never(
    tmp_path: Path, authority: Authority, node_credentials: Credentials
) -> None:
    node = with_node(configuration(tmp_path), tls=authority.settings(node_credentials), receiver_processes=1)
    with shared_receivers(node) as (receiver,):
        said = receiver.log.read_text()
        for sent in (b"", b"\x16", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.0\r\n\r\n", REQUEST):
            with connected(node.node.port) as probe:
                probe.sendall(sent)
        for _ in range(5):
            assert refused_in_handshake(node.node.port, client_context(None, authority))
        lines = receiver.log.read_text().removeprefix(said).splitlines()
        assert len(lines) == 1
        assert "peer did not return a certificate" in lines[0]
        assert '"reason": "tls_handshake"' in lines[0]


def test_a_stalled_handshake_is_given_up_and_holds_up_nobody(
    tmp_path: Path, authority: Authority, node_credentials: Credentials, scanner_credentials: Credentials
) -> None:
    tls = authority.settings(node_credentials)
    node = with_node(configuration(tmp_path), tls=tls, receiver_processes=1, acse_timeout_s=2)
    own = ScuSettings(SCANNER, acse_timeout_s=20, tls=authority.settings(scanner_credentials))
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port, tls=True)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with shared_receivers(node) as (receiver,), contextlib.ExitStack() as stack:
        for sent in (b"", hello):
            assert seconds_until_closed_after(node.node.port, sent) > 1
        process = psutil.Process(receiver.pid)
        threads = process.num_threads()
        for number in range(200):
            connection = stack.enter_context(connected(node.node.port, f"127.0.2.{number // 100 + 1}"))
            connection.sendall((b"", hello)[number % 2])
        # Behind two hundred time-outs it would not be.
        assert echo(peer, own).reachable
        assert process.num_threads() <= threads + 2


def seconds_until_closed_after(port: int, sent: bytes) -> float:
    with connected(port) as connection:
        connection.sendall(sent)
        return seconds_until_closed(connection)


def test_an_honest_peer_does_not_notice_stalled_connections(
    tmp_path: Path, authority: Authority, node_credentials: Credentials, scanner_credentials: Credentials
) -> None:
    tls = authority.settings(node_credentials, port=free_port())
    assert tls.port is not None
    node = with_node(configuration(tmp_path), tls=tls, receiver_processes=2, acse_timeout_s=60)
    own = ScuSettings(SCANNER, acse_timeout_s=20, tls=authority.settings(scanner_credentials))
    secure = Peer(ae_title=NODE, host="127.0.0.1", port=tls.port, tls=True)
    plain = Peer(ae_title=NODE, host="127.0.0.1", port=node.node.port)
    images = [save(mr_image(seed=seed, side=256), tmp_path) for seed in range(10)]

    with shared_receivers(node) as receivers, contextlib.ExitStack() as stack:
        for number in range(200):
            source = f"127.0.3.{number // 50 + 1}"
            stack.enter_context(connected(tls.port, source)).sendall((b"", b"\x16\x03\x01")[number % 2])
            stack.enter_context(connected(node.node.port, source)).sendall((b"", REQUEST[:3])[number % 2])
        wait_until(
            lambda: sum(len(psutil.Process(one.pid).net_connections()) for one in receivers) > 400,
            seconds=30,
            what="all are accepted",
        )
        # Behind a blocked listener they would wait for whole time-outs, each longer than their patience.
        for peer in (secure, plain):
            assert echo(peer, own).reachable
            assert all(outcome.status == 0 for outcome in send_files(images, peer, own))


@pytest.fixture
def own_files(tmp_path: Path, authority: Authority, node_credentials: Credentials) -> Credentials:
    """Credentials of the node that a test may spoil."""
    spoilt = Credentials(tmp_path / "node.crt", tmp_path / "node.key")
    shutil.copy(node_credentials.certificate, spoilt.certificate)
    shutil.copy(node_credentials.key, spoilt.key)
    return spoilt


def test_good_credentials_pass(authority: Authority, own_files: Credentials) -> None:
    with capture_logs() as lines:
        check_credentials(authority.settings(own_files))
    assert lines == []


def test_what_is_wrong_with_credentials_is_said(
    tmp_path: Path, authority: Authority, own_files: Credentials, scanner_credentials: Credentials
) -> None:
    def problem() -> str:
        with pytest.raises(ConfigurationError) as refused:
            check_credentials(authority.settings(own_files))
        return str(refused.value)

    original = own_files.key.read_bytes()
    own_files.key.write_bytes(scanner_credentials.key.read_bytes())
    assert f"node.tls.key {own_files.key}: does not belong to {own_files.certificate}" in problem()
    locked = load_pem_private_key(original, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    own_files.key.write_bytes(locked)
    assert "is protected by a password" in problem()
    own_files.key.write_text("nothing")
    assert "is not a private key in PEM" in problem()
    own_files.key.unlink()
    assert "cannot be read: No such file" in problem()
    own_files.certificate.write_bytes(b"\x30\x82")
    assert "node.tls.certificate" in problem()


def test_files_that_are_gone_make_results_wait(
    authority: Authority, own_files: Credentials, secure: RunningReceiver
) -> None:
    peer = Peer(ae_title=NODE, host="127.0.0.1", port=secure.port, tls=True)
    own = ScuSettings(SCANNER, acse_timeout_s=20, tls=authority.settings(own_files))
    assert echo(peer, own).reachable
    own_files.key.unlink()
    failure = echo(peer, own).error
    assert isinstance(failure, PeerUnavailableError)
    assert f"node.tls.key {own_files.key}: cannot be read" in str(failure)


def test_a_receiver_whose_certificate_has_expired_still_serves_peers_without_tls(
    tmp_path: Path, authority: Authority
) -> None:
    tls = authority.settings(authority.signs("old-node", days=-1), port=free_port())
    node = with_node(configuration(tmp_path), tls=tls)
    with receiver_thread(node) as receiver:
        plain = Peer(ae_title=NODE, host="127.0.0.1", port=receiver.port)
        assert echo(plain, ScuSettings(SCANNER)).reachable
        own = ScuSettings(SCANNER, acse_timeout_s=20, tls=authority.settings(authority.signs("caller")))
        assert "expired" in str(echo(Peer(**{**plain.model_dump(), "port": tls.port, "tls": True}), own).error)


def test_certificates_out_of_their_time_are_refused(authority: Authority, node_credentials: Credentials) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for days, what in ((500, r"certificate .* expired at"), (-500, "is not valid before")):
        with pytest.raises(ConfigurationError, match=what):
            check_credentials(authority.settings(node_credentials), now + datetime.timedelta(days=days))


def test_careless_credentials_are_warned_of(authority: Authority, own_files: Credentials) -> None:
    own_files.key.chmod(0o644)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=350)
    with capture_logs() as lines:
        check_credentials(authority.settings(own_files), soon)
    assert [line["event"] for line in lines] == [
        "others on this machine can read the private key",
        "the certificate of this node expires soon",
    ]
