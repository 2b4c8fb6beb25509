"""``dicom-node export-corrected``: what people corrected, as a training folder."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.commands.consent import ReasonOption, account
from dicom_node.commands.ledger import opened, storage_of
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json
from dicom_node.config_file import load_configuration
from dicom_node.corrections import Consent, audit_access
from dicom_node.errors import ConfigurationError
from dicom_node.implementation import SOFTWARE_VERSION

__all__ = ["export_corrected"]


def export_corrected(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    reason: ReasonOption = "",
    config: ConfigurationFile = Path("config.yaml"),
    as_json: JsonFlag = False,
) -> None:
    """Write corrected cases as NIfTI with a list that MONAI reads: no names, no UIDs, no dates; audited."""
    from dicom_node.audit.messages import Access
    from dicom_node.audit.trail import AuditTrail
    from dicom_node.corrected_cases import CorrectedCase, PassedOver, corrected_cases, write_training_folder

    if not reason.strip():
        raise ConfigurationError("say why, for the record", subject="--reason")
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        found = list(corrected_cases(ledger, storage_of(configuration, ledger)))
    cases = [one for one in found if isinstance(one, CorrectedCase)]
    passed = [one for one in found if isinstance(one, PassedOver)]
    listed = write_training_folder(cases, folder, node_version=SOFTWARE_VERSION)
    given = Consent(account(), platform.node(), " ".join(reason.split())[:200])
    studies = dict.fromkeys(one.study_instance_uid for one in cases)
    audit_access(AuditTrail.of(configuration, "command"), given, studies, Access.READ, "corrected cases exported")
    if as_json:
        print_json({"list": listed, "cases": [one.case for one in cases], "passed_over": passed})
        return
    console.print(f"{len(cases)} cases of {len(studies)} studies: {listed}", soft_wrap=True)
    for one in passed:
        console.print(f"Study {one.study_instance_uid} is left out: {one.why}", soft_wrap=True)
