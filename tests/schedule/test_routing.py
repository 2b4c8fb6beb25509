"""Routing: which series a route takes, and what it says about those it does not."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.config import (
    Configuration,
    DestinationProfile,
    ExecutionSettings,
    Peer,
    ResultSettings,
    Route,
    SeriesRule,
)
from dicom_node.schedule.routed import jobs_of_route
from dicom_node.schedule.routing import Series, explain
from pipelines.package import packages
from storage.schema import JobSlot

CINE = Series(
    series_instance_uid="1.1",
    calling_ae_title="MR1",
    modality="MR",
    series_description="cine SAX b3",
    study_description="Herz MRT",
    manufacturer="SIEMENS",
    body_part_examined="HEART",
    phases=25,
    slices=1,
    own_output=False,
)


def _route(*rules: SeriesRule) -> Route:
    return Route(series=rules, destinations=("pacs",))


def _taken(route: Route, *series: Series) -> tuple[str, ...]:
    (explanation,) = explain({"cine": route}, series)
    return explanation.series_instance_uids


def test_the_default_rule_takes_what_is_cine_by_phases_and_nothing_else() -> None:
    report = dataclasses.replace(CINE, series_instance_uid="1.2", modality="SR")
    knee = dataclasses.replace(CINE, series_instance_uid="1.3", phases=1, slices=30)
    assert _taken(Route(destinations=("pacs",)), CINE, report, knee) == ("1.1",)
    assert _taken(_route(SeriesRule(minimum_phases=None)), CINE, report, knee) == ("1.1", "1.3")


def test_no_pattern_takes_longer_than_the_text_is_long() -> None:
    described = dataclasses.replace(CINE, series_description="a" * 64)
    # The standard library would compare for longer than the suite may last.
    for rule in (SeriesRule(series_description="(a+)+b"), SeriesRule(exclude_series_description="(a|a)+b")):
        assert _taken(_route(rule), described) == (() if rule.series_description else ("1.1",))


@pytest.mark.parametrize("pattern", ["(", "(?!scout).*", r"(a)\1", "(a{1000}){1000}"])
def test_a_pattern_that_cannot_be_matched_in_bounded_time_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(
        ValidationError, match=r"not a regular expression that can be used: .*exclude_series_description"
    ):
        SeriesRule(series_description=pattern)


@pytest.mark.parametrize("beside", ["late enhancement", "flow"])
def test_what_the_cine_is_read_with_goes_with_it_and_not_alone(beside: str) -> None:
    other = dataclasses.replace(CINE, series_instance_uid="1.4", phases=0, beside_cine=beside)
    assert _taken(Route(destinations=("pacs",)), CINE, other) == ("1.1", "1.4")
    assert _taken(Route(destinations=("pacs",)), other) == ()
    described = SeriesRule(series_description="(?i)cine.*")
    assert _taken(_route(described), CINE, dataclasses.replace(other, series_description="PSIR")) == ("1.1",)
    (explanation,) = explain({"cine": Route(destinations=("pacs",))}, [CINE, other])
    assert "goes with the cine of its study" in explanation.series[1].rules[0].checks[1].sentence


@pytest.mark.parametrize(
    ("key", "matching", "failing"),
    [
        ("manufacturer", "SIEM.*", "GE.*"),
        ("study_description", "Herz .*", "Herz"),
        ("series_description", "(?i)CINE.*", "CINE.*"),
        ("calling_ae_title", "MR[12]", "MR2"),
        ("body_part_examined", "HEART", "HEAR"),
        ("minimum_phases", 25, 26),
        ("minimum_slices", 1, 2),
        ("exclude_series_description", ".*LAX.*", ".*SAX.*"),
    ],
)
def test_each_key_matches_the_whole_value_and_says_so(key: str, matching: object, failing: object) -> None:
    assert _taken(_route(SeriesRule(**{key: matching})), CINE) == ("1.1",)
    (explanation,) = explain({"cine": _route(SeriesRule(**{key: failing}))}, [CINE])
    (one,) = explanation.series
    assert not one.taken
    (failed,) = [check for check in one.rules[0].checks if not check.matched]
    assert failed.key == key
    assert failed.sentence in one.sentence
    assert str(failing) in one.sentence or repr(failing) in one.sentence


def test_any_rule_of_a_route_is_enough_and_is_named() -> None:
    (explanation,) = explain({"cine": _route(SeriesRule(manufacturer="GE"), SeriesRule())}, [CINE])
    assert explanation.series[0].sentence == "taken by rule 2"


def test_slices_are_counted_over_the_series_that_match_the_rest_of_the_rule() -> None:
    rule = SeriesRule(series_description="cine SAX.*", minimum_slices=8)
    slices = [dataclasses.replace(CINE, series_instance_uid=f"1.{number}") for number in range(8)]
    other = dataclasses.replace(CINE, series_instance_uid="2.1", series_description="4CH")
    assert len(_taken(_route(rule), *slices, other)) == 8
    assert _taken(_route(rule), *slices[:7], other) == ()


def test_what_this_node_made_is_never_routed() -> None:
    own = dataclasses.replace(CINE, own_output=True)
    (explanation,) = explain({"cine": Route(destinations=("pacs",))}, [own])
    assert explanation.series_instance_uids == ()
    assert explanation.series[0].sentence == "left out: this node made it"


def test_a_route_takes_nothing_of_a_study_that_it_leaves_to_another() -> None:
    infarct = Route(series=(SeriesRule(study_description=".*STEMI.*"),), destinations=())
    heart = Route(destinations=(), leaves_to=frozenset({"infarct"}))
    rest = Route(series=(SeriesRule(minimum_phases=None),), destinations=(), leaves_to=frozenset({"heart"}))
    knee = dataclasses.replace(CINE, series_instance_uid="1.3", phases=1)
    routes = {"rest": rest, "heart": heart, "infarct": infarct}

    def taken(*series: Series) -> dict[str, tuple[str, ...]]:
        return {one.route: one.series_instance_uids for one in explain(routes, series) if one.series_instance_uids}

    assert taken(CINE, knee) == {"heart": ("1.1",)}
    assert taken(knee) == {"rest": ("1.3",)}
    acute = dataclasses.replace(CINE, study_description="Heart STEMI")
    # Whoever stands back before a route that stands back itself: the study has one route, not two.
    assert taken(acute, knee) == {"infarct": ("1.1",)}
    explained = {one.route: one for one in explain(routes, (acute, knee))}
    assert explained["heart"].series[0].sentence == "left out: the study is left to route infarct"
    assert explained["heart"].series[0].rules[0].matched
    assert explained["heart"].series[1].sentence.startswith("left out: rule 1: minimum_phases")


def test_a_missing_value_is_called_empty() -> None:
    unknown = dataclasses.replace(CINE, manufacturer="")
    (explanation,) = explain({"cine": _route(SeriesRule(manufacturer="GE.*"))}, [unknown])
    assert explanation.series[0].sentence == "left out: rule 1: manufacturer is empty, wanted 'GE.*'"


@given(
    series=st.lists(
        st.builds(
            Series,
            series_instance_uid=st.uuids().map(str),
            calling_ae_title=st.sampled_from(["MR1", "MR2"]),
            modality=st.sampled_from(["MR", "SR"]),
            series_description=st.text(max_size=8),
            study_description=st.text(max_size=8),
            manufacturer=st.sampled_from(["", "GE", "SIEMENS"]),
            body_part_examined=st.sampled_from(["", "HEART"]),
            phases=st.integers(0, 40),
            slices=st.integers(0, 12),
            own_output=st.booleans(),
        ),
        max_size=5,
    ),
    rules=st.lists(
        st.builds(
            SeriesRule,
            manufacturer=st.sampled_from([None, "GE", "S.*"]),
            calling_ae_title=st.sampled_from([None, "MR1"]),
            minimum_phases=st.none() | st.integers(1, 40),
            minimum_slices=st.none() | st.integers(1, 20),
        ),
        max_size=3,
    ),
)
def test_every_series_gets_one_answer_that_agrees_with_the_checks(
    series: list[Series], rules: list[SeriesRule]
) -> None:
    (explanation,) = explain({"cine": _route(*rules)}, series)
    assert [one.series for one in explanation.series] == series
    for one in explanation.series:
        matched = any(all(check.matched for check in rule.checks) for rule in one.rules)
        assert one.taken == (matched and not one.series.own_output)
        assert one.sentence.startswith("taken" if one.taken else "left out")


def _routed(**execution: object) -> dict[str, tuple[int, float, int, JobSlot, bool]]:
    analyses = ("ventricular_function", "motion", "remodelling")
    configuration = Configuration(
        peers={"pacs": Peer(ae_title="PACS", host="localhost", port=104, may=frozenset({"receive"}))},
        routes={"cine": Route(destinations=("pacs",), analyses=analyses, priority=40)},
        execution=ExecutionSettings(**execution),
        results=ResultSettings(destinations={"pacs": DestinationProfile(peer="pacs")}),
    )
    jobs = jobs_of_route(configuration, "cine", ("1.2.3",))
    assert [(one.package, one.series_instance_uids) for one in jobs] == [(name, ("1.2.3",)) for name in analyses]
    return {one.package: (one.priority, one.timeout_s, one.maximum_attempts, one.slot, one.background) for one in jobs}


def test_priority_time_out_attempts_and_slot_of_a_job_are_those_of_its_package() -> None:
    assert _routed() == {
        name: (
            40 + packages()[name].priority,
            packages()[name].timeout_s,
            packages()[name].maximum_attempts,
            JobSlot(packages()[name].slot.value),
            packages()[name].priority < 0,
        )
        for name in ("ventricular_function", "motion", "remodelling")
    }
    one = _routed()
    assert one["ventricular_function"][3:] == (JobSlot.CPU, False)
    assert one["motion"][3:] == (JobSlot.GPU, False)
    assert one["remodelling"][3:] == (JobSlot.GPU, True)
    assert {each[1:3] for each in _routed(job_timeout_s=77, maximum_attempts=5).values()} == {(77, 5)}
