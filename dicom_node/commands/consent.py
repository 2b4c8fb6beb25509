"""What commands ask before they remove or replace something: a reason and a yes."""

from __future__ import annotations

import getpass
import platform
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration
from dicom_node.corrections import Consent
from dicom_node.errors import ConfigurationError

if TYPE_CHECKING:
    from dicom_node.audit.trail import AuditTrail

__all__ = ["ReasonOption", "YesFlag", "account", "command_trail", "consent"]


ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, for the record; in words that name no patient.", show_default=False)
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def consent(question: str, reason: str, *, yes: bool) -> Consent:
    """Ask before something is removed or replaced.

    Raises
    ------
    ConfigurationError
        No reason was given.
    typer.Exit
        The answer is no.
    """
    if not reason.strip():
        raise ConfigurationError("say why, for the record", subject="--reason")
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(ExitCode.FAILED)
    return Consent(account(), platform.node(), " ".join(reason.split())[:200])


def command_trail(configuration: Configuration) -> AuditTrail:
    """Audit trail of a command."""
    # It counts, and is imported only when a command runs: `serve` has to say first where the numbers go.
    from dicom_node.audit.trail import AuditTrail

    return AuditTrail.of(configuration, "command")


def account() -> str:
    """Name of the account that runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return "unknown"
