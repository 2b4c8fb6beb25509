"""``dicom-node check``: is the configuration sound, and do the peers answer?"""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json, table
from dicom_node.config import load_configuration

__all__ = ["check"]


def check(config: ConfigurationFile = Path("config.yaml"), as_json: JsonFlag = False) -> None:
    """Validate the configuration, open the ledger and C-ECHO every peer that has an address."""
    from dicom_node.network.sender import ScuSettings, echo
    from dicom_node.network.tls import check_credentials

    configuration = load_configuration(config)
    if configuration.node.tls is not None:
        check_credentials(configuration.node.tls)
    with opened(configuration):
        pass
    settings = ScuSettings.of(configuration)
    answers = {
        name: echo(peer, settings) if peer.host and peer.port is not None else None
        for name, peer in configuration.peers.items()
    }
    silent = [name for name, answer in answers.items() if answer is not None and not answer.reachable]
    if as_json:
        print_json(
            {
                "configuration": config,
                "peers": {
                    name: None
                    if answer is None
                    else {
                        "reachable": answer.reachable,
                        "seconds": answer.seconds,
                        "error": answer.error and str(answer.error),
                    }
                    for name, answer in answers.items()
                },
            }
        )
    else:
        console.print(f"{config}: sound. This node is {configuration.node.ae_title}, port {configuration.node.port}")
        table(
            "Peers",
            ["peer", "AE title", "address", "may", "C-ECHO"],
            (
                (
                    name,
                    peer.ae_title,
                    f"{peer.host}:{peer.port}" if peer.host and peer.port else peer.host or "anywhere",
                    ", ".join(sorted(permission.value for permission in peer.may)),
                    _told(answers[name]),
                )
                for name, peer in configuration.peers.items()
            ),
        )
    if silent:
        raise typer.Exit(ExitCode.PEER)


def _told(answer: object) -> str:
    from dicom_node.network.sender import EchoResult

    if not isinstance(answer, EchoResult):
        return "no address to call"
    return f"{1000 * answer.seconds:.0f} ms" if answer.reachable else str(answer.error)
