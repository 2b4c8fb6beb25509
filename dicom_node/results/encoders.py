"""Finding the encoder of a package: the function ``encode`` of ``dicom_node/results/<name>.py``."""

from __future__ import annotations

import importlib
from typing import cast

from dicom_node.errors import ConfigurationError
from dicom_node.results.parts import Encode
from pipelines.package import AnalysisPackage

__all__ = ["encoder_of"]


def encoder_of(package: AnalysisPackage) -> Encode:
    """The encoder of a package.

    Raises
    ------
    ConfigurationError
        There is no such module, it cannot be imported, or it has no function ``encode``.
    """
    name = f"dicom_node.results.{package.name}"
    subject, remedy = f"analysis {package.name}", f"put `encode` into dicom_node/results/{package.name}.py"
    try:
        module = importlib.import_module(name)
    except Exception as error:
        what = f"its encoder {name} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(what, subject=subject, remedy=remedy) from error
    encode = getattr(module, "encode", None)
    if not callable(encode):
        raise ConfigurationError(f"its encoder {name} has no function `encode`", subject=subject, remedy=remedy)
    return cast("Encode", encode)
