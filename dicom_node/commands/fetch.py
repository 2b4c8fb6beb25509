"""``dicom-node fetch``: bring missing images from a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json, table
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError

__all__ = ["fetch"]


def fetch(
    study: Annotated[str, typer.Argument(help="StudyInstanceUID.")],
    source: Annotated[str, typer.Option("--from", metavar="PEER", help="Name of the peer in section peers.")],
    series: Annotated[
        list[str] | None, typer.Option("--series", help="Only this SeriesInstanceUID; may be given several times.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="get|move", help="C-GET, or C-MOVE to the running node.")] = "get",
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Fetch from a peer what it holds of a study and this node does not."""
    from dicom_node.network.fetch import Way, fetch_study

    configuration = load_configuration(config)
    peer = configuration.peers.get(source)
    if peer is None:
        known = ", ".join(sorted(configuration.peers)) or "none"
        raise ConfigurationError("is not among the peers", subject=source, remedy=f"known: {known}")
    if by not in set(Way):
        raise ConfigurationError("is no way to fetch", subject=f"--by {by}", remedy="give get or move")
    with opened(configuration) as ledger:
        fetched = fetch_study(configuration, ledger, peer, study, series_instance_uids=series or (), way=Way(by))
    missing = sum(len(one.missing) for one in fetched)
    if as_json:
        print_json({"study_instance_uid": study, "peer": source, "series": fetched})
    elif not fetched:
        console.print(f"{source} does not hold it")
    else:
        table(
            f"Study {study} from {source}",
            ["series", "at the peer>", "held before>", "fetched>", "missing>"],
            ((one.series_instance_uid, one.at_peer, one.held_before, one.fetched, len(one.missing)) for one in fetched),
        )
    if missing or not fetched:
        raise typer.Exit(ExitCode.PEER)
