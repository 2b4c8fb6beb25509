"""What storage does wrong is no fault of an image: it is raised, and a defect of this software is told as one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cine_scanner import stack
from pydicom.dataset import Dataset
from structlog.testing import capture_logs

from pipelines.cine import assemble as assembling
from pipelines.cine import facts
from pipelines.cine.assemble import assemble, assemble_datasets
from pipelines.cine.facts import instance_facts
from pipelines.cine.stack import OmissionReason


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A short axis whose pixel data are large enough to stay on disk until they are asked for."""
    paths = []
    for number, image in enumerate(stack(slices=3, phases=12)):
        image.Rows = image.Columns = 200
        image.PixelData = bytes(2 * 200 * 200)
        paths.append(tmp_path / f"{number}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def test_the_files_make_a_stack(files: list[Path]) -> None:
    (study,) = assemble(files)
    assert study.short_axis is not None
    assert study.short_axis.pixels.shape[:2] == (12, 3)


def test_a_file_that_is_gone_is_not_left_out_of_the_stack(files: list[Path]) -> None:
    files[5].unlink()
    with pytest.raises(FileNotFoundError):
        assemble(files)


def test_storage_that_fails_is_no_damage(files: list[Path]) -> None:
    files[5].unlink()
    files[5].mkdir()
    with pytest.raises(IsADirectoryError):
        assemble(files)


def test_pixels_that_are_gone_when_they_are_asked_for_are_not_left_out(files: list[Path]) -> None:
    def lose_one(path: Path, _: Dataset) -> None:
        if path == files[-1]:
            files[5].unlink()

    with pytest.raises(OSError, match="is missing"):
        assemble(files, lose_one)


def test_a_damaged_file_is_left_out_and_said(files: list[Path]) -> None:
    files[5].write_bytes(b"no DICOM")
    (study,) = assemble(files)
    assert study.short_axis is not None
    assert OmissionReason.UNREADABLE in {one.reason for one in study.omissions}


def test_a_defect_of_whoever_looks_on_is_not_put_down_to_the_file(files: list[Path]) -> None:
    def fail(_path: Path, _dataset: Dataset) -> None:
        raise LookupError("a defect")

    with pytest.raises(LookupError, match="a defect"):
        assemble(files, fail)


def defect(*_: object, **__: object) -> None:
    raise AttributeError("patient name in the text")


def test_a_defect_in_the_reading_of_headers_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "frame_headers", defect)
    with capture_logs() as logs:
        (study,) = assemble_datasets(stack(slices=3, phases=12)[:1])
    assert {one.reason for one in study.omissions} == {OmissionReason.UNREADABLE}
    (entry,) = [one for one in logs if one["log_level"] == "error"]
    assert entry["error"] == "AttributeError"
    assert entry["at"][-1].startswith("test_cine_storage.py:")
    assert "patient name" not in str(entry)


def test_a_defect_in_the_reading_of_facts_is_told_with_its_place(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "frame_headers", defect)
    with capture_logs() as logs:
        found = instance_facts(files[0])
    assert found.problem == "its header cannot be read (AttributeError)"
    assert found.sop_instance_uid
    (entry,) = [one for one in logs if one["log_level"] == "error"]
    assert entry["at"][-1].startswith("test_cine_storage.py:")
