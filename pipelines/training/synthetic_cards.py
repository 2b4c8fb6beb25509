"""Cards of the first guess and of the refiner of synthetic enhancement."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.models.architecture import Architecture
from pipelines.models.card import InputSpecification, ModelCard, TrainingData
from pipelines.synthetic_enhancement.features import CHANNELS, SIZE, SPACING_MM, Ablation
from pipelines.synthetic_enhancement.network import CONDITION, GUESS_MODEL, REFINER_MODEL
from pipelines.training.synthetic_hearts import PATIENT, STUDY, Hearts

__all__ = ["NetworkFacts", "guess_facts", "network_card", "refiner_facts"]

_PATIENTS_LICENCE = "CC-BY-NC-SA-4.0"
"""Of EMIDEC; weights that were fitted to it inherit it."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a card says of a network, apart from the hearts that it learnt from."""

    model: str
    task: str
    summary: str
    outputs: tuple[str, ...]
    architecture: Architecture
    command: str


def guess_facts(architecture: Architecture, ablation: Ablation | None, command: str) -> NetworkFacts:
    """What the card of a first guess says; of one that is trained for comparison, what was kept from it."""
    outputs = tuple(
        f"{what}, pixel {pixel} of 2 × 2"
        for what in ("late enhancement", "logit of enhancement", "logit of the slice")
        for pixel in range(1, 5)
    )
    summary = (
        "Gives the late enhancement that a slice might have shown, the probability of enhancement of each pixel of its "
        "muscle and of the slice, from cine and the motion of the wall."
    )
    if ablation is not None:
        summary += f" Trained for comparison with others alone: ablation {ablation}."
    task = "synthetic late enhancement from short-axis cine: first guess"
    return NetworkFacts(GUESS_MODEL, task, summary, outputs, architecture, command)


def refiner_facts(architecture: Architecture, command: str) -> NetworkFacts:
    """What the card of a refiner says."""
    return NetworkFacts(
        REFINER_MODEL,
        "synthetic late enhancement from short-axis cine: samples around the first guess",
        "Gives the velocity of flow matching that leads from the first guess with noise to a sample of the late "
        "enhancement.",
        tuple(f"velocity, pixel {pixel} of 2 × 2" for pixel in range(1, 5)),
        architecture,
        command,
    )


def network_card(facts: NetworkFacts, sha256: str, hearts: Hearts, steps: int, earlier: ModelCard | None) -> ModelCard:
    """What the card says of a network, of its hearts and of what it went on from."""
    training = _training_data(facts, hearts, steps, earlier)
    patients, studies = (any(case.startswith(kind) for case in training.cases) for kind in (PATIENT, STUDY))
    names = (
        CHANNELS
        if facts.model == GUESS_MODEL
        else (
            *("image on its way", "first guess", "probability of enhancement"),
            *(CHANNELS[channel] for channel in CONDITION),
        )
    )
    return ModelCard(
        name=facts.model,
        version="0.2.0" if patients else "0.1.0",
        task=facts.task,
        licence=_PATIENTS_LICENCE if patients else "Apache-2.0",
        weights_sha256=sha256,
        summary=facts.summary,
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=names,
            normalisation="2nd and 98th percentile of 154 mm around the left ventricle over slices and phases to 0 and "
            "1, clipped to 0 … 1.25, then to −1 … 1.5; blocks of 2 × 2 pixels become channels",
        ),
        output=facts.outputs,
        label_weights=(),
        architecture=facts.architecture,
        training=training,
        limits=(
            _shown(patients=patients, studies=studies),
            "What it shows of scar follows from motion, thickness and grey values of cine by the law of the simulator; "
            "where a patient's scar does not show in these, it cannot be seen.",
            "Stunned and hibernating muscle moves like scar.",
        ),
        not_for=(
            "Anything but research: not for deciding on treatment, nor instead of contrast-enhanced imaging where that "
            "can be had.",
            "Images other than short-axis balanced steady-state free precession cine.",
            *(("Commercial use: the weights inherit the licence of their training data.",) if patients else ()),
        ),
    )


def _training_data(facts: NetworkFacts, hearts: Hearts, steps: int, earlier: ModelCard | None) -> TrainingData:
    """What a card says of the hearts, of those of earlier weights too."""
    cases = hearts.cases if earlier is None else tuple(dict.fromkeys((*earlier.training.cases, *hearts.cases)))
    patients, studies = (sum(case.startswith(kind) for case in cases) for kind in (PATIENT, STUDY))
    name = f"{len(cases) - patients - studies} simulated hearts"
    phantoms_out = sum(not case.startswith((PATIENT, STUDY)) for case in hearts.held_out)
    split = (
        f"by seed: {phantoms_out} of the last seeds held out for validation and calibration; figures are reported on "
        "other seeds"
    )
    if studies:
        name += f", {studies} studies of a site with their acquired late enhancement"
        split += (
            f"; by patient: {sum(case.startswith(STUDY) for case in hearts.held_out)} studies of the last 15 % of the "
            "site's patients held out"
        )
    if patients:
        name += f", {patients} patients of EMIDEC with a cine simulated from their anatomy"
        split += "; by patient: every third of EMIDEC is reported on, every fifth of the others held out for decisions"
    if earlier is not None:
        split += (
            f"; went on from version {earlier.version}, SHA-256 {earlier.weights_sha256}, "
            f"{earlier.training.steps} steps: {earlier.training.command}"
        )
    source = "pipelines/phantom, docs/phantom.md; the default law of motion and scar"
    if patients:
        source += "; Lalande et al., Data 2020, doi:10.3390/data5040089"
    licence = f"Apache-2.0 (simulated), {_PATIENTS_LICENCE} (EMIDEC)" if patients else "Apache-2.0"
    return TrainingData(
        name=name,
        licence=f"{licence}, that of the site (its studies)" if studies else licence,
        source=f"{source}; studies of one site" if studies else source,
        cases=cases,
        split=split,
        steps=steps,
        command=facts.command,
    )


def _shown(*, patients: bool, studies: bool) -> str:
    """What has been shown on patients, for a reader of the results."""
    if studies:
        return "Trained on simulated cines and on studies of one site: what it says holds there at most."
    return f"Trained on simulated {'cines' if patients else 'hearts'} only: nothing here has been shown on patients."
