"""Pages drawn in the other process are those drawn here, byte for byte; failures are told without their text."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dicom_node.errors import ProcessingFailureError
from dicom_node.results.canvas import DARK, LIGHT
from dicom_node.results.capture import pdf, rasters
from dicom_node.results.drawing import DrawingProcess, begin_drawing
from results.synthetic import CREATED, write_cine
from results.test_results_summary import PROVENANCE, content_of, function_pages


@pytest.fixture
def apart() -> Iterator[DrawingProcess]:
    process = DrawingProcess()
    process.start()
    yield process
    process.stop()


def _draw(tmp_path: Path) -> tuple[Callable[[], list[np.ndarray]], Callable[[], bytes]]:
    content = content_of(write_cine(tmp_path, phases=8, slices=4, size=64))
    return (
        functools.partial(rasters, function_pages(DARK, content, PROVENANCE)),
        functools.partial(pdf, function_pages(LIGHT, content, PROVENANCE), "title", CREATED),
    )


def test_what_is_drawn_apart_is_what_is_drawn_here(apart: DrawingProcess, tmp_path: Path) -> None:
    images, document = _draw(tmp_path)
    # Both are on their way at once, and again: what was drawn before leaves no trace.
    waiting = [(apart.begin(images), apart.begin(document)) for _ in range(2)]
    here, printed = images(), document()
    for drawn, made in waiting:
        assert [one.tobytes() for one in drawn()] == [one.tobytes() for one in here]
        assert made() == printed


def test_without_the_process_nothing_is_drawn_until_it_is_wanted() -> None:
    drawn: list[int] = []
    begun = begin_drawing(functools.partial(drawn.append, 1))
    assert drawn == []
    begun()
    assert drawn == [1]


def _fail(text: str) -> None:
    raise ValueError(text)


def test_a_failure_is_told_by_type_and_place_and_not_by_its_text(apart: DrawingProcess) -> None:
    begun = apart.begin(functools.partial(_fail, "Doe^Jane"))
    with pytest.raises(ProcessingFailureError, match=r"failed: ValueError at test_results_drawing\.py:\d+") as raised:
        begun()
    assert "Doe" not in str(raised.value)
    assert apart.begin(functools.partial(abs, -1))() == 1


def test_a_process_that_is_killed_is_an_error_and_another_takes_its_place(apart: DrawingProcess) -> None:
    here = os.getpid()
    first = apart.begin(os.getpid)()
    assert first != here
    with pytest.raises(ProcessingFailureError, match=r"was ended \(exit code -9\)"):
        apart.begin(functools.partial(os.kill, first, signal.SIGKILL))()
    assert apart.begin(os.getpid)() not in (here, first)
