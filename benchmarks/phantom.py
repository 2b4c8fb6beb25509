"""Measure the phantom: speed, population, and how a network trained on patients reads it.

python benchmarks/phantom.py speed
python benchmarks/phantom.py population --count 40
python benchmarks/phantom.py segmentation --count 50 --json results.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pipelines.evaluation.segmentation import dice
from pipelines.phantom import Dialect, Disease, PhantomRecipe, measure_truth, simulate
from pipelines.phantom.assembled import cine_stack
from pipelines.phantom.generator import training_examples
from pipelines.segmentation.labels import Label

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

COHORT = (Disease.NORMAL, Disease.DCM, Disease.HCM, Disease.INFARCT, Disease.RV_OVERLOAD)
"""The diseases that the figures of docs/phantom.md are of; the population has more since."""
STRUCTURES = (Label.LV, Label.MYO, Label.RV)


@app.command()
def speed() -> None:
    """Seconds for 12 × 30 at 1.4 mm, and slice-phases a second of the training generator."""
    started, used = time.perf_counter(), time.process_time()
    study = simulate(PhantomRecipe(seed=1))
    cine = study.short_axis
    print(
        f"simulate {cine.pixels.shape[1]} × {cine.pixels.shape[0]} + 3 long-axis views: "
        f"{time.perf_counter() - started:.1f} s wall, {time.process_time() - used:.1f} s CPU"
    )
    examples = training_examples(0)
    next(examples)
    started, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < 20:
        images = next(examples).images
        count += images.shape[0] * images.shape[1]
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    print(f"generator: {count / wall:.0f} slice-phases/s wall, {2 * count / cpu:.0f} on two free cores (from CPU time)")


@app.command()
def population(count: Annotated[int, typer.Option(min=1, help="Hearts of each disease.")] = 50) -> None:
    """Mean ± SD of the function of each disease."""
    names: tuple[str, ...] = (
        "lv_edv_ml",
        "lv_ef_percent",
        "mass_index",
        "gls_percent",
        "gcs_percent",
        "wall_mm",
        "la_reservoir_percent",
    )
    names += ("infarct_percent", "obstruction_percent", "remodelling_probability")
    for disease in COHORT:
        rows = []
        for seed in range(count):
            study = simulate(tiny_recipe(seed, disease))
            truth = measure_truth(study)
            facts = truth.facts
            wall = float(truth.aha_thickness_mm[0, :12].mean())
            extra = {"mass_index": facts.lv_mass_g / study.subject.body.surface_m2, "wall_mm": wall}
            rows.append([extra[name] if name in extra else getattr(facts, name) for name in names])
        values = np.array(rows, float)
        text = "  ".join(f"{n} {m:.1f} ± {s:.1f}" for n, m, s in zip(names, values.mean(0), values.std(0), strict=True))
        print(f"{disease}: {text}")


def tiny_recipe(seed: int, disease: Disease) -> PhantomRecipe:
    """The smallest study that still carries the whole truth."""
    return PhantomRecipe(
        seed=seed, disease=disease, slices=1, phases=4, rows=64, columns=64, spacing_mm=4.0, long_axis=False
    )


@app.command()
def segmentation(
    count: Annotated[int, typer.Option(min=1, help="Hearts.")] = 50,
    first: Annotated[int, typer.Option("--seed", help="Of the first.")] = 1000,
    phases: Annotated[int, typer.Option(min=2, help="Of each.")] = 8,
    output: Annotated[Path | None, typer.Option("--json", help="File for the figures of each.")] = None,
) -> None:
    """Dice of the shipped segmentation model, which was trained on patients, on phantoms."""
    from pipelines.segmentation.refusal import SegmentationRefused
    from pipelines.segmentation.segment import segment

    cases = []
    for seed in range(first, first + count):
        disease = COHORT[seed % len(COHORT)]
        dialect = (Dialect.SIEMENS, Dialect.GE, Dialect.PHILIPS)[seed // len(COHORT) % 3]
        recipe = PhantomRecipe(seed=seed, disease=disease, dialect=dialect, slices=10, phases=phases, long_axis=False)
        study = simulate(recipe)
        cine = study.short_axis
        try:
            labels = segment(cine_stack(study.short_axis)).labels
        except SegmentationRefused as refusal:
            print(f"{seed:4d} {disease:12s} {dialect:8s} refused: {refusal}", flush=True)
            cases.append({"seed": seed, "disease": str(disease), "dialect": str(dialect), "refused": str(refusal)})
            continue
        systole = int(np.argmin([state.lv_volume_ml for state in study.states]))
        case: dict[str, object] = {"seed": seed, "disease": str(disease), "dialect": str(dialect)}
        for label in STRUCTURES:
            case[label.name] = dice(labels == label, cine.labels == label)
            case[f"{label.name}_ED"] = dice(labels[0] == label, cine.labels[0] == label)
            case[f"{label.name}_ES"] = dice(labels[systole] == label, cine.labels[systole] == label)
        case["ef_found"] = fraction(labels, 0, systole)
        case["ef_true"] = fraction(cine.labels, 0, systole)
        cases.append(case)
        shown = " ".join(f"{label.name} {case[label.name]:.3f}" for label in STRUCTURES)
        print(
            f"{seed:4d} {disease:12s} {dialect:8s} {shown}  EF {case['ef_found']:.1f} / {case['ef_true']:.1f}",
            flush=True,
        )
        if output is not None:
            output.write_text(json.dumps(cases, indent=1))
    done = [case for case in cases if "refused" not in case]
    print(f"{len(done)} of {len(cases)} segmented")
    for key in (f"{label.name}{suffix}" for label in STRUCTURES for suffix in ("", "_ED", "_ES")):
        values = np.array([case[key] for case in done], float)
        print(f"{key:8s} mean {values.mean():.3f}  median {np.median(values):.3f}  min {values.min():.3f}")
    errors = np.array([case["ef_found"] for case in done], float) - np.array([case["ef_true"] for case in done], float)
    print(f"EF error: mean {errors.mean():+.1f}, mean absolute {np.abs(errors).mean():.1f} points")


def fraction(labels: NDArray[np.uint8], diastole: int, systole: int) -> float:
    """Ejection fraction of a label stack, %."""
    large, small = (int((labels[phase] == Label.LV).sum()) for phase in (diastole, systole))
    return 100 * (1 - small / max(large, 1))


if __name__ == "__main__":
    app()
