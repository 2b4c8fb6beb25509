"""Motion of every cine of a study: between consecutive frames, and from one reference frame to every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View
from pipelines.models.identity import ModelIdentity
from pipelines.motion.crop import SIDE_MM, sample_cine, square_at
from pipelines.motion.fields import compose, integrate, jacobian
from pipelines.motion.network import FIELDS_AT_ONCE, displacement_between, motion_of_pairs
from pipelines.segmentation.grid import Square
from pipelines.segmentation.parallel import each

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = [
    "LONG_AXIS_VIEWS",
    "CineMotion",
    "ReferenceMotion",
    "ViewMotion",
    "displacement_between",
    "follow_cycles",
    "follow_from",
]

LONG_AXIS_VIEWS = (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH)
PASSES = {View.SAX: 1, View.LAX_2CH: 3, View.LAX_3CH: 3, View.LAX_4CH: 3}
"""Of the registration with the reference frame: more than one pays on the long axis, where the base moves farthest."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewMotion:
    """Motion between consecutive frames of one stack.

    Attributes
    ----------
    stack : CineStack
    square : Square
        Where the fields lie on the images: side ``SIDE_MM``, sides along rows and columns.
    velocity : (T, S, 2, h, w) float32, mm
        Stationary velocity from frame t to frame t + 1, the last to the first.
    displacement : (T, S, 2, h, w) float32, mm
        Its integral: the motion of tissue from frame t to frame t + 1.
    images : (T, S, n, n) float32
        The stack on the square, grey values 0 … 1.25.
    """

    stack: CineStack
    square: Square
    velocity: NDArray[np.float32]
    displacement: NDArray[np.float32]
    images: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class CineMotion:
    """Motion of the short axis and of the long-axis views of a study.

    Attributes
    ----------
    short_axis : ViewMotion
    long_axis : tuple of ViewMotion
        One for each of 2CH, 3CH and 4CH that the study has.
    models : tuple of ModelIdentity
    """

    short_axis: ViewMotion
    long_axis: tuple[ViewMotion, ...]
    models: tuple[ModelIdentity, ...]

    def view(self, view: View) -> ViewMotion | None:
        """Motion of a view, or ``None``."""
        if view is View.SAX:
            return self.short_axis
        return next((motion for motion in self.long_axis if motion.stack.view is view), None)


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceMotion:
    """Motion from one reference frame to every frame of a stack.

    Attributes
    ----------
    reference : int
        Phase index.
    displacement : (T, S, 2, h, w) float32, mm
        Of the tissue that lies at a place of the reference frame; zero at the reference.
    composed : (T, S, 2, h, w) float32, mm
        The same motion composed of consecutive steps.
    disagreement_mm : (T, S) float64
        Root mean square distance between the motion found directly and that composed of consecutive steps.
    closure_mm : (S,) float64
        Root mean square displacement after composing the whole cycle: zero if the motion closed.
    folded : float
        Share of the points, over phases and slices, whose Jacobian is not positive.
    """

    reference: int
    displacement: NDArray[np.float32]
    composed: NDArray[np.float32]
    disagreement_mm: NDArray[np.float64]
    closure_mm: NDArray[np.float64]
    folded: float


def follow_cycles(
    stacks: Sequence[CineStack], centre: NDArray[np.float64], model: LoadedModel
) -> tuple[ViewMotion, ...]:
    """Register every frame of every stack with the next.

    Parameters
    ----------
    stacks : sequence of CineStack
    centre : (3,) float64
        Centre of the left ventricle, patient coordinates.
    model : LoadedModel
    """
    import torch

    squares = [square_at(centre, stack.geometry) for stack in stacks]
    images = each(
        lambda one: sample_cine(one[0].pixels, one[0].geometry.pixel_spacing, one[1]),
        zip(stacks, squares, strict=True),
    )
    # All stacks at once: the few frames of a long-axis view would leave most cores without work.
    fixed = torch.cat([frames.flatten(0, 1) for frames in images])
    moving = torch.cat([frames.roll(-1, 0).flatten(0, 1) for frames in images])
    velocity, displacement = motion_of_pairs(fixed, moving, model, SIDE_MM)
    counts = [stack.phases * stack.slices for stack in stacks]
    return tuple(
        ViewMotion(
            stack,
            square,
            steps.unflatten(0, (stack.phases, stack.slices)).numpy(),
            moved.unflatten(0, (stack.phases, stack.slices)).numpy(),
            frames.numpy(),
        )
        for stack, square, steps, moved, frames in zip(
            stacks, squares, velocity.split(counts), displacement.split(counts), images, strict=True
        )
    )


