"""Drawn hearts in ACDC's layout: enough for a network to learn from in seconds, with volumes known by construction."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np


def draw(
    rows: int, columns: int, centre: tuple[float, float], cavity: float, wall: float, slices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (S, R, C) and ACDC labels (1 RV, 2 myocardium, 3 LV) of a round LV with an RV beside it."""
    row, column = np.mgrid[:rows, :columns]
    labels = np.zeros((slices, rows, columns), dtype=np.uint8)
    for index in range(slices):
        shrink = 1 - 0.5 * index / slices
        distance = np.hypot(row - centre[0], column - centre[1])
        beside = np.hypot(row - centre[0], column - centre[1] + 1.2 * (cavity + wall) * shrink)
        labels[index][beside < 0.9 * cavity * shrink] = 1
        labels[index][distance < (cavity + wall) * shrink] = 2
        labels[index][distance < cavity * shrink] = 3
    grey = np.array([60.0, 200.0, 90.0, 220.0])[labels]
    noise = np.random.default_rng(rows * columns + slices).normal(0, 6, grey.shape)
    return np.clip(grey + noise, 0, 255), labels


def write_hearts(root: Path, count: int = 5) -> Path:
    """``count`` patients in ACDC's layout."""
    for number in range(count):
        name = f"patient{number + 1:03d}"
        folder = root / name
        folder.mkdir(parents=True)
        group = ("NOR", "DCM")[number % 2]
        (folder / "Info.cfg").write_text(f"ED: 1\nES: 9\nGroup: {group}\nHeight: 170.0\nNbFrame: 20\nWeight: 70.0\n")
        for frame, cavity in (("frame01", 16.0 + number % 3), ("frame09", 10.0 + number % 3)):
            pixels, labels = draw(100, 110 + number % 2, (48.0 + number, 60.0 - number), cavity, 6.0, 5)
            for array, suffix in ((pixels.astype(np.uint8), ""), (labels, "_gt")):
                image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([-1.5, -1.5, 10.0, 1.0]))
                nibabel.save(image, folder / f"{name}_{frame}{suffix}.nii.gz")
    return root
