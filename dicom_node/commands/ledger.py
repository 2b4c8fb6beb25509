"""``dicom-node studies | jobs | explain``: what the ledger knows."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json, table
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.errors import NodeError, OutOfResourcesError
from storage.deliveries import requeue_delivery
from storage.jobs import requeue_job
from storage.ledger import Ledger, LedgerError, open_ledger, utc_now
from storage.overview import (
    delivery_overviews,
    events_of_study,
    job_overviews,
    quarantine_overviews,
    study_overviews,
)
from storage.schema import DeliveryState, JobState

__all__ = ["explain", "jobs", "opened", "studies"]

DEFAULT = Path("config.yaml")


@contextlib.contextmanager
def opened(configuration: Configuration) -> Iterator[Ledger]:
    """The ledger of a configuration, closed at the end.

    Raises
    ------
    OutOfResourcesError
        The database cannot be opened.
    NodeError
        A transition that was asked for is not allowed.
    """
    try:
        ledger = open_ledger(configuration.storage.database)
    except SQLAlchemyError as error:
        raise OutOfResourcesError(
            f"the ledger cannot be opened: {type(error).__name__}",
            subject="storage.database",
            remedy="check the URL, and that the database server runs",
        ) from error
    try:
        yield ledger
    except LedgerError as error:
        raise NodeError(str(error)) from error
    finally:
        ledger.close()


def studies(
    config: ConfigurationFile = DEFAULT,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List the studies received last and how far each has come."""
    with opened(load_configuration(config)) as ledger:
        overviews = study_overviews(ledger, limit=limit)
    if as_json:
        print_json(overviews)
        return
    table(
        "Studies",
        ["StudyInstanceUID", "received", "series>", "instances>", "waiting>", "jobs", "came to", "deliveries"],
        (
            (
                one.study_instance_uid,
                _time(one.last_received_at),
                one.series,
                one.instances,
                one.instances_waiting,
                _counts(one.jobs),
                ", ".join(f"{package} {verdict.value}" for package, verdict in one.verdicts.items()),
                _counts(one.deliveries),
            )
            for one in overviews
        ),
    )


def jobs(
    config: ConfigurationFile = DEFAULT,
    retry: Annotated[
        list[int] | None,
        typer.Option(
            "--retry",
            help="Run this job alone again, or send again what of it is in the dead letters.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List jobs with their deliveries and dead letters; ``--retry`` requeues one."""
    with opened(load_configuration(config)) as ledger:
        now = utc_now()
        for job_id in retry or []:
            dead = [one for one in delivery_overviews(ledger, states=(DeliveryState.DEAD,)) if one.job_id == job_id]
            for one in dead:
                requeue_delivery(ledger, one.id, now=now)
            if not dead:
                requeue_job(ledger, job_id, now=now)
            if not as_json:
                console.print(f"job {job_id}: " + (f"{len(dead)} dead letters queued" if dead else "queued again"))
        overviews = job_overviews(ledger, limit=limit)
        dead_letters = delivery_overviews(ledger, states=(DeliveryState.DEAD,), limit=limit)
        quarantined = quarantine_overviews(ledger, limit=limit)
    if as_json:
        print_json({"jobs": overviews, "dead_letters": dead_letters, "quarantined": quarantined})
        return
    table(
        "Jobs",
        [
            "job>",
            "StudyInstanceUID",
            "version>",
            "route",
            "package",
            "state",
            "came to",
            "attempts",
            "created",
            "late",
            "deliveries",
            "why",
        ],
        (
            (
                one.id,
                one.study_instance_uid,
                one.study_version,
                one.route,
                one.package,
                one.state.value,
                one.verdict.value if one.verdict is not None else "",
                f"{one.attempts}/{one.maximum_attempts}",
                _time(one.created_at),
                "late" if one.is_late(now) else "",
                _counts(one.deliveries),
                " ".join(one.sentences) or one.error,
            )
            for one in overviews
        ),
    )
    if dead_letters:
        table(
            "Dead letters",
            ["job>", "destination", "object", "attempts>", "error"],
            (
                (one.job_id, one.destination, one.series_description, one.failed_attempts, one.error)
                for one in dead_letters
            ),
            caption="dicom-node jobs --retry JOB sends them again",
        )
    if quarantined:
        table(
            "Quarantine",
            ["at", "SOPInstanceUID", "reason", "file"],
            ((_time(one.at), one.sop_instance_uid, one.reason, one.path) for one in quarantined),
        )


def explain(
    study: Annotated[str, typer.Argument(help="StudyInstanceUID.")],
    config: ConfigurationFile = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """Tell which series of a study went to which route and why, what it waits for, and all that happened to it."""
    from dicom_node.schedule.study import describe

    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        description = describe(ledger, configuration, study, now=utc_now())
        overview = study_overviews(ledger, study_instance_uid=study)[0]
        of_study = job_overviews(ledger, study_instance_uid=study)
        events = events_of_study(ledger, study)
    if as_json:
        print_json({"study": overview, "decision": description, "jobs": of_study, "events": events})
        return
    console.print(
        f"[bold]{study}[/bold], version {overview.version}: {overview.instances} instances in {overview.series} series"
    )
    console.print(description.sentence)
    for route in description.routes:
        table(
            f"Route {route.route}",
            ["series", "description", "modality", "phases>", "slices>", "taken", "why"],
            (
                (
                    one.series.series_instance_uid,
                    one.series.series_description,
                    one.series.modality,
                    one.series.phases,
                    one.series.slices,
                    "yes" if one.taken else "no",
                    one.sentence,
                )
                for one in route.series
            ),
        )
    table(
        "Jobs",
        ["job>", "version>", "route", "package", "state", "came to", "results>", "why"],
        (
            (
                one.id,
                one.study_version,
                one.route,
                one.package,
                one.state.value,
                one.verdict.value if one.verdict is not None else "",
                one.results,
                " ".join(one.sentences) or one.error,
            )
            for one in reversed(of_study)
        ),
    )
    table(
        "Events",
        ["at", "correlation", "what", "subject", "detail"],
        ((_time(one.at), (one.correlation_id or "")[:8], one.kind, one.subject, _detail(one.detail)) for one in events),
    )


def _time(at: dt.datetime | None) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="seconds") if at is not None else "never"


def _counts(counts: Mapping[JobState, int] | Mapping[DeliveryState, int]) -> str:
    return ", ".join(f"{count} {state.value}" for state, count in counts.items())


def _detail(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in detail.items() if value not in (None, "", []))
