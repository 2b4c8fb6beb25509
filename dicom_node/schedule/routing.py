"""Which series go to which route, and why: pure functions over what the ledger knows of the series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dicom_node.config import OrderRule, Route, SeriesRule
from dicom_node.patterns import matches_whole
from storage.orders import NO_ORDERS, StudyOrders, WhyUnused

__all__ = ["KeyCheck", "RouteExplanation", "RuleExplanation", "Series", "SeriesExplanation", "explain"]


@dataclass(frozen=True, slots=True)
class Series:
    """One series as the rules see it."""

    series_instance_uid: str
    calling_ae_title: str
    modality: str
    series_description: str
    study_description: str
    manufacturer: str
    body_part_examined: str
    phases: int
    """Cardiac phases at the slice position that has the most, with those of other series there; 1 for what is not cine,
    0 for what has no image."""
    slices: int
    """Slice positions."""
    own_output: bool
    """Whether this node made it: never routed, or a PACS that returns results would start a loop."""
    beside_cine: str = ""
    """``late enhancement`` or ``flow``: what the cine of its study is read with; empty for anything else."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """One key of a rule against one series."""

    key: str
    matched: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class RuleExplanation:
    """One rule of a route against one series."""

    number: int
    """1-based, as in ``config.yaml``."""
    checks: tuple[KeyCheck, ...]

    @property
    def matched(self) -> bool:
        """Whether every key matched."""
        return all(check.matched for check in self.checks)


@dataclass(frozen=True, slots=True)
class SeriesExplanation:
    """One route against one series."""

    series: Series
    taken: bool
    sentence: str
    rules: tuple[RuleExplanation, ...]


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """One route against a study."""

    route: str
    series: tuple[SeriesExplanation, ...]

    @property
    def series_instance_uids(self) -> tuple[str, ...]:
        """The series that the route takes."""
        return tuple(one.series.series_instance_uid for one in self.series if one.taken)


# Each is compared as a regular expression on the whole value.
_PATTERNS = (
    "manufacturer",
    "study_description",
    "series_description",
    "calling_ae_title",
    "body_part_examined",
)


_DIFFERS = {
    WhyUnused.PATIENT: "the patient differs",
    WhyUnused.ZEROS: "the number of the patient differs, by leading zeros alone",
    WhyUnused.ISSUER: "the issuer of the accession number differs",
}


def explain(
    routes: Mapping[str, Route], series: Sequence[Series], orders: StudyOrders = NO_ORDERS
) -> tuple[RouteExplanation, ...]:
    """Hold every series of a study against every route.

    A series is taken when any rule of the route matches it. ``minimum_slices`` counts the slice positions of all
    series that match the other keys of the rule, because some vendors make a series of every slice. ``minimum_phases``
    lets late enhancement and flow through when another series of the study has the phases: they go with the cine.
    ``order`` matches all series of the study when one of its orders does. A route that leaves the study to another one,
    by a rule of which that takes a series, takes none, whoever that one leaves it to in turn.

    Parameters
    ----------
    orders
        Of the study, and those that are not used for it. No sentence quotes them.
    """
    by_rules = {name: _explain_route(name, route, series, orders) for name, route in routes.items()}
    taking = [name for name, explained in by_rules.items() if explained.series_instance_uids]
    return tuple(
        _left(explained, [one for one in taking if one in routes[name].leaves_to])
        for name, explained in by_rules.items()
    )


def _left(explained: RouteExplanation, to: Sequence[str]) -> RouteExplanation:
    """The explanation of a route that takes no series, as those that it leaves the study to do."""
    if not to:
        return explained
    sentence = f"left out: the study is left to route {' and '.join(to)}"
    return RouteExplanation(
        explained.route,
        tuple(replace(one, taken=False, sentence=sentence) if one.taken else one for one in explained.series),
    )


def _explain_route(name: str, route: Route, series: Sequence[Series], orders: StudyOrders) -> RouteExplanation:
    rules = [_explain_rule(number, rule, series, orders) for number, rule in enumerate(route.series, start=1)]
    return RouteExplanation(
        name,
        tuple(_explain_series(one, tuple(rule[index] for rule in rules)) for index, one in enumerate(series)),
    )


def _explain_series(series: Series, rules: tuple[RuleExplanation, ...]) -> SeriesExplanation:
    if series.own_output:
        return SeriesExplanation(series, False, "left out: this node made it", rules)
    matching = next((rule for rule in rules if rule.matched), None)
    if matching is not None:
        return SeriesExplanation(series, True, f"taken by rule {matching.number}", rules)
    failed = "; ".join(
        f"rule {rule.number}: " + ", ".join(check.sentence for check in rule.checks if not check.matched)
        for rule in rules
    )
    return SeriesExplanation(series, False, f"left out: {failed or 'the route has no rule'}", rules)


def _explain_rule(
    number: int, rule: SeriesRule, series: Sequence[Series], orders: StudyOrders
) -> list[RuleExplanation]:
    ordered = () if rule.order is None else (_check_orders(rule.order, orders),)
    checks = [(*_check_series(rule, one), *ordered) for one in series]
    if any(all(check.matched for check in own) and not one.own_output for one, own in zip(series, checks, strict=True)):
        checks = [
            tuple(_beside_cine(one, check) for check in own) if one.beside_cine else own
            for one, own in zip(series, checks, strict=True)
        ]
    if rule.minimum_slices is not None:
        slices = sum(
            one.slices
            for one, own in zip(series, checks, strict=True)
            if not one.own_output and all(check.matched for check in own)
        )
        check = KeyCheck(
            "minimum_slices",
            slices >= rule.minimum_slices,
            f"minimum_slices: the series that match have {slices} slices, wanted at least {rule.minimum_slices}",
        )
        checks = [(*own, check) for own in checks]
    return [RuleExplanation(number, own) for own in checks]


def _beside_cine(series: Series, check: KeyCheck) -> KeyCheck:
    if check.key != "minimum_phases" or check.matched:
        return check
    return KeyCheck(check.key, True, f"minimum_phases: {series.beside_cine}, goes with the cine of its study")


def _check_series(rule: SeriesRule, series: Series) -> tuple[KeyCheck, ...]:
    checks = [
        KeyCheck(
            "modality",
            rule.modality == series.modality,
            f"modality is {_shown(series.modality)}, wanted {rule.modality!r}",
        )
    ]
    for key in _PATTERNS:
        pattern = getattr(rule, key)
        if pattern is not None:
            value = getattr(series, key)
            matched = matches_whole(pattern, value)
            checks.append(
                KeyCheck(key, matched, f"{key} is {_shown(value)}, {'matches' if matched else 'wanted'} {pattern!r}")
            )
    if rule.minimum_phases is not None:
        checks.append(
            KeyCheck(
                "minimum_phases",
                series.phases >= rule.minimum_phases,
                f"minimum_phases: has {series.phases} at one slice position, wanted at least {rule.minimum_phases}"
                + ("" if series.phases >= rule.minimum_phases else " (it is not a cine)"),
            )
        )
    if rule.exclude_series_description is not None:
        excluded = matches_whole(rule.exclude_series_description, series.series_description)
        checks.append(
            KeyCheck(
                "exclude_series_description",
                not excluded,
                f"series_description is {_shown(series.series_description)}, "
                f"{'excluded by' if excluded else 'not excluded by'} {rule.exclude_series_description!r}",
            )
        )
    return tuple(checks)


def _check_orders(rule: OrderRule, orders: StudyOrders) -> KeyCheck:
    asked = ((rule.procedure, "procedures"), (rule.reason, "reasons"), (rule.diagnosis, "diagnoses"))
    wanted = [(pattern, values) for pattern, values in asked if pattern is not None]
    matched = any(
        all(any(matches_whole(pattern, value) for value in getattr(one, values)) for pattern, values in wanted)
        for one in orders.own
    )
    given = rule.model_dump(exclude_none=True).items()
    patterns = " and ".join(f"{key} {pattern!r}" for key, pattern in given)
    unused = "".join(
        f"; {count} under its accession number {'is' if count == 1 else 'are'} not used, as {_DIFFERS[why]}"
        for why in WhyUnused
        if (count := sum(one.why is why for one in orders.unused))
    )
    if not orders.own:
        return KeyCheck("order", False, f"order: none has come for this study, wanted {patterns}{unused}")
    came = f"{len(orders.own)} {'has' if len(orders.own) == 1 else 'have'} come"
    return KeyCheck("order", matched, f"order: {came}, {'one' if matched else 'none'} matches {patterns}{unused}")


def _shown(value: str) -> str:
    return repr(value) if value else "empty"
