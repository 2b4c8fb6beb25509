"""Summary as images and as a document: Secondary Capture (PS3.3 A.8.1) and Encapsulated PDF (A.45.1)."""

from __future__ import annotations

import datetime
import io
import re
import string
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from dicom_node.results.canvas import DARK, MARGIN, Page
from dicom_node.results.header import ResultContext, series_dataset
from dicom_node.results.roles import ResultRole

__all__ = ["encapsulated_pdf", "pdf", "raster", "rasters", "secondary_captures", "warm_fonts"]

DPI = 120
"""1403 × 992 pixels for a page of A4 landscape: about what a viewport of a workstation shows without scaling."""


def warm_fonts() -> None:
    """Load the fonts and the parts of Matplotlib that pages need, so that the first study does not wait for them."""
    page = Page(DARK)
    for bold in (False, True):
        page.text(MARGIN, MARGIN, string.printable.split(maxsplit=1)[0], bold=bold)
    raster(page.figure)
    pdf([page.figure], "", datetime.datetime(1970, 1, 1))


def rasters(figures: Sequence[Figure]) -> list[NDArray[np.uint8]]:
    """Draw pages, each as :func:`raster` does."""
    return [raster(figure) for figure in figures]


def raster(figure: Figure) -> NDArray[np.uint8]:
    """Draw a page; (rows, columns, 3), sRGB."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    # Without hinting: a third of the time, and letters keep the widths that the layout was made with.
    with rc_context({"text.hinting": "none"}):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def pdf(figures: Sequence[Figure], title: str, created: datetime.datetime) -> bytes:
    """Draw pages as a PDF of vectors; equal input gives equal bytes."""
    buffer = io.BytesIO()
    metadata = {"Title": title, "Creator": "dicom-node", "Producer": "dicom-node", "CreationDate": created}
    with rc_context({"text.hinting": "none", "pdf.compression": 4}), PdfPages(buffer, metadata=metadata) as document:
        for figure in figures:
            document.savefig(figure, dpi=DPI, facecolor=figure.get_facecolor())
    return _stable_subset_names(buffer.getvalue())


def _stable_subset_names(document: bytes) -> bytes:
    """Name font subsets in order of appearance; Matplotlib takes the six letters from a hash that differs by process.

    The length stays, so the cross-reference table stays right (PDF 32000-1, 9.6.4: any six letters, different for
    different subsets).
    """
    names: dict[bytes, bytes] = {}

    def named(match: re.Match[bytes]) -> bytes:
        prefix = match[1]
        if prefix not in names:
            number = len(names)
            names[prefix] = bytes(65 + number // 26**power % 26 for power in range(5, -1, -1))
        return b"/" + names[prefix] + b"+"

    return re.sub(rb"/([A-Z]{6})\+", named, document)


def secondary_captures(
    context: ResultContext, role: ResultRole, pages: Sequence[NDArray[np.uint8]], title: str
) -> list[Dataset]:
    """One Secondary Capture a page of :func:`raster`, in one series."""
    captures = []
    for number, pixels in enumerate(pages, start=1):
        dataset = series_dataset(
            context, role, sop_class_uid=SecondaryCaptureImageStorage, modality="MR", number=number
        )
        dataset.ConversionType = "SYN"
        dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        dataset.PatientOrientation = ""
        dataset.DerivationDescription = f"{title}, page {number} of {len(pages)}"
        dataset.ImageComments = "Drawn by software from cardiac MR for research; not for diagnosis"
        dataset.BurnedInAnnotation = "YES" if context.settings.patient_on_pages else "NO"
        dataset.RecognizableVisualFeatures = "NO"
        dataset.SamplesPerPixel = 3
        dataset.PhotometricInterpretation = "RGB"
        dataset.PlanarConfiguration = 0
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelRepresentation = 0
        data = pixels.tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OB"
        captures.append(dataset)
    return captures


def encapsulated_pdf(context: ResultContext, role: ResultRole, document: bytes, title: str) -> Dataset:
    """A PDF of :func:`pdf` as Encapsulated PDF."""
    dataset = series_dataset(context, role, sop_class_uid=EncapsulatedPDFStorage, modality="DOC")
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES" if context.settings.patient_on_pages else "NO"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.AcquisitionDateTime = context.datetime
    dataset.DocumentTitle = title
    dataset.ConceptNameCodeSequence = []
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(document)
    dataset.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return dataset
