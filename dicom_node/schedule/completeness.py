"""When a study counts as complete: from phases × slices, open associations and quiet time."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.config import Configuration, ExecutionSettings, Route
from dicom_node.instance_files import instance_files, readable
from dicom_node.schedule.routing import RouteExplanation, Series, explain
from pipelines.cine.facts import Completeness, InstanceFacts, PlaneFacts, completeness, instance_facts
from storage.facts import record_facts, unread_instances
from storage.jobs import SeriesSummary, StudyContents, study_contents
from storage.ledger import Ledger
from storage.orders import NO_ORDERS, StudyOrders, orders_of_study
from storage.performed_steps import NO_STEPS, StudySteps, study_steps

__all__ = ["Decision", "StudyReading", "decide", "read_study", "study_reading"]

PAUSE_FACTOR = 2.0
"""A sender that paused between two images may pause as long again; twice as long means that it is done."""


@dataclass(frozen=True, slots=True)
class StudyReading:
    """What completeness and routing make of a study's contents; costly for many instances, so made once a change."""

    contents: StudyContents
    completeness: Completeness
    routes: tuple[RouteExplanation, ...]
    steps: StudySteps = NO_STEPS
    orders: StudyOrders = NO_ORDERS


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to schedule a study now, and why, in words for the operator."""

    ready: bool
    sentence: str
    silence_s: float = math.inf
    """How much longer a study that is not ready would have to be quiet; infinite where silence alone is not enough."""


def _facts(paths: Sequence[Path]) -> list[InstanceFacts]:
    return [instance_facts(path) for path in paths]


def study_reading(
    ledger: Ledger,
    configuration: Configuration,
    study_instance_uid: str,
    *,
    facts: Callable[[Sequence[Path]], Sequence[InstanceFacts]] = _facts,
) -> StudyReading:
    """Read a study as it is in the ledger now, and the headers of its instances that nobody has read yet.

    Parameters
    ----------
    facts
        Reads headers.

    Raises
    ------
    LedgerError
        There is no such study.
    OSError
        A file cannot be read.
    ValueError
        A row does not hold what it should.
    """
    while True:
        unread = unread_instances(ledger, study_instance_uid)
        if unread:
            read = facts([readable(configuration, one.path) for one in unread])
            record_facts(ledger, [(one, found.to_json()) for one, found in zip(unread, read, strict=True)])
        # The steps first: an image that comes in between then counts as missing, and its arrival makes a new reading.
        steps = study_steps(ledger, study_instance_uid)
        orders = _orders(ledger, configuration, study_instance_uid)
        contents = study_contents(ledger, study_instance_uid)
        # An image that has come since the headers were read has no facts yet.
        if all(facts for series in contents.series for facts in series.facts):
            return read_study(contents, configuration.routes, steps, orders)


def _orders(ledger: Ledger, configuration: Configuration, study_instance_uid: str) -> StudyOrders:
    """The orders of a study, of a node that takes any; its accession number is read from a header if need be."""
    if configuration.orders.port is None:
        return NO_ORDERS
    # Imported late: it brings pynetdicom.
    from dicom_node.network.query_scp import describe_new_studies

    describe_new_studies(ledger, instance_files(configuration), study_instance_uid)
    return orders_of_study(ledger, study_instance_uid, same_issuers=configuration.orders.same_issuers)


def read_study(
    contents: StudyContents,
    routes: Mapping[str, Route],
    steps: StudySteps = NO_STEPS,
    orders: StudyOrders = NO_ORDERS,
) -> StudyReading:
    """Read the facts of a study: how complete its cine is, and which series go to which route."""
    facts = [[InstanceFacts.from_json(one) for one in series.facts] for series in contents.series]
    phases_at = _phases_at(one for own in facts for one in own)
    return StudyReading(
        contents=contents,
        completeness=completeness([one for series in facts for one in series if not one.own_output]),
        routes=explain(
            routes,
            [_series(summary, own, phases_at) for summary, own in zip(contents.series, facts, strict=True)],
            orders,
        ),
        steps=steps,
        orders=orders,
    )


_Position = tuple[float, tuple[float, float, float]]


def _phases_at(facts: Iterable[InstanceFacts]) -> dict[_Position, int]:
    """Images of cine at each slice position: of all series, as some scanners make one of every slice or phase."""
    images: dict[_Position, int] = {}
    for one in facts:
        for plane in one.planes if one.gated_or_named else ():
            images[_position(plane)] = images.get(_position(plane), 0) + len(plane.phases)
    return images


def _position(plane: PlaneFacts) -> _Position:
    return round(plane.along_mm), plane.normal


def _series(summary: SeriesSummary, facts: list[InstanceFacts], phases_at: Mapping[_Position, int]) -> Series:
    positions = {_position(plane) for one in facts for plane in one.planes}
    cine = {_position(plane) for one in facts if one.gated_or_named for plane in one.planes}
    beside_cine = next((one.beside_cine for one in facts if one.beside_cine), "")
    return Series(
        series_instance_uid=summary.series_instance_uid,
        calling_ae_title=summary.calling_ae_title,
        modality=summary.modality,
        series_description=summary.series_description,
        study_description=summary.study_description,
        manufacturer=summary.manufacturer,
        body_part_examined=summary.body_part_examined,
        # Facts have no planes of what is excluded from cine.
        phases=max((phases_at[where] for where in cine), default=int(bool(positions or beside_cine))),
        slices=len(positions),
        own_output=any(one.own_output for one in facts),
        beside_cine=beside_cine,
    )


def decide(reading: StudyReading, settings: ExecutionSettings, *, open_associations: int, now: dt.datetime) -> Decision:
    """Decide whether a study with new instances is to be scheduled now.

    Never while an association that sent to it is open. Then after ``complete_quiet_time_s`` of silence when every slice
    has all its phases. Where the scanner did not say how many slices there will be, the silence must be twice the
    longest pause that the sender has made so far, because scanners that send slice by slice pause for each
    breath-hold. After ``quiet_time_s`` any study is taken as it is, but one whose short axis is plainly incomplete only
    after ``incomplete_quiet_time_s``: half a stack gives results that the whole one contradicts.

    Performed procedure steps that have ended, completed or discontinued, say more. When every image that they name is
    here, the study is taken at once. While an image is missing of a series that has begun to come, it is waited for,
    for ``missing_images_quiet_time_s`` at most. Series of which nothing has come may never be sent here, so they hold
    nothing up.
    """
    quiet_s = (now - reading.contents.last_received_at).total_seconds()
    state = reading.completeness.sentence
    if open_associations:
        plural = "s" if open_associations > 1 else ""
        return Decision(False, f"{state}; {open_associations} association{plural} still open")
    steps = reading.steps
    if steps.sentence:
        state = f"{state}; {steps.sentence}"
    if steps.ended and steps.images and not steps.missing and not steps.series_not_begun:
        return Decision(True, state)
    if steps.ended and steps.missing and quiet_s < settings.missing_images_quiet_time_s:
        wanted_s = settings.missing_images_quiet_time_s
        return Decision(False, f"{state}; quiet for {max(0.0, quiet_s):.0f} of {wanted_s:g} s", wanted_s - quiet_s)
    doubts = [stack.doubt for stack in reading.completeness.stacks if stack.short_axis]
    if doubts and all(doubts):
        state = f"{state}; more may come: {doubts[0]}"
        if quiet_s < settings.incomplete_quiet_time_s:
            wanted_s = settings.incomplete_quiet_time_s
            return Decision(False, f"{state}; quiet for {max(0.0, quiet_s):.0f} of {wanted_s:g} s", wanted_s - quiet_s)
        return Decision(True, f"{state}; quiet for {settings.incomplete_quiet_time_s:g} s")
    if quiet_s >= settings.quiet_time_s:
        return Decision(True, f"{state}; quiet for {settings.quiet_time_s:g} s")
    if not reading.completeness.complete:
        sentence = f"{state}; quiet for {max(0.0, quiet_s):.0f} of {settings.quiet_time_s:g} s"
        return Decision(False, sentence, settings.quiet_time_s - quiet_s)
    short_axis = [stack for stack in reading.completeness.stacks if stack.short_axis]
    slices_known = all(stack.slices_declared is not None for stack in short_axis)
    pause_s = 0.0 if slices_known else PAUSE_FACTOR * reading.contents.longest_pause_s
    wanted_s = min(settings.quiet_time_s, max(settings.complete_quiet_time_s, pause_s))
    sentence = f"{state}; quiet for {max(0.0, min(quiet_s, wanted_s)):.1f} of {wanted_s:.1f} s"
    return Decision(quiet_s >= wanted_s, sentence, max(0.0, wanted_s - quiet_s))
