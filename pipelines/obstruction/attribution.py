"""Grad-CAM of the obstruction network: which places and moments raised the logit (Selvaraju et al., ICCV 2017).

Each place is weighed by its own gradient (HiResCAM, Draelos and Carin 2020). With the mean gradient of a channel, as in
the first form, the maps of the network that ships lay beside the infarct rather than in it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.obstruction.network import FRAMES, SIZE, ObstructionNetwork

__all__ = ["grad_cam"]

_STAGE = 2
"""Of :meth:`ObstructionNetwork.features`: 8 × 8 places. The last stage has 4 × 4, as large as a ventricle each."""


def grad_cam(network: ObstructionNetwork, clips: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float32]:
    """Attribution of clips (N, 30, 64, 64), of the same shape, at least 0 and not scaled.

    Features of the second stage times their gradient, summed over channels; what lowers the logit is left out.
    """
    found = []
    for clip in clips:
        entered = torch.from_numpy(clip)[None, None].to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode(mode=False), torch.enable_grad():
            features = network.stem(entered)
            for stage in network.stages[:_STAGE]:
                features = stage(features)
            features = features.detach().requires_grad_()
            last = features
            for stage in network.stages[_STAGE:]:
                last = stage(last)
            (gradient,) = torch.autograd.grad(network.classify(last).sum(), features)
        raised = (gradient * features.detach()).sum(dim=1, keepdim=True).clamp(min=0)
        found.append(functional.interpolate(raised, (FRAMES, SIZE, SIZE), mode="trilinear")[0, 0].cpu().numpy())
    return np.asarray(np.stack(found), np.float32)
