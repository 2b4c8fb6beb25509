"""Reading a report back: what a recipient finds in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydicom.dataset import Dataset

from dicom_node.results.codes import QUANTITY
from pipelines.function.findings import Quantity

__all__ = ["reported_numbers"]

_TIMES = Counter((code.scheme_designator, code.value) for code in QUANTITY.values())
_BY_CODE = {
    (code.scheme_designator, code.value): quantity
    for quantity, code in QUANTITY.items()
    # Peak rates share a code between the ventricles: the finding site tells them apart, and they are left out here.
    if _TIMES[code.scheme_designator, code.value] == 1
}


def reported_numbers(report: Dataset) -> dict[Quantity, float]:
    """Numbers of a TID 1500 report whose concept alone says what they are.

    Parameters
    ----------
    report
        Comprehensive 3D SR of this node.
    """
    found: dict[Quantity, float] = {}
    for item in _content(report):
        if item.get("ValueType") != "NUM" or not item.get("MeasuredValueSequence"):
            continue
        concept = item.ConceptNameCodeSequence[0]
        quantity = _BY_CODE.get((str(concept.CodingSchemeDesignator), str(concept.CodeValue)))
        if quantity is not None:
            found.setdefault(quantity, float(item.MeasuredValueSequence[0].NumericValue))
    return found


def _content(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _content(child)
