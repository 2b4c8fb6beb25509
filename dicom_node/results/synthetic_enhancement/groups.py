"""Measurement groups of synthetic late enhancement in the structured report: TID 1501 (PS3.16).

Every name says that its number was predicted: no code of acquired enhancement is used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from highdicom.sr import FindingSite, Measurement, MeasurementProperties
from pydicom.sr.coding import Code

from dicom_node.results.codes import AHA_SEGMENTS, LV_MYOCARDIUM, private, ucum
from dicom_node.results.content import MeasurementGroup, group, source_image, text_item, with_method
from dicom_node.results.header import ResultContext
from dicom_node.results.parts import ReportPart, frames_of
from dicom_node.results.report import significant
from dicom_node.results.synthetic_enhancement.images import NOT_ACQUIRED
from pipelines.cine.stack import CineStack
from pipelines.synthetic_enhancement.findings import Extent, SyntheticEnhancement

__all__ = ["TRAINED_ON", "mean_deviation", "synthetic_part"]

TRAINED_ON = (
    "The network learned on simulated cine. What it says of a patient follows from the motion and the shape of the "
    "muscle; it cannot see scar that does not change them, and takes muscle that stands still for other reasons for "
    "scar."
)


def synthetic_part(context: ResultContext, found: SyntheticEnhancement, stack: CineStack) -> ReportPart:
    """What synthetic enhancement adds to the report."""
    groups = [_whole(context, found)]
    groups += _slices(context, found, stack)
    groups += _segments(context, found)
    if found.classifiers:
        groups.append(_classifiers(context, found))
    return ReportPart(
        groups=tuple(groups),
        evidence=tuple(stack.sources[found.phase][index] for index in found.slices),
        looked_at=frames_of([stack]),
    )


def mean_deviation(found: SyntheticEnhancement) -> float | None:
    """Standard deviation of the samples, mean over the muscle; ``None`` where there is no image."""
    if found.uncertainty is None or not found.muscle.any():
        return None
    return float(found.uncertainty[found.muscle].mean())


def _whole(context: ResultContext, found: SyntheticEnhancement) -> MeasurementGroup:
    measurements = [
        with_method(
            _probability(found.study_probability), "of the study, calibrated on simulated hearts that were held out"
        ),
    ]
    if found.present:
        measurements = [
            _extent(private("SYN_HYPER"), found.hyperintense),
            _extent(private("SYN_INTER"), found.intermediate),
            *measurements,
        ]
    deviation = mean_deviation(found)
    if deviation is not None:
        measured = Measurement(name=private("SYN_SD"), value=round(deviation, 3), unit=ucum("1"))
        measurements.append(with_method(measured, f"over {found.samples} samples, mean over the muscle"))
    items = [
        text_item(private("LIMITS"), NOT_ACQUIRED),
        text_item(private("LIMITS"), TRAINED_ON),
        text_item(private("METHOD"), f"{found.samples} samples of {found.steps} steps; shown: {found.shown}"),
        text_item(
            private("METHOD"),
            f"enhancement is said to be there from a probability of {found.operating_point:.2f}; below, no extent is "
            "reported",
        ),
        *(text_item(private("NOTE"), f"The image is withheld: {sentence}") for sentence in found.withheld),
        *(text_item(private("NOTE"), note) for note in found.notes),
    ]
    return group(
        context,
        "Predicted enhancement, not acquired",
        finding_type=private("SYN_LGE"),
        finding_sites=[FindingSite(LV_MYOCARDIUM)],
        measurements=measurements,
        items=items,
    )


def _extent(name: Code, extent: Extent) -> Measurement:
    properties = MeasurementProperties(
        upper_measurement_uncertainty=significant(max(extent.interval.upper - extent.percent, 0.0)),
        lower_measurement_uncertainty=significant(max(extent.percent - extent.interval.lower, 0.0)),
    )
    measured = Measurement(name=name, value=round(extent.percent, 1), unit=ucum("%"), properties=properties)
    return with_method(measured, f"{extent.method}, on the synthetic image; % of the muscle on the slices looked at")


def _probability(value: float) -> Measurement:
    return Measurement(name=private("SYN_PROB"), value=round(value, 3), unit=ucum("1"))


def _slices(context: ResultContext, found: SyntheticEnhancement, stack: CineStack) -> Iterator[MeasurementGroup]:
    for index, probability in sorted(found.slice_probability.items()):
        said = f"slice {index + 1} of {stack.slices} of the short axis, in the order of its normal"
        yield group(
            context,
            f"Predicted enhancement of slice {index + 1}",
            finding_type=private("SYN_LGE"),
            measurements=[_probability(probability)],
            items=[text_item(private("NOTE"), said), source_image(stack.sources[found.phase][index])],
        )


def _segments(context: ResultContext, found: SyntheticEnhancement) -> Iterator[MeasurementGroup]:
    """One group for each AHA segment (CID 3717 as finding site)."""
    for one in found.segments:
        measurements = [_probability(one.probability)]
        for name, value in (("SYN_HYPER", one.percent), ("SYN_TRANSMUR", one.transmurality_percent)):
            if found.present and np.isfinite(value):
                measurements.append(Measurement(name=private(name), value=round(value, 1), unit=ucum("%")))
        yield group(
            context,
            f"Predicted enhancement of AHA segment {one.segment}",
            finding_type=private("SYN_LGE"),
            finding_sites=[FindingSite(AHA_SEGMENTS[one.segment - 1])],
            measurements=measurements,
        )


def _classifiers(context: ResultContext, found: SyntheticEnhancement) -> MeasurementGroup:
    return group(
        context,
        "Ways to the probability of enhancement",
        finding_type=private("SYN_LGE"),
        measurements=[
            with_method(_probability(one.probability), f"{one.name}{'; the one reported' if one.reported else ''}")
            for one in found.classifiers
        ],
    )
