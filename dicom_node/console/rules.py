"""The routes in words, what edited ones would take of the studies that are held, and putting them to use.

``config.yaml`` is the one place where routes are. People edit the lines of its section ``routes`` as they stand there,
comments and all, and saving puts the edited lines in their place; the ledger keeps what they were before.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import os
import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pydantic
import structlog
import yaml

from dicom_node.config import Name, Route, SeriesRule
from dicom_node.config_file import ENVIRONMENT_PREFIX, keys_of, mistakes_between_keys
from dicom_node.config_section import (
    read_configuration_file,
    section_lines,
    with_section,
    write_configuration_file,
)
from dicom_node.console.configuration import as_reloaded, signal_node, taken_up
from dicom_node.console.node import Node
from dicom_node.errors import ConfigurationError, raised_at
from dicom_node.plain_words import dotted, in_plain_words
from dicom_node.schedule.completeness import read_study, study_reading
from dicom_node.schedule.routing import RouteExplanation
from storage.finding import studies_received_since
from storage.ledger import utc_now
from storage.routes_versions import keep_routes

__all__ = [
    "LONGEST_TEXT",
    "MONTH",
    "ChangedStudy",
    "Compared",
    "RouteCount",
    "SavedRoutes",
    "WrittenRoutes",
    "changed_lines",
    "compared_over_the_last_month",
    "edited_routes",
    "rule_in_words",
    "save_routes",
    "taken_by",
    "written_routes",
]

_log = structlog.get_logger(__name__)

_Routes = pydantic.TypeAdapter(dict[Name, Route])
LONGEST_TEXT = 50_000
MONTH = dt.timedelta(days=31)
MOST_STUDIES = 1000
LOOK_S = 20.0
"""Seconds for a comparison; what is not reached then is told to be missing."""
LISTED_CHANGES = 100
_saving = threading.Lock()
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
    if rule.order is not None:
        asked = rule.order.model_dump(exclude_none=True).items()
        parts.append("of a study with an order whose " + " and ".join(f"{key} is like “{one}”" for key, one in asked))
    return "Series of " + ", and ".join(parts) + "."


@dataclass(frozen=True, slots=True)
class WrittenRoutes:
    """Section ``routes`` as it stands in the file."""

    text: str
    digest: str
    """sha256 of the text: who saves says with it what the edited text began with."""


def written_routes(node: Node) -> WrittenRoutes:
    """The lines that people edit; without a file, the routes in use as they would be written.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or is not written as one section below another.
    """
    if node.file is None:
        used = node.configuration.routes.items()
        told = {"routes": {name: route.model_dump(mode="json", exclude_defaults=True) for name, route in used}}
        return _written(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return _written(section_lines(read_configuration_file(node.file), "routes"))


def _written(text: str) -> WrittenRoutes:
    return WrittenRoutes(text, hashlib.sha256(text.encode()).hexdigest())


def edited_routes(node: Node, text: str) -> dict[str, Route]:
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
    for mistake in mistakes_between_keys(node.configuration.model_copy(update={"routes": routes})):
        if mistake.keys[0][0] == "routes":
            raise ConfigurationError(mistake.sentence, subject=dotted(mistake.keys[0]))
    return routes


def taken_by(node: Node, study_instance_uid: str, routes: Mapping[str, Route]) -> tuple[RouteExplanation, ...]:
    """Which series of a study each route would take, and why; nothing is changed.

    Raises
    ------
    LedgerError
        There is no such study.
    OSError
        One of its files cannot be read.
    """
    reading = study_reading(node.ledger, node.configuration, study_instance_uid)
    return read_study(reading.contents, routes, orders=reading.orders).routes


@dataclass(frozen=True, slots=True)
class RouteCount:
    """How many studies one route takes."""

    route: str
    now: int
    then: int
    """By the edited routes."""
    gained: int
    lost: int
    otherwise: int
    """Taken both times, with other series."""


@dataclass(frozen=True, slots=True)
class ChangedStudy:
    """One study of which a route would take something else."""

    study_instance_uid: str
    route: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What edited routes would have done with the studies of the last month whose images are held."""

    studies: int
    not_looked_at: int
    """Beyond the time for a comparison."""
    unreadable: int
    routes: tuple[RouteCount, ...]
    changed: tuple[ChangedStudy, ...]
    changed_in_all: int


