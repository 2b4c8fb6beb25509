"""Reading a report back: what a recipient finds in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydicom.dataset import Dataset

from dicom_node.results.codes import PRIVATE_DESIGNATOR, QUANTITY
from pipelines.function.findings import Quantity

__all__ = ["reported_numbers", "reported_predictions"]

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
    for code, value in _numbers(report):
        quantity = _BY_CODE.get(code)
        if quantity is not None:
            found.setdefault(quantity, value)
    return found


def reported_predictions(report: Dataset) -> dict[str, float]:
    """Numbers of synthetic enhancement, by private code; of those that it says several times that of the whole heart.

    Parameters
    ----------
    report
        Comprehensive 3D SR of this node.
    """
    found: dict[str, float] = {}
    for (scheme, code), value in _numbers(report):
        if scheme == PRIVATE_DESIGNATOR and code.startswith("SYN_"):
            # The group of the whole heart stands first.
            found.setdefault(code, value)
    return found


def _numbers(report: Dataset) -> Iterator[tuple[tuple[str, str], float]]:
    """Scheme and value of the concept of each NUM item, and its number."""
    for item in _content(report):
        if item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
            concept = item.ConceptNameCodeSequence[0]
            code = (str(concept.CodingSchemeDesignator), str(concept.CodeValue))
            yield code, float(item.MeasuredValueSequence[0].NumericValue)


def _content(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        yield child
        yield from _content(child)
