"""What the summary says of where it comes from: input series, scanner, software."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.results.header import ResultContext, device_uid
from dicom_node.results.patient import PatientLine, patient_line
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.stated import stated
from pipelines.cine.stack import CineStack, CineStudy, LateEnhancementStack, View
from pipelines.models.identity import ModelIdentity

__all__ = ["InputSeries", "Provenance", "provenance"]


@dataclass(frozen=True, slots=True)
class InputSeries:
    """One source series."""

    number: str
    description: str
    images: int
    used_for: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the pages come from, and whose they are."""

    series: tuple[InputSeries, ...]
    scanner: str
    models: tuple[ModelIdentity, ...]
    device_uid: str
    created: str
    institution: str
    contact: str
    patient: PatientLine | None
    """``None`` where pages name no patient (``results.patient_on_pages``)."""


def provenance(
    context: ResultContext,
    study: CineStudy,
    sources: SourceDatasets,
    *,
    used: Sequence[CineStack | LateEnhancementStack],
) -> Provenance:
    """Collect input series, scanner and software of a study.

    Parameters
    ----------
    used
        The stacks that the numbers come from.
    """
    facts = [study.context.manufacturer, study.context.model_name]
    if study.context.field_strength_t is not None:
        facts.append(f"{study.context.field_strength_t:g} T")
    scanner = " ".join(fact for fact in facts if fact) or "scanner not named"
    for stack in used:
        if isinstance(stack, CineStack) and stack.view is View.SAX:
            pitch = stack.geometry.pitch
            scanner += f"  ·  short axis: {stack.slices} slices × {stack.phases} phases, {pitch:.1f} mm apart"
    return Provenance(
        series=_series(study, sources, used),
        scanner=scanner,
        models=context.models,
        device_uid=device_uid(context.models),
        created=context.created_text,
        institution=context.settings.institution,
        contact=context.settings.contact,
        patient=patient_line(context.reference) if context.settings.patient_on_pages else None,
    )


def _series(
    study: CineStudy, sources: SourceDatasets, used: Sequence[CineStack | LateEnhancementStack]
) -> tuple[InputSeries, ...]:
    found = []
    for stack in study.stacks:
        use = f"{stack.view.value} view, " + ("used" if any(stack is one for one in used) else "not used")
        frames: dict[str, set[tuple[str, int | None]]] = {}
        first: dict[str, str] = {}
        for line in stack.sources:
            for source in line:
                key = source.series_instance_uid
                frames.setdefault(key, set()).add((source.sop_instance_uid, source.frame_number))
                first.setdefault(key, source.sop_instance_uid)
        for uid, images in frames.items():
            header = sources.header(first[uid])
            number = str(stated(header, "SeriesNumber") or "–")
            found.append(InputSeries(number, str(stated(header, "SeriesDescription") or ""), len(images), use))
    for enhanced in study.late_enhancement:
        taken = "used" if any(enhanced is one for one in used) else "not used"
        use = f"late enhancement, {enhanced.view.value} view, {enhanced.reconstruction.value}, {taken}"
        for uid in enhanced.series_instance_uids:
            own = [source for source in enhanced.sources if source.series_instance_uid == uid]
            header = sources.header(own[0].sop_instance_uid)
            number = str(stated(header, "SeriesNumber") or "–")
            found.append(InputSeries(number, str(stated(header, "SeriesDescription") or ""), len(own), use))
    return tuple(found)
