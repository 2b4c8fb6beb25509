"""``dicom-node check``: is the configuration sound, and do the peers answer?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json, table
from dicom_node.config_file import ConfigurationText
from dicom_node.errors import NodeError
from dicom_node.machine import free_space_mistakes, serving_mistakes

if TYPE_CHECKING:
    from dicom_node.config import IdentityProviderSettings
    from dicom_node.network.sender import EchoResult

__all__ = ["check"]


def check(
    config: ConfigurationFile = Path("config.yaml"),
    call_peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Call every peer and web destination.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Validate the configuration against this machine, open the ledger, C-ECHO peers, ask web destinations and
    the console's identity provider.
    """
    from dicom_node.network.sender import ScuSettings, echo
    from dicom_node.network.tls import check_credentials
    from dicom_node.web.client import ask

    text = ConfigurationText.read(config)
    configuration = text.configuration()
    mistakes = [*serving_mistakes(configuration), *free_space_mistakes(configuration)]
    if mistakes:
        raise text.error(mistakes)
    if configuration.node.tls is not None:
        check_credentials(configuration.node.tls)
    with opened(configuration):
        pass
    settings = ScuSettings.of(configuration)
    answers = {
        name: echo(peer, settings) if call_peers and peer.host and peer.port is not None else None
        for name, peer in configuration.peers.items()
    }
    services = {
        name: profile.web for name, profile in configuration.results.destinations.items() if profile.web is not None
    }
    response_s = configuration.delivery.response_timeout_s
    web_answers = {name: ask(web, response_s) if call_peers else None for name, web in services.items()}
    identity = configuration.console.identity_provider if call_peers else None
    provider = _ask_provider(identity) if identity is not None else None
    silent = [answer for answer in (*answers.values(), *web_answers.values()) if answer and not answer.reachable]
    if as_json:
        print_json(
            {
                "configuration": config,
                "peers": {name: _said(answer) for name, answer in answers.items()},
                "web_destinations": {name: _said(answer) for name, answer in web_answers.items()},
                "identity_provider": None if provider is None else {"reachable": provider.sound, "said": provider.said},
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
        if services:
            table(
                "Web destinations",
                ["destination", "address", "answers"],
                ((name, web.url, _told(web_answers[name])) for name, web in services.items()),
            )
        if identity is not None and provider is not None:
            console.print(f"Identity provider {identity.issuer}: {provider.said}", soft_wrap=True)
    if silent or (provider is not None and not provider.sound):
        raise typer.Exit(ExitCode.PEER)


@dataclass(frozen=True, slots=True)
class _Provider:
    sound: bool
    said: str


def _ask_provider(settings: IdentityProviderSettings) -> _Provider:
    from dicom_node.console.identity_provider import check_provider

    try:
        signs = check_provider(settings)
    except NodeError as error:
        return _Provider(False, str(error))
    return _Provider(True, f"answers, signs by {signs}; redirect URI to register there: {settings.redirect_uri}")


def _said(answer: EchoResult | None) -> dict[str, object] | None:
    if answer is None:
        return None
    error = None if answer.error is None else str(answer.error)
    return {"reachable": answer.reachable, "seconds": answer.seconds, "error": error}


def _told(answer: EchoResult | None) -> str:
    if answer is None:
        return "not called"
    return f"{1000 * answer.seconds:.0f} ms" if answer.reachable else str(answer.error)
