"""What long-axis views show of the left ventricle beside the short axis: for checks, never for the reported volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import View
from pipelines.long_axis.findings import LongAxisLabel, LongAxisView, Valve

__all__ = ["AcquisitionFit", "LongAxisEvidence", "biplane_volume_ml"]


@dataclass(frozen=True, slots=True)
class AcquisitionFit:
    """How one long-axis acquisition fits the short axis; a study may have several of one view.

    Attributes
    ----------
    name : str
        As :attr:`LongAxisView.name`.
    in_step : bool
        Whether it fills and empties as the short axis does; otherwise it is not used.
    delay : float
        Share of the cycle by which it is late.
    shift_mm : float or None
        Along the long axis, that brings it onto the short axis; ``None`` where too few slices tell it.
    """

    name: str
    in_step: bool = True
    delay: float = 0.0
    shift_mm: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LongAxisEvidence:
    """How the long-axis views of a study fit its short axis of T phases.

    Attributes
    ----------
    acquisitions : tuple of AcquisitionFit
        Every acquisition that could be read.
    volume_ml : (T,) float64 or None
        Of the left ventricle by area and length of 2CH and 4CH; ``None`` without both.
    above_stack_mm : (T,) float64 or None
        How far the middle of the mitral plane lies beyond the basal end of the stack; ``None`` where no plane is
        believed.
    """

    acquisitions: tuple[AcquisitionFit, ...]
    volume_ml: NDArray[np.float64] | None
    above_stack_mm: NDArray[np.float64] | None


def biplane_volume_ml(views: Sequence[LongAxisView], phases: int) -> NDArray[np.float64] | None:
    """Left ventricular volume by area and length, 8 A₁ A₂ ÷ (3 π L), of 2CH and 4CH.

    L is the shorter of the two distances from the middle of the mitral annulus to the apex (Lang et al., JASE
    2015;28:1, for the atrium; the ventricle likewise).

    Parameters
    ----------
    phases : int
        Of the short axis.

    Returns
    -------
    (phases,) float64 or None
        ``None`` where one of the views, its annulus or its apex is missing.
    """
    areas: list[NDArray[np.float64]] = []
    lengths: list[NDArray[np.float64]] = []
    for kind in (View.LAX_2CH, View.LAX_4CH):
        view = next((one for one in views if one.view is kind), None)
        if view is None or Valve.MITRAL not in view.annuli or not np.isfinite(view.apex).all():
            return None
        spacing = view.stack.geometry.pixel_spacing
        area = (view.labels == LongAxisLabel.LV).sum(axis=(1, 2)) * spacing[0] * spacing[1]
        length = np.linalg.norm(view.annuli[Valve.MITRAL].mean(axis=1) - view.apex, axis=1)
        areas.append(view.in_step(area.astype(np.float64), phases))
        lengths.append(view.in_step(length, phases))
    length = np.maximum(np.minimum(*lengths), 1.0)
    return np.asarray(8 * areas[0] * areas[1] / (3 * np.pi * length) / 1000.0)
