"""``dicom-node studies | jobs | explain``: what the ledger knows."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json, table
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError, NodeError, OutOfResourcesError
from dicom_node.finding import named_studies
from dicom_node.instance_files import instance_files
from storage.deliveries import Selection, requeue_deliveries
from storage.files import InstanceFiles
from storage.identity import identity_of
from storage.jobs import requeue_job
from storage.ledger import Ledger, LedgerError, open_ledger, utc_now
from storage.overview import (
    Event,
    count_deliveries,
    count_jobs,
    delivery_overviews,
    events_of_study,
    job_overviews,
    quarantine_overviews,
    study_overviews,
)
from storage.schema import DeliveryState, JobState

__all__ = ["explain", "jobs", "only_study", "opened", "storage_of", "studies"]

DEFAULT = Path("config.yaml")
EVENTS_SHOWN = 20
"""How many of a study's events `explain` shows, the last ones, unless asked for all."""


@contextlib.contextmanager
def opened(configuration: Configuration) -> Iterator[Ledger]:
    """The ledger of a configuration, closed at the end.

    Raises
    ------
    OutOfResourcesError
        The database cannot be opened.
    ConfigurationError
        Its driver is not installed.
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
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the ledger cannot be opened: {error.name} is not installed",
            subject="storage.database",
            remedy="pip install 'dicom-node[postgresql]'",
        ) from error
    try:
        yield ledger
    except LedgerError as error:
        raise NodeError(str(error)) from error
    finally:
        ledger.close()


def storage_of(configuration: Configuration, ledger: Ledger) -> InstanceFiles:
    """The storage directory that a ledger belongs to.

    Raises
    ------
    ConfigurationError
        The configured directory is another one.
    """
    files = instance_files(configuration, durable=configuration.storage.durable)
    if identity_of(ledger) != files.own_identity():
        raise ConfigurationError(
            "is not the directory of this ledger",
            subject=f"storage.directory {configuration.storage.directory}",
            remedy="correct storage.directory or storage.database",
        )
    return files


def studies(
    config: ConfigurationFile = DEFAULT,
    find: Annotated[
        str | None,
        typer.Option(
            help="Beginning of the StudyInstanceUID, accession number, patient ID, or AE title of the sender."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List the studies received last and how far each has come."""
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        if find is None:
            overviews = study_overviews(ledger, limit=limit)
        else:
            named = _named(ledger, configuration, find, limit)
            overviews = tuple(study_overviews(ledger, study_instance_uid=uid)[0] for uid in named)
    if as_json:
        print_json(overviews)
        return
    table(
        "Studies",
        ["StudyInstanceUID", "from", "received", "images>", "waiting>", "jobs", "came to", "deliveries"],
        (
            (
                one.study_instance_uid,
                ", ".join(one.senders),
                _time(one.last_received_at),
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
            sent = requeue_deliveries(ledger, Selection(job_id=job_id), now=now)
            if not sent:
                requeue_job(ledger, job_id, now=now)
            if not as_json:
                console.print(f"job {job_id}: " + (f"{sent} dead letters queued" if sent else "queued again"))
        overviews = job_overviews(ledger, limit=limit)
        dead_letters = delivery_overviews(ledger, states=(DeliveryState.DEAD,), limit=limit)
        dead = count_deliveries(ledger, (DeliveryState.DEAD,))
        total = count_jobs(ledger)
        quarantined = quarantine_overviews(ledger, limit=limit)
    if as_json:
        print_json(
            {
                "jobs": overviews,
                "jobs_in_all": total,
                "dead_letters": dead_letters,
                "dead_letters_in_all": dead,
                "quarantined": quarantined,
            }
        )
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
                f"{one.state.value} ({one.step})" if one.step else one.state.value,
                one.verdict.value if one.verdict is not None else "",
                f"{one.attempts}/{one.maximum_attempts}",
                _time(one.created_at),
                "late" if one.is_late(now) else "",
                _counts(one.deliveries),
                " ".join(one.sentences) or one.error,
            )
            for one in overviews
        ),
        caption=_more(total - len(overviews)),
    )
    if dead_letters:
        table(
            "Dead letters",
            ["job>", "destination", "object", "attempts>", "error"],
            (
                (one.job_id, one.destination, one.series_description, one.failed_attempts, one.error)
                for one in dead_letters
            ),
            caption=_more(dead - len(dead_letters), "dicom-node deliveries requeue sends them again, dismiss gives up"),
        )
    if quarantined:
        table(
            "Quarantine",
            ["at", "SOPInstanceUID", "reason", "file"],
            ((_time(one.at), one.sop_instance_uid, one.reason, one.path) for one in quarantined),
        )


