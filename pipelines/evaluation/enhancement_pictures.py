"""Pictures of phantoms beside their synthetic enhancement, chosen by rank of error and not by looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.evaluation.synthetic_hearts import HeartResult, Pictures

__all__ = ["draw_pictures", "shown_cases"]

_COLUMNS = ("cine, end diastole", "synthetic", "simulated truth", "uncertainty (0 … 0.5)", "probability (0 … 1)")


def draw_pictures(results: Sequence[HeartResult], folder: Path, path: Path) -> None:
    """Draw one slice of ten hearts: where most of the true scar is, or the likeliest slice of a heart without.

    Parameters
    ----------
    results : sequence of HeartResult
    folder : Path
        That the evaluation kept its pictures in.
    path : Path
        PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_seed = {result.seed: result for result in results}
    seeds = shown_cases(results)
    figure, axes = pyplot.subplots(len(seeds), len(_COLUMNS), figsize=(9, 1.85 * len(seeds)), squeeze=False)
    for row, seed in zip(axes, seeds, strict=True):
        result = by_seed[seed]
        picture = _read(next(folder.glob(f"*-{seed}-*.npz")))
        shown = (
            (picture.cine, "gray", 0, 1.25),
            (picture.synthetic, "gray", -0.3, 1.2),
            (picture.truth, "gray", -0.3, 1.2),
            (picture.uncertainty, "magma", 0, 0.5),
            (np.where(picture.muscle, picture.probability, 0), "magma", 0, 1),
        )
        for axis, (image, colours, low, high) in zip(row, shown, strict=True):
            axis.imshow(image, cmap=colours, vmin=low, vmax=high)
            if picture.lesion.any():
                axis.contour(picture.lesion, [0.5], colors="cyan", linewidths=0.4)
            axis.set_xticks([])
            axis.set_yticks([])
        true, synthetic = result.hyperintense
        row[0].set_ylabel(
            f"{result.disease}\n{seed}\n{true:.0f} → {synthetic:.0f} %, P {result.patient[1]:.2f}", fontsize=6
        )
    for axis, title in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(title, fontsize=7)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _read(path: Path) -> Pictures:
    with np.load(path, allow_pickle=False) as archive:
        return Pictures(**{name: archive[name] for name in archive.files})


def shown_cases(results: Sequence[HeartResult]) -> list[int]:
    """Seeds of ten hearts to look at: the three whose hyperintense extent is most wrong, and seven at steps of rank."""
    ranked = sorted(
        (result for result in results if result.declined is None),
        key=lambda result: -abs(result.hyperintense[0] - result.hyperintense[1]),
    )
    if len(ranked) <= 10:
        return [result.seed for result in ranked]
    rest = np.linspace(3, len(ranked) - 1, 7).round().astype(int)
    return [ranked[index].seed for index in [0, 1, 2, *rest.tolist()]]
