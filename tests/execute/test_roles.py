"""Role processes: started, started again, stopped, killed, and never left behind."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import slow_roles
from interop.ports import wait_until

from dicom_node.roles import Role, RoleKeeper


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def _lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


@pytest.fixture
def keepers() -> Iterator[list[RoleKeeper]]:
    made: list[RoleKeeper] = []
    yield made
    for keeper in made:
        keeper.stop(0.0)


def _ready(keeper: RoleKeeper) -> bool:
    keeper.tend()
    return keeper.all_ready()


def test_a_role_that_is_told_to_stop_finishes_its_step(journal: Path, keepers: list[RoleKeeper]) -> None:
    keeper = RoleKeeper([Role("obedient", slow_roles.wait_until_stopped, (journal,))])
    keepers.append(keeper)
    wait_until(lambda: _ready(keeper), seconds=120, what="the role is ready")
    (pid,) = keeper.pids().values()
    keeper.stop(grace_s=60)
    assert _lines(journal) == ["started", "stopped"]
    assert not psutil.pid_exists(pid)
    assert keeper.pids() == {}


def test_a_killed_role_is_started_again_and_its_death_is_told_first(journal: Path, keepers: list[RoleKeeper]) -> None:
    deaths: list[str] = []

    def died(how: str) -> None:
        deaths.append(f"{how}, {len(_lines(journal))} lives")

    keeper = RoleKeeper([Role("mortal", slow_roles.wait_until_stopped, (journal,), on_death=died)])
    keepers.append(keeper)
    wait_until(lambda: _ready(keeper), seconds=120, what="the role is ready")
    first = keeper.pids()
    keeper.kill("mortal")
    wait_until(lambda: _ready(keeper) and keeper.pids() != first, seconds=120, what="the role is ready again")
    assert deaths == ["killed by SIGKILL, 1 lives"]
    assert _lines(journal) == ["started", "started"]


def test_a_role_that_hangs_is_killed_after_the_grace_with_what_it_started(
    journal: Path, keepers: list[RoleKeeper]
) -> None:
    keeper = RoleKeeper([Role("stubborn", slow_roles.ignore_stop, (journal,))])
    keepers.append(keeper)
    wait_until(lambda: _ready(keeper), seconds=120, what="the role is ready")
    child = int(_lines(journal)[0].removeprefix("child "))
    assert psutil.pid_exists(child)
    before = time.monotonic()
    keeper.stop(grace_s=1.0)
    assert 1.0 <= time.monotonic() - before < 30
    wait_until(lambda: not _alive(child), seconds=10, what="its child is gone")


def test_a_role_that_cannot_start_is_tried_ever_less_often(journal: Path, keepers: list[RoleKeeper]) -> None:
    keeper = RoleKeeper([Role("stillborn", slow_roles.die_at_once, (journal,))])
    keepers.append(keeper)

    def third_life() -> bool:
        keeper.tend()
        return len(_lines(journal)) >= 3

    wait_until(third_life, seconds=240, what="three lives")
    first, second, third = (float(line) for line in _lines(journal)[:3])
    assert second - first >= 0.25
    assert third - second >= 0.5
    assert not keeper.all_ready()


def _keep(journal: Path) -> None:
    keeper = RoleKeeper([Role("orphan", slow_roles.wait_until_stopped, (journal,))])
    while True:
        keeper.tend()
        time.sleep(0.05)


def test_roles_do_not_outlive_a_parent_that_is_killed(journal: Path) -> None:
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=_keep, args=(journal,))
    parent.start()
    wait_until(lambda: bool(_lines(journal)), seconds=120, what="the role runs")
    children = psutil.Process(parent.pid).children(recursive=True)
    assert any(child.name() == "dn orphan" for child in children)
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert _lines(journal) == ["started"]


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_roles_are_renewed_in_this_life_and_the_next(journal: Path, keepers: list[RoleKeeper]) -> None:
    roles = [
        Role("asking", slow_roles.note_renewals, ("first", journal)),
        Role("deaf", slow_roles.note_renewals, ("deaf", journal), renewable=False),
    ]
    keeper = RoleKeeper(roles)
    keepers.append(keeper)
    wait_until(lambda: _ready(keeper), seconds=120, what="the roles are ready")
    keeper.renew("second")
    wait_until(lambda: "asking second" in _lines(journal), seconds=60, what="it was told")
    before = keeper.pids()
    for name in ("asking", "deaf"):
        keeper.kill(name)
    wait_until(
        lambda: _ready(keeper) and not set(keeper.pids().values()) & set(before.values()), seconds=120, what="again"
    )
    assert sorted(_lines(journal)) == ["asking first", "asking second", "asking second", "deaf deaf", "deaf second"]
