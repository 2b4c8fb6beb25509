"""How far badge and intervals can be trusted: badge × error, and how often the truth lies inside.

python benchmarks/badge.py --first 10000 --count 40 --limits   # what limits are chosen from
python benchmarks/badge.py --first 4000 --count 40             # what is reported
python benchmarks/badge.py --acdc DIR --fold 1 2 --style ge --errors   # beside `evaluate volumes --calibrate`: patients
python benchmarks/badge.py --acdc DIR --fold 0                 # patients the network has not seen, two phases each

Every second phantom has a fault. Segmentations are kept under ``runs/badge``, by recipe and weights: only the first run
is slow. Never choose limits on what is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pipelines import phantom
from pipelines.cine.stack import CineStack, FrameSource, PhaseEncoding, StackGeometry, StudyContext, View
from pipelines.errors import AnalysisRefused
from pipelines.evaluation.foreign_style import ForeignStyle, restyle
from pipelines.evaluation.volume_calibration import LEVEL, LEVEL_OF_PATIENTS, contour_error, displacement_mm
from pipelines.function.curves import find_keyframes
from pipelines.function.findings import Chamber, Measurement, VentricularFunction
from pipelines.function.measure import measure_function
from pipelines.function.slices import SliceMeasures, measure_slices
from pipelines.function.uncertainty import KeyPhase, volume_errors
from pipelines.models.registry import list_models
from pipelines.phantom import Dialect, Disease, Fault, PhantomRecipe, measure_truth, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.quality.assess import assess_quality
from pipelines.quality.findings import Grade, QualityAssessment, QualityCheck
from pipelines.segmentation.labels import CineSegmentation
from pipelines.segmentation.segment import FINE_MODEL, LOCALISER, segment

RUNS = Path(__file__).parent.parent / "runs" / "badge"
DISEASES = (Disease.NORMAL, Disease.DCM, Disease.HCM, Disease.INFARCT, Disease.RV_OVERLOAD)
PHASES = 20
NUMBERS = ("LVEDV", "LVESV", "LVSV", "LVEF", "LVM", "RVEDV", "RVESV", "RVSV", "RVEF")
RV_CHECKS = frozenset(
    {
        QualityCheck.RIGHT_VENTRICLE,
        QualityCheck.RV_FRAGMENTS,
        QualityCheck.RV_OVER_SLICES,
        QualityCheck.RV_OVER_TIME,
        QualityCheck.RV_SIZE,
        QualityCheck.STROKE_VOLUMES,
    }
)
DENSITY_G_ML = 1.05
"""Of the truth: volumes of the phantom are turned into mass here and not by the code under test."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One segmented heart, what is true of it, and what was made of it."""

    name: str
    fault: str
    stack: CineStack
    segmentation: CineSegmentation
    truth: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A case with its function and its badge; ``None`` where it was refused."""

    case: Case
    slices: SliceMeasures | None
    function: VentricularFunction | None
    quality: QualityAssessment | None

    @property
    def badge(self) -> str:
        """Overall grade."""
        return "REFUSED" if self.quality is None else self.quality.overall.name


def recipe_of(seed: int) -> PhantomRecipe:
    """Recipe of a case: diseases and vendors in turn, a fault in every second, matrix and slices drawn."""
    rng = np.random.default_rng([seed, 0x424144])
    spacing = float(rng.uniform(1.25, 1.9))
    faults = tuple(Fault)
    return PhantomRecipe(
        seed=seed,
        disease=DISEASES[seed % len(DISEASES)],
        dialect=tuple(Dialect)[seed // len(DISEASES) % len(Dialect)],
        slices=int(rng.integers(9, 13)),
        phases=PHASES,
        rows=round(float(rng.uniform(270, 320)) / spacing),
        columns=round(float(rng.uniform(310, 370)) / spacing),
        spacing_mm=spacing,
        long_axis=False,
        faults=frozenset([faults[seed // 2 % len(faults)]] if seed % 2 else []),
    )


def weights() -> str:
    """Versions and digests of both networks: segmentations of others are not mixed up with theirs."""
    cards = {card.name: card for card in list_models()}
    return "-".join(f"{cards[name].version}-{cards[name].weights_sha256[:8]}" for name in (LOCALISER, FINE_MODEL))


@cache
def phantom_code() -> str:
    """First digits of the digest of the phantom's code: other code draws other hearts from the same seed."""
    sources = sorted(Path(phantom.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]


def phantom_case(seed: int) -> Case:
    """Simulate and segment one phantom, or read it from the last time."""
    recipe = recipe_of(seed)
    path = RUNS / f"whole-phantom-{seed}-{phantom_code()}-{weights()}.npz"
    if not path.exists():
        study = simulate(recipe, workers=1)
        cine = study.short_axis
        stack = cine_stack(cine)
        found = segment(stack)
        facts = measure_truth(study).facts
        truth = {
            "LVEDV": facts.lv_edv_ml,
            "LVESV": facts.lv_esv_ml,
            "RVEDV": facts.rv_edv_ml,
            "RVESV": facts.rv_esv_ml,
            "LVM": facts.lv_mass_g,
        }
        _keep(path, stack, found, truth)
    stack, found, truth = _read(path)
    stack = replace(stack, phase_encoding=PhaseEncoding.COLUMN)  # As the phantom's headers say.
    return Case(str(seed), "+".join(sorted(recipe.faults)) or "none", stack, found, truth)


def patient_cases(data: Path, fold: int, style: ForeignStyle | None) -> Iterator[Case]:
    """Patients of ACDC that a fold holds out: end diastole and end systole."""
    from pipelines.evaluation.segmentation import cases_of_fold, volumes
    from pipelines.training.acdc import find_patients, read_patient, to_stack

    folders = {folder.name: folder for folder in find_patients(data)}
    for identifier in cases_of_fold(data, fold):
        patient = read_patient(folders[identifier])
        if style is not None:
            patient = restyle(patient, style)
        path = RUNS / f"whole-{identifier}-{style or 'acquired'}-{weights()}.npz"
        if not path.exists():
            stack = to_stack(patient)
            found = segment(stack)
            ed, es = (volumes(frame.labels, patient.geometry) for frame in patient.frames)
            truth = {"LVEDV": ed.LV, "LVESV": es.LV, "RVEDV": ed.RV, "RVESV": es.RV, "LVM": ed.MYO * DENSITY_G_ML}
            _keep(path, stack, found, truth)
        stack, found, truth = _read(path)
        yield Case(identifier, "none", stack, found, truth)


def _stack(
    pixels: NDArray[np.float32],
    geometry: StackGeometry,
    trigger_times: NDArray[np.float64],
    rr_intervals: NDArray[np.float64],
) -> CineStack:
    source = FrameSource("", "", "", None, None, None)
    return CineStack(
        view=View.SAX,
        pixels=pixels,
        geometry=geometry,
        sources=((source,) * pixels.shape[1],) * pixels.shape[0],
        trigger_times=trigger_times,
        rr_intervals=rr_intervals,
        frame_of_reference_uid="2.25.1",
    )


def _keep(path: Path, stack: CineStack, found: CineSegmentation, truth: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    being_written = path.with_suffix(".part.npz")
    np.savez_compressed(
        being_written,
        labels=found.labels,
        agreement=found.agreement,
        crop=np.array(found.crop),
        pixels=stack.pixels,
        positions=stack.geometry.positions,
        directions=np.stack([stack.geometry.row_direction, stack.geometry.column_direction]),
        spacing=np.array([*stack.geometry.pixel_spacing, stack.geometry.slice_thickness]),
        trigger_times=stack.trigger_times,
        rr_intervals=stack.rr_intervals,
        truth=np.array(json.dumps(truth)),
    )
    being_written.rename(path)


def _read(path: Path) -> tuple[CineStack, CineSegmentation, dict[str, float]]:
    with np.load(path, allow_pickle=False) as kept:
        row, end_row, column, end_column = (int(edge) for edge in kept["crop"])
        spacing = kept["spacing"]
        geometry = StackGeometry(
            kept["positions"], *kept["directions"], (float(spacing[0]), float(spacing[1])), float(spacing[2])
        )
        stack = _stack(kept["pixels"], geometry, kept["trigger_times"], kept["rr_intervals"])
        found = CineSegmentation(kept["labels"], kept["agreement"], (row, end_row, column, end_column), ())
        return stack, found, json.loads(str(kept["truth"]))


def judge(case: Case) -> Judged:
    """What the product makes of the segmentation."""
    try:
        slices = measure_slices(case.stack, case.segmentation)
        keyframes = find_keyframes(case.stack, slices.lv_ml)
        function = measure_function(case.stack, slices, keyframes, StudyContext("2.25.1"))
    except AnalysisRefused:
        return Judged(case, None, None, None)
    return Judged(case, slices, function, assess_quality(case.stack, case.segmentation, slices, function))


def with_fractions(volumes: dict[str, float]) -> dict[str, float]:
    """The volumes and mass of a truth with stroke volumes and ejection fractions."""
    full = dict(volumes)
    for side in ("LV", "RV"):
        full[f"{side}SV"] = volumes[f"{side}EDV"] - volumes[f"{side}ESV"]
        full[f"{side}EF"] = 100.0 * full[f"{side}SV"] / volumes[f"{side}EDV"]
    return full


def measured(judged: Judged) -> dict[str, Measurement]:
    """The product's numbers under the names of the truth."""
    if judged.function is None:
        return {}
    return {each.quantity.value.split("_")[0]: each for each in judged.function.measurements()}


def errors(judged: Judged) -> dict[str, float]:
    """Measured − true, ml, g or points."""
    truth, found = with_fractions(judged.case.truth), measured(judged)
    return {name: found[name].value - value for name, value in truth.items() if name in found}


def inside(judged: Judged) -> dict[str, bool]:
    """Whether the truth lies in the printed interval, for every number that has one."""
    truth, found = with_fractions(judged.case.truth), measured(judged)
    return {
        name: each.interval.lower <= truth[name] <= each.interval.upper
        for name, each in found.items()
        if name in truth and each.interval is not None
    }


def width(judged: Judged, name: str) -> float:
    """Half the width of an interval."""
    found = measured(judged).get(name)
    return np.nan if found is None or found.interval is None else (found.interval.upper - found.interval.lower) / 2


def show(cases: list[Judged], title: str) -> None:
    """Badge × error, then coverage and width of the intervals."""
    print(f"\n{title}: {len(cases)} cases\n")
    print("badge       n    |LVEF|  worst   |LVEDV|   |RVEF|  worst   |RVEDV|   mean of absolute errors, points and ml")
    for badge in (*(grade.name for grade in Grade), "REFUSED"):
        chosen = [errors(case) for case in cases if case.badge == badge]
        if not chosen:
            continue
        columns = []
        for name in ("LVEF", "LVEDV", "RVEF", "RVEDV"):
            values = np.abs([row[name] for row in chosen if name in row])
            columns.append(f"{values.mean():8.1f}" if len(values) else f"{'–':>8s}")
            if name.endswith("EF"):
                columns.append(f"{values.max():6.1f}" if len(values) else f"{'–':>6s}")
        print(f"{badge:10s} {len(chosen):3d}  " + "  ".join(columns))
    print("\ninterval   truth inside        mean half width   bias   SD")
    for name in NUMBERS:
        held = [inside(case)[name] for case in cases if name in inside(case)]
        values = np.array([errors(case)[name] for case in cases if name in errors(case)])
        if held:
            half = np.nanmean([width(case, name) for case in cases])
            print(
                f"{name:6s} {sum(held):6d} of {len(held):3d} ({100 * sum(held) / len(held):3.0f} %) {half:14.1f} "
                f"{values.mean():+11.1f} {values.std(ddof=1):5.1f}"
            )


def show_cases(cases: list[Judged]) -> None:
    """One line a case."""
    for case in cases:
        wrong = errors(case)
        said = "  ".join(f"{name} {wrong[name]:+6.1f}" for name in NUMBERS if name in wrong)
        out = ",".join(name for name, held in inside(case).items() if not held) or "–"
        why = ",".join(finding.check.name for finding in case.quality.concerns) if case.quality else ""
        print(f"{case.case.name:12s} {case.case.fault:15s} {case.badge:9s} {said}  outside: {out}  {why}")


def show_errors(cases: list[Judged]) -> None:
    """How far contours are off, as ``dicom-node evaluate volumes --calibrate`` tells it of phantoms."""
    print("\nmean distance by which the true endocardium lies inside and outside of the drawn one, mm, 90 %")
    for chamber in Chamber:
        for phase in KeyPhase:
            off = [_displacement_mm(case, chamber, phase) for case in cases]
            known = np.array([distance for distance in off if distance is not None])
            found = contour_error(known, LEVEL_OF_PATIENTS)
            print(f"{chamber} {phase}: {found.cases} cases, {found.inside:.2f} inside, {found.outside:.2f} outside")
    masses = [(case.case.truth["LVM"], measured(case).get("LVM")) for case in cases]
    off_by = [abs(true / found.value - 1) for true, found in masses if found is not None]
    print(f"mass: {len(off_by)} cases, off by up to {np.quantile(off_by, LEVEL):.3f} of it, {LEVEL:.0%}")


def _displacement_mm(case: Judged, chamber: Chamber, phase: KeyPhase) -> float | None:
    if case.function is None or case.slices is None:
        return None
    found = case.function.lv if chamber is Chamber.LV else case.function.rv
    if found is None:
        return None
    off = volume_errors(chamber, case.slices, found.curve, case.function.keyframes)[phase]
    return displacement_mm(off, case.case.truth[f"{chamber}{phase}V"])


def show_limits(cases: list[Judged]) -> None:
    """For each check, where its values lie when the numbers are right and when they are not.

    Right is LVEF within 5 points and LVEDV within a tenth; for checks of the RV, RVEF within 8 points and RVEDV
    within 15 %.
    """
    print(
        "\ncheck                                      right: n  50 %  75 %  90 %     wrong: n  25 %  50 %  75 %   rho"
    )
    for check in QualityCheck:
        right, wrong, pairs = [], [], []
        for case in cases:
            finding = next((f for f in case.quality.findings if f.check is check), None) if case.quality else None
            if finding is None or finding.value is None or not np.isfinite(finding.value):
                continue
            deviation = errors(case)
            side = "RV" if check in RV_CHECKS else "LV"
            if f"{side}EF" not in deviation:
                continue
            tolerated = (8.0, 0.15) if side == "RV" else (5.0, 0.10)
            off = abs(deviation[f"{side}EF"]) / tolerated[0]
            off = max(off, abs(deviation[f"{side}EDV"]) / case.case.truth[f"{side}EDV"] / tolerated[1])
            (wrong if off > 1 else right).append(finding.value)
            pairs.append((finding.value, off))
        if len(pairs) < 3:
            continue
        rho = spearmanr(*np.array(pairs).T).statistic if np.ptp([value for value, _ in pairs]) else float("nan")
        low = " ".join(f"{v:6.2f}" for v in np.quantile(right, [0.5, 0.75, 0.9])) if right else "     –" * 3
        high = " ".join(f"{v:6.2f}" for v in np.quantile(wrong, [0.25, 0.5, 0.75])) if wrong else "     –" * 3
        print(f"{check.name:20s} {check.value[:24]:24s} {len(right):3d} {low}   {len(wrong):3d} {high}   {rho:+.2f}")


def main() -> None:
    """Judge the cases and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=4000, help="seed of the first phantom")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--acdc", type=Path, help="folder of ACDC: report on patients instead")
    parser.add_argument("--fold", type=int, nargs="+", default=[0], help="folds; the network has not seen fold 0")
    parser.add_argument("--style", type=ForeignStyle, help="patients with the look of another scanner")
    parser.add_argument("--errors", action="store_true", help="how far contours are off")
    parser.add_argument("--cases", action="store_true", help="one line a case too")
    parser.add_argument("--limits", action="store_true", help="what the limits of the checks are chosen from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.acdc:
        cases = [judge(case) for fold in options.fold for case in patient_cases(options.acdc, fold, options.style)]
        print("Two phases a patient: the check of the number of phases grades all of them POOR.")
        show(cases, f"ACDC, fold {' and '.join(map(str, options.fold))}")
    else:
        cases = [judge(phantom_case(seed)) for seed in range(options.first, options.first + options.count)]
        show(cases, f"phantoms {options.first} to {options.first + options.count - 1}")
        show([case for case in cases if case.case.fault == "none"], "without a fault")
        show([case for case in cases if case.case.fault != "none"], "with a fault")
    if options.cases:
        show_cases(cases)
    if options.errors:
        show_errors(cases)
    if options.limits:
        show_limits(cases)


if __name__ == "__main__":
    main()
