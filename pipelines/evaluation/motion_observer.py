"""An observer who is told the true motion of a phantom: how well scar can be told from motion at all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.phantom.law import PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.study import simulate
from pipelines.phantom.truth import PhantomTruth, measure_truth
from pipelines.synthetic_enhancement.measure import SEGMENT_SHARE
from pipelines.training.heart_clips import Population, clip_recipe

__all__ = ["observer_of", "told_the_motion"]

_FIRST, _HEARTS = 600000, 80


@cache
def observer_of(law: JointLaw, keep: Path | None) -> Any:
    """An observer of the true motion of every segment, fitted to other phantoms of the same law."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = _table(law, keep)
    model = HistGradientBoostingClassifier(max_iter=120, learning_rate=0.06, max_leaf_nodes=12, random_state=0)
    return model.fit(table[:, :-1], table[:, -1] > 0)


def _table(law: JointLaw, keep: Path | None) -> NDArray[np.float64]:
    """Segments of other phantoms, (16 N, P + 1): what their true motion says, and whether they are scar."""
    name = f"ceiling-{'pessimistic' if law == PESSIMISTIC_LAW else 'default'}-{_FIRST}-{_HEARTS}.npy"
    kept = None if keep is None else keep / name
    if kept is not None and kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    rows = []
    for seed in range(_FIRST, _FIRST + _HEARTS):
        recipe = clip_recipe(seed, Population.ALL, law)
        # Motion and scar do not depend on how the heart is imaged.
        small = replace(
            recipe, rows=64, columns=64, spacing_mm=4.0, slices=1, phases=10, late_enhancement=False, coils=1,
            faults=frozenset(),
        )  # fmt: skip
        of_segments, has_scar = _values_of(measure_truth(simulate(small, workers=1)))
        rows.append(np.column_stack([of_segments, has_scar]))
    table = np.concatenate(rows)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, table)
    return table


def told_the_motion(truth: PhantomTruth, model: Any) -> tuple[tuple[bool, float], ...]:
    """Whether segments 1 … 16 are scar, and the probability of an observer told the true motion."""
    of_segments, has_scar = _values_of(truth)
    return tuple(
        (bool(scar), float(probability))
        for scar, probability in zip(has_scar, model.predict_proba(of_segments)[:, 1], strict=True)
    )


def _values_of(truth: PhantomTruth) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the true motion says of segments 1 … 16, (16, P), and whether more than a tenth of each is scar."""
    strains = (truth.aha_circumferential, truth.aha_radial, truth.aha_longitudinal)
    thickness = truth.aha_thickness_mm[:, :16]
    systole = truth.facts.keyframes.end_systole
    own = [thickness[0], thickness.max(axis=0) / thickness[0]]
    for strain in strains:
        values = strain[:, :16]
        own += [values[systole], values.max(axis=0), values.min(axis=0)]
    columns = np.stack(own, axis=1)
    whole = np.concatenate([columns.mean(axis=0), columns.std(axis=0)])
    around = np.stack([_neighbours(column) for column in columns.T], axis=1)
    return (
        np.column_stack([columns, around, np.repeat(whole[None], 16, axis=0)]),
        np.asarray(truth.aha_transmurality[:16] > SEGMENT_SHARE),
    )


def _neighbours(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the two segments beside each on its level."""
    found = np.empty(16)
    for first, end in ((0, 6), (6, 12), (12, 16)):
        level = values[first:end]
        found[first:end] = (np.roll(level, 1) + np.roll(level, -1)) / 2
    return found
