"""From what was predicted of late enhancement to the parts of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicom_node.config import SyntheticImageClass
from dicom_node.results.codes import private, ucum
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ExpectedAll, ExpectedMask, ExpectedSlice, ResultObject
from dicom_node.results.parametric_map import ExpectedMap, Mapped, parametric_map
from dicom_node.results.parts import EncodingRequest, Parts, SummaryPart, as_source
from dicom_node.results.roles import ResultRole, Variant
from dicom_node.results.segmentation import segmentation
from dicom_node.results.synthetic_enhancement.beside import acquired_short_axis
from dicom_node.results.synthetic_enhancement.groups import mean_deviation, synthetic_part
from dicom_node.results.synthetic_enhancement.images import (
    IMAGES,
    ExpectedMarks,
    mark_synthetic,
    of_slices,
    synthetic_series,
)
from dicom_node.results.synthetic_enhancement.label import BurntInLabel, label_beside
from dicom_node.results.synthetic_enhancement.pages import synthetic_pages, synthetic_text
from dicom_node.results.synthetic_enhancement.segments import STRUCTURE, Enhanced
from pipelines.cine.stack import CineStack
from pipelines.segmentation.labels import CineSegmentation
from pipelines.synthetic_enhancement.findings import Shown, SyntheticEnhancement

__all__ = ["encode"]

SEGMENTATION = {
    SyntheticImageClass.SECONDARY_CAPTURE: ResultRole(
        "synthetic-segmentation", 3, "AI predicted enhancement SEG - NOT ACQUIRED"
    ),
    SyntheticImageClass.MR: ResultRole("synthetic-segmentation-mr", 4, "AI predicted enhancement SEG - NOT ACQUIRED"),
}
"""SEG that leave out empty frames stand six numbers further on."""
PROBABILITY = ResultRole("synthetic-probability", 13, "AI enhancement probability - NOT ACQUIRED")
_MAPPED = Mapped(
    quantity=private("SYN_PROB"),
    unit=ucum("1"),
    label="ENHANCEMENT_PROB",
    explanation="Enhancement probability predicted from cine, not acquired",
    derivation=private("SYN_IMAGE"),
    limits=(0.0, 1.0),
)
_NO_ROOM = (
    "No corner of the images has room for the words SYNTHETIC - NOT ACQUIRED beside the heart, and without them no "
    "synthetic image leaves."
)


def encode(request: EncodingRequest) -> Parts:
    """Encode synthetic enhancement: images, SEG and map, report, pages."""
    found, stack = request.found.findings[SyntheticEnhancement], request.study.short_axis
    if stack is None:
        raise ValueError("synthetic enhancement without a short-axis stack")
    heart = _heart(found, request.found.findings.get(CineSegmentation))
    label = label_beside(heart) if found.image is not None else None
    if found.image is not None and label is None:
        found = _without_image(found)
    objects = _Objects(request, found, stack, label)
    part = synthetic_part(request.context, found, stack)
    return Parts(
        objects=lambda: list(objects.made()),
        report=lambda _variant: part,
        summary=SummaryPart(
            stacks=(stack,),
            pages=lambda theme: synthetic_pages(theme, found, stack, heart, acquired_short_axis(request.study)),
            text=synthetic_text(found),
            synthetic=True,
        ),
        key_numbers=_key_numbers(found),
        numbers=_numbers(found),
        described=tuple(_described(found)),
    )


def _described(found: SyntheticEnhancement) -> Iterator[ReportedNumber]:
    """The numbers that have bounds or a method, with the words that nobody acquired them."""
    origin = "SYNTHETIC, NOT ACQUIRED: predicted from cine"
    calibrated = "calibrated on simulated hearts that were held out"
    yield ReportedNumber("synthetic_probability", found.study_probability, "1", f"{origin}; {calibrated}")
    # Below the operating point a 0 with an interval would read as a measurement.
    extents = (("hyperintense", found.hyperintense), ("intermediate", found.intermediate)) if found.present else ()
    for name, extent in extents:
        yield ReportedNumber(
            f"synthetic_{name}_percent",
            extent.percent,
            "%",
            f"{origin}; {extent.method}, on the synthetic image; none below a probability of "
            f"{found.operating_point:.2f}",
            lower=extent.interval.lower,
            upper=extent.interval.upper,
        )
    for one in found.segments:
        yield ReportedNumber(
            f"synthetic_segment_{one.segment}_probability",
            one.probability,
            "1",
            f"{origin}; that a tenth of AHA segment {one.segment} enhances, {calibrated}",
        )


def _heart(found: SyntheticEnhancement, seen: CineSegmentation | None) -> NDArray[np.bool_]:
    """Where the heart is on any slice, (R, C): the muscle looked at, and both ventricles at the same moment."""
    heart = found.muscle.any(axis=0)
    return np.asarray(heart if seen is None else heart | (seen.labels[found.phase] > 0).any(axis=0), dtype=np.bool_)


def _without_image(found: SyntheticEnhancement) -> SyntheticEnhancement:
    return replace(found, image=None, uncertainty=None, shown=Shown.PROBABILITY, withheld=(*found.withheld, _NO_ROOM))


def _key_numbers(found: SyntheticEnhancement) -> tuple[str, ...]:
    extent = found.hyperintense
    said = f"hyperintense extent {extent.percent:.0f} % of the left ventricular muscle (interval "
    said += f"{extent.interval.lower:.0f} to {extent.interval.upper:.0f} %)."
    if not found.present:
        said = f"below {found.operating_point:.2f}, from which enhancement is said to be there: no extent is reported."
    sentences = [
        "SYNTHETIC, NOT ACQUIRED: late enhancement as predicted from cine without a contrast agent, by a network "
        "trained on simulated cine.",
        f"Predicted: probability of any enhancement {found.study_probability:.2f}, {said}",
    ]
    return (*sentences, *(f"The synthetic image is withheld: {sentence}" for sentence in found.withheld))


def _numbers(found: SyntheticEnhancement) -> dict[str, float]:
    numbers = {"synthetic_probability": found.study_probability}
    if found.present:
        numbers["synthetic_hyperintense_percent"] = found.hyperintense.percent
        numbers["synthetic_intermediate_percent"] = found.intermediate.percent
    numbers |= {f"synthetic_segment_{one.segment}_probability": one.probability for one in found.segments}
    deviation = mean_deviation(found)
    return numbers if deviation is None else numbers | {"synthetic_deviation": deviation}


@dataclass(frozen=True, slots=True, eq=False)
class _Objects:
    """The image objects of one study.

    Attributes
    ----------
    stack : CineStack
        The short axis.
    label : BurntInLabel or None
        ``None`` when no image is made.
    shown : CineStack
        The slices that were looked at.
    """

    request: EncodingRequest
    found: SyntheticEnhancement
    stack: CineStack
    label: BurntInLabel | None
    shown: CineStack = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", of_slices(self.stack, self.found.slices))

    def made(self) -> Iterator[ResultObject]:
        """Images, what refers to them, and the map."""
        if self.found.image is not None and self.label is not None:
            for image_class, by_variant in self._wanted().items():
                names = [name for listed in by_variant.values() for name in listed]
                images = tuple(self._images(image_class, self.found.image, self.label, names))
                yield from images
                if self.found.enhanced[list(self.found.slices)].any():
                    for omit_empty_frames, listed in by_variant.items():
                        yield self._segmentation(image_class, omit_empty_frames, images, listed)
        yield self._map()

    def _wanted(self) -> Mapping[SyntheticImageClass, Mapping[bool, list[str]]]:
        """Destinations by the class of images that they take, and by whether their SEG leaves out empty frames."""
        wanted: dict[SyntheticImageClass, dict[bool, list[str]]] = {}
        for name, profile in self.request.destinations.items():
            by_variant = wanted.setdefault(profile.synthetic.sop_class, {})
            by_variant.setdefault(profile.omit_empty_frames, []).append(name)
        return wanted or {SyntheticImageClass.SECONDARY_CAPTURE: {False: []}}

    def _images(
        self, image_class: SyntheticImageClass, image: NDArray[np.float32], label: BurntInLabel, names: list[str]
    ) -> Iterator[ResultObject]:
        found, shown = self.found, self.shown
        when = f"end diastole, phase {found.phase + 1} of {self.stack.phases}"
        series = synthetic_series(
            self.request.context,
            image_class,
            shown,
            image[list(found.slices)],
            label,
            when,
            found.models,
            self.request.sources,
        )
        for index, (dataset, pixels) in enumerate(series):
            plane = ExpectedSlice(
                grey=pixels.astype(np.float32),
                tolerance=0.0,
                geometry=shown.geometry,
                frame_of_reference_uid=shown.frame_of_reference_uid,
                index=index,
                source=shown.sources[found.phase][index],
                regridded=index in shown.regridded_slices,
            )
            used = [line[index] for line in shown.sources]
            expected = ExpectedAll((plane, ExpectedMarks(label)))
            yield self.request.object(IMAGES[image_class], dataset, used, expected, names)

    def _segmentation(
        self,
        image_class: SyntheticImageClass,
        omit_empty_frames: bool,
        images: tuple[ResultObject, ...],
        names: list[str],
    ) -> ResultObject:
        found, shown = self.found, self.shown
        role = SEGMENTATION[image_class]
        labels = np.where(found.enhanced[list(found.slices)], Enhanced.PREDICTED, 0).astype(np.uint8)
        seg = segmentation(
            self.request.context,
            role,
            shown,
            labels,
            [as_source(each) for each in images],
            variant=Variant(omit_empty_frames=omit_empty_frames),
            when="ED",
            structures=(STRUCTURE,),
            content_label="PREDICTED_LGE",
            content="Predicted enhancement",
        )
        mark_synthetic(seg.dataset, found.models)
        mask = ExpectedMask(
            labels=seg.labels,
            segments=seg.segments,
            geometry=shown.geometry,
            frame_of_reference_uid=shown.frame_of_reference_uid,
            references=seg.references,
        )
        sources = shown.sources[found.phase]
        return self.request.object(role, seg.dataset, sources, ExpectedAll((mask, ExpectedMarks())), names)

    def _map(self) -> ResultObject:
        found, shown = self.found, self.shown
        sources = shown.sources[found.phase]
        values = found.probability[list(found.slices)]
        dataset = parametric_map(self.request.context, PROBABILITY, shown, values, sources, _MAPPED)
        mark_synthetic(dataset, found.models)
        expected = ExpectedMap(values, shown.geometry, shown.frame_of_reference_uid)
        return self.request.object(PROBABILITY, dataset, sources, ExpectedAll((expected, ExpectedMarks())))
