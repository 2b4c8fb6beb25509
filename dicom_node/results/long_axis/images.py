"""Long-axis views at both ends of their motion, and the chambers on them as SEG."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from dicom_node.results.codes import LEFT_ATRIUM, RIGHT_ATRIUM, SEGMENTS, SegmentCodes
from dicom_node.results.objects import ResultObject
from dicom_node.results.parts import EncodingRequest, as_source
from dicom_node.results.phase_objects import key_phase_objects, segmentation_object
from dicom_node.results.roles import USUAL, ResultRole
from dicom_node.results.segmentation import segmentation
from pipelines.cine.stack import View
from pipelines.long_axis.findings import LongAxisLabel, LongAxisView, LongAxisViews
from pipelines.segmentation.labels import Label

__all__ = ["KEY_PHASE", "SEGMENTATION", "STRUCTURES", "extremes", "view_objects"]

# Series numbers that the node does not take for itself, and that variants would take in other packages: here are none.
_IMAGES = {
    (View.LAX_2CH, "ED"): 1,
    (View.LAX_2CH, "ES"): 2,
    (View.LAX_3CH, "ED"): 9,
    (View.LAX_3CH, "ES"): 10,
    (View.LAX_4CH, "ED"): 11,
    (View.LAX_4CH, "ES"): 13,
}
_MASKS = {
    (View.LAX_2CH, "ED"): 3,
    (View.LAX_2CH, "ES"): 4,
    (View.LAX_3CH, "ED"): 14,
    (View.LAX_3CH, "ES"): 15,
    (View.LAX_4CH, "ED"): 16,
    (View.LAX_4CH, "ES"): 17,
}
KEY_PHASE = {
    (view, when): ResultRole(f"{view}-{when.lower()}", offset, f"AI {view} {when} phase - RESEARCH")
    for (view, when), offset in _IMAGES.items()
}
SEGMENTATION = {
    (view, when): ResultRole(f"{view}-{when.lower()}-seg", offset, f"AI {view} {when} chambers - RESEARCH")
    for (view, when), offset in _MASKS.items()
}
_WHEN = {"ED": "largest left ventricle (end diastole)", "ES": "smallest left ventricle (end systole)"}


def _ventricle(label: LongAxisLabel, of: Label) -> SegmentCodes:
    """The same structure on the short axis, as a label of the long axis."""
    known = next(codes for codes in SEGMENTS if codes.label is of)
    return dataclasses.replace(known, label=label, description=f"{known.name} on a long-axis view")


STRUCTURES: tuple[SegmentCodes, ...] = (
    _ventricle(LongAxisLabel.LV, Label.LV),
    _ventricle(LongAxisLabel.MYO, Label.MYO),
    _ventricle(LongAxisLabel.RV, Label.RV),
    SegmentCodes(
        LongAxisLabel.LA,
        "Left atrium",
        "Cavity of the left atrium; appendage and veins excluded",
        LEFT_ATRIUM,
        (43388, 42846, 48505),
        (245, 130, 48),
    ),
    SegmentCodes(
        LongAxisLabel.RA,
        "Right atrium",
        "Cavity of the right atrium; appendage and veins excluded",
        RIGHT_ATRIUM,
        (38356, 55001, 20071),
        (240, 50, 230),
    ),
)


def extremes(view: LongAxisView) -> dict[str, int]:
    """Phases with the largest and the smallest left ventricular cavity: "ED" and "ES"."""
    areas = (view.labels == LongAxisLabel.LV).sum(axis=(1, 2))
    return {"ED": int(np.argmax(areas)), "ES": int(np.argmin(areas))}


def view_objects(request: EncodingRequest, views: LongAxisViews) -> Iterator[ResultObject]:
    """Both phases of each view and the chambers on them; of several views of a kind the one that agrees most."""
    names = tuple(request.destinations)
    for kind in dict.fromkeys(view.view for view in views.views):
        view = max((one for one in views.views if one.view is kind), key=lambda one: float(one.agreement.mean()))
        for when, phase in extremes(view).items():
            if not view.labels[phase].any():
                continue
            images = key_phase_objects(request, KEY_PHASE[kind, when], view.stack, phase, _WHEN[when], names)
            yield from images
            seg = segmentation(
                request.context,
                SEGMENTATION[kind, when],
                view.stack,
                view.labels[phase][None],
                [as_source(image) for image in images],
                variant=USUAL,
                when=f"{kind} {when}",
                structures=STRUCTURES,
                content_label="CHAMBERS",
                content="Chambers",
            )
            stack = view.stack
            place = (stack.geometry, stack.frame_of_reference_uid)
            yield segmentation_object(request, SEGMENTATION[kind, when], seg, *place, stack.sources[phase], names)
