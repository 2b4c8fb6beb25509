"""Compares what two analyses of one study found: enhancement predicted from cine, and on acquired images.

Both packages are jobs of their own. What each found is in the ledger with its job, as numbers by name; the closing job,
which runs when all have ended, puts the two together.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.cine.elements import DAMAGE
from pipelines.cine.reading import read_object
from storage.shadow import KeptComparison, Segment

__all__ = ["ACQUIRED", "PREDICTED", "compared", "scanner_of"]

PREDICTED, ACQUIRED = "synthetic_enhancement", "late_enhancement"
"""The analysis packages."""
ENHANCED_PERCENT = 10.0
"""A segment enhances when more of it does: what the predicted probability of a segment is of."""
_SEGMENTS = 16
_NAMES = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")


def compared(
    predicted: Mapping[str, float], acquired: Mapping[str, float], *, version: str, scanner: str, now: dt.datetime
) -> KeptComparison | None:
    """Put the numbers of both packages together.

    Parameters
    ----------
    predicted, acquired
        Numbers by name, as the encoders of :data:`PREDICTED` and :data:`ACQUIRED` give them.
    version
        Of the package that predicted.

    Returns
    -------
    KeptComparison or None
        ``None`` where the one or the other found nothing to compare.
    """
    probability = predicted.get("synthetic_probability", math.nan)
    # Where enhancement is not said to be there, no extent is reported: that is held against the truth as none.
    predicted_percent = predicted.get("synthetic_hyperintense_percent", 0.0)
    present = acquired.get("LGE_infarct_present", math.nan)
    acquired_percent = acquired.get("LGE_network_percent", math.nan)
    if not all(map(math.isfinite, (probability, predicted_percent, present, acquired_percent))):
        return None
    segments = {}
    for number in range(1, _SEGMENTS + 1):
        chance = predicted.get(f"synthetic_segment_{number}_probability", math.nan)
        percent = acquired.get(f"LGE_segment{number}_percent", math.nan)
        if math.isfinite(chance) and math.isfinite(percent):
            segments[number] = Segment(chance, percent > ENHANCED_PERCENT)
    return KeptComparison(
        version=version,
        scanner=scanner,
        compared_at=now,
        probability=probability,
        present=present > 0.5,
        predicted_percent=predicted_percent,
        acquired_percent=acquired_percent,
        segments=segments,
    )


def scanner_of(paths: Sequence[Path]) -> str:
    """Manufacturer, model and field strength, as the first image says that names them; no person or station."""
    return next(filter(None, map(_named, paths)), "scanner not named")


def _named(path: Path) -> str:
    try:
        header = read_object(path, stop_before_pixels=True, specific_tags=list(_NAMES))
    except DAMAGE:
        return ""
    named = [str(header.get(keyword) or "").strip() for keyword in _NAMES[:2]]
    strength = str(header.get("MagneticFieldStrength") or "").strip()
    with contextlib.suppress(ValueError):
        named.append(f"{float(strength):g} T" if strength else "")
    return " ".join(filter(None, named))
