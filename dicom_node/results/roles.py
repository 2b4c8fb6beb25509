"""What a result object is for, which series it stands in, and in which variant a destination gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.config import DestinationProfile, SegmentationTarget
from pipelines.package import SERIES_PER_BLOCK

__all__ = [
    "FRONT_PAGE",
    "FRONT_PAGE_IMAGE",
    "FRONT_PAGE_MANIFEST",
    "FRONT_PAGE_PDF",
    "OWN_OFFSETS",
    "REFUSAL",
    "REFUSAL_SUMMARY",
    "REFUSAL_SUMMARY_PDF",
    "REPORT",
    "SUMMARY",
    "SUMMARY_PDF",
    "USUAL",
    "ResultRole",
    "Variant",
    "variants",
]

OWN_OFFSETS = frozenset({0, 12, 19})
"""Of each block of 20 series numbers: the node's own, for the front page, its drawn page and the manifest."""


@dataclass(frozen=True, slots=True)
class ResultRole:
    """What a result object is for within its package.

    Attributes
    ----------
    value : str
        Part of the identity of the object; never changes.
    series_offset : int
        Added to the first series number of the package's block, so that series sort alike in every study: 1 to 11 and
        13 to 18. Of 3, 4 and 5 there are variants for different destinations at 9 to 11 and 13 to 18; a package that
        makes no variants may use those for other series.
    series_description : str
        LO, at most 64 characters; ``{title}`` stands for the title of the package.
    """

    value: str
    series_offset: int
    series_description: str

    def __post_init__(self) -> None:
        if not 0 <= self.series_offset < SERIES_PER_BLOCK:
            raise ValueError(f"role {self.value}: series_offset {self.series_offset} is not in its block")


REPORT = ResultRole("report", 5, "AI {title} report - RESEARCH")
SUMMARY = ResultRole("summary", 6, "AI {title} summary - RESEARCH")
SUMMARY_PDF = ResultRole("summary-pdf", 7, "AI {title} summary, PDF - RESEARCH")
REFUSAL = ResultRole("refusal", 8, "AI {title} NOT ANALYSED - RESEARCH")
REFUSAL_SUMMARY = ResultRole("refusal-summary", 6, "AI {title} NOT ANALYSED, page - RESEARCH")
REFUSAL_SUMMARY_PDF = ResultRole("refusal-summary-pdf", 7, "AI {title} NOT ANALYSED, PDF - RESEARCH")
FRONT_PAGE = ResultRole("front-page", 0, "AI {title}: front page - RESEARCH")
FRONT_PAGE_IMAGE = ResultRole("front-page-image", 12, "AI {title}: front page, drawn - RESEARCH")
FRONT_PAGE_PDF = ResultRole("front-page-pdf", 12, "AI {title}: front page, PDF - RESEARCH")
FRONT_PAGE_MANIFEST = ResultRole("front-page-manifest", 19, "AI {title}: manifest - RESEARCH")


@dataclass(frozen=True, slots=True)
class Variant:
    """What a group of destinations gets alike: SEG, and the report that refers to it."""

    references: SegmentationTarget = SegmentationTarget.KEY_PHASE
    omit_empty_frames: bool = False

    @property
    def name(self) -> str:
        """Part of the identity of the objects; empty for the usual variant."""
        parts = ["" if self.references is SegmentationTarget.KEY_PHASE else self.references.value]
        parts.append("omit-empty" if self.omit_empty_frames else "")
        return "+".join(part for part in parts if part)

    @property
    def series_offset(self) -> int:
        """Keeps the series numbers of variants apart where one archive gets several; within the package's block."""
        if self.references is SegmentationTarget.KEY_PHASE:
            return 6 if self.omit_empty_frames else 0
        return 13 if self.omit_empty_frames else 10


USUAL = Variant()


def variants(destinations: Mapping[str, DestinationProfile]) -> Mapping[Variant, tuple[str, ...]]:
    """The variants that destinations want, with the names of who wants each; without destinations the usual one."""
    wanted: dict[Variant, list[str]] = {}
    for name, profile in destinations.items():
        wanted.setdefault(Variant(profile.segmentation_references, profile.omit_empty_frames), []).append(name)
    return {variant: tuple(names) for variant, names in wanted.items()} or {USUAL: ()}
