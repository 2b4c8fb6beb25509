"""Radii of the wall, their motion, and how both reach the plane."""

from __future__ import annotations

import numpy as np
import torch
from synthetic_hearts import ring_labels

from pipelines.segmentation.labels import Label
from pipelines.synthetic_enhancement.contours import ANGLES, paint, polar_coordinates, wall_radii
from pipelines.synthetic_enhancement.features import (
    CHANNELS,
    FIELD_PX,
    MOMENTS,
    SIZE,
    Circumstances,
    chosen_phases,
    crop_heart,
    describe,
    regional_motion,
    slice_inputs,
)


def test_radii_of_a_ring_are_its_radii() -> None:
    labels = np.stack([ring_labels((0.0, 0.0), 12, 18), ring_labels((-3.0, 4.0), 9, 15)])
    radii = wall_radii(labels)
    assert np.abs(radii.centre - [[0, 0], [-3, 4]]).max() < 0.1
    assert np.abs(radii.inner - [[12], [9]]).max() < 0.6
    assert np.abs(radii.inner.mean(1) - [12, 9]).max() < 0.1
    assert np.abs(radii.outer - [[18], [15]]).max() < 0.6
    assert np.abs(radii.outer.mean(1) - [18, 15]).max() < 0.1


def test_a_slice_without_ventricle_has_no_radii() -> None:
    radii = wall_radii(np.zeros((1, FIELD_PX, FIELD_PX), np.uint8))
    assert not radii.inner.any()
    assert not radii.outer.any()


def test_a_gap_in_the_wall_has_no_thickness() -> None:
    labels = ring_labels((0.0, 0.0), 12, 18)
    rows = np.indices(labels.shape)[0] - (FIELD_PX - 1) / 2
    labels[(labels == Label.MYO) & (rows > 8)] = Label.BACKGROUND
    radii = wall_radii(labels[None])
    centre = radii.centre[0, 0]
    assert centre < 0, "the centre moves away from the gap"
    assert radii.outer[0, 0] - radii.inner[0, 0] < 0.6, "direction 0 runs down the rows"
    assert radii.outer[0, ANGLES // 2] - radii.inner[0, ANGLES // 2] > 5


def test_painting_interpolates_around_the_circle() -> None:
    angles = torch.arange(ANGLES) * (2 * np.pi / ANGLES)
    radius, position = polar_coordinates(torch.tensor([[2.0, -5.0]]), 33)
    painted = paint(torch.stack([angles.cos(), angles.sin()])[None], position)[0]
    rows, columns = np.indices((33, 33)) - 16.0
    away = np.hypot(rows - 2, columns + 5)
    assert np.allclose(radius[0], away, atol=1e-4)
    seen = away > 1
    assert np.allclose(painted[0][seen], ((rows - 2) / np.maximum(away, 1))[seen], atol=0.01)
    assert np.allclose(painted[1][seen], ((columns + 5) / np.maximum(away, 1))[seen], atol=0.01)


def test_motion_of_radii_in_closed_form() -> None:
    inner = np.stack([np.full((1, ANGLES), 10.0), np.full((1, ANGLES), 7.0)]).astype(np.float32)
    outer = np.stack([np.full((1, ANGLES), 15.0), np.full((1, ANGLES), 14.0)]).astype(np.float32)
    loss, thickening = regional_motion(inner, outer)
    assert np.allclose(loss[0], 0)
    assert np.allclose(loss[1], 1 - 50 / 101)
    assert np.allclose(thickening[1], 7 / 5 - 1)
    nothing = np.zeros_like(inner)
    loss, thickening = regional_motion(nothing, nothing)
    assert not loss.any()
    assert not thickening.any()


def test_few_phases_give_end_diastole_and_end_systole_alone() -> None:
    assert chosen_phases(2, 0, 1) == [0, 1]
    assert chosen_phases(7, 6, 2) == [6, 2]
    phases = chosen_phases(30, 28, 10)
    assert phases[:2] == [28, 10]
    assert len(phases) == MOMENTS
    assert phases[2:] == [(28 + round(k * 30 / 7)) % 30 for k in range(1, 7)]


def _crop(phases: int) -> np.ndarray:
    labels = np.stack(
        [
            np.stack([ring_labels((0.0, 0.0), 12 - 4 * (phase == phases // 2), 18) for _ in range(3)])
            for phase in range(phases)
        ]
    )
    images = (100 * (labels == Label.LV)).astype(np.uint8)
    height = np.array([0, 0.5, 1], np.float32)
    heart = crop_heart(images, labels, height, 0, phases // 2, Circumstances(3.0, "SIEMENS"))
    return slice_inputs(describe(heart)).numpy()


def test_inputs_show_masks_motion_and_circumstances() -> None:
    inputs = _crop(10)
    assert inputs.shape == (3, len(CHANNELS), SIZE, SIZE)
    named = dict(zip(CHANNELS, np.moveaxis(inputs, 1, 0), strict=True))
    edge = (FIELD_PX - SIZE) // 2
    true = ring_labels((0.0, 0.0), 12, 18)[edge:-edge, edge:-edge]
    assert np.abs(named["muscle"][1] - (true == Label.MYO)).mean() < 0.03
    assert np.abs(named["cavity"][1] - (true == Label.LV)).mean() < 0.02
    assert np.allclose(named["image at end diastole"][0][30:34, 30:34], 0.0, atol=0.02), "100 of 200 grey values"
    expected = 1 - (64 + 1) / (144 + 1)
    assert abs(named["loss of area at end systole"][1].mean() - expected) < 0.03
    assert abs(named["mean loss of area of the heart"].mean() - expected) < 0.03
    assert np.all(named["3 T"] == 1)
    assert np.all(named["from siemens"] == 1)
    assert np.all(named["from ge"] == -1)
    assert np.allclose(named["height"][:, 0, 0], [-1, 0, 1])
    assert np.all(named["whole cycle"] == 1)


def test_two_phases_leave_the_other_moments_empty() -> None:
    named = dict(zip(CHANNELS, np.moveaxis(_crop(2), 1, 0), strict=True))
    assert np.all(named["whole cycle"] == -1)
    assert np.all(named["image at 3/7 of the cycle"] == -1)
    assert not named["loss of area at 3/7 of the cycle"].any()
    assert abs(named["loss of area at end systole"][1].mean() - (1 - 65 / 145)) < 0.03


def test_unknown_scanners_are_told_as_unknown() -> None:
    assert not Circumstances().vector().any()
    assert Circumstances(1.5, "GE MEDICAL SYSTEMS").vector().tolist() == [-1, -1, 1, -1]
    assert Circumstances(None, "Canon").vector().tolist() == [0, 0, 0, 0]
