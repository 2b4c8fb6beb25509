"""What an analysis is, and the runner that orders analyses by their types.

An analysis is a function: its parameter types say what it needs, its return type says what it gives.

>>> @analysis
... def doubled(number: int) -> float:
...     return 2.0 * number
>>> run([doubled], {int: 21})[float]
42.0
"""

from __future__ import annotations

import inspect
import time
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Generic, ParamSpec, TypeVar

import structlog

from pipelines.errors import AnalysisRefused, AnalysisSetupError, Refusal, RefusalReason, raised_along

__all__ = ["Analysis", "Findings", "analysis", "plan", "run"]

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Need:
    """One input of an analysis."""

    parameter: str
    type: type
    optional: bool
    """``X | None``, or a parameter with a default: the analysis also runs without it."""


@dataclass(frozen=True, slots=True)
class Analysis(Generic[P, R]):
    """A function with its needs and what it gives, read from its annotations. Calling it calls the function."""

    function: Callable[P, R]
    name: str
    needs: tuple[Need, ...]
    gives: type[R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run gave: values by type, what was refused and why, seconds by step."""

    values: Mapping[type, Any]
    refusals: tuple[Refusal, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, kind: type[V]) -> V:
        """Value of a type; ``KeyError`` when it was refused or never asked for."""
        return typing.cast("V", self.values[kind])

    def get(self, kind: type[V]) -> V | None:
        """Value of a type, or ``None``."""
        return typing.cast("V | None", self.values.get(kind))


def analysis(function: Callable[P, R]) -> Analysis[P, R]:
    """Make an analysis of a function whose parameters and result are annotated with classes.

    Raises
    ------
    AnalysisSetupError
        An annotation is missing, cannot be resolved, or is neither a class nor ``class | None``.
    """
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise AnalysisSetupError(f"analysis {function.__name__}: {error}; import the type at run time") from error
    needs = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, optional = _class_of(function.__name__, name, hints.get(name))
        needs.append(Need(name, kind, optional or parameter.default is not inspect.Parameter.empty))
    gives, optional = _class_of(function.__name__, "return", hints.get("return"))
    if optional or gives is type(None):
        raise AnalysisSetupError(
            f"analysis {function.__name__} gives {hints['return']}: raise AnalysisRefused instead of None"
        )
    return Analysis(function, function.__name__, tuple(needs), gives)


def plan(
    available: Iterable[Analysis[..., Any]], given: Iterable[type], wanted: Iterable[type] | None = None
) -> tuple[Analysis[..., Any], ...]:
    """Order the analyses that lead from the given types to the wanted ones; each appears once.

    Parameters
    ----------
    available : iterable of Analysis
        At most one for each type given.
    given : iterable of type
        Types whose values will be there from the start.
    wanted : iterable of type, optional
        Results asked for; everything that ``available`` gives when left out.

    Raises
    ------
    AnalysisSetupError
        Two analyses give the same type, a needed type has no source, or the needs form a cycle.
    """
    known = set(given)
    source: dict[type, Analysis[..., Any]] = {}
    for step in available:
        if step.gives in source or step.gives in known:
            other = source[step.gives].name if step.gives in source else "the values given"
            raise AnalysisSetupError(f"{_name(step.gives)} comes from both {other} and {step.name}")
        source[step.gives] = step
    graph: dict[type, list[type]] = {}
    pending = [(kind, "the request") for kind in (source if wanted is None else wanted)]
    while pending:
        kind, asker = pending.pop()
        if kind in known or kind in graph:
            continue
        if kind not in source:
            raise AnalysisSetupError(f"{asker} needs {_name(kind)}, but no analysis gives it")
        needs = [need.type for need in source[kind].needs if not need.optional or need.type in source]
        graph[kind] = [need for need in needs if need not in known]
        pending.extend((need, source[kind].name) for need in needs)
    try:
        return tuple(source[kind] for kind in TopologicalSorter(graph).static_order())
    except CycleError as error:
        path = " → ".join(source[kind].name for kind in error.args[1])
        raise AnalysisSetupError(f"analyses need each other in a circle: {path}") from error


def run(
    available: Iterable[Analysis[..., Any]],
    given: Mapping[type, object],
    wanted: Iterable[type] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Findings:
    """Run the analyses that lead to the wanted results, each once, timed.

    A refusal is recorded, and everything that depends on it is refused with its reason; the rest still runs. What a
    step can do without is run for it only once all is there that it cannot do without. A defect (any other exception)
    is logged with its place and recorded as a refusal too: it is never raised.

    Parameters
    ----------
    available, wanted
        See :func:`plan`.
    given : mapping of type to value
    on_start : callable, optional
        Told the name of each analysis as it starts.

    Raises
    ------
    AnalysisSetupError
        See :func:`plan`; before anything runs.
    """
    wanted = None if wanted is None else tuple(wanted)
    values: dict[type, Any] = dict(given)
    refused: dict[type, Refusal] = {}
    seconds: dict[str, float] = {}
    order = {step.gives: step for step in plan(available, given, wanted)}

    def reach(kind: type) -> None:
        step = order.get(kind)
        if step is None or kind in values or kind in refused:
            return
        for need in sorted(step.needs, key=lambda need: need.optional):
            reach(need.type)
            obstacle = None if need.optional else refused.get(need.type)
            if obstacle is not None:
                first = obstacle.because_of or obstacle.analysis
                refused[kind] = Refusal(step.name, obstacle.reason, obstacle.sentence, because_of=first)
                return
        execute(step)

    def execute(step: Analysis[..., Any]) -> None:
        if on_start is not None:
            on_start(step.name)
        arguments = {need.parameter: values.get(need.type) for need in step.needs if _supplied(need, step, values)}
        started = time.perf_counter()
        try:
            values[step.gives] = step.function(**arguments)
        except AnalysisRefused as refusal:
            refused[step.gives] = Refusal(step.name, refusal.reason, refusal.sentence)
        except Exception as error:  # noqa: BLE001 - the refusal and the log say what failed
            # A defect in one analysis must not take the independent ones with it.
            _log.error("analysis failed", analysis=step.name, error=type(error).__name__, at=raised_along(error))
            sentence = f"The step {step.name} failed on this study ({type(error).__name__}); the log has the details."
            refused[step.gives] = Refusal(step.name, RefusalReason.ANALYSIS_FAILED, sentence)
        seconds[step.name] = time.perf_counter() - started

    for kind in order if wanted is None else wanted:
        reach(kind)
    return Findings(values, tuple(refused.values()), seconds)


def _supplied(need: Need, step: Analysis[..., Any], values: Mapping[type, Any]) -> bool:
    """Whether a value is passed for a need; a default of the function stands where there is no value."""
    if need.type in values:
        return True
    return inspect.signature(step.function).parameters[need.parameter].default is inspect.Parameter.empty


def _class_of(function: str, where: str, hint: Any) -> tuple[type, bool]:
    """Class and optionality of an annotation."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    classes = [member for member in members if member is not type(None)]
    if len(classes) != 1 or not isinstance(classes[0], type | typing.NewType):
        raise AnalysisSetupError(
            f"analysis {function}: annotate {where!r} with one class, or class | None; found {hint!r}"
        )
    return typing.cast("type", classes[0]), len(members) > 1


def _name(kind: type) -> str:
    return kind.__name__
