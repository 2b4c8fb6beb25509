"""From clips to probabilities: logits of mirrored clips, pooled over slices, calibrated, with an interval."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from pipelines.obstruction.calibration import HeartProbability, calibrated
from pipelines.obstruction.network import ObstructionNetwork

__all__ = ["heart_probability", "heart_score", "slice_logits", "slice_probabilities", "slice_weights"]

_MIRRORED: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))
"""Axes along which each view of a clip is mirrored: the network was trained on all four."""
_BATCH = 16
_SMALLEST = 1e-6


def slice_logits(network: ObstructionNetwork, clips: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float64]:
    """Logits of clips (N, 30, 64, 64) as they are and mirrored, (4, N)."""
    found = []
    with torch.inference_mode():
        for axes in _MIRRORED:
            logits = []
            for start in range(0, len(clips), _BATCH):
                part = torch.from_numpy(clips[start : start + _BATCH])[:, None].to(device)
                part = torch.flip(part, axes).contiguous(memory_format=torch.channels_last_3d)
                logits.append(network(part).double().cpu().numpy())
            found.append(np.concatenate(logits))
    return np.stack(found)


def heart_score(network: ObstructionNetwork, logits: NDArray[np.float64]) -> float:
    """Score of a heart of the logits (V, N) of its slices, mean over views: pooled as its architecture says."""
    seen = logits.mean(axis=0)
    if network.architecture.pooling == "largest":
        # One slice with obstruction is enough.
        return float(seen.max())
    return float(logit(np.clip(expit(seen).mean(), _SMALLEST, 1 - _SMALLEST)))


def slice_weights(network: ObstructionNetwork, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much the logit of each slice moves the score of the heart, relative to one another, (N,), of logits (V, N).

    Of a mean of probabilities, a slice that is certain moves it little. Where the largest is the score, each slice is
    told by itself: all have 1.
    """
    seen = expit(logits.mean(axis=0))
    return np.asarray(
        np.ones(seen.shape) if network.architecture.pooling == "largest" else seen * (1 - seen), np.float64
    )


def slice_probabilities(network: ObstructionNetwork, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Calibrated probability that each slice shows obstruction, (N,), of logits (4, N)."""
    slope, intercept = (float(each) for each in network.slice_calibration)
    return np.asarray(expit(slope * logits.mean(axis=0) + intercept), np.float64)


def heart_probability(network: ObstructionNetwork, logits: NDArray[np.float64]) -> HeartProbability:
    """Calibrated probability that a heart has an obstruction; its interval holds the spread of the mirrored views.

    Parameters
    ----------
    logits : (4, N) float64
        See :func:`slice_logits`.
    """
    views = np.array([heart_score(network, view[None]) for view in logits])
    spread = float(np.sqrt(views.var(ddof=1) / len(views)))
    return calibrated(network, heart_score(network, logits), spread)
