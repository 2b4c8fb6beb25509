"""``dicom-node quarantine list | accept | drop``: objects that were kept aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.consent import ReasonOption, YesFlag, command_trail, consent
from dicom_node.commands.ledger import opened, storage_of
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json, table
from dicom_node.config_file import load_configuration
from dicom_node.corrections import drop_quarantined, take_in_quarantined
from storage.overview import QuarantineOverview, quarantine_overviews
from storage.quarantine import quarantined_object

__all__ = ["quarantine_app"]

quarantine_app = typer.Typer(
    help="Objects that were kept aside: not understood, in conflict with what is held, or kept back by the gate.",
    no_args_is_help=True,
)
DEFAULT = Path("config.yaml")
Numbers = Annotated[list[int], typer.Argument(help="Numbers of the objects, from `quarantine list`.")]


@quarantine_app.command("list")
def list_objects(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 100,
    config: ConfigurationFile = DEFAULT,
    as_json: JsonFlag = False,
) -> None:
    """List what is in quarantine."""
    with opened(load_configuration(config)) as ledger:
        overviews = quarantine_overviews(ledger, limit=limit)
    if as_json:
        print_json(overviews)
        return
    table(
        "Quarantine",
        ["object>", "at", "SOPInstanceUID", "reason"],
        (
            (one.id, one.at.astimezone().isoformat(sep=" ", timespec="seconds"), one.sop_instance_uid, one.reason)
            for one in overviews
        ),
    )


@quarantine_app.command()
def accept(
    numbers: Numbers,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    config: ConfigurationFile = DEFAULT,
) -> None:
    """Take objects in; each replaces what is held under its SOP Instance UID, which goes to quarantine."""
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        files = storage_of(configuration, ledger)
        aside = [quarantined_object(ledger, number) for number in dict.fromkeys(numbers)]
        given = consent(f"Take in {_named(aside)} in place of what is held under its UID?", reason, yes=yes)
        trail = command_trail(configuration)
        for one in aside:
            take_in_quarantined(configuration, ledger, files, trail, one, given)
            console.print(f"object {one.id} taken in; its study is scheduled again", soft_wrap=True)


@quarantine_app.command()
def drop(
    numbers: Numbers,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    config: ConfigurationFile = DEFAULT,
) -> None:
    """Delete objects that were kept aside."""
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        files = storage_of(configuration, ledger)
        aside = [quarantined_object(ledger, number) for number in dict.fromkeys(numbers)]
        given = consent(f"Delete {_named(aside)}? It cannot be had back", reason, yes=yes)
        trail = command_trail(configuration)
        for one in aside:
            drop_quarantined(ledger, files, trail, one, given)
            console.print(f"object {one.id} dropped")


def _named(aside: Sequence[QuarantineOverview]) -> str:
    first = aside[0]
    named = f"object {first.id}, {first.sop_instance_uid or first.digest} ({first.reason})"
    return f"{named} and {len(aside) - 1} more, each" if len(aside) > 1 else named
