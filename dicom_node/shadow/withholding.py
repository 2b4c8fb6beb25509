"""Whether a destination gets synthetic late enhancement: when this site's own figures pass what it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dicom_node.config import DestinationProfile, SyntheticPolicy

if TYPE_CHECKING:
    from dicom_node.shadow.agreement import Agreement
    from storage.shadow import KeptComparison

__all__ = ["shortfall", "withheld_destinations"]


def withheld_destinations(
    profiles: Mapping[str, DestinationProfile], comparisons: Sequence[KeptComparison], version: str
) -> dict[str, str]:
    """Destinations that get no synthetic late enhancement yet, and why.

    Parameters
    ----------
    comparisons
        Of this site.
    version
        Of the analysis package that predicts: what an earlier version predicted speaks for that version alone.
    """
    asking = {name: profile.synthetic for name, profile in profiles.items() if profile.synthetic.has_thresholds}
    if not asking:
        return {}
    # SciPy, which a node without thresholds need not load for this.
    from dicom_node.shadow.agreement import agreement

    figures = agreement([one for one in comparisons if one.version == version])
    said = {name: shortfall(policy, figures) for name, policy in asking.items()}
    return {name: sentence for name, sentence in said.items() if sentence is not None}


def shortfall(policy: SyntheticPolicy, figures: Agreement) -> str | None:
    """What is missing for a destination, in a sentence; ``None`` when all its thresholds are passed."""
    missing = []
    if policy.minimum_studies is not None and figures.studies < policy.minimum_studies:
        missing.append(f"{figures.studies} of {policy.minimum_studies} studies compared")
    for name, least, estimate in (
        ("correlation of extents", policy.minimum_r, figures.r),
        ("area under the curve by study", policy.minimum_auc, figures.auc),
    ):
        if least is None:
            continue
        if estimate is None:
            missing.append(f"{name} not known, {least:g} asked for")
        elif estimate.value < least:
            missing.append(f"{name} {estimate.value:.2f}, {least:g} asked for")
    if not missing:
        return None
    return (
        "Withheld until this site's own comparisons of predicted with acquired late enhancement pass the thresholds of "
        f"the destination: {'; '.join(missing)}."
    )
