"""``dicom-node delete``: remove a study from this node, and reject its results where they have been delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.consent import ReasonOption, YesFlag, consent
from dicom_node.commands.ledger import only_study, opened, storage_of
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json
from dicom_node.config_file import load_configuration
from dicom_node.corrections import Rejection, delete_everywhere

__all__ = ["delete"]


def delete(
    study: Annotated[
        str,
        typer.Argument(
            help="What one study alone has: StudyInstanceUID or its beginning, accession number, patient ID, or AE "
            "title of the sender."
        ),
    ],
    reason: ReasonOption = "",
    reject: Annotated[
        Rejection,
        typer.Option(
            help="What destinations that hold its results are told: that they must not be seen (113037), that they "
            "need not be kept (113039), or nothing."
        ),
    ] = Rejection.SAFETY,
    yes: YesFlag = False,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Delete a study: images, jobs and results; what was delivered of it is rejected at the destinations."""
    from dicom_node.audit.trail import AuditTrail
    from storage.overview import study_overviews

    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        study = only_study(ledger, configuration, study)
        (overview,) = study_overviews(ledger, study_instance_uid=study)
        given = consent(
            f"Delete study {study} with its {overview.instances} instances from this node?", reason, yes=yes
        )
        files = storage_of(configuration, ledger)
        trail = AuditTrail.of(configuration, "command")
        deleted = delete_everywhere(configuration, ledger, files, trail, study, reject, given)
    if as_json:
        print_json(deleted)
    else:
        console.print(
            f"study {study}: {deleted.instances} instances and {deleted.results} results deleted; "
            "their files go at the next sweep",
            soft_wrap=True,
        )
