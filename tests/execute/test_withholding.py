"""Predicted beside acquired late enhancement in the node: compared when the study closes, withheld where asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from execute.test_executor import STUDY, _Executor, _receive_cine, _sentences, _wait_for
from interop.ports import wait_until
from ledger_rows import NOW, an_instance, associate
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, KeyObjectSelectionDocumentStorage
from shadow_roles import with_numbers

from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    Peer,
    PeerPermission,
    ResultSettings,
    Route,
    StorageSettings,
    SyntheticPolicy,
)
from dicom_node.execute.process import process_study
from pipelines.phantom.recipe import Disease, PhantomRecipe
from pipelines.phantom.study import simulate
from pipelines.phantom.writer import write_study
from storage.closing import FRONT_PAGE
from storage.files import InstanceFiles
from storage.instances import close_association, record_instances
from storage.jobs import RoutedJob, create_jobs, study_contents
from storage.ledger import Ledger, open_ledger
from storage.overview import delivery_overviews, job_overviews
from storage.schema import JobState, Verdict
from storage.shadow import Segment, kept_comparisons

PACKAGES = ("synthetic_enhancement", "late_enhancement")
MEAN = "The mean is 14.5."


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


def _configuration(folder: Path) -> Configuration:
    waiting = SyntheticPolicy(minimum_studies=2)
    return Configuration(
        peers={
            name: Peer(ae_title=name.upper(), host="localhost", port=104, may=frozenset({PeerPermission.RECEIVE}))
            for name in ("pacs", "clinic")
        },
        routes={"cine": Route(destinations=("pacs", "clinic"))},
        storage=StorageSettings(database=f"sqlite:///{folder}/ledger.sqlite", directory=folder / "instances"),
        execution=ExecutionSettings(threads_per_slot=1, background_slots=0),
        results=ResultSettings(
            destinations={
                "pacs": DestinationProfile(peer="pacs"),
                "clinic": DestinationProfile(peer="clinic", synthetic=waiting),
            }
        ),
    )


def test_a_study_with_both_is_compared_and_what_does_not_pass_is_withheld_and_told(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path)
    ledger = open_ledger(configuration.storage.database)
    _receive_cine(ledger, configuration, tmp_path, packages=PACKAGES)
    executor = _Executor(configuration, with_numbers)
    try:
        _wait_for(ledger, JobState.SUCCEEDED, FRONT_PAGE)
    finally:
        executor.end()

    (comparison,) = kept_comparisons(ledger)
    assert (comparison.probability, comparison.present) == (0.9, True)
    assert (comparison.predicted_percent, comparison.acquired_percent) == (13.0, 10.0)
    assert comparison.segments == {7: Segment(0.8, True)}
    assert comparison.compared_at >= NOW

    by_destination: dict[str, dict[str, set[str]]] = {}
    for one in delivery_overviews(ledger, limit=1000):
        kind = by_destination.setdefault(one.destination, {}).setdefault(_package(one.series_description), set())
        kind.add(one.sop_instance_uid)
    assert by_destination["pacs"].keys() == {*PACKAGES, "front page"}
    assert by_destination["clinic"].keys() == {"late_enhancement", "front page"}

    objects = {
        str(each.SOPInstanceUID): each
        for each in map(dcmread, (configuration.storage.directory / "results").glob("*/*.dcm"))
    }
    withheld = next(
        sentence for sentence in _sentences(_page(objects, by_destination["clinic"])) if sentence.startswith("Withheld")
    )
    assert "0 of 2 studies compared" in withheld
    told, kept_from = (_sentences(_page(objects, by_destination[name])) for name in ("pacs", "clinic"))
    assert told.count(MEAN) == 2
    assert not [sentence for sentence in told if "Withheld" in sentence]
    # Of acquired late enhancement alone.
    assert kept_from.count(MEAN) == 1
    listed = _listed(objects, by_destination["clinic"])
    assert listed
    assert listed.isdisjoint(by_destination["pacs"]["synthetic_enhancement"])

    (job,) = [one for one in job_overviews(ledger) if one.package == "synthetic_enhancement"]
    assert any(sentence.startswith("clinic: Withheld") for sentence in job.sentences)
    assert job.summary is not None
    assert "synthetic_deviation" not in job.summary["numbers"]
    ledger.close()
    assert STUDY not in str(comparison)


def _package(description: str) -> str:
    return next((name for name in PACKAGES if description.startswith(name)), "front page")


def _page(objects: Mapping[str, Dataset], delivered: dict[str, set[str]]) -> Dataset:
    (page,) = [objects[uid] for uid in delivered["front page"] if objects[uid].SOPClassUID == BasicTextSRStorage]
    return page


def _listed(objects: Mapping[str, Dataset], delivered: dict[str, set[str]]) -> set[str]:
    """What the manifest of a destination names."""
    (manifest,) = [
        objects[uid] for uid in delivered["front page"] if objects[uid].SOPClassUID == KeyObjectSelectionDocumentStorage
    ]
    return {str(element.value) for element in manifest.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


@pytest.mark.slow
def test_the_real_packages_on_a_study_with_late_enhancement_are_compared(tmp_path: Path) -> None:
    """An infarct phantom with both, through the executor with the real analyses: the ledger holds the comparison."""
    recipe = PhantomRecipe(
        seed=71,
        disease=Disease.INFARCT,
        transmurality=1.0,
        slices=7,
        phases=10,
        rows=112,
        columns=112,
        spacing_mm=1.8,
        coils=1,
        long_axis=False,
        late_enhancement=True,
    )
    paths = write_study(simulate(recipe, workers=1), tmp_path / "study")
    configuration = _configuration(tmp_path)
    ledger = open_ledger(configuration.storage.database)
    study = _receive_files(ledger, configuration, paths)
    executor = _Executor(configuration, process_study)
    try:
        wait_until(
            lambda: any(one.package == FRONT_PAGE and one.verdict for one in job_overviews(ledger)),
            seconds=1500,
            what="the study is closed",
        )
    finally:
        executor.end()
    jobs = {one.package: one for one in job_overviews(ledger)}
    assert {jobs[name].verdict for name in PACKAGES} == {Verdict.DELIVERED}
    (comparison,) = kept_comparisons(ledger)
    assert comparison.present
    assert comparison.acquired_percent > 5
    assert comparison.predicted_percent >= 0
    assert 0 <= comparison.probability <= 1
    assert len(comparison.segments) >= 10
    assert study not in str(comparison)
    ledger.close()


def _receive_files(ledger: Ledger, configuration: Configuration, paths: list[Path]) -> str:
    """Put the files of one study into storage and ledger, and queue the job of each package; its UID."""
    files, association = InstanceFiles(configuration.storage.directory), associate(ledger)
    series: dict[str, None] = {}
    study = ""
    for number, path in enumerate(paths):
        header = dcmread(path, stop_before_pixels=True)
        content = path.read_bytes()
        stored = files.store(content[132:], file_meta=content[:132], transfer_syntax_uid="1.2")
        study = str(header.StudyInstanceUID)
        series[str(header.SeriesInstanceUID)] = None
        row = dataclasses.replace(
            an_instance(association, number, study=study, series=str(header.SeriesInstanceUID)),
            sop_class_uid=str(header.SOPClassUID),
            sop_instance_uid=str(header.SOPInstanceUID),
            digest=stored.digest,
            path=str(stored.path),
        )
        record_instances(ledger, [row], at=NOW)
    close_association(ledger, association, outcome="released", at=NOW)
    routed = [
        RoutedJob("cine", package, tuple(series), priority=50, deadline_s=9000, maximum_attempts=1, timeout_s=1200)
        for package in PACKAGES
    ]
    assert create_jobs(ledger, study_contents(ledger, study), routed, reason="test", now=NOW)
    return study
