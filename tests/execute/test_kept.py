"""Segmentations that packages of a study share: kept on disk while a job may want them, and used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_analysis import cheap_analysis
from execute.test_executor import _configuration, _receive_cine
from own_packages import crash_packages
from results.synthetic import Cine, findings_of, write_cine

from dicom_node.execute.kept import KeptFindings
from dicom_node.execute.lanes import lanes
from dicom_node.execute.process import ProcessedStudy
from dicom_node.execute.worker import Worker
from pipelines.models.registry import list_models
from pipelines.segmentation.labels import CineSegmentation
from storage.files import InstanceFiles
from storage.ledger import Ledger, open_ledger
from storage.overview import job_overviews
from storage.schema import JobState

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Cine:
    return write_cine(tmp_path_factory.mktemp("kept"), phases=12, slices=4, size=48)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(_configuration(tmp_path).storage.database)
    yield opened
    opened.close()


def test_a_package_that_needs_it_gets_what_was_kept_of_the_same_images_on_the_same_device(
    tmp_path: Path, cine: Cine
) -> None:
    kept = KeptFindings(tmp_path)
    assert kept.load(DIGEST, "motion", "cpu") == {}
    kept.save(DIGEST, "cpu", findings_of(cine).values)
    found = kept.load(DIGEST, "motion", "cpu")
    assert set(found) == {CineSegmentation}
    again = found[CineSegmentation]
    assert isinstance(again, CineSegmentation)
    assert np.array_equal(again.labels, cine.segmentation.labels)
    assert again.models == cine.segmentation.models
    with crash_packages(tmp_path / "packages") as (needs_none, *_):
        assert kept.load(DIGEST, needs_none, "cpu") == {}
    assert kept.load("cd" * 32, "motion", "cpu") == {}
    assert kept.load(DIGEST, "motion", "cuda:0") == {}


def test_nothing_is_used_that_a_model_made_whose_card_had_another_version(
    tmp_path: Path, cine: Cine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptFindings(tmp_path)
    kept.save(DIGEST, "cpu", findings_of(cine).values)
    cards = [card.model_copy(update={"version": "99.0.0"}) for card in list_models()]
    monkeypatch.setattr("pipelines.models.registry.list_models", lambda: cards)
    assert kept.load(DIGEST, "motion", "cpu") == {}


def test_what_is_damaged_is_made_again_and_what_nobody_wants_is_removed(tmp_path: Path, cine: Cine) -> None:
    kept = KeptFindings(tmp_path)
    kept.save(DIGEST, "cpu", findings_of(cine).values)
    (file,) = tmp_path.glob("kept/*/*.npz")
    file.write_bytes(file.read_bytes()[:-100])
    assert kept.load(DIGEST, "motion", "cpu") == {}
    kept.save(DIGEST, "cpu", findings_of(cine).values)
    assert CineSegmentation in kept.load(DIGEST, "motion", "cpu")
    assert kept.sweep({DIGEST}) == 0
    assert file.exists()
    assert kept.sweep(()) == 1
    assert list(tmp_path.glob("kept/*")) == []


def test_the_second_package_of_a_study_works_on_the_segmentation_of_the_first(
    tmp_path: Path, cine: Cine, ledger: Ledger
) -> None:
    configuration = _configuration(tmp_path)
    _receive_cine(ledger, configuration, tmp_path, packages=("ventricular_function", "motion"))
    files = InstanceFiles(configuration.storage.directory)
    given: dict[str, Mapping[type, object]] = {}
    folder = configuration.storage.directory / "kept"

    def process(*paths: Any, package: str, known: Mapping[type, object], **settings: Any) -> ProcessedStudy:
        given[package] = known
        made = cheap_analysis(*paths, package=package, known=known, **settings)
        return dataclasses.replace(made, findings=findings_of(cine))

    worker = Worker(ledger, files, configuration, "worker 0", lanes(configuration.execution)[0], process)
    for _ in range(2):
        assert worker.work_once()
    assert given["ventricular_function"] == {}
    segmentation = given["motion"][CineSegmentation]
    assert isinstance(segmentation, CineSegmentation)
    assert np.array_equal(segmentation.labels, cine.segmentation.labels)
    assert len(list(folder.iterdir())) == 1
    # The front page: no job of this study wants it any more.
    assert worker.work_once()
    assert {one.state for one in job_overviews(ledger)} == {JobState.SUCCEEDED}
    assert list(folder.iterdir()) == []
