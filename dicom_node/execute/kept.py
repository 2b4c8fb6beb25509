"""What packages on the same images share, kept on disk while a job may want it.

``kept/<digest of the input>/<digest of all that made it>.npz`` under the storage directory: images, models and version
of this software are in the name, so a file that is there is the right one.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import structlog

__all__ = ["KeptFindings"]

_log = structlog.get_logger(__name__)

FOLDER = "kept"


class KeptFindings:
    """Segmentations of study versions, kept on disk.

    Parameters
    ----------
    directory
        The storage directory.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / FOLDER

    def load(self, input_digest: str, package: str, device: str) -> Mapping[type, object]:
        """What is kept of the values that a package needs; by type, empty when there is nothing."""
        if not (self._root / input_digest).is_dir():
            return {}
        from pipelines.package import needs, packages
        from pipelines.segmentation.keeping import UnreadableSegmentation, decode_segmentation
        from pipelines.segmentation.labels import CineSegmentation

        if not needs(packages()[package], CineSegmentation):
            return {}
        path = self._path(input_digest, device)
        try:
            return {CineSegmentation: decode_segmentation(path.read_bytes())}
        except FileNotFoundError:
            return {}
        except (OSError, UnreadableSegmentation) as error:
            # It is made again: nothing depends on what is kept. Removed, since :meth:`save` writes over nothing; where
            # it cannot be, each package makes its own.
            _log.warning("a kept segmentation cannot be read", error=type(error).__name__)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return {}

    def save(self, input_digest: str, device: str, values: Mapping[type, object]) -> None:
        """Keep the segmentation among the values of a run, if there is one."""
        from pipelines.segmentation.keeping import encode_segmentation
        from pipelines.segmentation.labels import CineSegmentation

        segmentation = values.get(CineSegmentation)
        path = self._path(input_digest, device)
        # A corrected one is made anew by each package: the phases are those of the network's own masks.
        if not isinstance(segmentation, CineSegmentation) or segmentation.corrections or path.exists():
            return
        beside = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(encode_segmentation(segmentation))
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            _log.warning("a segmentation cannot be kept", error=type(error).__name__)

    def sweep(self, wanted: Collection[str]) -> int:
        """Remove what is kept of other inputs than these; returns of how many."""
        removed = 0
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    def _path(self, input_digest: str, device: str) -> Path:
        from pipelines.models.precision import labelling_precision
        from pipelines.models.registry import list_models

        # A card says more than its weights of what comes out, and its version goes up with that.
        models = sorted(f"{card.name} {card.version} {card.weights_sha256}" for card in list_models())
        made_by = "\n".join(
            [input_digest, version("dicom-node"), device.partition(":")[0], labelling_precision(device), *models]
        )
        return self._root / input_digest / f"{hashlib.sha256(made_by.encode()).hexdigest()}.npz"
