"""Fields against motion whose answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.motion.fields import compose, displace_points, integrate, jacobian, warp
from pipelines.motion.track import composed_from

SIDE = 96.0


def grid(size: int = 48) -> np.ndarray:
    axis = (np.arange(size) + 0.5) * SIDE / size - SIDE / 2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"))


def linear(matrix: np.ndarray, size: int = 48) -> torch.Tensor:
    """u(x) = M x about the centre of the square."""
    return torch.from_numpy(np.einsum("ij,jrc->irc", np.asarray(matrix, float), grid(size)))[None]


def middle(field: np.ndarray) -> np.ndarray:
    return field[..., 12:-12, 12:-12]


def test_warping_pulls_back_a_translation():
    x = torch.from_numpy(grid(96))
    image = torch.exp(-((x[0] - 5) ** 2 + (x[1] + 3) ** 2) / 200)[None, None]
    shifted = torch.exp(-(x[0] ** 2 + x[1] ** 2) / 200)
    field = torch.zeros(1, 2, 48, 48, dtype=torch.float64)
    field[:, 0], field[:, 1] = 5.0, -3.0
    assert torch.allclose(warp(image, field, SIDE)[0, 0, 12:-12, 12:-12], shifted[12:-12, 12:-12], atol=2e-3)


def test_a_contraction_moves_points_toward_the_centre():
    field = linear(-0.2 * np.eye(2))[0].numpy()
    points = np.array([[20.0, -10.0], [0.0, 0.0], [3.0, 7.0]])
    assert displace_points(points, field, SIDE) == pytest.approx(0.8 * points, abs=1e-9)


def test_many_fields_move_points_at_once():
    fields = np.stack([linear(a * np.eye(2))[0].numpy() for a in (0.0, -0.1, -0.2)])
    moved = displace_points(np.array([[10.0, 20.0]]), fields, SIDE)
    assert moved.shape == (3, 1, 2)
    assert moved[:, 0, 1] == pytest.approx([20.0, 18.0, 16.0])


def test_composition_of_linear_maps_is_their_product():
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    shrink = np.diag([0.8, 0.9])
    composed = compose(linear(turn - np.eye(2)), linear(shrink - np.eye(2)), SIDE).numpy()[0]
    expected = linear(shrink @ turn - np.eye(2)).numpy()[0]
    assert middle(composed) == pytest.approx(middle(expected), abs=1e-6)


@pytest.mark.parametrize("rate", [-0.5, -0.1, 0.3])
def test_integration_of_a_linear_velocity_is_its_exponential(rate: float):
    displacement = integrate(linear(rate * np.eye(2)), SIDE).numpy()[0]
    expected = linear((np.exp(rate) - 1) * np.eye(2)).numpy()[0]
    assert middle(displacement) == pytest.approx(middle(expected), rel=0.02, abs=0.02)


def test_the_jacobian_of_a_linear_map_is_its_determinant():
    matrix = np.array([[-0.2, 0.1], [0.05, 0.3]])
    assert jacobian(linear(matrix).numpy(), SIDE) == pytest.approx(np.linalg.det(np.eye(2) + matrix))


def test_folding_is_seen():
    assert (jacobian(linear(np.diag([-1.5, 0.0])).numpy(), SIDE) < 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), amplitude=st.floats(0.5, 3.0))
def test_integrated_velocities_neither_fold_nor_lose_their_inverse(seed: int, amplitude: float):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 2, 4, 4, generator=generator, dtype=torch.float64) * amplitude
    velocity = torch.nn.functional.interpolate(coarse, size=48, mode="bicubic", align_corners=False)
    forward, backward = integrate(velocity, SIDE), integrate(-velocity, SIDE)
    assert middle(jacobian(forward.numpy(), SIDE)).min() > 0
    there_and_back = compose(forward, backward, SIDE).numpy()
    assert np.abs(middle(there_and_back)).max() < 0.15 * amplitude


@pytest.mark.parametrize("reference", [0, 3])
def test_steps_around_the_cycle_compose_to_the_way_from_the_reference(reference: int) -> None:
    # Two slices that move as a whole, each in its own way, and come back: both ways around tell the same.
    phases = 8
    turn = 2 * np.pi * np.arange(phases) / phases
    place = np.stack([3 * np.stack([np.cos(turn), np.sin(turn)]), np.stack([np.sin(turn), 0 * turn])])  # (S, 2, T)
    steps = np.roll(place, -1, axis=-1) - place
    fields = torch.from_numpy(np.moveaxis(steps, -1, 0)[..., None, None]).float().expand(-1, -1, -1, 16, 16)
    composed, closure = composed_from(fields, fields, reference)
    expected = np.moveaxis(place - place[..., [reference]], -1, 0)
    assert composed.numpy() == pytest.approx(np.broadcast_to(expected[..., None, None], composed.shape), abs=1e-4)
    assert closure.abs().max() < 1e-4