def compared_over_the_last_month(node: Node, routes: Mapping[str, Route]) -> Compared:
    """Hold edited routes against those in use, over every study of the last month that is held; nothing is changed."""
    present = node.configuration.routes
    found = studies_received_since(node.ledger, utc_now() - MONTH, limit=MOST_STUDIES)
    counts = {name: [0, 0, 0, 0, 0] for name in dict.fromkeys((*present, *routes))}
    changed: list[ChangedStudy] = []
    looked_at = unreadable = changed_in_all = 0
    until = time.monotonic() + LOOK_S
    for study in found:
        if time.monotonic() > until:
            break
        looked_at += 1
        try:
            reading = study_reading(node.ledger, node.configuration, study)
            before, after = (
                _takes(read_study(reading.contents, one, orders=reading.orders).routes) for one in (present, routes)
            )
        except Exception as error:  # noqa: BLE001 - whatever one study holds, the others are compared
            _log.warning("study cannot be held against routes", study_instance_uid=study, at=raised_at(error))
            unreadable += 1
            continue
        for name, count in counts.items():
            now, then = before.get(name, frozenset()), after.get(name, frozenset())
            both = bool(now and then) and now != then
            for index, true in enumerate((now, then, then and not now, now and not then, both)):
                count[index] += bool(true)
            if now != then:
                changed_in_all += 1
                if len(changed) < LISTED_CHANGES:
                    changed.append(ChangedStudy(study, name, _difference(now, then)))
    return Compared(
        looked_at,
        len(found) - looked_at,
        unreadable,
        tuple(RouteCount(name, *count) for name, count in counts.items()),
        tuple(changed),
        changed_in_all,
    )


def _takes(explained: tuple[RouteExplanation, ...]) -> dict[str, frozenset[str]]:
    return {one.route: frozenset(one.series_instance_uids) for one in explained}


def _difference(now: frozenset[str], then: frozenset[str]) -> str:
    if not now:
        return f"would be taken, {len(then)} series"
    if not then:
        return f"would not be taken any more ({len(now)} series)"
    return f"{len(then - now)} more series and {len(now - then)} fewer"


def changed_lines(before: str, after: str) -> str:
    """The lines that differ, as a unified diff with one line around each; empty where nothing does."""
    return "\n".join(list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1))[2:])


@dataclass(frozen=True, slots=True)
class SavedRoutes:
    """What came of saving."""

    version: int
    also: tuple[str, ...]
    """Other keys of the file that the node takes up at the same time: somebody changed them by hand."""
    at_next_start: tuple[str, ...]
    taken_up: bool
    """Whether the node works by them now."""
    runs: bool
    """Whether there is a node on this machine that could."""


def save_routes(node: Node, text: str, began_with: str, *, by: str, reason: str) -> SavedRoutes:
    """Put edited routes into the configuration file and let the node take them up.

    Nothing that is under way is lost: associations, jobs and deliveries end by the configuration that they began with
    (:mod:`dicom_node.reloading`).

    Parameters
    ----------
    text
        Section ``routes`` as it is to stand in the file.
    began_with
        :attr:`WrittenRoutes.digest` of what the editing began with.

    Raises
    ------
    ConfigurationError
        The routes could not be put to use, somebody has changed the file since, the environment rules over it, or it
        cannot be written. Nothing was changed.
    """
    if node.file is None:
        raise ConfigurationError(
            "this console was not told of a configuration file", subject="routes", remedy="edit it by hand"
        )
    ruling = sorted(one for one in os.environ if f"{one}__".startswith(f"{ENVIRONMENT_PREFIX}ROUTES__"))
    if ruling:
        raise ConfigurationError(
            f"the environment variable {ruling[0]} rules over the file", subject="routes", remedy="remove it there"
        )
    edited_routes(node, text)
    lines = _as_section(text.replace("\r\n", "\n"))
    with _saving:
        whole = read_configuration_file(node.file)
        present = _written(section_lines(whole, "routes"))
        if present.digest != began_with:
            raise ConfigurationError(
                "somebody has changed them since this page was opened",
                subject="routes",
                remedy="open the page again, and put your changes into what stands there now",
            )
        edited = with_section(whole, "routes", lines)
        result = as_reloaded(node, edited)
        version = keep_routes(
            node.ledger, present.text, section_lines(edited, "routes"), by=by, reason=reason, now=utc_now()
        )
        write_configuration_file(node.file, edited)
    runs = signal_node(node)
    return SavedRoutes(
        version,
        tuple(one for one in result.changed if one != "routes"),
        result.at_next_start,
        runs and taken_up(node, result.configuration),
        runs,
    )


def _as_section(text: str) -> str:
    values = yaml.safe_load(text)
    if isinstance(values, dict) and set(values) == {"routes"}:
        return text
    if not values:
        raise ConfigurationError("there would be no route, and no study would be analysed: keep one", subject="routes")
    return "routes:\n" + textwrap.indent(text, "  ")
