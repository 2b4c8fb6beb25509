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


@contextlib.contextmanager
def running_postgresql(*, fsync: bool, parent: Path | None = None) -> Iterator[str]:
    """A server with its default settings, in a temporary folder; gives the URL of a database of it."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise FileNotFoundError(MISSING)
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    # The socket lies there too, and its path may not be long.
    folder = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir=parent))
    os.chown(folder, user.pw_uid, user.pw_gid)

    def run(*command: str | Path) -> None:
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [str(part) for part in command], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120, **as_user
        )

    data = folder / "data"
    run(initdb, "-D", data, "-A", "trust", "-U", "ledger", "--no-sync", "-E", "UTF8", "--locale=C")
    options = f"-k {folder} -c listen_addresses='' -c fsync={'on' if fsync else 'off'}"
    run(pg_ctl, "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg://ledger@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
