"""rsyslog as the audit record repository: syslog over TLS, both sides with certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path

from network.certificates import Authority

from dicom_node.config import ClientTls, SyslogSettings
from interop.ports import free_port, listening, wait_until
from interop.tools import tool

_CONFIGURATION = """\
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="ossl"
       defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
template(name="raw" type="string" string="%rawmsg%\\n")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="keep")
ruleset(name="keep") {{ action(type="omfile" file="{messages}" template="raw") }}
"""


class Rsyslog:
    """A collector on a fixed port of the loopback interface, that is started and killed.

    Parameters
    ----------
    folder
        Empty folder for its configuration, certificates and messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.messages = folder / "messages"
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority(folder)
        server = authority.signs("collector")
        self._node = authority.signs("node")
        self.authority = authority.certificate
        (folder / "rsyslog.conf").write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                messages=self.messages,
                ca=authority.certificate,
                certificate=server.certificate,
                key=server.key,
            ),
            encoding="ascii",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> SyslogSettings:
        """What a node needs to send to it."""
        tls = ClientTls(trusted=self.authority, certificate=self._node.certificate, key=self._node.key)
        return SyslogSettings(host="127.0.0.1", port=self.port, tls=tls)

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self._folder / "rsyslog.log").open("ab") as log:
            self._process = subprocess.Popen(
                [tool("rsyslogd"), "-n", "-f", self._folder / "rsyslog.conf", "-i", self._folder / "pid"],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: listening(self.port), seconds=30, what=f"rsyslog listens, see {log.name}")

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            (self._folder / "pid").unlink(missing_ok=True)

    def received(self) -> list[bytes]:
        """Every message it wrote down, in the order it did."""
        return self.messages.read_bytes().splitlines() if self.messages.exists() else []
