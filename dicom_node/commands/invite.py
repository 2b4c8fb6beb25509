"""``dicom-node invite``: let a person into the console, or give a new password, from the machine of the node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, console
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError
from storage.accounts import NAME_PATTERN
from storage.schema import AccountRole

__all__ = ["invite"]


def invite(
    name: Annotated[str, typer.Argument(help="Small letters, digits, dots, hyphens and underscores.")],
    role: Annotated[AccountRole, typer.Option(help="What the person may do.")] = AccountRole.ADMINISTRATOR,
    config: ConfigurationFile = Path("config.yaml"),
) -> None:
    """Print a link with which a person chooses a password for the console; it holds once, for three days."""
    from dicom_node.audit.messages import Participant, user_security_changed
    from dicom_node.audit.trail import AuditTrail
    from dicom_node.commands.consent import account
    from dicom_node.console.links import new_invitation
    from storage.ledger import utc_now

    configuration = load_configuration(config)
    if configuration.console.port is None:
        raise ConfigurationError("the console is off", subject="console.port", remedy="give it a port")
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ConfigurationError("is not a name for an account", subject=name, remedy="use small letters and digits")
    trail, by = AuditTrail.of(configuration, "command"), account()
    with opened(configuration) as ledger:
        link = new_invitation(configuration, ledger, name=name, role=role, by=by)
    if trail.file is not None:
        person = Participant(by, "", trail.node.host)
        trail.record(
            user_security_changed(
                person, trail.node, account=name, description=f"invited as {role.value}", at=utc_now()
            )
        )
    console.print(link, soft_wrap=True)
