"""A ledger and a storage directory belong together, and nothing of a stranger's is touched."""

from __future__ import annotations

import datetime as dt
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_rows import NOW, an_instance, associate

from storage import identity
from storage.files import RESULTS, UNEXPLAINED, InstanceFiles, StoredFile
from storage.identity import IdentityError, bind, is_bound, rebind
from storage.instances import ReceivedInstance, record_instances
from storage.ledger import Ledger, open_ledger, utc_now
from storage.retention import sweep_files

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    opened = open_ledger(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/other.sqlite")
    yield opened
    opened.close()


def _receive(ledger: Ledger, files: InstanceFiles, number: int = 1) -> StoredFile:
    stored = files.store(b"image %d" % number, file_meta=b"", transfer_syntax_uid="1.2")
    instance = an_instance(associate(ledger), number)
    values = {name: getattr(instance, name) for name in instance.__slots__}
    record_instances(ledger, [ReceivedInstance(**values | {"digest": stored.digest, "path": stored.path})], at=NOW)
    return stored


def _age(files: InstanceFiles, *paths: str) -> None:
    old = (utc_now() - 2 * HOUR).timestamp()
    for path in paths:
        os.utime(files.absolute(path), (old, old))


def test_they_get_one_identity_and_keep_it(ledger: Ledger, files: InstanceFiles) -> None:
    bind(ledger, files, now=NOW)
    drawn = files.identity()
    assert drawn is not None
    assert len(drawn) == 32
    _receive(ledger, files)
    bind(ledger, files, now=NOW)
    assert files.identity() == drawn
    assert is_bound(ledger, files)


def test_a_new_ledger_is_refused_and_no_image_is_touched(ledger: Ledger, files: InstanceFiles, other: Ledger) -> None:
    bind(ledger, files, now=NOW)
    stored = _receive(ledger, files)
    with pytest.raises(IdentityError, match=r"another ledger.*adopt"):
        bind(other, files, now=NOW)
    _age(files, stored.path)
    with pytest.raises(IdentityError, match="nothing is swept"):
        sweep_files(other, files, grace=HOUR, now=utc_now())
    assert files.absolute(stored.path).exists()


def test_an_empty_ledger_is_refused_by_the_files_of_a_version_without_identities(
    ledger: Ledger, files: InstanceFiles
) -> None:
    files.store(b"result", file_meta=b"", transfer_syntax_uid="1.2", folder=RESULTS)
    with pytest.raises(IdentityError, match="holds files and the ledger names none"):
        bind(ledger, files, now=NOW)


def test_a_ledger_and_its_files_of_a_version_without_identities_are_bound(ledger: Ledger, files: InstanceFiles) -> None:
    _receive(ledger, files)
    bind(ledger, files, now=NOW)
    assert is_bound(ledger, files)


def test_an_older_ledger_of_a_version_without_identities_is_known_by_its_files(
    ledger: Ledger, files: InstanceFiles
) -> None:
    _receive(ledger, files)
    files.propose_identity("f" * 32)
    files.take_identity()
    bind(ledger, files, now=NOW)
    assert is_bound(ledger, files)
    assert files.identity() == "f" * 32


@pytest.mark.parametrize("bound", [True, False])
def test_a_second_node_with_another_directory_is_refused(
    ledger: Ledger, files: InstanceFiles, tmp_path: Path, bound: bool
) -> None:
    if bound:
        bind(ledger, files, now=NOW)
    else:
        _receive(ledger, files)
    with pytest.raises(IdentityError, match=r"give back its directory|give back the directory"):
        bind(ledger, InstanceFiles(tmp_path / "elsewhere"), now=NOW)


def test_two_nodes_are_not_mixed(ledger: Ledger, files: InstanceFiles, other: Ledger, tmp_path: Path) -> None:
    elsewhere = InstanceFiles(tmp_path / "elsewhere")
    for one, directory in ((ledger, files), (other, elsewhere)):
        bind(one, directory, now=NOW)
        _receive(one, directory, 1 if one is ledger else 2)
    with pytest.raises(IdentityError, match="two different nodes"):
        bind(ledger, elsewhere, now=NOW)
    with pytest.raises(IdentityError, match="both are of nodes of their own"):
        rebind(ledger, elsewhere, now=NOW)


@pytest.mark.parametrize("cut", ["before the commit", "after the commit"])
def test_a_binding_that_is_cut_off_is_finished(
    ledger: Ledger, files: InstanceFiles, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if cut == "before the commit":
            patched.setattr(identity, "_write", dies)
        else:
            patched.setattr(InstanceFiles, "take_identity", dies)
        with pytest.raises(KeyboardInterrupt):
            bind(ledger, files, now=NOW)
    bind(ledger, files, now=NOW)
    assert files.identity() is not None
    assert is_bound(ledger, files)


def test_an_older_ledger_of_the_same_directory_moves_newer_files_aside_and_deletes_none(
    ledger: Ledger, files: InstanceFiles
) -> None:
    bind(ledger, files, now=NOW)
    kept = _receive(ledger, files)
    newer = [files.store(b"later %d" % number, file_meta=b"", transfer_syntax_uid="1.2") for number in range(3)]
    _age(files, kept.path, *(one.path for one in newer[:2]))
    swept = sweep_files(ledger, files, grace=HOUR, now=utc_now())
    assert (swept.removed, swept.set_aside) == (0, 2)
    assert {str(path) for path in files.stored_paths()} == {kept.path, newer[2].path}
    assert {str(path) for path in files.unexplained_paths()} == {f"{UNEXPLAINED}/{one.path}" for one in newer[:2]}
    _age(files, *map(str, files.unexplained_paths()))
    assert sweep_files(ledger, files, grace=HOUR, now=utc_now() + 1000 * HOUR).removed == 0
    assert len(list(files.unexplained_paths())) == 3


@pytest.mark.parametrize(("umask", "file_mode", "directory_mode"), [(0o022, 0o640, 0o750), (0o077, 0o600, 0o700)])
def test_nobody_outside_the_group_can_read_them(
    tmp_path: Path, umask: int, file_mode: int, directory_mode: int
) -> None:
    before = os.umask(umask)
    try:
        files = InstanceFiles(tmp_path / "state" / "files")
        ledger = open_ledger(f"sqlite:///{tmp_path}/state/ledger/ledger.sqlite")
        bind(ledger, files, now=NOW)
        _receive(ledger, files)
        with ledger.turn():
            pass
        made = [path for path in (tmp_path / "state").rglob("*") if path != files.root]
        modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in made}
        ledger.close()
    finally:
        os.umask(before)
    assert any(name.endswith("-wal") for name in modes)
    assert any(name.endswith(".dcm") for name in modes)
    assert modes == {str(path): directory_mode if path.is_dir() else file_mode for path in made if str(path) in modes}
