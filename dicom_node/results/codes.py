"""Codes of the result objects: standard ones where PS3.16 has them, private ones where it has none.

Sources: PS3.16 context groups (their numbers stand beside the codes); ``docs/private_codes.md`` publishes the private
scheme.
A private code value is never reused with another meaning.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicom_node.results.uids import derive_uid
from pipelines.errors import RefusalReason
from pipelines.function.findings import BsaFormula, Chamber, Quantity
from pipelines.quality.findings import Grade, QualityCheck
from pipelines.segmentation.labels import Label

__all__ = [
    "AHA_SEGMENTS",
    "BSA_EQUATION",
    "CHAMBER",
    "GRADE",
    "PRIVATE_CODES",
    "PRIVATE_DESIGNATOR",
    "PRIVATE_SCHEME_UID",
    "QUALITY_CHECK",
    "QUANTITY",
    "REFUSAL_CODE",
    "SEGMENTS",
    "SegmentCodes",
    "code_item",
    "private_scheme_item",
    "ucum",
]

PRIVATE_DESIGNATOR = "99DICOMNODE"
PRIVATE_SCHEME_UID = derive_uid("coding scheme", PRIVATE_DESIGNATOR)
PRIVATE_SCHEME_VERSION = "1"
PRIVATE_SCHEME_NAME = "dicom-node private codes"
PRIVATE_SCHEME_ORGANIZATION = "dicom-node"

PRIVATE_CODES: tuple[Code, ...] = tuple(
    Code(value, PRIVATE_DESIGNATOR, meaning)
    for value, meaning in (
        # Numbers that PS3.16 and LOINC have no MR code for (LOINC 79997-3 and its like are biplane echocardiography).
        ("LVEDVI", "Left ventricular end-diastolic volume / BSA"),
        ("LVESVI", "Left ventricular end-systolic volume / BSA"),
        ("LVSVI", "Left ventricular stroke volume / BSA"),
        ("LVMI", "Left ventricular mass / BSA"),
        ("RVEDVI", "Right ventricular end-diastolic volume / BSA"),
        ("RVESVI", "Right ventricular end-systolic volume / BSA"),
        ("RVSVI", "Right ventricular stroke volume / BSA"),
        # Motion.
        ("TORSION", "Left ventricular torsion"),
        ("PSI", "Post-systolic shortening index"),
        ("REG_DISAGREE", "Disagreement of direct and composed registration"),
        ("STRAIN_REG", "Strain by registration of images"),
        ("KEYFRAMES", "Keyframes of the cardiac cycle"),
        ("KEY_PHASE", "Cardiac phase of a keyframe"),
        ("KEY_MS", "Mid-systole: fastest contraction"),
        ("KEY_PF", "Peak early filling: fastest relaxation"),
        ("KEY_MD", "Mid-diastole: before atrial contraction"),
        # Long axis and left atrium.
        ("MAPSE", "Mitral annular plane systolic excursion"),
        ("TAPSE", "Tricuspid annular plane systolic excursion"),
        ("LAVMAX", "Left atrial maximum volume"),
        ("LAVMIN", "Left atrial minimum volume"),
        ("LASR", "Left atrial reservoir strain"),
        ("LASCD", "Left atrial conduit strain"),
        ("LASCT", "Left atrial booster strain"),
        # Remodelling after an acute infarct.
        ("LVAR_RISK", "Risk of adverse left ventricular remodelling"),
        ("LVAR_PROB", "Probability of adverse left ventricular remodelling"),
        ("LVAR_REASON", "What moved the estimated probability"),
        ("LVAR_FOR", "Patients that the estimate is for"),
        ("INFARCT_EST", "Infarct size estimated without contrast agent"),
        # Acquired late enhancement.
        ("LGE", "Late enhancement, acquired"),
        ("LGE_EXTENT", "Late enhancement, part of the left ventricular muscle"),
        ("LGE_MASS", "Mass of muscle with late enhancement"),
        ("LGE_PROB", "Probability of an infarct on late enhancement"),
        ("LGE_TRANSMUR", "Transmurality of late enhancement"),
        ("LGE_SHIFT", "Shift between late enhancement and cine"),
        ("MVO", "Microvascular obstruction"),
        ("MVO_EXTENT", "Obstruction, part of the left ventricular muscle"),
        ("MVO_PROB", "Probability of microvascular obstruction"),
        # Microvascular obstruction, from cine.
        ("MVO_SLICES", "Probability of obstruction by slice"),
        ("MVO_REASON", "What moved the probability of obstruction"),
        # Synthetic late enhancement: no code of acquired enhancement, so that nobody can take the one for the other.
        ("SYN_LGE", "Late enhancement predicted from cine, not acquired"),
        ("SYN_IMAGE", "Image synthesised from cine, not acquired"),
        ("SYN_HYPER", "Predicted hyperintense extent, not acquired"),
        ("SYN_INTER", "Predicted intermediate extent, not acquired"),
        ("SYN_TRANSMUR", "Predicted transmurality, not acquired"),
        ("SYN_PROB", "Probability of enhancement, predicted from cine"),
        ("SYN_SD", "Standard deviation of the synthetic image"),
        # Disease pattern: a resemblance, no diagnosis, so no code of a disease is used.
        ("PATTERN", "Resemblance to groups of patients, not a diagnosis"),
        ("PAT_NORMAL", "Probability of the pattern: normal"),
        ("PAT_DILATED", "Probability of the pattern: dilated left ventricle"),
        ("PAT_HYPER", "Probability of the pattern: hypertrophic left ventricle"),
        ("PAT_INFARCT", "Probability of the pattern: old infarct with reduced function"),
        ("PAT_RV", "Probability of the pattern: abnormal right ventricle"),
        ("PAT_REASON", "What speaks for the likeliest pattern"),
        # What a report says beside numbers.
        ("OMISSION", "Images received but not analysed"),
        ("DECLINED", "Analysis declined"),
        ("NOTE", "Note on how the numbers came about"),
        ("METHOD", "How the number was obtained"),
        ("LIMITS", "Limits of use"),
        ("FRONT_PAGE", "Front page of automatic analysis"),
        ("PATIENT", "Patient characteristics used in the calculations"),
        ("DATAQUALITY", "Quality of acquisition and measurement"),
        # Why an analysis was declined.
        ("REF_NOSAX", "No short-axis stack"),
        ("REF_SPLIT", "Short-axis stack continued in other images"),
        ("REF_SLICES", "Too few slices"),
        ("REF_PHASES", "Too few cardiac phases"),
        ("REF_NOLV", "No left ventricle found"),
        ("REF_QUALITY", "Quality too low"),
        ("REF_STUDY", "Study not suitable for the analysis"),
        ("REF_MODEL", "Model unavailable"),
        ("REF_FAILED", "Analysis failed"),
        ("REF_IDENTITY", "Images disagree in whose study it is"),
        ("REF_WITHHELD", "Results withheld by the check before delivery"),
        # Checks of quality control; the answer is one of the four grades at the end.
        ("QC_PHASES", "Cardiac phases"),
        ("QC_SLICES", "Slices with left ventricle"),
        ("QC_GAP", "Slice spacing"),
        ("QC_PLANE", "Plane of the short axis"),
        ("QC_GATING", "Cardiac gating"),
        ("QC_RR", "RR interval variation"),
        ("QC_BASE", "Coverage of the base"),
        ("QC_APEX", "Coverage of the apex"),
        ("QC_SHIFT", "Shift between slices"),
        ("QC_CONTIGUITY", "Contiguity of the left ventricle"),
        ("QC_SMOOTH", "Smoothness of the volume curve"),
        ("QC_SHAPE", "Shape of the volume curve"),
        ("QC_CONTRACTION", "Contraction"),
        ("QC_SV", "Agreement of LV and RV stroke volume"),
        ("QC_MASSCONST", "Constancy of myocardial mass"),
        ("QC_AGREEMENT", "Agreement of the segmentations"),
        ("QC_CROP", "Heart inside the analysed region"),
        ("QC_RING", "Closed myocardium"),
        ("QC_RV", "Right ventricle"),
        ("QC_VOLUMES", "Plausibility of volumes"),
        ("QC_MASS", "Plausibility of mass"),
        ("QC_CONTRAST", "Contrast of blood and wall"),
        ("QC_GHOSTS", "Ghosts along the phase encoding"),
        ("QC_NOISE", "Noise of the images"),
        ("QC_TRIGGER", "Slices in step with each other"),
        ("QC_RVBODIES", "Right ventricle in one body"),
        ("QC_RVSLICES", "Right ventricle over the slices"),
        ("QC_RVTIME", "Right ventricle over time"),
        ("QC_RVSIZE", "Size of the right ventricle"),
        ("QC_BASAL", "Weight of the basal slice"),
        ("QC_BASEREACHED", "Mitral valve within the stack"),
        ("QC_LAXTIMING", "Long axis in step with the short axis"),
        ("QC_LAXSHIFT", "Shift between short and long axis"),
        ("QC_LAXVOLUME", "Agreement of short and long axis"),
        # How far the numbers can be trusted. CID 3114 grades images, which is another question: good images are
        # measured wrongly too.
        ("CONFIDENCE", "Confidence in the measurements"),
        ("CONF_WITHIN", "Within limits"),
        ("CONF_GOOD", "Small departure from limits"),
        ("CONF_POOR", "Read the measurements with caution"),
        ("CONF_NONE", "No measurement can be reported"),
        # What structured reports of other systems may say of results of this node; it writes none of them.
        ("ASM_ACCEPTED", "Result accepted"),
        ("ASM_CORRECTED", "Result accepted after correction"),
        ("ASM_REJECTED", "Result rejected"),
    )
)

_PRIVATE = {code.value: code for code in PRIVATE_CODES}


def private(value: str) -> Code:
    """Private code by its value."""
    return _PRIVATE[value]


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _ln(value: str, meaning: str) -> Code:
    return Code(value, "LN", meaning)


LEFT_ATRIUM = _sct("82471001", "Left atrium")
RIGHT_ATRIUM = _sct("73829009", "Right atrium")

_STROKE_VOLUME = _sct("90096001", "Stroke Volume")
_CARDIAC_OUTPUT = _sct("82799009", "Cardiac Output")
_CARDIAC_INDEX = _sct("54993008", "Cardiac Index")
_PEAK_EJECTION_RATE = _dcm("122616", "Peak Ejection Rate")
_PEAK_FILLING_RATE = _dcm("122618", "Peak Filling Rate")

QUANTITY: dict[Quantity, Code] = {
    Quantity.LVEDV: _ln("8821-1", "Left Ventricular ED Volume"),
    Quantity.LVESV: _ln("8823-7", "Left Ventricular ES Volume"),
    Quantity.LVSV: _STROKE_VOLUME,
    # 8808-8 would be by angiography.
    Quantity.LVEF: _ln("8811-2", "Left ventricular ejection fraction by MR"),
    Quantity.LVCO: _CARDIAC_OUTPUT,
    Quantity.LVEDVI: private("LVEDVI"),
    Quantity.LVESVI: private("LVESVI"),
    Quantity.LVSVI: private("LVSVI"),
    Quantity.LVCI: _CARDIAC_INDEX,
    Quantity.LVPER: _PEAK_EJECTION_RATE,
    Quantity.LVPFR: _PEAK_FILLING_RATE,
    Quantity.LVM: _ln("18087-7", "Left Ventricle Mass"),
    Quantity.LVMI: private("LVMI"),
    Quantity.RVEDV: _ln("8822-9", "Right Ventricular ED Volume"),
    Quantity.RVESV: _ln("8824-5", "Right Ventricular ES Volume"),
    Quantity.RVSV: _sct("429483009", "RV Stroke Volume"),
    Quantity.RVEF: _ln("8818-7", "Right ventricular ejection fraction by MR"),
    Quantity.RVCO: _sct("428628004", "RV Cardiac Output"),
    Quantity.RVEDVI: private("RVEDVI"),
    Quantity.RVESVI: private("RVESVI"),
    Quantity.RVSVI: private("RVSVI"),
    Quantity.RVCI: _sct("427990004", "RV Cardiac Index"),
    Quantity.RVPER: _PEAK_EJECTION_RATE,
    Quantity.RVPFR: _PEAK_FILLING_RATE,
    Quantity.HEART_RATE: _ln("8867-4", "Heart rate"),
    Quantity.BSA: _ln("8277-6", "BSA"),
}
"""Name of each number (CID 3468, 3469, 3833, 12203, 12204 …)."""

BSA_EQUATION: dict[BsaFormula, Code] = {
    BsaFormula.MOSTELLER: _dcm("122244", "BSA = (HT*WT/36)^0.5"),
    BsaFormula.DU_BOIS: _dcm("122241", "BSA = 0.007184*WT^0.425*HT^0.725"),
}
"""CID 3663."""

GRADE: dict[Grade, Code] = {
    Grade.EXCELLENT: private("CONF_WITHIN"),
    Grade.GOOD: private("CONF_GOOD"),
    Grade.POOR: private("CONF_POOR"),
    Grade.UNUSABLE: private("CONF_NONE"),
}
"""Answers to the checks and to ``CONFIDENCE``."""

QUALITY_CHECK: dict[QualityCheck, Code] = {
    QualityCheck.PHASES: private("QC_PHASES"),
    QualityCheck.SLICES: private("QC_SLICES"),
    QualityCheck.SLICE_GAP: private("QC_GAP"),
    QualityCheck.PLANE: private("QC_PLANE"),
    QualityCheck.GATING: private("QC_GATING"),
    QualityCheck.RR_VARIATION: private("QC_RR"),
    QualityCheck.BASE_COVERAGE: private("QC_BASE"),
    QualityCheck.APEX_COVERAGE: private("QC_APEX"),
    QualityCheck.SLICE_SHIFT: private("QC_SHIFT"),
    QualityCheck.CONTIGUITY: private("QC_CONTIGUITY"),
    QualityCheck.CURVE_SMOOTHNESS: private("QC_SMOOTH"),
    QualityCheck.CURVE_SHAPE: private("QC_SHAPE"),
    QualityCheck.CONTRACTION: private("QC_CONTRACTION"),
    QualityCheck.STROKE_VOLUMES: private("QC_SV"),
    QualityCheck.MASS_CONSTANCY: private("QC_MASSCONST"),
    QualityCheck.AGREEMENT: private("QC_AGREEMENT"),
    QualityCheck.CROP: private("QC_CROP"),
    QualityCheck.MYOCARDIAL_RING: private("QC_RING"),
    QualityCheck.RIGHT_VENTRICLE: private("QC_RV"),
    QualityCheck.PLAUSIBLE_VOLUMES: private("QC_VOLUMES"),
    QualityCheck.PLAUSIBLE_MASS: private("QC_MASS"),
    QualityCheck.CONTRAST: private("QC_CONTRAST"),
    QualityCheck.GHOSTING: private("QC_GHOSTS"),
    QualityCheck.NOISE: private("QC_NOISE"),
    QualityCheck.TRIGGERING: private("QC_TRIGGER"),
    QualityCheck.RV_FRAGMENTS: private("QC_RVBODIES"),
    QualityCheck.RV_OVER_SLICES: private("QC_RVSLICES"),
    QualityCheck.RV_OVER_TIME: private("QC_RVTIME"),
    QualityCheck.RV_SIZE: private("QC_RVSIZE"),
    QualityCheck.BASAL_STABILITY: private("QC_BASAL"),
    QualityCheck.BASE_REACHED: private("QC_BASEREACHED"),
    QualityCheck.LONG_AXIS_TIMING: private("QC_LAXTIMING"),
    QualityCheck.LONG_AXIS_SHIFT: private("QC_LAXSHIFT"),
    QualityCheck.LONG_AXIS_VOLUME: private("QC_LAXVOLUME"),
}

REFUSAL_CODE: dict[RefusalReason, Code] = {
    RefusalReason.NO_SHORT_AXIS_STACK: private("REF_NOSAX"),
    RefusalReason.SPLIT_STACK: private("REF_SPLIT"),
    RefusalReason.TOO_FEW_SLICES: private("REF_SLICES"),
    RefusalReason.TOO_FEW_PHASES: private("REF_PHASES"),
    RefusalReason.NO_VENTRICLE_FOUND: private("REF_NOLV"),
    RefusalReason.QUALITY_TOO_LOW: private("REF_QUALITY"),
    RefusalReason.NOT_SUITABLE: private("REF_STUDY"),
    RefusalReason.MODEL_UNAVAILABLE: private("REF_MODEL"),
    RefusalReason.ANALYSIS_FAILED: private("REF_FAILED"),
    RefusalReason.IDENTITY_CONFLICT: private("REF_IDENTITY"),
    RefusalReason.RESULTS_WITHHELD: private("REF_WITHHELD"),
}

_LEFT_VENTRICLE = _sct("87878005", "Left ventricle")
_RIGHT_VENTRICLE = _sct("53085002", "Right ventricle")

CHAMBER: dict[Chamber, Code] = {Chamber.LV: _LEFT_VENTRICLE, Chamber.RV: _RIGHT_VENTRICLE}

ANATOMICAL_STRUCTURE = _sct("91723000", "Anatomical Structure")
HEART = _sct("80891009", "Heart")
ABNORMAL_STRUCTURE = _sct("49755003", "Morphologically Abnormal Structure")
LV_MYOCARDIUM = _sct("49848007", "Left Ventricle Myocardium")


@dataclass(frozen=True, slots=True)
class SegmentCodes:
    """How one label is described in a SEG.

    ``cielab`` is RecommendedDisplayCIELabValue (PS3.3 C.10.7.1.1).
    """

    label: enum.IntEnum
    name: str
    description: str
    property_type: Code
    cielab: tuple[int, int, int]
    rgb: tuple[int, int, int]
    """The same colour, sRGB, for the summary page."""
    category: Code = ANATOMICAL_STRUCTURE
    """SegmentedPropertyCategoryCodeSequence."""
    region: Code = HEART
    """AnatomicRegionSequence."""


SEGMENTS: tuple[SegmentCodes, ...] = (
    SegmentCodes(
        Label.LV,
        "LV blood pool",
        "Cavity of the left ventricle; papillary muscles and trabeculae included",
        _LEFT_VENTRICLE,
        (32826, 50702, 45388),
        (230, 40, 40),
    ),
    SegmentCodes(
        Label.MYO,
        "LV myocardium",
        "Myocardium of the left ventricle; papillary muscles excluded",
        LV_MYOCARDIUM,
        (42631, 18841, 44020),
        (60, 180, 75),
    ),
    SegmentCodes(
        Label.RV,
        "RV blood pool",
        "Cavity of the right ventricle; trabeculae included",
        _RIGHT_VENTRICLE,
        (31057, 37137, 16647),
        (0, 110, 220),
    ),
)
"""Segments in the order of their numbers; a label that a phase lacks is left out and the rest move up."""

AHA_SEGMENTS: tuple[Code, ...] = tuple(
    _sct(value, meaning)
    for value, meaning in (
        ("264850008", "left ventricle basal anterior segment"),
        ("396482007", "left ventricle basal anteroseptal segment"),
        ("396646008", "left ventricle basal inferoseptal segment"),
        ("264846001", "left ventricle basal inferior segment"),
        ("396652009", "left ventricle basal inferolateral segment"),
        ("396654005", "left ventricle basal anterolateral segment"),
        ("264848000", "left ventricle mid anterior segment"),
        ("396647004", "left ventricle mid anteroseptal segment"),
        ("396649001", "left ventricle mid inferoseptal segment"),
        ("264847005", "left ventricle mid inferior segment"),
        ("396655006", "left ventricle mid inferolateral segment"),
        ("396656007", "left ventricle mid anterolateral segment"),
        ("264844003", "left ventricle apical anterior segment"),
        ("264845002", "left ventricle apical septal segment"),
        ("264849008", "left ventricle apical inferior segment"),
        ("264853005", "left ventricle apical lateral segment"),
        ("128564006", "Apex of left ventricle"),
    )
)
"""CID 3717 Myocardial Wall Segments, AHA segments 1 to 17 (CID 3718 is "in projection": another thing)."""

END_DIASTOLE = _sct("416190007", "End diastole")
END_SYSTOLE = _sct("416430001", "End Systole")
TIME_RELATIVE_TO_R_WAVE = _dcm("122666", "Time relative to R-wave peak")
VOLUME = _sct("118565006", "Volume")
WALL_THICKNESS = _dcm("122445", "Wall Thickness")
THICKENING = _ln("59092-7", "% Thickening")
PAPILLARIES = _dcm("122670", "Papillary Muscle Included/Excluded")
PAPILLARIES_INCLUDED = _dcm("122621", "Papillary Muscle Included")
PAPILLARIES_EXCLUDED = _dcm("122620", "Papillary Muscle Excluded")
CONFIDENCE = private("CONFIDENCE")
CARDIAC_CYCLE_POINT = _sct("272518008", "Cardiovascular cycle point")
RANGE_LOWER = _sct("385524004", "Normal Range Lower Limit")
RANGE_UPPER = _sct("371933006", "Normal Range Upper Limit")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
MANIFEST = _dcm("113030", "Manifest")
COMMENT = _dcm("121106", "Comment")
MR_OF_HEART = _sct("241620005", "Cardiac MRI")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
ACQUISITION_EQUIPMENT = _dcm("109101", "Acquisition Equipment")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
SYNTHESIZING_EQUIPMENT = _dcm("109100", "Synthesizing Equipment")
SOURCE_IMAGE = _dcm("121322", "Source image for image processing operation")
SOURCE_SERIES = _dcm("121323", "Source series for image processing operation")
ONE_PHASE_EXTRACTED = _dcm("113092", "Temporally-related frames extracted from the set of volumes")
SEGMENTATION_DERIVATION = _dcm("113076", "Segmentation")

_UCUM_MEANING = {
    "%": "percent",
    "1": "no units",
    "/min": "per minute",
    "ml": "milliliter",
    "ml/m2": "milliliter per square meter",
    "ml/s": "milliliter per second",
    "l/min": "liter per minute",
    "l/min/m2": "liter per minute per square meter",
    "g": "gram",
    "g/m2": "gram per square meter",
    "m2": "square meter",
    "mm": "millimeter",
    "ms": "millisecond",
    "/s": "per second",
    "deg": "degree",
    "deg/cm": "degree per centimeter",
}


def ucum(unit: str) -> Code:
    """UCUM unit as a code (PS3.16 7.2.2)."""
    return Code(unit, "UCUM", _UCUM_MEANING.get(unit, unit))


def code_item(code: Code) -> Dataset:
    """Item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def private_scheme_item() -> Dataset:
    """Item of Coding Scheme Identification Sequence for the private scheme (PS3.3 C.12.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_DESIGNATOR
    item.CodingSchemeUID = UID(PRIVATE_SCHEME_UID)
    item.CodingSchemeName = PRIVATE_SCHEME_NAME
    item.CodingSchemeVersion = PRIVATE_SCHEME_VERSION
    item.CodingSchemeResponsibleOrganization = PRIVATE_SCHEME_ORGANIZATION
    return item
