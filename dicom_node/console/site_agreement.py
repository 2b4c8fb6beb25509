"""How predicted late enhancement agrees with acquired one in the studies of this site (shadow comparison)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_node.shadow.comparison import PREDICTED
from pipelines.package import packages
from storage.ledger import Ledger
from storage.shadow import kept_comparisons

if TYPE_CHECKING:
    from dicom_node.shadow.agreement import Agreement
    from pipelines.statistics import Estimate

__all__ = ["AgreementRow", "site_agreement"]


@dataclass(frozen=True, slots=True)
class AgreementRow:
    """Figures of all studies, of one scanner or of one month, in words; a dash where the studies do not tell."""

    of: str
    studies: int
    with_infarct: int
    r: str
    bias: str
    auc: str


def site_agreement(ledger: Ledger) -> tuple[AgreementRow, ...]:
    """Figures of the installed version: of all studies first, then by scanner, then by month; empty without any."""
    package = packages().get(PREDICTED)
    kept = [one for one in kept_comparisons(ledger) if package is None or one.version == package.version]
    if not kept:
        return ()
    # Imported here: computes, and most nodes have nothing to compare.
    from dicom_node.shadow.agreement import agreement, by_month, by_scanner

    found = {"all": agreement(kept), **by_scanner(kept), **by_month(kept)}
    return tuple(_row(name, one) for name, one in found.items())


def _row(name: str, figures: Agreement) -> AgreementRow:
    return AgreementRow(
        name,
        figures.studies,
        figures.with_infarct,
        _words(figures.r),
        _words(figures.bias, "+.1f"),
        _words(figures.auc),
    )


def _words(estimate: Estimate | None, form: str = ".2f") -> str:
    if estimate is None or math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"
