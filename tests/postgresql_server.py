"""A PostgreSQL server of one's own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MISSING = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"


def _binary(name: str) -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if debian:
        return debian[-1]
    found = shutil.which(name)
    return Path(found) if found else None


def is_installed() -> bool:
    """Whether a server can be run."""
    return _binary("initdb") is not None and _binary("pg_ctl") is not None


class PostgresqlServer:
    """A server with its default settings, that can be stopped and started again."""

    def __init__(self, folder: Path, *, fsync: bool, address: str = "", port: int = 5432) -> None:
        initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
        if initdb is None or pg_ctl is None:
            raise FileNotFoundError(MISSING)
        self._folder, self._fsync, self._pg_ctl = folder, fsync, pg_ctl
        self._address, self._port = address, port
        # PostgreSQL refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run(initdb, "-D", folder / "data", "-A", "trust", "-U", "ledger", "--no-sync", "-E", "UTF8", "--locale=C")
        if address:
            with (folder / "data" / "pg_hba.conf").open("a") as access:
                access.write("host all all samenet trust\n")

    @property
    def url(self) -> str:
        """Of a database of it."""
        if self._address:
            return f"postgresql+psycopg://ledger@{self._address}:{self._port}/postgres"
        return f"postgresql+psycopg://ledger@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start it, and wait until it can be used."""
        listens = f"-k {self._folder} -p {self._port} -c listen_addresses='{self._address}'"
        options = f"{listens} -c fsync={'on' if self._fsync else 'off'}"
        self._control("-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: str | Path) -> None:
        self._run(self._pg_ctl, "-D", self._folder / "data", "-w", *arguments)

    def _run(self, *command: str | Path) -> None:
        user = self._user
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [str(part) for part in command],
            check=True,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            timeout=120,
            **as_user,
        )


@contextlib.contextmanager
def running_postgresql_server(
    *, fsync: bool, parent: Path | None = None, address: str = "", port: int = 5432
) -> Iterator[PostgresqlServer]:
    """A server in a temporary folder; reached by a socket there, or at an address by all of its network."""
    # The socket lies there too, and its path may not be long.
    folder = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir=parent))
    server = PostgresqlServer(folder, fsync=fsync, address=address, port=port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextlib.contextmanager
def running_postgresql(*, fsync: bool, parent: Path | None = None) -> Iterator[str]:
    """The same; gives the URL of a database of it."""
    with running_postgresql_server(fsync=fsync, parent=parent) as server:
        yield server.url
