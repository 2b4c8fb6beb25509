"""Analyses for one indication: what the route says reaches them, and without it they decline."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pydantic
import pytest
from results.synthetic import STUDY_UID, write_cine

from dicom_node.config import ResultSettings, Route
from dicom_node.execute.process import process_study
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.indication import Indication, require_indication


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


def test_a_route_takes_no_indication_that_nothing_knows() -> None:
    assert Route.model_validate({"destinations": ["pacs"], "indication": "acute infarct"}).indication
    with pytest.raises(pydantic.ValidationError, match="acute infarct"):
        Route.model_validate({"destinations": ["pacs"], "indication": "infarct"})
