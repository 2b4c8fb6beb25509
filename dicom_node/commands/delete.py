"""``dicom-node delete``: remove a study from this node, and reject its results where they have been delivered."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.audit.messages import Study, study_deleted
from dicom_node.commands.consent import ReasonOption, YesFlag, consent
from dicom_node.commands.ledger import opened, storage_of
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json
from dicom_node.config_file import load_configuration
from dicom_node.errors import NodeError

__all__ = ["delete"]


class Rejection(enum.StrEnum):
    """What destinations are told of results that they hold."""

    SAFETY = "safety"
    RETENTION = "retention"
    NONE = "none"


def delete(
    study: Annotated[str, typer.Argument(help="StudyInstanceUID.")],
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
    from dicom_node.audit.trail import patient_id_of
    from dicom_node.deliver.rejection import reject_set
    from dicom_node.results.rejection import RejectionReason
    from storage.deletion import check_deletable, delete_study
    from storage.holdings import held_series
    from storage.ledger import utc_now
    from storage.overview import study_overviews
    from storage.rejection import results_of_study

    configuration = load_configuration(config)
    title = {
        Rejection.SAFETY: RejectionReason.PATIENT_SAFETY,
        Rejection.RETENTION: RejectionReason.RETENTION,
        Rejection.NONE: None,
    }[reject]
    with opened(configuration) as ledger:
        (overview,) = study_overviews(ledger, study_instance_uid=study)
        given = consent(
            f"Delete study {study} with its {overview.instances} instances from this node?", reason, yes=yes
        )
        files = storage_of(configuration, ledger)
        check_deletable(ledger, study)
        void = results_of_study(ledger, study, now=utc_now())
        sentence = f"The study was deleted from the analysis node, and its results with it: {given.reason}"
        if void is not None and void.results:
            done = reject_set(
                ledger,
                files,
                configuration,
                void,
                title,
                sentence=sentence,
                reason=f"study deleted: {given.reason}",
                by=given.by,
                now=utc_now(),
            )
            if not done:
                raise NodeError(
                    "its results are on their way to a destination", subject=study, remedy="try again in a minute"
                )
        patient_id = None
        if configuration.audit.patient_id:
            series = held_series(ledger, study)
            patient_id = patient_id_of(files.absolute(series[0].path)) if series else ""
        given.audit(
            configuration,
            [Study(study, {}, patient_id)],
            lambda person, node, one: study_deleted(person, node, one, reason=given.reason, at=utc_now()),
        )
        deleted = delete_study(ledger, study, reason=given.reason, by=given.by, now=utc_now())
    if as_json:
        print_json(deleted)
    else:
        console.print(
            f"{deleted.instances} instances and {deleted.results} results deleted; their files go at the next sweep",
            soft_wrap=True,
        )
