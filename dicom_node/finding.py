"""Which studies people mean, by what they have at hand: a UID, an accession number, a patient ID, a sender."""

from __future__ import annotations

from storage.files import InstanceFiles
from storage.finding import find_studies
from storage.ledger import Ledger

__all__ = ["named_studies"]


def named_studies(ledger: Ledger, files: InstanceFiles | None, text: str, *, limit: int) -> tuple[str, ...]:
    """Studies that a text names; what only headers tell is read from one of the files of each study first.

    Parameters
    ----------
    files
        None where there are none to read.
    text
        As :func:`storage.finding.find_studies` takes it.
    """
    from dicom_node.network.query_scp import describe_new_studies

    found = find_studies(ledger, text, limit=limit)
    if not found and files is not None:
        describe_new_studies(ledger, files)
        found = find_studies(ledger, text, limit=limit)
    return found
