"""The scale of late enhancement that networks learn: remote muscle 0, dense scar 1, blood about 0.8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.segmentation.labels import Label

__all__ = ["BLOOD", "enhancement_scale", "normalised_slices"]

BLOOD = 0.8
"""Blood on the scale of the target: dense scar of a phantom is a quarter brighter than blood in late enhancement."""
_REMOTE_PX_MIN = 12
_BLOOD_MIN = 0.4
"""Blood of a slice exceeds its muscle by at least this share of what it does on the median slice."""
_SCAR_OVER_BLOOD = (0.9, 2.2)
"""Limits of what dense scar exceeds muscle by, relative to blood, on real images."""
_SCAR_PX_MIN = 15


def enhancement_scale(
    image: NDArray[np.float32], labels: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> tuple[float, float]:
    """Signal of remote muscle on late enhancement (S, n, n), and what dense scar exceeds it by.

    Remote is the median of muscle away from every lesion; the unit comes from the blood, which every heart has.
    """
    muscle, lesion = labels == Label.MYO, lesions > 0
    remote = muscle & ~ndimage.binary_dilation(lesion, np.ones((1, 5, 5), np.bool_))
    zero = float(np.median(image[remote if remote.sum() > 50 else muscle]))
    blood = ndimage.binary_erosion(labels == Label.LV, np.ones((1, 3, 3), np.bool_))
    unit = max((float(np.median(image[blood])) - zero) / BLOOD, 0.02) if blood.any() else 0.2
    return zero, unit


def normalised_slices(
    image: NDArray[np.float32], labels: NDArray[np.uint8], lesions: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Late enhancement whose slices were each scaled by themselves, on a scale of remote muscle 0 and dense scar 1.

    Such are the images of EMIDEC as PNG: remote muscle of one heart differs by up to 50 of 255 grey values from slice
    to slice, and blood exceeds it by 10 to 40.

    Parameters
    ----------
    image : (S, n, n) float32
    labels : (S, n, n) uint8
        Values of :class:`pipelines.segmentation.labels.Label`.
    lesions : (S, n, n) uint8
        0 where muscle is no scar, 2 obstruction.

    Returns
    -------
    (S, n, n) float32
        −0.5 … 1.5. Zero of a slice is the median of its muscle away from scar, blood and rim, or where it has none the
        grey value that far below its blood as on the median slice. The unit follows the contrast of blood and muscle
        of the slice; what dense scar exceeds that by is the median over slices of the 90th percentile of their infarct,
        and in a heart without one what it is in a phantom.
    """
    zeros, bloods, scars = (np.full(len(image), np.nan) for _ in range(3))
    for index, (plane, label, lesion) in enumerate(zip(image, labels, lesions, strict=True)):
        blood = ndimage.binary_erosion(label == Label.LV, np.ones((3, 3), np.bool_))
        muscle = label == Label.MYO
        healthy = muscle & ~ndimage.binary_dilation(lesion > 0, np.ones((3, 3), np.bool_))
        wall = ndimage.binary_erosion(muscle | (label == Label.LV)) & ~ndimage.binary_dilation(label == Label.LV)
        remote = healthy & wall if (healthy & wall).sum() >= _REMOTE_PX_MIN else healthy
        infarct = muscle & (lesion == 1)
        if blood.sum() >= _REMOTE_PX_MIN:
            bloods[index] = np.median(plane[blood])
        if remote.sum() >= _REMOTE_PX_MIN:
            zeros[index] = np.median(plane[remote])
        if infarct.sum() >= _SCAR_PX_MIN:
            scars[index] = np.percentile(plane[infarct], 90)
    contrast = bloods - zeros
    known = contrast[np.isfinite(contrast)]
    usual = max(float(np.median(known)), 1e-3) if known.size else 0.1
    zeros = np.where(np.isfinite(zeros), zeros, bloods - usual)
    zeros = np.where(np.isfinite(zeros), zeros, np.median(image, axis=(1, 2)))
    contrast = np.where(np.isfinite(contrast), np.maximum(contrast, _BLOOD_MIN * usual), usual)
    over = (scars - zeros) / contrast
    over = over[np.isfinite(over)]
    dense = float(np.clip(np.median(over), *_SCAR_OVER_BLOOD)) if over.size else 1 / BLOOD
    unit = dense * contrast
    return np.clip((image - zeros[:, None, None]) / unit[:, None, None], -0.5, 1.5).astype(np.float32)
