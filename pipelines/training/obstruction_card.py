"""The card of the obstruction network."""

from __future__ import annotations

from pipelines.models.card import InputSpecification, ModelCard, TrainingData
from pipelines.obstruction.architecture import ClipArchitecture
from pipelines.obstruction.clips import END_SYSTOLE_FRAME, SPACING_MM
from pipelines.obstruction.network import FRAMES, NETWORK_MODEL, SIZE
from pipelines.training.obstruction_recipe import Target

__all__ = ["network_card"]


def network_card(architecture: ClipArchitecture, sha256: str, data: TrainingData, target: Target) -> ModelCard:
    """What the card says of a network and of what it learnt."""
    by_depth = target is Target.DEPTH
    seen = (
        "It sees no obstruction: it was taught how deep infarcts go and how their walls move, and deep and large ones "
        "have an obstruction more often.",
    )
    return ModelCard(
        name=NETWORK_MODEL,
        version="0.1.0",
        task=f"classification of short-axis cine clips of acute infarcts{' by their depth' if by_depth else ''}: "
        "microvascular obstruction",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary="Probability of microvascular obstruction from cine alone, by slice, in acute reperfused infarct"
        f"{': the depth of the infarct in each slice, its mean over the slices calibrated' if by_depth else ''}.",
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=tuple(f"frame {number}" for number in (1, FRAMES)),
            normalisation="2nd and 98th percentile of 154 mm around the ventricle over slices and phases to 0 and 1, "
            f"clipped to 0 … 1.25; {FRAMES} frames from end diastole, end systole at frame {END_SYSTOLE_FRAME + 1}",
        ),
        output=("logit of the depth of the infarct" if by_depth else "logit of obstruction",),
        label_weights=(1.0,),
        architecture=architecture,
        training=data,
        limits=(
            *(seen if by_depth else ()),
            "How obstruction shows in cine is a law of the simulator where the network was trained on simulated "
            "hearts: its probabilities say nothing about patients until they were measured on patients.",
            "The grid of its features is coarse: an attribution map shows a region, not the extent of an obstruction.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Hearts without an acute reperfused infarct: it was trained on nothing else.",
        ),
    )
