"""The runner: order by types, each value once, refusals that spread, errors that say what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pipelines.analysis import analysis, plan, run
from pipelines.errors import AnalysisRefused, AnalysisSetupError, RefusalReason, raised_along


@dataclass(frozen=True)
class Source:
    number: int


@dataclass(frozen=True)
class Left:
    number: int


@dataclass(frozen=True)
class Right:
    number: int


@dataclass(frozen=True)
class Both:
    left: int
    right: int | None


Special = NewType("Special", Source)


@analysis
def left(source: Source) -> Left:
    return Left(source.number + 1)


@analysis
def right(source: Source) -> Right:
    if source.number < 0:
        raise AnalysisRefused(RefusalReason.TOO_FEW_PHASES, "A number below zero has no right.")
    return Right(source.number * 2)


@analysis
def both(left: Left, right: Right) -> Both:
    return Both(left.number, right.number)


@analysis
def either(left: Left, right: Right | None) -> Both:
    return Both(left.number, right.number if right else None)


def test_orders_by_types_whatever_the_order_given() -> None:
    findings = run([both, right, left], {Source: Source(20)})
    assert findings[Both] == Both(21, 40)
    assert list(findings.seconds)[-1] == "both"
    assert set(findings.seconds) == {"left", "right", "both"}
    assert findings.refusals == ()


def test_computes_only_what_is_wanted_and_each_once() -> None:
    calls: list[str] = []

    @analysis
    def counted(source: Source) -> Left:
        calls.append("counted")
        return Left(source.number)

    @analysis
    def first(left: Left) -> Right:
        return Right(left.number)

    @analysis
    def second(left: Left, right: Right) -> Both:
        return Both(left.number, right.number)

    @analysis
    def unwanted(source: Source) -> float:
        raise AssertionError("not asked for")

    findings = run([unwanted, second, first, counted], {Source: Source(3)}, wanted=[Both])
    assert findings[Both] == Both(3, 3)
    assert calls == ["counted"]
    assert findings.get(float) is None


def test_refusal_spreads_to_dependents_and_spares_the_rest() -> None:
    findings = run([both, right, left], {Source: Source(-1)})
    assert findings[Left] == Left(0)
    assert findings.get(Both) is None
    by_name = {refusal.analysis: refusal for refusal in findings.refusals}
    assert by_name["right"].reason is RefusalReason.TOO_FEW_PHASES
    assert by_name["right"].because_of is None
    assert by_name["both"].reason is RefusalReason.TOO_FEW_PHASES
    assert by_name["both"].because_of == "right"
    assert by_name["both"].sentence == "A number below zero has no right."
    assert "both" not in findings.seconds


def test_optional_input_may_be_refused_or_absent() -> None:
    assert run([either, right, left], {Source: Source(-1)})[Both] == Both(0, None)
    assert run([either, left], {Source: Source(1)})[Both] == Both(2, None)
    assert run([either, right, left], {Source: Source(1)})[Both] == Both(2, 2)


def test_what_a_step_can_do_without_is_not_run_for_a_step_that_is_refused() -> None:
    @analysis
    def picky(costly: Left | None, needed: Right) -> Both:
        raise AssertionError("is never reached")

    started: list[str] = []
    found = run([left, right, picky], {Source: Source(-1)}, [Both], on_start=started.append)
    assert started == ["right"]
    assert {refusal.analysis: refusal.because_of for refusal in found.refusals} == {"right": None, "picky": "right"}
    # Where it is wanted for itself it runs.
    assert run([left, right, picky], {Source: Source(-1)}, [Both, Left]).values[Left] == Left(0)


def test_default_stands_where_there_is_no_value() -> None:
    @analysis
    def limited(source: Source, limit: Right = Right(7)) -> Both:
        return Both(source.number, limit.number)

    assert run([limited], {Source: Source(1)})[Both] == Both(1, 7)
    assert run([limited], {Source: Source(1), Right: Right(9)})[Both] == Both(1, 9)


def test_new_type_is_a_type_of_its_own() -> None:
    @analysis
    def special(source: Source) -> Special:
        return Special(Source(-source.number))

    @analysis
    def of_special(source: Special) -> Left:
        return Left(source.number)

    assert run([of_special, special], {Source: Source(5)})[Left] == Left(-5)


def test_defect_is_recorded_with_its_place_and_correlation_id_and_not_raised() -> None:
    @analysis
    def defective(source: Source) -> Right:
        return Right(int(f"SURNAME{source.number}"))

    with (
        structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as events,
        structlog.contextvars.bound_contextvars(correlation_id="7f3a"),
    ):
        findings = run([both, defective, left], {Source: Source(1)})
    assert findings[Left] == Left(2)
    assert [(r.analysis, r.reason) for r in findings.refusals] == [
        ("defective", RefusalReason.ANALYSIS_FAILED),
        ("both", RefusalReason.ANALYSIS_FAILED),
    ]
    assert "ValueError" in findings.refusals[0].sentence
    (event,) = events
    assert (event["event"], event["analysis"], event["error"]) == ("analysis failed", "defective", "ValueError")
    assert event["correlation_id"] == "7f3a"
    assert event["at"][-1].startswith("test_analysis.py:")
    assert event["at"][-1].endswith(" defective")
    assert "SURNAME" not in str(events)


def test_missing_input_names_who_needs_what() -> None:
    with pytest.raises(AnalysisSetupError, match="both needs Right, but no analysis gives it"):
        run([both, left], {Source: Source(1)})
    with pytest.raises(AnalysisSetupError, match="the request needs Both"):
        plan([left], [Source], wanted=[Both])


def test_circle_is_named() -> None:
    @analysis
    def forth(right: Right) -> Left:
        return Left(right.number)

    @analysis
    def back(left: Left) -> Right:
        return Right(left.number)

    with pytest.raises(AnalysisSetupError, match=r"circle: (forth → back → forth|back → forth → back)"):
        plan([forth, back], [])


def test_two_sources_of_one_type_are_refused() -> None:
    @analysis
    def other_left(source: Source) -> Left:
        return Left(source.number)

    with pytest.raises(AnalysisSetupError, match="Left comes from both left and other_left"):
        plan([left, other_left], [Source])
    with pytest.raises(AnalysisSetupError, match="Left comes from both the values given and left"):
        plan([left], [Source, Left])


def test_bad_annotations_are_refused_at_once() -> None:
    def unannotated(source) -> Left:
        return Left(0)

    def gives_optional(source: Source) -> Left | None:
        return None

    def gives_nothing(source: Source) -> None: ...

    def union(source: Source | Right) -> Left:
        return Left(0)

    def unknown(source: Nowhere) -> Left:  # type: ignore[name-defined]  # noqa: F821
        return Left(0)

    for bad in (unannotated, gives_optional, gives_nothing, union, unknown):
        with pytest.raises(AnalysisSetupError, match=bad.__name__):
            analysis(bad)


def test_analysis_is_still_a_function_and_tells_when_it_starts() -> None:
    started: list[str] = []
    assert left(Source(1)) == Left(2)
    run([left, right, both], {Source: Source(1)}, on_start=started.append)
    assert sorted(started[:2]) == ["left", "right"]
    assert started[2] == "both"


def test_the_places_of_a_translated_exception_lead_to_its_cause() -> None:
    def defective() -> None:
        raise KeyError("a value of the data set")

    def translating() -> None:
        try:
            defective()
        except KeyError as error:
            raise ValueError("it cannot be read") from error

    with pytest.raises(ValueError, match="cannot be read") as raised:
        translating()
    places = [place.rpartition(" ")[2] for place in raised_along(raised.value)]
    assert places[1:] == ["translating", "translating", "defective"]
    assert "value" not in "".join(raised_along(raised.value))


@given(st.permutations([left, right, both]))
def test_plan_respects_every_need(order: list) -> None:
    names = [step.name for step in plan(order, [Source])]
    assert names.index("both") == 2
