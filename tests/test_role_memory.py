"""What a process of the node keeps of the work that is done."""

from __future__ import annotations

import gc
from pathlib import Path

from interop.ports import wait_until

from dicom_node.roles import Role, RoleContext, RoleKeeper

FEW = 5_000
"""Objects: what a receiver imports is thirty times as many."""


def _looked_through(context: RoleContext, told: Path) -> None:
    import dicom_node.network.receiver  # noqa: F401 - what a receiver has loaded

    context.ready()
    told.write_text(f"{len(gc.get_objects())} {gc.get_freeze_count()}")
    context.stop.wait()


def test_collections_look_at_what_has_come_since_a_process_was_ready(tmp_path: Path) -> None:
    told = tmp_path / "told"
    keeper = RoleKeeper([Role("role", _looked_through, (told,))])

    def ready() -> bool:
        keeper.tend()
        return keeper.all_ready() and told.exists() and told.read_text() != ""

    try:
        wait_until(ready, seconds=120, what="the role has told")
    finally:
        keeper.stop(10)
    looked_at, left_out = map(int, told.read_text().split())
    assert looked_at < FEW < left_out
