"""Estimate the risk of remodelling of one study from features and keyframes, with what each contributed."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from pipelines.cine.stack import CineStack, View
from pipelines.errors import AnalysisRefused, RefusalReason
from pipelines.function.findings import VentricularFunction
from pipelines.function.slices import SliceMeasures
from pipelines.long_axis.findings import LongAxisFunction
from pipelines.models.registry import LoadedModel
from pipelines.motion.findings import CardiacMotion, MotionKeyframes
from pipelines.remodelling.attribution import guided_grad_cam
from pipelines.remodelling.combined import CombinedModel
from pipelines.remodelling.features import FEATURES, Feature, as_vector, measured_features
from pipelines.remodelling.findings import Attribution, RemodellingRisk
from pipelines.remodelling.network import Logits, RemodellingNetwork
from pipelines.remodelling.volume import KEYFRAMES, KeyframeVolume, keyframe_volume, on_stack

__all__ = ["combined_model", "estimate_risk", "predictors_of", "volume_of"]


def combined_model(network: RemodellingNetwork) -> CombinedModel:
    """The combined model that lies beside the weights of the network."""
    held = {name: tensor.cpu().numpy() for name, tensor in network.named_buffers()}
    return CombinedModel(
        coefficients=held["combined_coefficients"],
        bootstrap=held["combined_bootstrap"],
        means=held["combined_means"],
        prevalence=float(held["combined_prevalence"]),
        infarct_coefficients=held["infarct_coefficients"],
        infarct_residual=held["infarct_residual"],
    )


def predictors_of(logit: float, features: dict[Feature, float], infarct_percent: float) -> np.ndarray:
    """Predictors of the combined model, (4,) float64; NaN where GLS or reservoir strain is missing."""
    nan = float("nan")
    strain, atrium = features.get(Feature.GLS, nan), features.get(Feature.LA_RESERVOIR, nan)
    return np.array([logit, strain, atrium, infarct_percent], np.float64)


def volume_of(
    stack: CineStack, slices: SliceMeasures, keyframes: MotionKeyframes, **size: int
) -> KeyframeVolume | None:
    """The keyframes of the short axis around the left ventricle, or ``None`` where there are none."""
    view = keyframes.of(View.SAX)
    if view is None:
        return None
    return keyframe_volume(stack, slices.labels, view.phases, base_first=slices.base_first, **size)


def estimate_risk(
    stack: CineStack,
    slices: SliceMeasures,
    function: VentricularFunction,
    motion: CardiacMotion,
    long_axis: LongAxisFunction | None,
    model: LoadedModel,
) -> RemodellingRisk:
    """Estimate the risk of one study.

    The first stage, where the heart lies and what belongs to it, is the node's own localisation and segmentation.

    Raises
    ------
    AnalysisRefused
        There are no keyframes of the short axis, or no muscle at end diastole.
    """
    volume = volume_of(stack, slices, motion.keyframes)
    if volume is None:
        sentence = "The short axis shows no muscle of the left ventricle at end diastole."
        raise AnalysisRefused(RefusalReason.NO_VENTRICLE_FOUND, sentence)
    network = cast("RemodellingNetwork", model.network)
    combined = combined_model(network)
    features = measured_features(slices, function, motion, long_axis)
    inputs = torch.from_numpy(volume.images)[None].to(model.device)
    values = torch.from_numpy(as_vector(features))[None].to(model.device)
    with torch.no_grad():
        logits: Logits = network(inputs, values)
    logit = float(logits.fused[0])
    infarct = combined.infarct(features)
    risk = combined.risk(predictors_of(logit, features, infarct.percent))
    missing = tuple(name.words for name in FEATURES if name not in features)
    return RemodellingRisk(
        stack=stack,
        probability=risk.probability,
        interval=risk.interval,
        population_probability=combined.prevalence,
        network_probability=float(torch.sigmoid(logits.fused[0])),
        contributions=risk.contributions,
        features={str(name): value for name, value in features.items()},
        missing=missing,
        infarct=infarct,
        attribution=_attribution(guided_grad_cam(network, inputs, values), volume, stack) if network.images else None,
        notes=(*model.card.limits, *_without(missing)),
        models=tuple(dict.fromkeys((*motion.models, model.identity))),
    )


def _without(missing: tuple[str, ...]) -> tuple[str, ...]:
    if not missing:
        return ()
    listed = ", ".join(missing)
    return (f"Not measured in this study: {listed}. The model used was fitted without what is missing.",)


def _attribution(guided: torch.Tensor, volume: KeyframeVolume, stack: CineStack) -> Attribution:
    total = guided.sum(dim=(1, 2, 3))
    whole = float(total.sum())
    strongest = int(total.argmax())
    of_keyframe = guided[strongest]
    largest = float(of_keyframe.max())
    return Attribution(
        keyframe=KEYFRAMES[strongest],
        phase=volume.phases[KEYFRAMES[strongest]],
        slices=tuple(sorted(int(index) for index in volume.slices)),
        map=on_stack(of_keyframe / largest if largest > 0 else of_keyframe, volume, stack),
        share={name: float(part) / whole if whole > 0 else 0.0 for name, part in zip(KEYFRAMES, total, strict=True)},
        in_ventricle=float(guided.numpy()[volume.ventricle].sum()) / whole if whole > 0 else 0.0,
        by_chance=float(volume.ventricle.mean()),
    )
