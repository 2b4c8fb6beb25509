"""``dicom-node deliveries list | requeue | dismiss``: results on their way, and those that did not arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.consent import ReasonOption, YesFlag, command_trail, consent
from dicom_node.commands.ledger import only_study, opened
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json, table
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration
from dicom_node.corrections import give_deliveries_up
from dicom_node.errors import ConfigurationError
from storage.deliveries import Selection, requeue_deliveries
from storage.ledger import Ledger, utc_now
from storage.overview import count_deliveries, delivery_overviews, outages
from storage.schema import DeliveryState

__all__ = ["deliveries_app"]

deliveries_app = typer.Typer(help="Results on their way to destinations, and those that did not arrive.")
DEFAULT = Path("config.yaml")
Destination = Annotated[str | None, typer.Option("--destination", help="Only to this one.")]
Kind = Annotated[str | None, typer.Option("--kind", help="Only objects of this role, such as summary-pdf.")]
JobNumber = Annotated[int | None, typer.Option("--job", help="Only results of this job.")]
Study = Annotated[
    str | None,
    typer.Option("--study", help="Only of this study: its StudyInstanceUID, or what else `dicom-node explain` takes."),
]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
NOT_THERE = (DeliveryState.DEAD, DeliveryState.NOT_ACCEPTED, DeliveryState.QUEUED)


@deliveries_app.command("list")
def list_deliveries(
    destination: Destination = None,
    kind: Kind = None,
    job: JobNumber = None,
    study: Study = None,
    every: Annotated[bool, typer.Option("--all", help="Those that arrived, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 100,
    config: ConfigurationFile = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """List what has not arrived, and which destinations cannot be reached."""
    states = tuple(DeliveryState) if every else (*NOT_THERE, DeliveryState.SENDING, DeliveryState.AWAITING_COMMITMENT)
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        chosen = Selection(destination, kind, job, _uid(ledger, configuration, study))
        overviews = delivery_overviews(ledger, states=states, selection=chosen, limit=limit)
        total = count_deliveries(ledger, states, chosen)
        away = outages(ledger)
    if as_json:
        print_json({"deliveries": overviews, "total": total, "outages": away})
        return
    if away:
        table(
            "Destinations that cannot be reached",
            ["destination", "since", "tries>", "next", "waiting>", "error"],
            (
                (
                    one.destination,
                    one.since.astimezone().isoformat(sep=" ", timespec="seconds"),
                    one.attempts,
                    one.retry_at.astimezone().isoformat(sep=" ", timespec="seconds"),
                    one.waiting,
                    one.error,
                )
                for one in away
            ),
        )
    table(
        "Deliveries",
        ["job>", "destination", "kind", "state", "failed>", "error"],
        ((one.job_id, one.destination, one.role, one.state.value, one.failed_attempts, one.error) for one in overviews),
        caption=f"{total - len(overviews)} more" if total > len(overviews) else None,
    )


@deliveries_app.command()
def requeue(
    destination: Destination = None,
    kind: Kind = None,
    job: JobNumber = None,
    study: Study = None,
    every: All = False,
    not_accepted: Annotated[
        bool, typer.Option("--not-accepted", help="Also what the destination did not take by its kind.")
    ] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Also what waits for its next attempt.")] = False,
    given_up: Annotated[
        bool, typer.Option("--given-up", help="Also what somebody gave up; with --job or --study.")
    ] = False,
    config: ConfigurationFile = DEFAULT,
) -> None:
    """Send dead letters again, with all their attempts."""
    _check_choice(destination, kind, job, study, every=every)
    if given_up and job is None and study is None:
        raise ConfigurationError(
            "what was given up is sent again by job or by study only", subject="--given-up", remedy="--job or --study"
        )
    states = [DeliveryState.DEAD]
    states += [DeliveryState.DISMISSED] if given_up else []
    states += [DeliveryState.NOT_ACCEPTED] if not_accepted else []
    states += [DeliveryState.QUEUED] if waiting else []
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        chosen = Selection(destination, kind, job, _uid(ledger, configuration, study))
        done = requeue_deliveries(ledger, chosen, now=utc_now(), states=states)
    console.print(f"{done} deliveries queued")


@deliveries_app.command()
def dismiss(
    destination: Destination = None,
    kind: Kind = None,
    job: JobNumber = None,
    study: Study = None,
    every: All = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Also what waits for its next attempt.")] = False,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    config: ConfigurationFile = DEFAULT,
) -> None:
    """Give dead letters up: nobody is to look at them any more, and their studies may go."""
    _check_choice(destination, kind, job, study, every=every)
    states = (DeliveryState.DEAD, DeliveryState.QUEUED) if waiting else (DeliveryState.DEAD,)
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        chosen = Selection(destination, kind, job, _uid(ledger, configuration, study))
        total = count_deliveries(ledger, states, chosen)
        given = consent(f"Give up {total} deliveries?", reason, yes=yes)
        done = give_deliveries_up(ledger, command_trail(configuration), chosen, given, states=states)
    console.print(f"{done} deliveries dismissed")


def _uid(ledger: Ledger, configuration: Configuration, study: str | None) -> str | None:
    return None if study is None else only_study(ledger, configuration, study)


def _check_choice(
    destination: str | None, kind: str | None, job: int | None, study: str | None, *, every: bool
) -> None:
    if every == any(one is not None for one in (destination, kind, job, study)):
        raise ConfigurationError(
            "say which deliveries", subject="deliveries", remedy="--destination, --kind, --job or --study; or --all"
        )
