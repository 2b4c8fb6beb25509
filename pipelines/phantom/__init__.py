"""A simulated scanner: hearts with known mechanics, imaged and written as scanners do.

``simulate(PhantomRecipe(seed=7))`` gives a study, ``write_study(study, directory)`` its DICOM.
"""

from pipelines.phantom.command import WrittenPhantom, write_phantoms
from pipelines.phantom.identity import Script
from pipelines.phantom.recipe import Dialect, Disease, Fault, PhantomRecipe, RecipeError, Territory
from pipelines.phantom.study import CineAcquisition, Enhancement, PhantomStudy, simulate
from pipelines.phantom.truth import PhantomTruth, TruthError, measure_truth, read_truth, write_truth
from pipelines.phantom.writer import TRANSFER_SYNTAXES, write_study

__all__ = [
    "TRANSFER_SYNTAXES",
    "CineAcquisition",
    "Dialect",
    "Disease",
    "Enhancement",
    "Fault",
    "PhantomRecipe",
    "PhantomStudy",
    "PhantomTruth",
    "RecipeError",
    "Script",
    "Territory",
    "TruthError",
    "WrittenPhantom",
    "measure_truth",
    "read_truth",
    "simulate",
    "write_phantoms",
    "write_study",
    "write_truth",
]
