"""Hearts that obstruction is learnt from: packed phantoms, or a site's own studies with a table of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.obstruction.clips import images_around_ventricle, in_time, normalised_phases
from pipelines.segmentation.labels import Label
from pipelines.training.heart_clips import HeartClips, read_clips
from pipelines.training.obstruction_studies import segmented_studies
from pipelines.training.obstruction_targets import infarct_depth, retained_area

__all__ = ["GREY", "LabelledHeart", "hearts_of_clips", "hearts_of_studies", "packed", "split"]

GREY = 200.0
"""Grey value 1 in packed clips."""
_VALIDATED = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class LabelledHeart:
    """One heart to learn from.

    Attributes
    ----------
    name : str
        Identifier of the case.
    clips : (S, 30, 88, 88) uint8
        Motion-normalised clips of its slices; grey values 0 … 1.25 times 200.
    obstruction : bool
        Whether the heart has one.
    places : (S, 88, 88) bool or None
        Where it lies at end diastole; ``None`` where only the heart has a label.
    scar : (S, 88, 88) bool or None
        Where the infarct lies, obstruction included.
    depth : (S,) float64 or None
        How deep the infarct of each slice goes, 0 … 1.
    retained : (S, 88, 88) float16 or None
        What the wall has left standing: both as in :mod:`pipelines.training.obstruction_targets`.
    """

    name: str
    clips: NDArray[np.uint8]
    obstruction: bool
    places: NDArray[np.bool_] | None = None
    scar: NDArray[np.bool_] | None = None
    depth: NDArray[np.float64] | None = None
    retained: NDArray[np.float16] | None = None

    def slice_labels(self) -> NDArray[np.bool_]:
        """Whether each slice shows obstruction; the label of the heart where nothing finer is known."""
        if self.places is None:
            return np.full(len(self.clips), self.obstruction)
        return np.asarray(self.places.any(axis=(1, 2)))


def hearts_of_clips(paths: Sequence[Path]) -> Iterator[LabelledHeart]:
    """Packed phantoms (:mod:`pipelines.training.heart_clips`) with what is true of them."""
    for clips in read_clips(paths):
        yield _of_phantom(clips)


def _of_phantom(clips: HeartClips) -> LabelledHeart:
    area = (clips.labels == Label.LV).sum(axis=(1, 2, 3))
    # Phase 0 is end diastole; a movie whose smallest cavity were that phase would hold no systole.
    end_systole = 1 + int(np.argmin(area[1:]))
    places = clips.lesions == 2
    return LabelledHeart(
        name=f"phantom-{clips.seed}",
        clips=packed(clips.images.astype(np.float32), 0, end_systole),
        obstruction=bool(places.any()),
        places=places,
        scar=clips.lesions > 0,
        depth=infarct_depth(clips.labels[0], clips.lesions > 0),
        retained=retained_area(clips.labels[0], clips.labels[end_systole]).astype(np.float16),
    )


def hearts_of_studies(
    folder: Path, labels: Path, *, device: str = "cpu", report: Callable[[str, str], None] | None = None
) -> list[LabelledHeart]:
    """A site's own studies, segmented as the node does, with the labels of a table.

    Parameters
    ----------
    folder, labels, device, report
        See :func:`pipelines.training.obstruction_studies.segmented_studies`.

    Raises
    ------
    LabelTableError
        See :mod:`pipelines.training.labelled_studies`.
    """
    hearts = []
    for one in segmented_studies(folder, labels, device=device, report=report):
        images, _, _ = images_around_ventricle(one.stack.pixels, one.labels, one.stack.geometry, one.end_diastole)
        clips = packed(np.float32(GREY) * images, one.end_diastole, one.end_systole)
        hearts.append(LabelledHeart(one.case, clips, one.obstruction))
    return hearts


def packed(images: NDArray[np.float32], end_diastole: int, end_systole: int) -> NDArray[np.uint8]:
    """Motion-normalised clips (S, 30, 88, 88) of images (T, S, 88, 88), grey values 0 … 250."""
    clips = in_time(images, normalised_phases(end_diastole, end_systole, len(images)))
    return np.ascontiguousarray(clips.transpose(1, 0, 2, 3)).round().astype(np.uint8)


def split(
    hearts: Sequence[LabelledHeart], kept_out: int | None = None
) -> tuple[list[LabelledHeart], list[LabelledHeart]]:
    """Hearts to train on, and those kept out to validate on.

    Parameters
    ----------
    kept_out : int, optional
        How many: the last by name. Left out: of either outcome the last 15 %, at least one.
    """
    if kept_out is not None:
        by_name = sorted(hearts, key=lambda heart: heart.name)
        return by_name[: len(by_name) - kept_out], by_name[len(by_name) - kept_out :]
    training, held_out = [], []
    for outcome in (False, True):
        ordered = sorted((heart for heart in hearts if heart.obstruction is outcome), key=lambda heart: heart.name)
        held = min(max(1, round(_VALIDATED * len(ordered))), len(ordered))
        training += ordered[: len(ordered) - held]
        held_out += ordered[len(ordered) - held :]
    return training, held_out
