"""The keyframes as Key Object Selection documents, one for each keyframe and view (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from highdicom.sr import (
    ContainerContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.results.content import contain, evidence, language, observation_context, source_image, text_item
from dicom_node.results.header import ResultContext, series_dataset
from dicom_node.results.roles import ResultRole
from pipelines.cine.stack import CineStack, FrameSource, View
from pipelines.motion.findings import Keyframe, MotionKeyframes, ViewKeyframes

__all__ = ["KEYFRAMES", "KEYFRAME_WORDS", "keyframe_selections"]

KEYFRAMES = ResultRole("keyframes", 1, "AI keyframes - RESEARCH")

KEYFRAME_WORDS: dict[Keyframe, str] = {
    Keyframe.END_DIASTOLE: "end diastole",
    Keyframe.MID_SYSTOLE: "mid-systole",
    Keyframe.END_SYSTOLE: "end systole",
    Keyframe.PEAK_FLOW: "peak early filling",
    Keyframe.MID_DIASTOLE: "mid-diastole",
}
_ENGLISH = Code("en", "RFC5646", "English")


def keyframe_selections(
    context: ResultContext, found: MotionKeyframes, stacks: Mapping[View, CineStack]
) -> Iterator[tuple[Dataset, tuple[FrameSource, ...]]]:
    """Each document with the source images that it selects: all slices of the phase.

    Parameters
    ----------
    stacks : mapping of View to CineStack
        The stack that the keyframes of each view count on.
    """
    number = 0
    for entry in found.views:
        stack = stacks[entry.view]
        for keyframe, phase in entry.phases.items():
            number += 1
            yield _selection(context, entry, keyframe, stack, number), stack.sources[phase]


def _selection(
    context: ResultContext, entry: ViewKeyframes, keyframe: Keyframe, stack: CineStack, number: int
) -> Dataset:
    dataset = series_dataset(
        context, KEYFRAMES, sop_class_uid=KeyObjectSelectionDocumentStorage, modality="KO", number=number
    )
    dataset.ReferencedPerformedProcedureStepSequence = []
    phase = entry.phases[keyframe]
    sources = stack.sources[phase]
    when = f", {entry.times_ms[keyframe]:.0f} ms after the R wave" if entry.times_ms[keyframe] >= 0 else ""
    described = f"{entry.view} {KEYFRAME_WORDS[keyframe]}: phase {phase + 1} of {stack.phases}{when}"
    root = ContainerContentItem(name=codes.DCM.OfInterest, is_content_continuous=False, template_id="2010")
    tree = [
        *language(_ENGLISH),
        *observation_context(context),
        text_item(codes.DCM.KeyObjectDescription, f"{described}. Found by software; research use only."),
        *(source_image(source) for source in sources),
    ]
    contain(root, tree)
    dataset.CurrentRequestedProcedureEvidenceSequence = [evidence(context, sources)]
    for element in root:
        if element.keyword != "RelationshipType":
            dataset[element.tag] = element
    return dataset
