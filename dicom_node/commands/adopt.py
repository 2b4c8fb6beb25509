"""``dicom-node adopt``: read instance files into a ledger that does not name them."""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.commands.consent import ReasonOption, YesFlag, consent
from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json
from dicom_node.config import Configuration
from dicom_node.config_file import load_configuration

__all__ = ["adopt"]


def adopt(
    reason: ReasonOption = "",
    yes: YesFlag = False,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Make the ledger and the storage directory belong together, and read files that the ledger lacks into it."""
    from dicom_node.audit.messages import Access
    from dicom_node.audit.trail import AuditTrail
    from dicom_node.corrections import audit_access
    from dicom_node.instance_files import instance_files
    from dicom_node.network.adoption import adopt_files, adoptable
    from dicom_node.node import alone
    from storage.ledger import record_event, utc_now
    from storage.transfers import received_by

    configuration = load_configuration(config)
    with alone(configuration.storage.directory), opened(configuration) as ledger:
        files = instance_files(configuration, durable=configuration.storage.durable)
        found, _ = adoptable(ledger, files)
        given = consent(
            f"{len(found)} files in {_places(configuration)} are not in the ledger "
            f"{ledger.engine.url.render_as_string(hide_password=True)}. Read them into it? Their studies are then "
            "analysed, and the results delivered, as if they had just been received",
            reason,
            yes=yes,
        )
        since = utc_now()
        adopted = adopt_files(configuration, ledger, files)
        with ledger.transaction() as session:
            record_event(
                session,
                "files adopted",
                "storage directory",
                at=utc_now(),
                files=adopted.taken,
                by=given.by,
                reason=given.reason,
            )
        trail = AuditTrail.of(configuration, "command")
        audit_access(trail, given, received_by(ledger, "adopt", since=since), Access.CREATE)
    if as_json:
        print_json(adopted)
    else:
        console.print(f"{adopted.taken} of {len(found)} files read into the ledger")
        for path in adopted.in_quarantine:
            console.print(f"in quarantine: {path}", soft_wrap=True)
        for path in adopted.left:
            console.print(f"left, damaged or not storable now: {path}", soft_wrap=True)
        if adopted.not_instances:
            console.print(f"{adopted.not_instances} results and quarantined objects set aside stay where they are")
    if adopted.left:
        raise typer.Exit(ExitCode.FAILED)


def _places(configuration: Configuration) -> str:
    storage = configuration.storage
    return str(storage.directory) if storage.bucket is None else f"{storage.directory} and {storage.bucket.url}"
