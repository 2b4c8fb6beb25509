"""Probability of scar from how each piece of wall moves and looks over the cycle, read by an LSTM; no image is made.

After Xu et al. (MICCAI 2017, doi:10.1007/978-3-319-66179-7_28): patches that follow the wall, and the motion of the
whole, in the order of time. Theirs is a network for each pixel on optical flow; here a piece of wall is a direction of
a slice, and its motion is that of the two radii of the node's segmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipelines.synthetic_enhancement.contours import ANGLES, directions
from pipelines.synthetic_enhancement.features import FIELD_PX, MOMENTS, HeartCrop, regional_motion

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = ["INPUTS", "MODEL", "PIECES", "SEQUENCE_PREDICTORS", "heart_values", "piece_logits", "wall_sequences"]

MODEL = "scar-sequence"
PIECES = 32
"""Pieces of wall around each slice."""
_DEPTHS = (-0.3, 0.0, 0.25, 0.5, 0.75, 1.0, 1.3)
"""Where the patch is sampled across the wall: 0 at the endocardium, 1 at the epicardium."""
_BESIDE = (-2, 0, 2)
"""And along it, in directions of :data:`ANGLES`."""
INPUTS = (
    *(f"grey value at {depth:g} of the wall, direction {beside:+d}" for beside in _BESIDE for depth in _DEPTHS),
    *("loss of area", "thickening", "inward motion of the epicardium"),
    *("mean loss of area of the slice", "mean loss of area of the heart"),
    *("thickness at end diastole", "height"),
)
"""Meaning of each input, at each moment."""
SEQUENCE_PREDICTORS = ("highest tenth", "mean", "likeliest slice")
_THICKNESS_PX = 7.0
_THINNEST_PX = 1.0


def wall_sequences(heart: HeartCrop) -> NDArray[np.float32]:
    """What is seen of each piece of wall at each moment, (S, PIECES, MOMENTS, len(INPUTS)).

    The moments are those of :class:`HeartCrop`: end diastole, end systole, then six over the cycle. Where only the
    first two are there, only they may be used.
    """
    step = ANGLES // PIECES
    loss, thickening = regional_motion(heart.inner, heart.outer)
    epicardium = 5 * (1 - heart.outer / np.maximum(heart.outer[:1], 1))
    of_slice = np.broadcast_to(loss.mean(axis=-1, keepdims=True), loss.shape)
    of_heart = np.broadcast_to(loss.mean(axis=(1, 2), keepdims=True), loss.shape)
    thickness = np.broadcast_to((heart.outer[0] - heart.inner[0]) / _THICKNESS_PX, loss.shape)
    height = np.broadcast_to(2 * heart.height[:, None] - 1, loss.shape)
    motion = np.stack([loss, thickening, epicardium, of_slice, of_heart, thickness, height], axis=-1)
    seen = np.concatenate([_patches(heart), motion], axis=-1)[:, :, ::step]
    return np.ascontiguousarray(np.moveaxis(seen, 0, 2), dtype=np.float32)


def _patches(heart: HeartCrop) -> NDArray[np.float32]:
    """Grey values around the wall, (MOMENTS, S, ANGLES, len(_BESIDE) · len(_DEPTHS)), about 0."""
    depths = np.array(_DEPTHS)
    radius = heart.inner[..., None] + depths * (heart.outer - heart.inner)[..., None]
    place = heart.centre[None, :, None, None] + radius[..., None] * directions()[:, None]
    at = place + (FIELD_PX - 1) / 2
    grey = np.empty(radius.shape, np.float32)
    for moment, images in enumerate(heart.images):
        for index, image in enumerate(images):
            where = np.moveaxis(at[moment, index], -1, 0)
            grey[moment, index] = map_coordinates(image.astype(np.float32), where, order=1, mode="nearest")
    centred = grey / 100 - 1
    return np.concatenate([np.roll(centred, -beside, axis=2) for beside in _BESIDE], axis=-1)


def pieces_there(heart: HeartCrop) -> NDArray[np.bool_]:
    """Which pieces are wall at end diastole, (S, PIECES)."""
    return np.asarray((heart.outer[0] - heart.inner[0])[:, :: ANGLES // PIECES] > _THINNEST_PX)


def piece_logits(heart: HeartCrop, model: LoadedModel) -> NDArray[np.float64]:
    """Logit of scar of each piece of wall, (S, PIECES); NaN where there is no wall."""
    import torch

    there = pieces_there(heart)
    found = np.full(there.shape, np.nan)
    if there.any():
        moments = MOMENTS if heart.whole_cycle else 2
        sequences: torch.Tensor = torch.from_numpy(wall_sequences(heart)[there][:, :moments])
        with torch.inference_mode():
            found[there] = model.network(sequences.to(model.device)).double().cpu().numpy()
    return found


def heart_values(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictors (len(SEQUENCE_PREDICTORS),) of scar in a heart, from the logits of its pieces; 0 without any wall."""
    known = np.sort(logits[np.isfinite(logits)])
    if not known.size:
        return np.zeros(len(SEQUENCE_PREDICTORS))
    of_slices = [float(np.nanmean(one)) for one in logits if np.isfinite(one).any()]
    return np.array([known[-max(known.size // 10, 1) :].mean(), known.mean(), max(of_slices)])
