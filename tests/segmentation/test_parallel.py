from __future__ import annotations

import threading

import pytest
import torch

from pipelines.segmentation.parallel import beside, each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_their_order_and_each_has_a_thread_to_itself(two_threads: None) -> None:
    meeting = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[int, int]:
        if item < 2:
            meeting.wait()  # passes only when two items run at the same time
        return item, torch.get_num_threads()

    assert each(work, range(9)) == [(item, 1) for item in range(9)]
    assert torch.get_num_threads() == 2


def test_an_error_comes_out_and_the_threads_come_back(two_threads: None) -> None:
    def fail(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        each(fail, range(4))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_two_pieces_run_at_the_same_time_on_a_thread_each() -> None:
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
def test_what_fails_is_told_where_its_result_is_asked_for() -> None:
    def fails() -> int:
        raise KeyError("nothing there")

    with beside() as start:
        failing, other = start(fails), start(lambda: "done")
    assert other.result() == "done"
    with pytest.raises(KeyError, match="nothing there"):
        failing.result()
    assert torch.get_num_threads() == 2
