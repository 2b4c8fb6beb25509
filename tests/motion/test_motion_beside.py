"""Pieces of work that run beside one another."""

from __future__ import annotations

import threading

import pytest
import torch

from pipelines.motion.beside import beside


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_pieces_run_at_the_same_time_on_a_thread_each():
    # Each waits for the other: one after the other they would never end.
    meet = threading.Barrier(2, timeout=60)

    def threads() -> int:
        meet.wait()
        return torch.get_num_threads()

    with beside() as start:
        found = [start(threads), start(threads)]
    assert [one.result() for one in found] == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_what_fails_is_told_where_its_result_is_asked_for():
    def fails() -> int:
        raise KeyError("nothing there")

    with beside() as start:
        failing, other = start(fails), start(lambda: "done")
    assert other.result() == "done"
    with pytest.raises(KeyError, match="nothing there"):
        failing.result()
    assert torch.get_num_threads() == 2
