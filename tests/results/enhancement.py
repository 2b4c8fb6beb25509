"""Synthetic enhancement of a phantom as a perfect network would find it: from the truth, on the assembled study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStack, CineStudy
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Interval
from pipelines.function.segments import segment_map, segment_of
from pipelines.function.slices import measure_slices
from pipelines.models.identity import ModelIdentity
from pipelines.phantom import Dialect, Disease, PhantomRecipe, PhantomStudy, simulate, write_study
from pipelines.phantom.study import ENHANCEMENT_GREY, PSIR_ZERO
from pipelines.segmentation.labels import CineSegmentation, Label
from pipelines.synthetic_enhancement.findings import (
    Extent,
    ScarClassifier,
    SegmentEnhancement,
    Shown,
    SyntheticEnhancement,
)
from results.synthetic import MODEL

SYNTHESISER = ModelIdentity(
    name="phantom-truth",
    version="1.0.0",
    weights_sha256="cd" * 32,
    task="late enhancement from cine",
    training_data="nothing: the truth of a simulated heart",
    licence="Apache-2.0",
)
RECIPE = PhantomRecipe(
    seed=23,
    disease=Disease.INFARCT,
    slices=6,
    phases=12,
    rows=96,
    columns=112,
    spacing_mm=2.4,
    long_axis=False,
    late_enhancement=True,
    acute=False,
    transmurality=0.9,
)


@dataclass(frozen=True, eq=False)
class EnhancedPhantom:
    """A phantom with scar, its files, and what a perfect network would find on them."""

    phantom: PhantomStudy
    paths: list[Path]
    study: CineStudy
    stack: CineStack
    found: SyntheticEnhancement
    segmentation: CineSegmentation

    def findings(self, found: SyntheticEnhancement | None = None) -> Findings:
        """Findings of the package."""
        return Findings({SyntheticEnhancement: found or self.found, CineSegmentation: self.segmentation})


def enhanced_phantom(folder: Path) -> EnhancedPhantom:
    """Simulate, write and read it."""
    return read_phantom(simulate(RECIPE, workers=1, matched_enhancement=True), folder)


def read_phantom(phantom: PhantomStudy, folder: Path, dialect: Dialect = Dialect.SIEMENS) -> EnhancedPhantom:
    """Write it as a scanner of some vendor does, and read it."""
    phantom = replace(phantom, recipe=replace(phantom.recipe, dialect=dialect))
    paths = write_study(phantom, folder)
    (study,) = assemble(paths)
    stack = study.short_axis
    assert stack is not None
    truth = phantom.short_axis
    assert np.allclose(stack.geometry.positions, truth.geometry.positions, atol=0.01)
    segmentation = CineSegmentation(
        truth.labels,
        np.full(truth.labels.shape[:2], 0.97, np.float32),
        (0, truth.labels.shape[2], 0, truth.labels.shape[3]),
        (MODEL,),
    )
    return EnhancedPhantom(phantom, paths, study, stack, found_in(phantom, stack, segmentation), segmentation)


def found_in(phantom: PhantomStudy, stack: CineStack, segmentation: CineSegmentation) -> SyntheticEnhancement:
    """The truth in the form of a finding."""
    late, cine = phantom.enhancement, phantom.short_axis
    assert late is not None
    muscle, scar = cine.labels[0] == Label.MYO, cine.lesions[0] > 0
    slices = tuple(int(index) for index in np.flatnonzero(muscle.any(axis=(1, 2))))
    looked_at = np.zeros_like(muscle)
    looked_at[list(slices)] = _around(muscle)
    image = ((late.phase_sensitive.astype(np.float32) - PSIR_ZERO) / ENHANCEMENT_GREY) * looked_at
    muscle[[index for index in range(len(muscle)) if index not in slices]] = False
    measures = measure_slices(stack, segmentation)
    mapped = segment_map(stack, measures, find_keyframes(stack, measures.lv_ml).end_diastole)
    segments = []
    numbers = np.zeros(muscle.shape, dtype=np.intp)
    if mapped is not None:
        for index, level in enumerate(mapped.levels):
            if level is not None:
                rows, columns = np.nonzero(muscle[index])
                angles = np.arctan2(rows - rows.mean(), columns - columns.mean())
                numbers[index][rows, columns] = segment_of(angles, level, mapped.reference)
        for number in range(1, 17):
            inside = numbers == number
            share = float(scar[inside].mean()) if inside.any() else 0.0
            segments.append(SegmentEnhancement(number, round(0.03 + 0.94 * min(share * 4, 1.0), 3), 100 * share, 40.0))
    percent = 100 * float(scar[muscle].mean())
    return SyntheticEnhancement(
        geometry=stack.geometry,
        phase=0,
        slices=slices,
        image=image.astype(np.float32),
        uncertainty=(0.04 + 0.1 * scar).astype(np.float32) * looked_at,
        probability=np.where(muscle, np.where(scar, 0.93, 0.06), 0).astype(np.float32),
        enhanced=scar & muscle,
        muscle=muscle,
        slice_probability={index: 0.95 if scar[index].any() else 0.08 for index in slices},
        segments=tuple(segments),
        study_probability=0.94,
        operating_point=0.7,
        hyperintense=Extent(percent, Interval(0.7 * percent, 1.3 * percent), "full width at half maximum"),
        intermediate=Extent(
            1.4 * percent,
            Interval(percent, 1.8 * percent),
            "more than 2 standard deviations above remote muscle and below half maximum",
        ),
        shown=Shown.IMAGE_AND_PROBABILITY,
        withheld=(),
        classifiers=(
            ScarClassifier("generative network", 0.94, True),
            ScarClassifier("motion of patches", 0.88, False),
            ScarClassifier("radiomics and thickening", 0.71, False),
        ),
        samples=8,
        steps=4,
        notes=("Two slices at the base were not looked at: they show no closed ring of muscle.",),
        models=(SYNTHESISER,),
    )


def _around(muscle: np.ndarray) -> np.ndarray:
    """The square around the muscle, (R, C)."""
    where = np.argwhere(muscle.any(axis=0))
    square = np.zeros(muscle.shape[1:], dtype=bool)
    (top, left), (bottom, right) = where.min(axis=0) - 4, where.max(axis=0) + 5
    square[max(top, 0) : bottom, max(left, 0) : right] = True
    return square
