"""How predicted enhancement is described in a SEG: as predicted, never as scar."""

from __future__ import annotations

import enum

from dicom_node.results.codes import ABNORMAL_STRUCTURE, LV_MYOCARDIUM, SegmentCodes, private

__all__ = ["STRUCTURE", "Enhanced"]


class Enhanced(enum.IntEnum):
    """Values of the label map."""

    PREDICTED = 1


STRUCTURE = SegmentCodes(
    Enhanced.PREDICTED,
    "Predicted enhancement",
    "Late enhancement as predicted from cine, SYNTHETIC - NOT ACQUIRED; dark cores enclosed by it included",
    private("SYN_LGE"),
    (58639, 31172, 55107),
    (255, 225, 25),
    category=ABNORMAL_STRUCTURE,
    region=LV_MYOCARDIUM,
)
