"""What several evaluations report alike: plain values for JSON, and how probabilities are spread over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Distribution", "distribution", "plain", "spread_out"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Probabilities of a group of patients without an acute infarct, where they should be low.

    Attributes
    ----------
    patients, declined : int
    quartiles : (float, float, float)
    highest : float
    remark : str
        How they were measured.
    """

    patients: int
    declined: int
    quartiles: tuple[float, float, float]
    highest: float
    remark: str


def distribution(found: Sequence[float | None], remark: str) -> Distribution:
    """Spread of the probabilities of a group; ``None`` where the node declines."""
    known = np.array([value for value in found if value is not None])
    if not known.size:
        nan = float("nan")
        return Distribution(len(found), len(found), (nan, nan, nan), nan, remark)
    low, middle, high = (float(each) for each in np.quantile(known, [0.25, 0.5, 0.75]))
    return Distribution(len(found), len(found) - known.size, (low, middle, high), float(known.max()), remark)


def spread_out(values: dict[str, Any], *names: str) -> None:
    """Replace estimates of a dictionary by their value and, under the name with ``_ci``, both ends of the interval."""
    for name in names:
        estimate = values.pop(name)
        values[name], values[f"{name}_ci"] = estimate["value"], [estimate["low"], estimate["high"]]


def plain(value: Any) -> Any:
    """Figures as JSON can hold them, to four digits; those that do not exist are ``None``."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return value
