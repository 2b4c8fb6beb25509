"""Analyses for one indication: what the route says reaches them, and without it they decline."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pydantic
import pytest
from results.synthetic import STUDY_UID, write_cine

from dicom_node.config import ResultSettings, Route
from dicom_node.execute.process import process_study
from pipelines.cine.assemble import assemble
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.indication import Indication, require_indication
from pipelines.package import packages
from pipelines.study import analyse_study


@pytest.mark.parametrize("indication", [None, Indication.ACUTE_INFARCT])
def test_the_indication_of_the_route_reaches_the_analyses(tmp_path: Path, indication: Indication | None) -> None:
    done = process_study(
        write_cine(tmp_path, phases=12, slices=2, size=32).paths,
        study_instance_uid=STUDY_UID,
        inputs=["digest"],
        created=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        route_name="infarct",
        route=Route(destinations=("pacs",), indication=indication),
        results=ResultSettings(),
    )
    assert done.study.context.indication is indication


def test_an_analysis_declines_a_study_that_is_not_its_own() -> None:
    require_indication(Indication.ACUTE_INFARCT, Indication.ACUTE_INFARCT, "Obstruction")
    with pytest.raises(AnalysisRefused, match=r"acute infarct; the route states no indication\.") as refused:
        require_indication(None, Indication.ACUTE_INFARCT, "Obstruction")
    assert refused.value.reason is RefusalReason.NOT_SUITABLE


@pytest.mark.parametrize("package", ["obstruction", "remodelling"])
def test_what_the_route_does_not_say_is_missed_before_anything_is_computed(tmp_path: Path, package: str) -> None:
    (study,) = assemble(write_cine(tmp_path, phases=14, slices=3, size=32).paths)
    begun: list[str] = []
    found = analyse_study(study, [packages()[package].gives], on_start=begun.append)
    (cause,) = [one for one in found.refusals if one.because_of is None]
    assert "the route states no indication" in cause.sentence
    assert len(begun) == len(found.seconds) == 2
    assert begun[0] == "short_axis"


def test_obstruction_misses_phases_before_anything_is_computed(tmp_path: Path) -> None:
    (study,) = assemble(write_cine(tmp_path, phases=11, slices=3, size=32).paths)
    study = replace(study, context=replace(study.context, indication=Indication.ACUTE_INFARCT))
    begun: list[str] = []
    found = analyse_study(study, [packages()["obstruction"].gives], on_start=begun.append)
    (cause,) = [one for one in found.refusals if one.because_of is None]
    assert cause.reason is RefusalReason.TOO_FEW_PHASES
    assert "has 11 phases; 12 are needed" in cause.sentence
    assert "segmentation" not in begun


def test_a_route_takes_no_indication_that_nothing_knows() -> None:
    assert Route.model_validate({"destinations": ["pacs"], "indication": "acute infarct"}).indication
    with pytest.raises(pydantic.ValidationError, match="acute infarct"):
        Route.model_validate({"destinations": ["pacs"], "indication": "infarct"})
