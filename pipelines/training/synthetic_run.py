"""One run of synthetic enhancement: first guess, refiner, reader of sequences, calibration."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.models.registry import load_model
from pipelines.synthetic_enhancement import sequence
from pipelines.synthetic_enhancement.calibration import FILE
from pipelines.synthetic_enhancement.network import GUESS_MODEL, REFINER_MODEL
from pipelines.training.enhancement_calibration import calibrate
from pipelines.training.enhancement_studies import hearts_of_studies, with_studies
from pipelines.training.scar_sequence import train_scar_sequence
from pipelines.training.steps import Progress, Run, TrainingResult
from pipelines.training.synthetic_hearts import Patients, prepare_hearts
from pipelines.training.synthetic_networks import Continuation, train_first_guess, train_refiner
from pipelines.training.synthetic_recipe import EnhancementRecipe

__all__ = ["train_synthetic_enhancement"]


def train_synthetic_enhancement(
    output: Path,
    *,
    clips: Path,
    seeds: Sequence[int],
    infarct_seeds: Sequence[int] = (),
    run: Run | None = None,
    recipe: EnhancementRecipe | None = None,
    steps: int | None = None,
    refiner_steps: int | None = None,
    sequence_steps: int | None = None,
    patients: Patients | None = None,
    studies: Path | None = None,
    go_on: Continuation | None = None,
    calibrated: bool = True,
    report: Callable[[str, Progress], None] | None = None,
    report_packing: Callable[[int, int], None] | None = None,
) -> tuple[TrainingResult, ...]:
    """Train the first guess, then the refiner and the reader of sequences, then calibrate all.

    For an ablation (``recipe.ablation``) only the first guess is trained: such a network is compared and never used.

    Parameters
    ----------
    output : Path
        Receives a folder for each network, with checkpoint, weights and card, and the calibration in that of the first.
    clips : Path
        Folder of packed phantoms; those that it lacks are made.
    seeds, infarct_seeds : sequence of int
        Phantoms of every disease, and acute infarcts; the last 15 % of each are held out.
    run : Run or None
        Where each network stops before its last step, to go on later, nothing is calibrated.
    steps, refiner_steps, sequence_steps : int or None
        Steps in all; the recipes' own numbers by default.
    patients : Patients or None
        Semi-synthetic pairs to learn from beside phantoms; ``recipe.patient_share`` is how often.
    studies : Path or None
        DICOM of a site, cine with late enhancement (:mod:`pipelines.training.enhancement_studies`), to learn from as
        often as from semi-synthetic pairs.
    go_on : Continuation or None
        Go on from trained networks. The reader of sequences is then taken over as it is.
    calibrated : bool
        Calibrate at the end; without, networks that went on from others have no calibration of their own until
        :func:`pipelines.training.enhancement_calibration.recalibrate` made it.
    report, report_packing : callable
        Called every 50 steps with the name of the network, and after each phantom.

    Raises
    ------
    ValueError
        Nothing to train on, a checkpoint of another run, or networks that cannot be gone on from.
    """
    run, recipe = run or Run(), recipe or EnhancementRecipe()
    hearts = prepare_hearts(clips, seeds, infarct_seeds, report_packing, patients=patients)
    if studies is not None:
        hearts = with_studies(hearts, hearts_of_studies(studies, device=run.device, report=report_packing))
    command = (
        f"dicom-node train synthetic-enhancement --phantoms {len(seeds)} --phantom-seed {min(seeds, default=0)} "
        f"--infarcts {len(infarct_seeds)} --infarct-seed {min(infarct_seeds, default=0)} "
        f"--steps {steps or recipe.steps} --refiner-steps "
        f"{recipe.refiner_steps if refiner_steps is None else refiner_steps} --seed {run.seed}"
    )
    if patients is not None:
        command += f" --emidec DIR --emidec-share {recipe.patient_share} --emidec-draws {patients.draws}"
    if studies is not None:
        command += " --studies DIR" + (f" --emidec-share {recipe.patient_share}" if patients is None else "")
    if recipe.ablation is not None:
        command += f" --ablation {recipe.ablation}"
    if go_on is not None:
        command += f" --from-model MODELS --rate {go_on.rate}"

    def said(model: str) -> Callable[[Progress], None] | None:
        return None if report is None else lambda progress: report(model, progress)

    first = train_first_guess(
        hearts,
        output / GUESS_MODEL,
        run=run,
        recipe=recipe,
        steps=steps,
        go_on=go_on,
        report=said(GUESS_MODEL),
        command=command,
    )
    if recipe.ablation is not None:
        return (first,)
    guesser = load_model(GUESS_MODEL, run.device, output).network
    second = train_refiner(
        hearts,
        guesser,
        output / REFINER_MODEL,
        run=run,
        recipe=recipe,
        steps=refiner_steps,
        go_on=go_on,
        report=said(REFINER_MODEL),
        command=command,
    )
    results = [first, second]
    if go_on is None:
        results.append(
            train_scar_sequence(
                # Pieces of wall are told to be scar by motion alone: pairs of a simulated cine add shapes, not motion.
                replace(hearts, patients=()),
                output / sequence.MODEL,
                run=run,
                steps=sequence_steps,
                report=said(sequence.MODEL),
                command=command,
            )
        )
    else:
        shutil.copytree(go_on.models / sequence.MODEL, output / sequence.MODEL, dirs_exist_ok=True)
        before, own = (folder / GUESS_MODEL / FILE for folder in (go_on.models, output))
        if before.is_file() and not own.is_file():
            shutil.copyfile(before, own)
    if calibrated and run.stop_after is None:
        calibrate(
            output, clips, seeds, hearts, device=run.device, seed=run.seed, report=report_packing, command=command
        )
    return tuple(results)
