"""Encode a segmentation as bytes and decode it, so that packages that need the same one run the networks once."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.models.identity import ModelIdentity
from pipelines.models.precision import Precision
from pipelines.segmentation.labels import CineSegmentation

__all__ = ["UnreadableSegmentation", "decode_segmentation", "encode_segmentation"]

FORMAT = 4
"""What was kept in another is computed again: so also where the rules that follow the networks have changed."""


class UnreadableSegmentation(ValueError):  # noqa: N818 - says what is the case
    """The bytes are not those of a segmentation of this format."""


def encode_segmentation(segmentation: CineSegmentation) -> bytes:
    """A compressed NumPy archive (``.npz``) without pickled objects; everything but the arrays is JSON."""
    rest = {
        "format": FORMAT,
        "crop": list(segmentation.crop),
        "models": [dataclasses.asdict(one) for one in segmentation.models],
    }
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {
        "labels": segmentation.labels,
        "agreement": segmentation.agreement,
        "rest": np.frombuffer(json.dumps(rest).encode(), np.uint8),
    }
    if segmentation.confidence is not None:
        arrays["confidence"] = segmentation.confidence
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_segmentation(content: bytes) -> CineSegmentation:
    """The segmentation that :func:`encode_segmentation` was given.

    Raises
    ------
    UnreadableSegmentation
        The bytes are damaged, or of another format.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            rest = json.loads(archive["rest"].tobytes())
            if rest["format"] != FORMAT:
                raise UnreadableSegmentation(f"format {rest['format']}, not {FORMAT}")
            row, end_row, column, end_column = rest["crop"]
            labels, agreement = archive["labels"], archive["agreement"]
            confidence = archive["confidence"] if "confidence" in archive.files else None
        models = tuple(ModelIdentity(**{**one, "precision": Precision(one["precision"])}) for one in rest["models"])
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        if isinstance(error, UnreadableSegmentation):
            raise
        raise UnreadableSegmentation(f"damaged: {type(error).__name__}") from error
    if labels.dtype != np.uint8 or agreement.dtype != np.float32 or labels.shape[:2] != agreement.shape:
        raise UnreadableSegmentation(f"arrays are {labels.dtype} {labels.shape} and {agreement.dtype}")
    if confidence is not None and (confidence.dtype != np.float32 or confidence.shape != agreement.shape):
        raise UnreadableSegmentation(f"confidence is {confidence.dtype} {confidence.shape}")
    return CineSegmentation(labels, agreement, (row, end_row, column, end_column), models, confidence)
