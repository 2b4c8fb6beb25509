"""How the labels of acquired late enhancement are described in a SEG."""

from __future__ import annotations

from pydicom.sr.coding import Code

from dicom_node.results.codes import ABNORMAL_STRUCTURE, CHAMBER, LV_MYOCARDIUM, SegmentCodes, private
from pipelines.function.findings import Chamber
from pipelines.late_enhancement.labels import Tissue

__all__ = ["STRUCTURES"]

_INFARCT = Code("55641003", "SCT", "Infarct")
"""A morphologic abnormality; acute or healed, which late enhancement does not tell."""

STRUCTURES: tuple[SegmentCodes, ...] = (
    SegmentCodes(
        Tissue.LV,
        "LV blood pool",
        "Cavity of the left ventricle on late enhancement; papillary muscles included",
        CHAMBER[Chamber.LV],
        (32826, 50702, 45388),
        (230, 40, 40),
    ),
    SegmentCodes(
        Tissue.MYO,
        "LV myocardium without enhancement",
        "Muscle of the left ventricle that does not enhance",
        LV_MYOCARDIUM,
        (42631, 18841, 44020),
        (60, 180, 75),
    ),
    SegmentCodes(
        Tissue.INFARCT,
        "Infarct",
        "Late enhancement of the left ventricular wall, as labelled by the network",
        _INFARCT,
        (58639, 31172, 55107),
        (255, 225, 25),
        category=ABNORMAL_STRUCTURE,
        region=LV_MYOCARDIUM,
    ),
    SegmentCodes(
        Tissue.OBSTRUCTION,
        "Microvascular obstruction",
        "Dark core inside the infarct, as labelled by the network",
        private("MVO"),
        (38356, 55001, 20071),
        (240, 50, 230),
        category=ABNORMAL_STRUCTURE,
        region=LV_MYOCARDIUM,
    ),
)
