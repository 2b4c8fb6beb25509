"""Predicted beside acquired late enhancement in the node: compared when the study closes, withheld where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from execute.test_executor import STUDY, _Executor, _receive_cine, _sentences, _wait_for
from ledger_rows import NOW
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
from storage.closing import FRONT_PAGE
from storage.ledger import open_ledger
from storage.overview import delivery_overviews, job_overviews
from storage.schema import JobState
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
