"""``dicom-node upgrade``: bring the ledger of an earlier version to this one, or say what it would take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json
from dicom_node.config_file import ConfigurationText
from dicom_node.errors import NodeError, OutOfResourcesError
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.machine import usable
from storage.migrate import MigrationError
from storage.rehearsal import rehearse

__all__ = ["upgrade"]


def upgrade(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the configuration, migrate a copy of the ledger, change nothing.")
    ] = False,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Check that this version works with the configuration, and migrate the ledger; a dry run changes nothing.

    The migration is tried first in any case. The node is to be stopped; for a dry run the version before may run.
    """
    from dicom_node.node import alone

    configuration = usable(ConfigurationText.read(config))
    try:
        tried = rehearse(configuration.storage.database)
    except MigrationError as error:
        raise NodeError(
            f"the ledger cannot be brought to version {SOFTWARE_VERSION}: {error}",
            subject="storage.database",
            remedy="nothing was changed: go on with the version before",
        ) from error
    except (OSError, SQLAlchemyError) as error:
        raise OutOfResourcesError(
            f"the migration could not be tried: {type(error).__name__}",
            subject="storage.database",
            remedy="a copy of the ledger needs room beside it; a database server has to run",
        ) from error
    if not dry_run:
        with alone(configuration.storage.directory), opened(configuration):
            pass
    if as_json:
        print_json({"version": SOFTWARE_VERSION, "dry_run": dry_run, "ledger": tried})
        return
    console.print(f"{config}: sound for version {SOFTWARE_VERSION}")
    if not tried.revisions:
        console.print("The ledger needs no migration")
        return
    revisions = ", ".join(tried.revisions)
    console.print(
        f"The ledger {'would get' if dry_run else 'got'} revisions {revisions}; on a copy, {tried.rows} rows, "
        f"that took {tried.seconds:.1f} s and lost none"
    )
    if dry_run:
        console.print("Nothing was changed. Take a backup, stop the node, and run it again without --dry-run")
