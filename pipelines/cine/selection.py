"""Which frames are cine: exclusion by what the header says of the acquisition, then evidence for cine.

Sources: dicom.md of the design (vendor headers), PS3.3 C.8.3.1 (MR image), C.8.13.1 to C.8.13.5 (Enhanced MR).
"""

from __future__ import annotations

import enum
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from pipelines.cine.headers import MR_IMAGES, Acquisition, FrameHeader, Origin
from pipelines.cine.stack import OmissionReason

__all__ = [
    "MIN_PHASES",
    "MIN_SCORE",
    "CineKind",
    "Exclusion",
    "cine_kind",
    "cine_score",
    "described_otherwise",
    "excluded_frame",
    "excluded_object",
    "flow_magnitudes",
    "sequence_kind",
    "under_stress",
]

MIN_PHASES = 10
"""Fewer phases at a position are not a cine (quality review of the UK Biobank pipelines: fewer than 10 frames)."""

MIN_SCORE = 3


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why something is left out."""

    reason: OmissionReason
    detail: str


def excluded_object(origin: Origin) -> Exclusion | None:
    """Reason to leave out a whole object from its identity alone, or ``None``."""
    if origin.own_output:
        return Exclusion(
            OmissionReason.OWN_OUTPUT, "It is a result of this node or a synthetic image, not an acquisition."
        )
    if origin.sop_class_uid in MR_IMAGES:
        return None
    if not origin.sop_class_uid:
        return Exclusion(OmissionReason.UNREADABLE, "The object does not say what it is: SOPClassUID is absent.")
    name = UID(origin.sop_class_uid).name
    if not name.endswith("Image Storage"):
        return Exclusion(OmissionReason.NOT_AN_IMAGE, f"It is not an image but an object of {name}.")
    if origin.modality == "MR":
        return Exclusion(OmissionReason.DERIVED, f"It is not an acquired MR image but an object of {name}.")
    return Exclusion(OmissionReason.NOT_MR, f"Modality {origin.modality or 'unknown'} is not MR.")


_PHASE_IMAGES = frozenset(
    {"P", "PHASE", "PHASEMAP", "PHASEIMAGE", "PHASECONTRAST", "PHASEDIFFERENCE", "VELOCITY", "VELOCITYMAP"}
)
"""Values of ImageType, letters and digits alone: they are written with blanks, underscores, hyphens and without."""
_OTHER_THAN_WATER = frozenset({"FAT", "FATFRACTION", "OUTPHASE", "OUTOFPHASE", "OPPPHASE", "OPPOSEDPHASE"})
_FLOW_SEQUENCE = re.compile(r"_v\d+", re.IGNORECASE)
_TAGGED = re.compile(r"spamm|(\b|_)tag(s|ged|ging)?(\b|_|\d)", re.IGNORECASE)
_CINE = re.compile(r"cine|b?tfe|fiesta|trufi|true.?fisp|ssfp|sax|short.?axis|[234].?ch", re.IGNORECASE)
_BALANCED = re.compile(r"tfi|trufi|fiesta|b.?tfe|b.?ffe|balanced|true.?fisp|ssfp", re.IGNORECASE)
_SPOILED = re.compile(r"(^|[^a-z])fl[23]d|flash|spgr|f?grec?(\b|_)|t1.?(tfe|ffe)", re.IGNORECASE)
_DESCRIBED = (
    (OmissionReason.LOCALIZER, re.compile(r"(\b|_)(locali[sz]er|scout|survey|loc)(\b|_)", re.IGNORECASE)),
    (OmissionReason.FLOW, re.compile(r"flow|venc|velocity|phase.?contrast|(\b|_)pc(\b|_)", re.IGNORECASE)),
    (OmissionReason.MAPPING, re.compile(r"molli|sasha|t[12].?map|t2.?star|t2\*|t[12].?prep", re.IGNORECASE)),
    (
        OmissionReason.LATE_ENHANCEMENT,
        re.compile(r"psir|(\b|_)lge(\b|_)|late.?gad|delayed.?enh|ti.?scout", re.IGNORECASE),
    ),
    (OmissionReason.PERFUSION, re.compile(r"perf|first.?pass", re.IGNORECASE)),
    (OmissionReason.REAL_TIME, re.compile(r"real.?time|(\b|_)rt(\b|_)", re.IGNORECASE)),
    (OmissionReason.TAGGED, re.compile(r"(\b|_)(c?spamm|grid|dense|z?harp|(fast.?)?senc)", re.IGNORECASE)),
    (OmissionReason.LATE_ENHANCEMENT, re.compile(r"look.?locker|(\b|_)(ll|ir)(\b|_)|inversion", re.IGNORECASE)),
    (OmissionReason.OTHER_SEQUENCE, re.compile(r"(dark|black).?blood|(\b|_)(dir|stir|tirm)(\b|_)", re.IGNORECASE)),
)


_COMPUTED = frozenset(
    {"SECONDARY", "MPR", "PROJECTION IMAGE", "CSA MPR", "RESAMPLED", "SUB", "SUBTRACTION", "MIP", "MAX_IP", "MIN_IP"}
)
_STRESS = re.compile(r"(\b|_)(stress|exercise|dobut\w*?|adeno(sine)?|regadenoson)(\b|_|\d)", re.IGNORECASE)


class CineKind(enum.IntEnum):
    """How a cine was acquired; the greater the better the blood stands out from the muscle."""

    FLOW_MAGNITUDE = 0
    """Phase images were acquired with it: taken only where there is no cine."""
    DOUBTFUL = 1
    """Its description says that it is something else, or it is a volume."""
    SPOILED = 2
    UNTOLD = 3
    BALANCED = 4
    """Balanced steady-state free precession."""


def excluded_frame(frame: FrameHeader) -> Exclusion | None:
    """Reason to leave out one MR frame from its header, or ``None``.

    Parameters
    ----------
    frame : FrameHeader
        A frame of an MR image object.

    Returns
    -------
    Exclusion or None
        The most specific reason first; a localizer, flow, tagging, mapping, perfusion or late-enhancement image, a
        secondary derivation, or a frame without geometry.
    """
    kind = frame.acquisition
    for reason, detail in _acquisition_verdicts(kind):
        return Exclusion(reason, detail)
    if frame.position is None or frame.orientation is None or frame.pixel_spacing is None:
        return Exclusion(OmissionReason.NO_GEOMETRY, frame.geometry_problem or "It has no geometry.")
    if frame.rows < 16 or frame.columns < 16:
        return Exclusion(OmissionReason.NO_GEOMETRY, "Rows and Columns do not describe an image.")
    return None


def _acquisition_verdicts(kind: Acquisition) -> list[tuple[OmissionReason, str]]:
    names = f"{kind.series_description} {kind.protocol_name}"
    image_type = set(kind.image_type)
    verdicts: list[tuple[OmissionReason, str]] = []

    def exclude(when: bool, reason: OmissionReason, detail: str) -> None:
        if when:
            verdicts.append((reason, detail))

    exclude("LOCALIZER" in image_type, OmissionReason.LOCALIZER, "ImageType says that it is a localizer.")
    exclude(
        any(part.endswith("MAP") and not _names_phase(part) for part in image_type) or "MAP" in kind.contrast.split(),
        OmissionReason.MAPPING,
        "ImageType says that it is a parametric map.",
    )
    exclude(
        "PERFUSION" in image_type or "PERFUSION" in kind.contrast or kind.saturation_recovery == "YES",
        OmissionReason.PERFUSION,
        "It is a perfusion acquisition.",
    )
    exclude(
        "IR" in {*kind.scanning_sequence, *kind.scan_options}
        or kind.inversion_recovery == "YES"
        or (kind.inversion_time_ms or 0) > 0,
        OmissionReason.LATE_ENHANCEMENT,
        "It is prepared by inversion, as late enhancement is.",
    )
    exclude(
        any(_names_phase(part) for part in image_type)
        or bool(image_type & {"FLOW_ENCODED", "PCA", "PC", "MAG_PC"})
        or kind.complex_component == "PHASE"
        or kind.phase_contrast == "YES"
        or kind.contrast == "FLOW_ENCODED"
        or bool(_FLOW_SEQUENCE.search(kind.sequence_name)),
        OmissionReason.FLOW,
        "It is a phase-contrast (flow) acquisition.",
    )
    exclude(
        bool(image_type & {"R", "I", "REAL", "IMAGINARY"}) or kind.complex_component in {"REAL", "IMAGINARY"},
        OmissionReason.NOT_CINE,
        "It is the real or imaginary part of a complex image.",
    )
    exclude(
        any(_letters(part) in _OTHER_THAN_WATER for part in image_type) or bool({"F", "OP"} & set(kind.image_type[2:])),
        OmissionReason.NOT_CINE,
        "ImageType says that it shows fat, or water and fat out of phase.",
    )
    exclude(
        kind.tagging in {"GRID", "LINE"} or kind.contrast == "TAGGING" or bool(_TAGGED.search(names)),
        OmissionReason.TAGGED,
        "The myocardium is tagged.",
    )
    exclude(
        "DERIVED" in image_type and bool(image_type & _COMPUTED),
        OmissionReason.DERIVED,
        "ImageType says that it was computed from other images.",
    )
    exclude(
        "EP" in kind.scanning_sequence or kind.echo_planar == "YES",
        OmissionReason.NOT_CINE,
        "It is an echo-planar acquisition.",
    )
    exclude(
        ("SE" in kind.scanning_sequence and "GR" not in kind.scanning_sequence) or kind.echo_pulse_sequence == "SPIN",
        OmissionReason.NOT_CINE,
        "It is a spin echo acquisition.",
    )
    return verdicts


def described_otherwise(kind: Acquisition) -> OmissionReason | None:
    """What the description says it is, when that is not cine: weight against, and the reason when cine is not shown."""
    names = f"{kind.series_description} {kind.protocol_name}"
    return next((reason for reason, pattern in _DESCRIBED if pattern.search(names)), None)


_FLIP_ANGLES_DEG = (25.0, 35.0)
"""Spoiled cine is acquired with less, balanced cine with more (Kramer et al., J Cardiovasc Magn Reson 2020;22:17)."""


def cine_kind(frame: FrameHeader) -> CineKind:
    """Tell the kind of a cine from one of its frames: `sequence_kind`, or the magnitude of a flow acquisition."""
    return CineKind.FLOW_MAGNITUDE if frame.flow_magnitude else sequence_kind(frame.acquisition)


def sequence_kind(kind: Acquisition) -> CineKind:
    """Tell the kind of a cine from its sequence: by name, by spoiling and steady state, else by its flip angle."""
    if described_otherwise(kind) is not None or kind.acquisition_type == "3D":
        return CineKind.DOUBTFUL
    if _BALANCED.search(kind.sequence_name):
        return CineKind.BALANCED
    spoiled = bool({"SP", "OSP"} & set(kind.sequence_variant)) or kind.spoiling in {"RF", "GRADIENT", "RF_AND_GRADIENT"}
    if spoiled or _SPOILED.search(kind.sequence_name):
        return CineKind.SPOILED
    if kind.steady_state == "FREE_PRECESSION":
        return CineKind.BALANCED
    if kind.flip_angle_deg is None or _FLIP_ANGLES_DEG[0] <= kind.flip_angle_deg < _FLIP_ANGLES_DEG[1]:
        return CineKind.UNTOLD
    return CineKind.SPOILED if kind.flip_angle_deg < _FLIP_ANGLES_DEG[0] else CineKind.BALANCED


_TWIN_WITHIN_S = 1.0


def flow_magnitudes(cine: Iterable[FrameHeader], phase_images: Sequence[FrameHeader]) -> set[tuple[str, int]]:
    """Keys of the frames whose phase images were acquired with them: as a rule the magnitude of a flow acquisition.

    Of a cine, too, phase images may be kept. So this alone does not exclude; see `CineKind.FLOW_MAGNITUDE`.

    Parameters
    ----------
    cine : iterable of FrameHeader
        Frames that may be cine.
    phase_images : sequence of FrameHeader
        Frames that were left out as flow.

    Returns
    -------
    set of (str, int)
        `FrameHeader.key` of each frame that lies where a phase image lies and was acquired within a second of it; where
        the headers do not say when, by the same sequence. With a frame go the others of its acquisition.
    """
    twins: dict[tuple[object, ...], list[FrameHeader]] = defaultdict(list)
    for frame in phase_images:
        if _shows_phase(frame.acquisition):
            twins[_where(frame)].append(frame)
    if not twins:
        return set()
    together: dict[tuple[object, ...], list[FrameHeader]] = defaultdict(list)
    for frame in cine:
        where = _where(frame)
        if where in twins:
            kind = (frame.origin.series_instance_uid, frame.acquisition_number, frame.acquisition.image_type)
            together[(*where, *kind)].append(frame)
    return {
        frame.key
        for frames in together.values()
        if any(_acquired_together(one, twin) for one in frames for twin in twins[_where(one)])
        for frame in frames
    }


def under_stress(kind: Acquisition) -> bool:
    """Tell whether the description says that the heart was under stress."""
    return bool(_STRESS.search(kind.series_description))


def _letters(part: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", part.upper())


def _names_phase(part: str) -> bool:
    """Tell whether a value of ImageType says that the grey values are phase or velocity."""
    return _letters(part) in _PHASE_IMAGES


def _shows_phase(kind: Acquisition) -> bool:
    if kind.complex_component == "PHASE":
        return True
    stated = set(kind.image_type)
    return any(_names_phase(part) for part in stated) and not stated & {"M", "MAGNITUDE"}


def _where(frame: FrameHeader) -> tuple[object, ...]:
    def rounded(values: tuple[float, ...] | None, digits: int) -> tuple[float, ...]:
        return tuple(round(value, digits) + 0.0 for value in values or ())

    return (rounded(frame.position, 1), rounded(frame.orientation, 3), frame.rows, frame.columns)


def _acquired_together(frame: FrameHeader, twin: FrameHeader) -> bool:
    if frame.acquired_s is not None and twin.acquired_s is not None:
        return abs(frame.acquired_s - twin.acquired_s) <= _TWIN_WITHIN_S
    mine, theirs = frame.acquisition, twin.acquisition
    return (mine.sequence_name, mine.echo_time_ms, mine.flip_angle_deg, frame.nominal_interval_ms) == (
        theirs.sequence_name,
        theirs.echo_time_ms,
        theirs.flip_angle_deg,
        twin.nominal_interval_ms,
    )


def cine_score(kind: Acquisition, phases: int, gated: bool) -> int:
    """Evidence that the frames at one position are a cine.

    Parameters
    ----------
    kind : Acquisition
        How they were acquired.
    phases : int
        Distinct phases at the position.
    gated : bool
        Trigger times or RR interval say that the phases share one cardiac cycle.

    Returns
    -------
    int
        Sum of weights; ``MIN_SCORE`` makes a cine. Descriptions weigh less than the acquisition itself.
    """
    score = 0
    score += 2 if "GR" in kind.scanning_sequence or kind.echo_pulse_sequence == "GRADIENT" else 0
    score += 1 if {"SS", "SK", "SP"} & set(kind.sequence_variant) else 0
    score += 1 if kind.acquisition_type.startswith("2D") else 0
    score -= 2 if kind.acquisition_type == "3D" else 0
    score += 2 if kind.steady_state not in {"", "NONE"} else 0
    score += 2 if _BALANCED.search(kind.sequence_name) else 0
    score += 1 if _CINE.search(f"{kind.series_description} {kind.protocol_name}") else 0
    score += 2 if phases >= 12 else 0
    score += 2 if gated else 0
    score -= 4 if described_otherwise(kind) is not None else 0
    return score
