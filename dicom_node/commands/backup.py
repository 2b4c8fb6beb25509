"""``dicom-node backup | restore``: a copy of all that the node holds, taken while it runs, and put back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commands.ledger import opened, storage_of
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json
from dicom_node.config_file import load_configuration
from dicom_node.errors import NodeError, classify
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.network.file_meta import digest_of_file
from storage.backup import BackupError
from storage.backup import back_up as back_up_storage
from storage.backup import restore as restore_storage
from storage.files import InstanceFiles
from storage.ledger import utc_now

__all__ = ["backup", "restore"]

CONFIGURATION = "config.yaml"
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup.")]


def backup(
    folder: Folder,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy every file, also where a further name on the same disk would do.")
    ] = False,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Copy ledger, images, results, quarantine and configuration into an empty folder; the node may run.

    Exit status 1 when a file that the ledger names is missing or damaged, or images wait in a journal that cannot be
    filed: the backup holds everything else.
    """
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        files = storage_of(configuration, ledger)
        if folder.resolve().is_relative_to(files.root.resolve()):
            raise NodeError("lies in the storage directory", subject=str(folder), remedy="name a folder outside it")
        try:
            record = back_up_storage(
                ledger,
                files,
                folder,
                digest_of=digest_of_file,
                software=SOFTWARE_VERSION,
                clock=utc_now,
                link=not copy,
            )
            shutil.copyfile(config, folder / CONFIGURATION)
            (folder / CONFIGURATION).chmod(0o640)
        except (OSError, SQLAlchemyError) as error:
            raise _translated(error, folder) from error
    if as_json:
        print_json(record)
    else:
        console.print(
            f"{record.files} files ({record.size / 1e6:.1f} MB) and the ledger as it was at "
            f"{record.began_at.astimezone().isoformat(sep=' ', timespec='seconds')} are in {folder}, each checked "
            "against its checksum",
            soft_wrap=True,
        )
        if record.linked:
            console.print(
                f"{record.linked} files are on the disk of the node: copy the folder to another one (rsync), or use "
                "--copy with a folder there",
                soft_wrap=True,
            )
        _print_lost(record.missing, record.damaged)
        if record.unfiled:
            console.print(
                f"not in it: up to {record.unfiled} acknowledged images that wait in the journal of a receiver; "
                "dicom-node status says why they are not filed. Back up again once they are",
                soft_wrap=True,
            )
    if record.missing or record.damaged or record.unfiled:
        raise typer.Exit(ExitCode.FAILED)


def restore(
    folder: Folder,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Put a backup back where the configuration says: the storage directory and the database must be empty.

    What the node did after the backup began is not in it: results delivered since are delivered again, and destinations
    find them under the same UIDs.
    """
    from dicom_node.node import alone

    configuration = load_configuration(config)
    storage = configuration.storage
    try:
        with alone(storage.directory):
            files = InstanceFiles(storage.directory, durable=storage.durable)
            restored = restore_storage(folder, storage.database, files, digest_of=digest_of_file, clock=utc_now)
    except BackupError as error:
        raise NodeError(str(error)) from error
    except (OSError, SQLAlchemyError) as error:
        raise _translated(error, folder) from error
    if as_json:
        print_json(restored)
    else:
        console.print(
            f"{restored.files} files ({restored.size / 1e6:.1f} MB) and the ledger as it was at "
            f"{restored.began_at.astimezone().isoformat(sep=' ', timespec='seconds')} are back; check them with "
            "dicom-node doctor, then start the node",
            soft_wrap=True,
        )
        _print_lost(restored.missing, restored.damaged)
    if restored.missing or restored.damaged:
        raise typer.Exit(ExitCode.FAILED)


def _translated(error: OSError | SQLAlchemyError, folder: Path) -> NodeError:
    if isinstance(error, OSError):
        return NodeError(
            f"failed: {error.strerror or type(error).__name__}",
            subject=str(error.filename or folder),
            remedy="free space or give access, empty the folder, and begin again",
        )
    return classify(error)


def _print_lost(missing: tuple[str, ...], damaged: tuple[str, ...]) -> None:
    for path in missing:
        console.print(f"missing: {path}", soft_wrap=True)
    for path in damaged:
        console.print(f"damaged, left out: {path}", soft_wrap=True)
