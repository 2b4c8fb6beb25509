"""``dicom-node doctor``: what would keep this node from working, or soon will, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json
from dicom_node.config_file import load_configuration
from dicom_node.doctor import Level, examine
from storage.ledger import utc_now

__all__ = ["doctor"]

_STYLE = {Level.WELL: "green", Level.WARNING: "yellow", Level.BROKEN: "bold red"}


def doctor(
    config: ConfigurationFile = Path("config.yaml"),
    call_peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Call every peer and web destination.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Look at disk, clock, ports, peers, certificates, models, permissions, ledger and validator; changes nothing.

    Exit status 1 when something is broken; warnings alone leave it 0.
    """
    configuration = load_configuration(config)
    findings = []
    for finding in examine(configuration, now=utc_now(), call_peers=call_peers):
        findings.append(finding)
        if not as_json:
            style = _STYLE[finding.level]
            remedy = f" – {finding.remedy}" if finding.remedy else ""
            console.print(f"[{style}]{finding.level.value:<8}[/{style}] {finding.about}: ", end="", highlight=False)
            console.print(f"{finding.sentence}{remedy}", markup=False, highlight=False, soft_wrap=True)
    broken = sum(one.level is Level.BROKEN for one in findings)
    warnings = sum(one.level is Level.WARNING for one in findings)
    if as_json:
        print_json({"well": not broken, "broken": broken, "warnings": warnings, "findings": findings})
    else:
        console.print(f"{broken} broken, {warnings} warning(s)")
    if broken:
        raise typer.Exit(ExitCode.FAILED)
