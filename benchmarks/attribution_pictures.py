"""Attribution maps of obstruction and remodelling beside the infarct that is there, on phantoms through the node.

``python benchmarks/attribution_pictures.py --first 905000 --count 10 --output maps.png`` draws one row a phantom: three
slices with the map of obstruction, three with that of its second opinion, three with that of remodelling at its
keyframe, the infarct outlined, obstruction in another colour. It prints where each map lies: the share of both maps of
obstruction within the infarct, of the map of remodelling within the left ventricle and within the infarct, and the
shares of the area that are such (by chance).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.indication import Indication
from pipelines.motion.crop import sample_labels
from pipelines.obstruction.findings import Obstruction
from pipelines.phantom.assembled import cine_study
from pipelines.phantom.law import DEFAULT_LAW
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.remodelling.findings import RemodellingRisk
from pipelines.segmentation.labels import Label
from pipelines.study import analyse_study
from pipelines.training.remodelling_hearts import phantom_recipe

_COLUMNS = 3


def _obstruction(study: PhantomStudy, found: Obstruction, axes: Any) -> tuple[float, float]:
    """Draw three slices; share of the map within the infarct, and of the muscle that is infarct."""
    cine, size = study.short_axis, found.slices[0].attribution.shape[0]
    spacing = cine.geometry.pixel_spacing
    lesions = sample_labels(cine.lesions[:1], spacing, found.square, size, 2)[0]
    muscle = sample_labels(cine.labels[:1], spacing, found.square, size, max(Label))[0] == Label.MYO
    inside = total = area = wall = 0.0
    for each in found.slices:
        scar = lesions[each.index] > 0
        inside += float(each.attribution[scar].sum())
        total += float(each.attribution.sum())
        area += float((scar & muscle[each.index]).sum())
        wall += float(muscle[each.index].sum())
    chosen = sorted(found.slices, key=lambda each: -float(each.attribution.sum()))[:_COLUMNS]
    half = found.square.field_mm / 2
    for axis, each in zip(axes, sorted(chosen, key=lambda one: one.index), strict=False):
        rows, columns = cine.pixels.shape[2:]
        extent = (-0.5 * spacing[1], (columns - 0.5) * spacing[1], (rows - 0.5) * spacing[0], -0.5 * spacing[0])
        axis.imshow(cine.pixels[each.phase, each.index], cmap="gray", extent=extent)
        row, column = found.square.row_mm, found.square.column_mm
        square = (column - half, column + half, row + half, row - half)
        shown = np.ma.masked_less(each.attribution, 0.25)
        axis.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.6, extent=square)
        _outline(axis, lesions[each.index], square)
        axis.set_xlim(square[:2])
        axis.set_ylim(square[2:])
    return (inside / total if total else float("nan")), area / wall


def _remodelling(study: PhantomStudy, found: RemodellingRisk, axes: Any) -> float:
    """Draw three slices; share of the map at its keyframe within the infarct."""
    attribution, cine = found.attribution, study.short_axis
    if attribution is None or not attribution.map.any():
        return float("nan")
    lesions = cine.lesions[attribution.phase]
    within = lesions > 0
    share = float(attribution.map[within].sum() / attribution.map.sum())
    order = np.argsort([-float(attribution.map[index].sum()) for index in attribution.slices])[:_COLUMNS]
    for axis, place in zip(axes, sorted(order), strict=False):
        index = attribution.slices[place]
        axis.imshow(cine.pixels[attribution.phase, index], cmap="gray")
        shown = np.ma.masked_less(attribution.map[index], 0.08)
        axis.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        _outline(axis, lesions[index], None)
        # The heart of all slices at that moment: the last one need not show any of it.
        ventricle = np.argwhere((cine.labels[attribution.phase] > 0).any(axis=0))
        (top, left), (bottom, right) = ventricle.min(axis=0) - 8, ventricle.max(axis=0) + 8
        axis.set_xlim(left, right)
        axis.set_ylim(bottom, top)
    return share


def _outline(axis: Any, lesions: NDArray[np.uint8], square: tuple[float, ...] | None) -> None:
    place = {} if square is None else {"extent": (square[0], square[1], square[3], square[2])}
    for least, colour in ((1, "cyan"), (2, "lime")):
        if (lesions >= least).any():
            axis.contour(lesions >= least, [0.5], colors=colour, linewidths=0.8, **place)


def main(
    output: Annotated[Path, typer.Option(help="PNG.")],
    first: Annotated[int, typer.Option(help="Seed of the first phantom.")] = 905000,
    count: Annotated[int, typer.Option(min=1, help="Phantoms.")] = 10,
) -> None:
    """Draw the maps of phantoms, and print where they lie."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(count, 3 * _COLUMNS, figsize=(6 * _COLUMNS, 2.1 * count), squeeze=False)
    print(
        "seed     obstruction  p(obstruction)  in infarct (chance)  p(second opinion)  in infarct  p(remodelling)  "
        "in ventricle (chance)  in infarct"
    )
    for axis in grid.ravel():
        axis.set_axis_off()
    for row, seed in zip(grid, range(first, first + count), strict=True):
        recipe = replace(phantom_recipe(seed, DEFAULT_LAW), late_enhancement=False)
        study = simulate(recipe, workers=1)
        given = cine_study(study)
        given = replace(given, context=replace(given.context, indication=Indication.ACUTE_INFARCT))
        findings = analyse_study(given, [Obstruction, RemodellingRisk])
        shown = bool((study.short_axis.lesions[0] == 2).any())
        said = [f"{seed}", f"{'yes' if shown else 'no':>11}"]
        obstruction, risk = findings.get(Obstruction), findings.get(RemodellingRisk)
        if obstruction is None or risk is None or risk.attribution is None:
            print(f"{seed} declined: {'; '.join(one.sentence for one in findings.refusals)}")
            continue
        inside, chance = _obstruction(study, obstruction, row[:_COLUMNS])
        said += [f"{obstruction.probability:14.2f}", f"{inside:11.2f} ({chance:.2f})"]
        second = obstruction.second_opinion
        if second is None:
            said += [f"{'none':>17}", f"{'':10}"]
        else:
            within, _ = _obstruction(study, second, row[_COLUMNS : 2 * _COLUMNS])
            said += [f"{second.probability:17.2f}", f"{within:10.2f}"]
            row[_COLUMNS].set_title(f"second opinion, p {second.probability:.2f}", fontsize=8)
        in_scar = _remodelling(study, risk, row[2 * _COLUMNS :])
        place = risk.attribution
        said += [f"{risk.probability:14.2f}", f"{place.in_ventricle:13.2f} ({place.by_chance:.2f})", f"{in_scar:15.2f}"]
        print("  ".join(said), flush=True)
        row[0].set_title(f"{seed}: obstruction {said[1].strip()}, p {obstruction.probability:.2f}", fontsize=8)
        row[2 * _COLUMNS].set_title(f"{place.keyframe}, p {risk.probability:.2f}", fontsize=8)
        # After each, for a run that is stopped.
        figure.tight_layout()
        figure.savefig(output, dpi=70)


if __name__ == "__main__":
    typer.run(main)
