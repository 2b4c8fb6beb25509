"""Circumferential strain of each pixel as a Parametric Map (PS3.3 A.75)."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.results.codes import private, ucum
from dicom_node.results.motion.groups import STRAIN
from dicom_node.results.objects import ResultObject
from dicom_node.results.parametric_map import ExpectedMap, Mapped, parametric_map
from dicom_node.results.parts import EncodingRequest
from dicom_node.results.roles import ResultRole
from pipelines.cine.stack import CineStack, View
from pipelines.motion.findings import CardiacMotion, Component, Keyframe

__all__ = ["STRAIN_MAP", "strain_map"]

STRAIN_MAP = ResultRole("strain-map", 2, "AI circumferential strain, ES - RESEARCH")
_MAPPED = Mapped(
    quantity=STRAIN[Component.CIRCUMFERENTIAL],
    unit=ucum("%"),
    label="CIRC_STRAIN_ES",
    explanation="Circumferential strain at end systole, 0 outside the wall",
    derivation=private("STRAIN_REG"),
    limits=(-50.0, 50.0),
)


def strain_map(
    request: EncodingRequest, found: CardiacMotion, stack: CineStack, destinations: Sequence[str]
) -> ResultObject:
    """Encode the map on the images of end diastole.

    Raises
    ------
    ValueError
        The keyframes hold no short axis.
    """
    entry = found.keyframes.of(View.SAX)
    if entry is None:
        raise ValueError("a strain map without keyframes of the short axis")
    sources = stack.sources[entry.phases[Keyframe.END_DIASTOLE]]
    values = found.circumferential_map
    dataset = parametric_map(request.context, STRAIN_MAP, stack, values, sources, _MAPPED)
    expected = ExpectedMap(values, stack.geometry, stack.frame_of_reference_uid)
    return request.object(STRAIN_MAP, dataset, sources, expected, destinations)
