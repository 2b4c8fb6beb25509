"""The routes in words, and what edited ones would take of a study that is held, before anybody puts them to use."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic
import yaml

from dicom_node.config import Name, Route, SeriesRule
from dicom_node.config_file import keys_of
from dicom_node.console.desk import Desk
from dicom_node.errors import ConfigurationError
from dicom_node.plain_words import dotted, in_plain_words
from dicom_node.schedule.completeness import read_study, study_reading
from dicom_node.schedule.routing import RouteExplanation

__all__ = ["edited_routes", "routes_as_text", "rule_in_words", "taken_by"]

_Routes = pydantic.TypeAdapter(dict[Name, Route])
LONGEST_TEXT = 50_000
_PATTERNS = {
    "manufacturer": "the manufacturer is",
    "study_description": "the study description is",
    "series_description": "the series description is",
    "calling_ae_title": "the sender is",
    "body_part_examined": "the body part is",
    "exclude_series_description": "the series description is not",
}


def rule_in_words(rule: SeriesRule) -> str:
    """One rule as a sentence."""
    parts = [f"modality {rule.modality}"]
    for key, words in _PATTERNS.items():
        pattern = getattr(rule, key)
        if pattern is not None:
            parts.append(f"{words} like “{pattern}”")
    if rule.minimum_phases is not None:
        parts.append(
            f"at least {rule.minimum_phases} cardiac phases at one slice position (late enhancement and flow go with "
            "the cine of their study)"
        )
    if rule.minimum_slices is not None:
        parts.append(f"at least {rule.minimum_slices} slice positions together")
    return "Series of " + ", and ".join(parts) + "."


def routes_as_text(routes: Mapping[str, Route]) -> str:
    """Routes as they stand in ``config.yaml``, what is usual left out."""
    told = {name: route.model_dump(mode="json", exclude_defaults=True) for name, route in routes.items()}
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def edited_routes(desk: Desk, text: str) -> dict[str, Route]:
    """Routes that somebody wrote, as section ``routes`` of ``config.yaml``.

    Raises
    ------
    ConfigurationError
        They could not be put to use, and why.
    """
    if len(text) > LONGEST_TEXT:
        raise ConfigurationError("is too long", subject="routes")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = "" if mark is None else f" at line {mark.line + 1}"
        raise ConfigurationError(f"is not YAML{line}", subject="routes") from error
    if isinstance(values, dict) and set(values) == {"routes"}:
        values = values["routes"]
    try:
        routes = _Routes.validate_python(values or {})
    except pydantic.ValidationError as error:
        found = (in_plain_words(one, known=lambda key: keys_of(("routes", *key))) for one in error.errors())
        told = dict.fromkeys(f"{dotted(key)}: {sentence}" if key else sentence for key, sentence in found)
        raise ConfigurationError("; ".join(told), subject="routes") from error
    destinations = desk.configuration.results.destinations
    for name, route in routes.items():
        for destination in route.destinations:
            if destination not in destinations:
                raise ConfigurationError(
                    f"no destination named {destination!r} in results.destinations", subject=f"routes.{name}"
                )
    return routes


def taken_by(desk: Desk, study_instance_uid: str, routes: Mapping[str, Route]) -> tuple[RouteExplanation, ...]:
    """Which series of a study each route would take, and why; nothing is changed.

    Raises
    ------
    LedgerError
        There is no such study.
    OSError
        One of its files cannot be read.
    """
    reading = study_reading(desk.ledger, desk.configuration, study_instance_uid)
    return read_study(reading.contents, routes).routes
