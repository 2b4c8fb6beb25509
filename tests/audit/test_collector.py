"""The audit file on its way to a syslog collector that comes and goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.ports import free_port, wait_until
from interop.rsyslog import Rsyslog
from network.certificates import Authority

from dicom_node.audit import collector as module
from dicom_node.audit.collector import Collector
from dicom_node.audit.messages import AuditMessage, Outcome, Participant
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import ClientTls, SyslogSettings
from dicom_node.metrics import AUDIT_FILES_LOST
from storage.ledger import utc_now


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(module, "LONGEST_DELAY_S", 0.1)
    monkeypatch.setattr(module, "SETTLED_S", 0.5)


class Writer:
    """Writes numbered messages."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._trail = AuditTrail(file, Participant("auditor", "NODE", "node.example"))
        self.written: list[int] = []

    def write(self, count: int) -> None:
        numbers = range(len(self.written), len(self.written) + count)
        # Longer than one TLS record together, and the last is as long as A.6 says collectors must take.
        self._trail.append(
            [AuditMessage("Test", utc_now(), Outcome.SUCCESS, f"<n>{number:06}</n>{'x' * 300}") for number in numbers]
        )
        self.written += numbers


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "trail.log")


def numbers(lines: list[bytes]) -> list[int]:
    """Of the messages, each once, in the order they came first."""
    return list(dict.fromkeys(int(line.partition(b"<n>")[2][:6]) for line in lines))


def send_until(sending: Collector, done: object, what: str) -> None:
    def step() -> bool:
        sending.send()
        return bool(done())  # type: ignore[operator]

    wait_until(step, seconds=20, what=what, every=0.02)


def test_messages_arrive_byte_for_byte_and_once(rsyslog: Rsyslog, writer: Writer) -> None:
    rsyslog.start()
    writer.write(500)
    first = Collector(rsyslog.settings, writer.file)
    first.drain(20)
    wait_until(lambda: len(rsyslog.received()) >= 500, seconds=10, what="all are there")
    assert rsyslog.received() == writer.file.read_bytes().splitlines()
    first.close()
    second = Collector(rsyslog.settings, writer.file)
    second.drain(20)
    writer.write(1)
    second.drain(20)
    second.close()
    wait_until(lambda: len(rsyslog.received()) > 500, seconds=10, what="the last is there")
    assert rsyslog.received() == writer.file.read_bytes().splitlines()


def test_nothing_is_lost_and_order_kept_while_the_collector_is_killed_again_and_again(
    rsyslog: Rsyslog, writer: Writer
) -> None:
    sending = Collector(rsyslog.settings, writer.file)
    writer.write(50)
    assert not sending.send()
    for _ in range(5):
        rsyslog.start()
        writer.write(100)
        before = len(rsyslog.received())
        send_until(sending, lambda before=before: len(rsyslog.received()) > before, "some arrive")
        writer.write(100)
        sending.send()
        rsyslog.kill()
        writer.write(50)
        sending.send()
    sending.close()
    # The node too is started again.
    restarted = Collector(rsyslog.settings, writer.file)
    rsyslog.start()
    send_until(restarted, lambda: numbers(rsyslog.received())[-1:] == writer.written[-1:], "the last is there")
    restarted.close()
    assert numbers(rsyslog.received()) == writer.written


def test_rotations_while_the_collector_is_away(rsyslog: Rsyslog, writer: Writer) -> None:
    rsyslog.start()
    sending = Collector(rsyslog.settings, writer.file)
    writer.write(10)
    sending.drain(20)
    rsyslog.kill()
    for number in (3, 2, 1):
        writer.write(10)
        sending.send()
        writer.file.rename(writer.file.with_name(f"trail.log.{number}"))
    writer.write(10)
    rsyslog.start()
    send_until(sending, lambda: len(numbers(rsyslog.received())) == len(writer.written), "all are there")
    # And while it is there.
    writer.file.rename(writer.file.with_name("trail.log.0"))
    send_until(sending, lambda: not sending.send(), "nothing is left")
    writer.write(10)
    sending.drain(20)
    sending.close()
    wait_until(lambda: numbers(rsyslog.received()) == writer.written, seconds=10, what="the rest is there")


def test_a_file_removed_before_it_was_sent_is_reported_and_the_rest_is_sent(rsyslog: Rsyslog, writer: Writer) -> None:
    rsyslog.start()
    writer.write(5)
    sending = Collector(rsyslog.settings, writer.file)
    sending.drain(20)
    rsyslog.kill()
    writer.write(5)
    writer.file.unlink()
    writer.write(5)
    lost = AUDIT_FILES_LOST._value.get()
    rsyslog.start()
    send_until(sending, lambda: numbers(rsyslog.received())[-1:] == [14], "the rest is there")
    sending.close()
    assert AUDIT_FILES_LOST._value.get() > lost


def test_a_collector_that_another_authority_vouches_for_gets_nothing(
    rsyslog: Rsyslog, writer: Writer, tmp_path: Path
) -> None:
    rsyslog.start()
    writer.write(5)
    tls = rsyslog.settings.tls.model_copy(update={"trusted": Authority(tmp_path, "other").certificate})
    sending = Collector(rsyslog.settings.model_copy(update={"tls": tls}), writer.file)
    assert not sending.send()
    assert rsyslog.received() == []


def test_a_collector_that_refuses_this_node_takes_nothing_away(rsyslog: Rsyslog, writer: Writer) -> None:
    rsyslog.start()
    writer.write(5)
    stranger = ClientTls(trusted=rsyslog.settings.tls.trusted)
    sending = Collector(rsyslog.settings.model_copy(update={"tls": stranger}), writer.file)
    sending.drain(2)
    sending.close()
    welcome = Collector(rsyslog.settings, writer.file)
    welcome.drain(20)
    welcome.close()
    wait_until(lambda: numbers(rsyslog.received()) == writer.written, seconds=10, what="all are there")


@contextlib.contextmanager
def deaf_server(folder: Path) -> Iterator[SyslogSettings]:
    """Completes the TLS handshake and never reads."""
    authority = Authority(folder)
    credentials = authority.signs("collector")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(credentials.certificate, credentials.key)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", free_port())) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            with context.wrap_socket(server.accept()[0], server_side=True):
                stop.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        yield SyslogSettings(host="127.0.0.1", port=port, tls=ClientTls(trusted=authority.certificate))
        stop.set()
        thread.join()


def test_a_collector_that_does_not_read_is_left_after_a_while(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "BATCH_BYTES", 8 << 20)
    with writer.file.open("wb") as file:
        file.write(b"<85>1 x\n" * (2 << 20))
    with deaf_server(tmp_path) as settings:
        sending = Collector(settings, writer.file)
        while sending.send():
            pass
    assert not (tmp_path / "trail.log.position").exists()


def test_a_file_that_is_copied_and_emptied(rsyslog: Rsyslog, writer: Writer) -> None:
    rsyslog.start()
    sending = Collector(rsyslog.settings, writer.file)
    writer.write(10)
    sending.drain(20)
    shutil.copy(writer.file, writer.file.with_name("trail.log.1"))
    os.truncate(writer.file, 0)
    # As long as what was there before: neither name, inode nor size tells the two apart.
    writer.write(10)
    sending.drain(20)
    sending.close()
    wait_until(lambda: numbers(rsyslog.received()) == writer.written, seconds=10, what="all are there")
    assert len(rsyslog.received()) == 20
