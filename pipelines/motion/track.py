"""Motion of every cine of a study: between consecutive frames, and from one reference frame to every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.cine.stack import CineStack, View
from pipelines.models.identity import ModelIdentity
from pipelines.motion.crop import SIDE_MM, sample_cine, square_at
from pipelines.motion.fields import compose, integrate, jacobian
from pipelines.motion.network import displacement_between, velocity_between
from pipelines.segmentation.grid import Square

if TYPE_CHECKING:
    import torch

    from pipelines.models.registry import LoadedModel

__all__ = [
    "LONG_AXIS_VIEWS",
    "CineMotion",
    "ReferenceMotion",
    "ViewMotion",
    "displacement_between",
    "follow_cycle",
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
    """

    stack: CineStack
    square: Square
    velocity: NDArray[np.float32]
    displacement: NDArray[np.float32]


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


def follow_cycle(stack: CineStack, centre: NDArray[np.float64], model: LoadedModel) -> ViewMotion:
    """Register every frame with the next.

    Parameters
    ----------
    stack : CineStack
    centre : (3,) float64
        Centre of the left ventricle, patient coordinates.
    model : LoadedModel
    """
    square = square_at(centre, stack.geometry)
    images = sample_cine(stack.pixels, stack.geometry.pixel_spacing, square)
    shape = (stack.phases, stack.slices)
    velocity = velocity_between(images.flatten(0, 1), images.roll(-1, 0).flatten(0, 1), model)
    displacement = integrate(velocity, SIDE_MM)
    return ViewMotion(
        stack,
        square,
        velocity.unflatten(0, shape).numpy(),
        displacement.unflatten(0, shape).numpy(),
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

    stack = motion.stack
    images = sample_cine(stack.pixels, stack.geometry.pixel_spacing, motion.square)
    fixed = images[reference : reference + 1].expand_as(images)
    moving = images.flatten(0, 1)
    direct = displacement_between(fixed.flatten(0, 1), moving, model, SIDE_MM, PASSES[stack.view])
    direct = direct.unflatten(0, images.shape[:2])
    direct[reference] = 0
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
    stack = motion.stack
    images = sample_cine(stack.pixels, stack.geometry.pixel_spacing, motion.square)
    passes = PASSES[stack.view]
    found: NDArray[np.float32] = displacement_between(images[first], images[second], model, SIDE_MM, passes).numpy()
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

    phases = len(velocity)
    order = [(reference + step) % phases for step in range(phases + 1)]
    onward = [torch.zeros_like(velocity[0])]
    for phase in order[:-1]:
        onward.append(compose(onward[-1], displacement[phase], SIDE_MM))
    backward = [torch.zeros_like(velocity[0])]
    for phase in reversed(order[:-1]):
        backward.append(compose(backward[-1], integrate(-velocity[phase], SIDE_MM), SIDE_MM))
    result = torch.zeros_like(velocity)
    for step in range(phases):
        share = step / phases
        result[order[step]] = (1 - share) * onward[step] + share * backward[phases - step]
    return result, onward[-1]