def follow_from(motion: ViewMotion, reference: int, model: LoadedModel) -> ReferenceMotion:
    """Register the reference frame with every frame, and compare with the composed consecutive motion.

    Parameters
    ----------
    motion : ViewMotion
    reference : int
        Phase index.
    model : LoadedModel
    """
    import torch

    images = torch.from_numpy(motion.images)
    phases = len(images)
    others = [phase for phase in range(phases) if phase != reference]
    fixed = images[reference].expand(len(others), -1, -1, -1)
    found = displacement_between(
        fixed.flatten(0, 1), images[others].flatten(0, 1), model, SIDE_MM, PASSES[motion.stack.view]
    )
    direct = torch.zeros(motion.displacement.shape)
    direct[others] = found.unflatten(0, fixed.shape[:2])
    composed, closure = composed_from(
        torch.from_numpy(motion.velocity), torch.from_numpy(motion.displacement), reference
    )
    difference = (direct - composed).square().sum(2).mean((-2, -1)).sqrt()
    displacement = direct.numpy()
    return ReferenceMotion(
        reference=reference,
        displacement=displacement,
        composed=composed.numpy(),
        disagreement_mm=difference.double().numpy(),
        closure_mm=closure.square().sum(1).mean((-2, -1)).sqrt().double().numpy(),
        folded=float((jacobian(displacement, SIDE_MM) <= 0).mean()),
    )


def motion_between(motion: ViewMotion, first: int, second: int, model: LoadedModel) -> NDArray[np.float32]:
    """Motion of the tissue from one phase to another, (S, 2, h, w), mm."""
    import torch

    fixed, moving = (torch.from_numpy(motion.images[phase]) for phase in (first, second))
    passes = PASSES[motion.stack.view]
    found: NDArray[np.float32] = displacement_between(fixed, moving, model, SIDE_MM, passes).numpy()
    return found


def composed_from(
    velocity: torch.Tensor, displacement: torch.Tensor, reference: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Motion from a reference frame, composed of consecutive steps, forward and backward in time.

    The two ways around the cycle are blended, each weighted by the length of the other, so that the sum of the steps
    closes (as in Bai et al., ukbb_cardiac).

    Parameters
    ----------
    velocity, displacement : (T, S, 2, h, w) tensors, mm
        Between consecutive frames, and its integral.
    reference : int

    Returns
    -------
    displacement : (T, S, 2, h, w) tensor
    closure : (S, 2, h, w) tensor
        What is left after the whole cycle forward.
    """
    import torch

    phases, slices = velocity.shape[:2]
    order = [(reference + step) % phases for step in range(phases)]
    back = torch.cat(each(lambda part: integrate(-part, SIDE_MM), velocity.flatten(0, 1).split(FIELDS_AT_ONCE)))
    # Both ways in one batch: step k of the way back undoes the k-th step from the end.
    steps = torch.cat([displacement[order], back.unflatten(0, (phases, slices))[order[::-1]]], dim=1)
    moved = torch.zeros_like(steps[0])
    along = [moved]
    for step in steps:
        moved = compose(moved, step, SIDE_MM)
        along.append(moved)
    onward, backward = torch.stack(along).split(slices, dim=1)
    result = torch.zeros_like(velocity)
    for step in range(phases):
        share = step / phases
        result[order[step]] = (1 - share) * onward[step] + share * backward[phases - step]
    return result, onward[-1]