def explain(
    study: Annotated[
        str, typer.Argument(help="StudyInstanceUID, the beginning of one, accession number or patient ID.")
    ],
    config: ConfigurationFile = DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="Show every event, not only the last.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Tell which series of a study went to which route and why, what it waits for, and all that happened to it."""
    from dicom_node.schedule.study import describe

    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        study = only_study(ledger, configuration, study)
        description = describe(ledger, configuration, study, now=utc_now())
        overview = study_overviews(ledger, study_instance_uid=study)[0]
        of_study = job_overviews(ledger, study_instance_uid=study)
        events = events_of_study(ledger, study)
    if as_json:
        print_json({"study": overview, "decision": description, "jobs": of_study, "events": events})
        return
    console.print(
        f"[bold]{study}[/bold], version {overview.version}: {overview.instances} instances in {overview.series} series "
        f"from {', '.join(overview.senders) or 'nobody'}",
        soft_wrap=True,
    )
    console.print(description.sentence, soft_wrap=True)
    for package, verdict in overview.verdicts.items():
        console.print(f"{package}: {verdict.value}")
    if overview.deliveries:
        console.print(f"results: {_counts(overview.deliveries)}")
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
    if of_study:
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
    runs = [(one,) for one in events] if every else _runs(events)[-EVENTS_SHOWN:]
    table(
        "Events",
        ["at", "what", "subject", "detail"],
        (
            (
                _time(run[0].at),
                run[0].kind,
                _subject(run[0], study) if len(run) == 1 else f"{len(run)} alike",
                _detail(run[0].detail),
            )
            for run in runs
        ),
        caption=None if len(runs) == len(events) else "repeated and earlier ones are left out: --all shows every event",
    )


def _named(ledger: Ledger, configuration: Configuration, text: str, limit: int) -> tuple[str, ...]:
    files = storage_of(configuration, ledger) if configuration.storage.directory.is_dir() else None
    return named_studies(ledger, files, text, limit=limit)


def only_study(ledger: Ledger, configuration: Configuration, text: str) -> str:
    """The one study that a text names.

    Raises
    ------
    LedgerError
        It names none, or several.
    """
    found = _named(ledger, configuration, text, 3)
    if not found:
        raise LedgerError(f"no study {text} in the ledger: dicom-node studies lists them")
    if len(found) > 1:
        raise LedgerError(f"{text!r} names several studies, such as {found[0]} and {found[1]}: say more of it")
    return found[0]


def _runs(events: Sequence[Event]) -> list[tuple[Event, ...]]:
    """Events in order, those together that follow each other and differ in nothing but their time and subject."""
    alike = itertools.groupby(events, key=lambda one: (one.kind, one.sender, str(one.detail)))
    return [tuple(run) for _, run in alike]


def _subject(event: Event, study: str) -> str:
    """What an event is about: the sender for what came in of the study, nothing for the study itself."""
    if event.kind == "reception started":
        return f"from {event.sender}" if event.sender else ""
    return "" if event.subject == study else event.subject


def _more(left: int, remark: str = "") -> str | None:
    """Caption of a table that does not show everything."""
    more = f"{left} more: --limit shows them" if left > 0 else ""
    return "; ".join(part for part in (more, remark) if part) or None


def _time(at: dt.datetime | None) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="seconds") if at is not None else "never"


def _counts(counts: Mapping[JobState, int] | Mapping[DeliveryState, int]) -> str:
    return ", ".join(f"{count} {state.value}" for state, count in counts.items())


def _detail(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in detail.items() if value not in (None, "", []))


def _value(value: object) -> str:
    return " and ".join(str(one) for one in value) if isinstance(value, list) else str(value)
