"""What commands ask before they remove or replace something: a reason, a yes, and a line in the audit trail."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import typer

from dicom_node.audit.messages import AuditMessage, Participant, Study
from dicom_node.audit.trail import AuditTrail
from dicom_node.commands.terminal import ExitCode
from dicom_node.config import Configuration
from dicom_node.errors import ConfigurationError

__all__ = ["Consent", "ReasonOption", "YesFlag", "consent"]

ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why, for the record; in words that name no patient.", show_default=False)
]
YesFlag = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


@dataclass(frozen=True, slots=True)
class Consent:
    """Who wants it, and why."""

    by: str
    """Name of the account."""
    reason: str

    def audit(
        self,
        configuration: Configuration,
        studies: Iterable[Study],
        message: Callable[[Participant, Participant, Study], AuditMessage],
    ) -> None:
        """Write one message for each study into the audit trail, if there is one."""
        trail = AuditTrail.of(configuration, "command")
        if trail.file is None:
            return
        person = Participant(self.by, "", platform.node())
        for study in studies:
            trail.record(message(person, trail.node, study))


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
    return Consent(_account(), " ".join(reason.split())[:200])


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return "unknown"
