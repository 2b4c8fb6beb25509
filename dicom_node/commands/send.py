"""``dicom-node send``: send files to a peer, as a scanner does."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json, table
from dicom_node.config import Configuration, NodeSettings, Peer
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from dicom_node.network.sender import ScuSettings, SendOutcome

__all__ = ["parse_address", "send", "send_folder"]

_ADDRESS = re.compile(r"(?P<ae>[^@]{1,16})@(?P<host>\[[^\]]+\]|[^:@]+):(?P<port>\d{1,5})")


def parse_address(text: str) -> Peer:
    """Peer of an address ``AE@HOST:PORT``.

    Raises
    ------
    ConfigurationError
        If the text is not of that form, the AE title is not one, or the port is out of range.
    """
    match = _ADDRESS.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError("write AE@HOST:PORT")
        return Peer(ae_title=match["ae"], host=match["host"].strip("[]"), port=int(match["port"]))
    except ValueError as error:
        raise ConfigurationError(
            "is not an address", subject=text, remedy="write AE@HOST:PORT, such as PACS@127.0.0.1:4242"
        ) from error


def send(
    path: Annotated[Path, typer.Argument(exists=True, help="DICOM file, or folder with DICOM files at any depth.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="PEER", help="AE@HOST:PORT, or the name of a peer in the configuration."),
    ],
    ae_title: Annotated[str | None, typer.Option("--from", help="Calling AE title; unless given, the node's.")] = None,
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Send DICOM files to a peer by C-STORE."""
    from dicom_node.network.sender import ScuSettings

    if "@" in to:
        peer, settings = parse_address(to), ScuSettings(ae_title or NodeSettings().ae_title)
    else:
        configuration = load_configuration(config)
        peer, settings = _configured(configuration, to), ScuSettings.of(configuration)
        settings = replace(settings, ae_title=ae_title or settings.ae_title)
    outcomes = send_folder(path, peer, settings, quiet=as_json)
    failed = [one for one in outcomes if one.error is not None]
    if as_json:
        print_json(
            {
                "sent": len(outcomes) - len(failed),
                "failed": [
                    {
                        "path": one.path,
                        "sop_instance_uid": one.sop_instance_uid,
                        "status": one.status,
                        "error": str(one.error),
                    }
                    for one in failed
                ],
            }
        )
    else:
        console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} objects sent")
        if failed:
            counts = Counter(str(one.error) for one in failed)
            table("Not sent", ["objects>", "why"], ((count, why) for why, count in counts.most_common(20)))
    if failed:
        raise typer.Exit(ExitCode.PEER)


def _configured(configuration: Configuration, name: str) -> Peer:
    peer = configuration.peers.get(name)
    if peer is None or not peer.host or peer.port is None:
        raise ConfigurationError(
            "is neither an address nor a peer with host and port",
            subject=name,
            remedy="write AE@HOST:PORT, such as PACS@127.0.0.1:4242, or complete section peers",
        )
    return peer


def send_folder(path: Path, peer: Peer, settings: ScuSettings, *, quiet: bool) -> list[SendOutcome]:
    """Send a file or a folder with a progress bar.

    Raises
    ------
    ConfigurationError
        There is no DICOM file at ``path``.
    """
    from dicom_node.network.sender import send_files
    from pipelines.cine.files import dicom_files

    files = sorted(dicom_files(path)) if path.is_dir() else [path]
    if not files:
        raise ConfigurationError("holds no DICOM file", subject=str(path), remedy="give another folder")
    with Progress(
        TextColumn("sending to {task.fields[peer]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    ) as progress:
        task = progress.add_task("", total=len(files), peer=peer.ae_title)
        return send_files(files, peer, settings, progress=lambda _outcome: progress.advance(task))
