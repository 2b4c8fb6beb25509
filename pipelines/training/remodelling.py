"""Training of the remodelling classifier: the network by folds, then the combined model on hearts it has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.logistic import LogisticModel, fit_logistic
from pipelines.models.card import InputSpecification, ModelCard, TrainingData, write_card
from pipelines.models.registry import load_model
from pipelines.remodelling.architecture import FusionArchitecture
from pipelines.remodelling.combined import INFARCT_FEATURES, SUBSETS, CombinedModel
from pipelines.remodelling.features import FEATURES, Feature
from pipelines.remodelling.measure import predictors_of
from pipelines.remodelling.network import AUXILIARY, REMODELLING_MODEL, Logits, RemodellingNetwork
from pipelines.remodelling.volume import KEYFRAMES, SIZE, SPACING_MM, WIDE
from pipelines.training.checkpoint import save_atomically
from pipelines.training.remodelling_hearts import GREY, RemodellingHeart
from pipelines.training.schedule import polynomial_rate
from pipelines.training.steps import Progress, TrainingResult, train_steps

__all__ = ["BRANCHES", "HELD_OUT_FILE", "RemodellingRecipe", "branch_logits", "train_remodelling"]

Array = NDArray[np.float64]

_OFTEN_MISSING: tuple[tuple[frozenset[Feature], float], ...] = (
    (frozenset({Feature.GLS}), 0.2),
    (frozenset({Feature.LA_RESERVOIR}), 0.25),
    (frozenset({Feature.EDVI, Feature.ESVI, Feature.MASS_INDEX}), 0.1),
    (frozenset(FEATURES[FEATURES.index(Feature.SEGMENTS_WORST) :]) - {Feature.LA_RESERVOIR}, 0.05),
)
"""What studies lack together, and how often training leaves it out: no long axis, no atrium, no height, no segments."""
_DRAWS = 3
"""How often a simulated heart is measured, with other errors, for the combined model."""
_EVENTS_MIN = 8
BRANCHES = ("image", "morphology", "motion", "all")
HELD_OUT_FILE = "held-out.npz"
HELD_OUT = "every heart once, by folds, for the combined model"


@dataclass(frozen=True, slots=True)
class RemodellingRecipe:
    """Everything that decides a run, besides hearts and seed."""

    features: tuple[int, int, int, int] = (16, 24, 32, 32)
    hidden: int = 32
    bootstrap: int = 200
    folds: int = 3
    steps: int = 280
    batch: int = 16
    peak_rate: float = 2e-3
    images: bool = True
    """Whether the network sees keyframes; without them it has no attribution."""
    auxiliary: float = 3.0
    """Weight of what the image branch also estimates: four numbers of every heart teach it more than one bit."""
    shift_px: int = 5
    penalty: float = 2.0
    """Of the combined model, see :func:`pipelines.logistic.fit_logistic`."""


def train_remodelling(
    hearts: Sequence[RemodellingHeart],
    output: Path,
    *,
    command: str,
    source: str,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = True,
    tuned_from: Path | None = None,
    recipe: RemodellingRecipe | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> TrainingResult:
    """Train network and combined model; a function of its arguments on one kind of machine.

    The network is trained once without each fold of the hearts, and once on all of them. What the first ones say of
    the hearts that they have not seen is what the combined model is fitted to; the last one is kept.

    Parameters
    ----------
    hearts : sequence of RemodellingHeart
    output : Path
        Receives ``weights.safetensors`` and ``card.yaml``, and a folder for each of the trainings.
    command, source : str
        For the card: how to repeat it, and where the hearts are from.
    device : str
        ``cpu`` or a CUDA device.
    resume : bool
        Go on from the checkpoints in ``output``.
    tuned_from : Path or None
        Folder that holds a model ``remodelling`` to start from.
    report : callable
        Is called every 50 steps with what is being trained.

    Raises
    ------
    ValueError
        There are too few events to fit anything, no infarct size is known and no model to take its regression from, or
        a checkpoint is of another run.
    """
    recipe = recipe or RemodellingRecipe()
    events = sum(heart.outcome for heart in hearts)
    if min(events, len(hearts) - events) < _EVENTS_MIN:
        raise ValueError(
            f"{events} of {len(hearts)} hearts remodelled: at least {_EVENTS_MIN} with and without are needed"
        )
    start = None if tuned_from is None else load_model(REMODELLING_MODEL, root=tuned_from)
    if start is not None:
        recipe = replace(recipe, images=cast("RemodellingNetwork", start.network).images)
    fold = _folds(hearts, recipe.folds, seed)
    draws = _draws(hearts, seed)
    rows = _Rows.of(hearts, draws)
    if not np.isfinite(rows.infarct).any() and start is None:
        raise ValueError("no infarct size is known: give them in the table, or start from a model that has learnt them")

    def trained(name: str, chosen: NDArray[np.intp]) -> tuple[RemodellingNetwork, float]:
        own = [hearts[index] for index in chosen]
        torch.manual_seed(seed)
        network = cast("RemodellingNetwork", _architecture(recipe).build())
        if start is not None:
            network.load_state_dict(start.network.state_dict())
        else:
            _standardise(network, rows.features[np.isin(rows.heart, chosen)])
        targets = _standard_targets(hearts)
        done = train_steps(
            network,
            lambda step: _loss(network, own, targets, recipe, seed, step, device),
            clip=1.0,
            peak_rate=recipe.peak_rate if start is None else recipe.peak_rate / 4,
            steps=recipe.steps,
            settings={
                "recipe": asdict(recipe),
                "hearts": _digest(own),
                "seed": seed,
                "tuned": "" if start is None else start.identity.weights_sha256,
            },
            output=output / name,
            device=device,
            resume=resume,
            report=None if report is None else lambda progress: report(name, progress),
            rate=polynomial_rate,
        )
        network.load_state_dict(safetensors.torch.load_file(done.path, device=device))
        return network.eval(), done.loss

    logits = np.full((len(rows.heart), len(SUBSETS)), np.nan)
    branches = np.full((len(rows.heart), len(BRANCHES)), np.nan)
    for number in range(recipe.folds):
        network, _ = trained(f"fold-{number}", np.flatnonzero(fold != number))
        held = np.isin(rows.heart, np.flatnonzero(fold == number))
        logits[held], branches[held] = _held_out_logits(network, hearts, rows, held, device)
    network, loss = trained("all", np.arange(len(hearts)))
    earlier = None if start is None else cast("RemodellingNetwork", start.network)
    combined, predictors = _fit_combined(rows, logits, recipe, earlier, seed)
    _store(network, combined)
    _keep_held_out(hearts, rows, combined, predictors, branches, output / HELD_OUT_FILE)
    weights, card = output / "weights.safetensors", output / "card.yaml"
    save_atomically(network.state_dict(), weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    cases = tuple(sorted(heart.identifier for heart in hearts))
    write_card(_card(recipe, sha256, cases, events, command, source), card)
    return TrainingResult(REMODELLING_MODEL, recipe.steps, cases, (), loss, weights, card, sha256)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Hearts as they were measured, N rows: a simulated one several times.

    Attributes
    ----------
    heart : (N,) int
        Index of the heart.
    features : (N, 18) float32
    outcome : (N,) bool
    infarct : (N,) float64
        True infarct size; NaN where it is not known.
    """

    heart: NDArray[np.intp]
    features: NDArray[np.float32]
    outcome: NDArray[np.bool_]
    infarct: Array

    @classmethod
    def of(cls, hearts: Sequence[RemodellingHeart], draws: Sequence[NDArray[np.float32]]) -> _Rows:
        index = np.repeat(np.arange(len(hearts)), [len(each) for each in draws])
        return cls(
            index,
            np.concatenate(draws),
            np.array([heart.outcome for heart in hearts])[index],
            np.array([heart.auxiliary[0] for heart in hearts], np.float64)[index],
        )


def _draws(hearts: Sequence[RemodellingHeart], seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng([seed, 0x4C56])
    return [
        np.stack([heart.features(rng) for _ in range(_DRAWS if heart.exact is not None else 1)]) for heart in hearts
    ]


def _folds(hearts: Sequence[RemodellingHeart], count: int, seed: int) -> NDArray[np.intp]:
    """Fold of each heart, events spread evenly."""
    rng = np.random.default_rng([seed, 0x464F])
    fold = np.zeros(len(hearts), np.intp)
    outcome = np.array([heart.outcome for heart in hearts])
    for group in (np.flatnonzero(outcome), np.flatnonzero(~outcome)):
        fold[rng.permutation(group)] = np.arange(len(group)) % count
    return fold


def _standardise(network: RemodellingNetwork, features: NDArray[np.float32]) -> None:
    present = np.isfinite(features).any(axis=0)
    centre, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    centre[present] = np.nanmean(features[:, present], axis=0)
    scale[present] = np.maximum(np.nanstd(features[:, present], axis=0), 1e-3)
    network.centre.copy_(torch.from_numpy(centre))
    network.scale.copy_(torch.from_numpy(scale))


def _standard_targets(hearts: Sequence[RemodellingHeart]) -> dict[str, NDArray[np.float32]]:
    """What the image branch also estimates, standardised, by heart; NaN where it is not known."""
    table = np.array([heart.auxiliary for heart in hearts], np.float64)
    known = np.isfinite(table).any(axis=0)
    centre, scale = np.zeros(len(AUXILIARY)), np.ones(len(AUXILIARY))
    centre[known] = np.nanmean(table[:, known], axis=0)
    scale[known] = np.maximum(np.nanstd(table[:, known], axis=0), 1e-6)
    standard = ((table - centre) / scale).astype(np.float32)
    return {heart.identifier: row for heart, row in zip(hearts, standard, strict=True)}


def _digest(hearts: Sequence[RemodellingHeart]) -> str:
    told = "\n".join(f"{heart.identifier} {heart.outcome}" for heart in hearts)
    return hashlib.sha256(told.encode()).hexdigest()


def _loss(
    network: RemodellingNetwork,
    hearts: Sequence[RemodellingHeart],
    targets: dict[str, NDArray[np.float32]],
    recipe: RemodellingRecipe,
    seed: int,
    step: int,
    device: str,
) -> torch.Tensor:
    """Cross-entropy of every branch and what the image branch also estimates, on a batch of this step."""
    rng = np.random.default_rng((seed, step))
    chosen = [hearts[index] for index in rng.choice(len(hearts), recipe.batch)]
    volume = torch.empty(0)
    if recipe.images:
        volume = _varied(np.stack([heart.volume for heart in chosen]), recipe, rng)
    features = np.stack([_left_out(heart.features(rng), rng) for heart in chosen])
    outcome = torch.tensor([float(heart.outcome) for heart in chosen], device=device)
    logits: Logits = network(volume.to(device), torch.from_numpy(features).to(device))
    loss = sum(
        functional.binary_cross_entropy_with_logits(branch, outcome)
        for branch in (*([logits.image] if recipe.images else []), logits.morphology, logits.motion, logits.fused)
    )
    wanted = torch.from_numpy(np.stack([targets[heart.identifier] for heart in chosen])).to(device)
    known = torch.isfinite(wanted)
    if recipe.images and known.any():
        loss = loss + recipe.auxiliary * functional.smooth_l1_loss(logits.auxiliary[known], wanted[known])
    return cast("torch.Tensor", loss)


def _varied(volumes: NDArray[np.uint8], recipe: RemodellingRecipe, rng: np.random.Generator) -> torch.Tensor:
    """Volumes (N, 5, D, 88, 88) shifted, turned over and of other contrast, (N, 5, D, 64, 64)."""
    reach, cropped = (WIDE - SIZE) // 2, []
    for volume in volumes:
        row, column = reach + rng.integers(-recipe.shift_px, recipe.shift_px + 1, 2)
        part = volume[..., row : row + SIZE, column : column + SIZE]
        # A heart seen from the other side has its septum on the other side, and remodels alike.
        cropped.append(part[..., ::-1] if rng.random() < 0.5 else part)
    images = torch.from_numpy(np.stack(cropped)).float()
    contrast, brightness = (
        torch.from_numpy(rng.uniform(low, high, (len(volumes), 1, 1, 1, 1)).astype(np.float32))
        for low, high in ((0.8, 1.2), (-0.08, 0.08))
    )
    return images.mul_(contrast / GREY).add_(brightness).clamp_(0, 1.25)


def _left_out(features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    kept = features.copy()
    for group, rate in _OFTEN_MISSING:
        if rng.random() < rate:
            kept[[FEATURES.index(name) for name in group]] = np.nan
    return kept


def branch_logits(
    network: RemodellingNetwork, volumes: NDArray[np.uint8], features: NDArray[np.float32], device: str = "cpu"
) -> Logits:
    """Logits of hearts (N, 5, D, 88, 88), of which the middle 64 pixels are looked at, on the CPU."""
    margin = (WIDE - SIZE) // 2
    parts = []
    with torch.no_grad():
        for first in range(0, len(volumes), 32):
            cropped = volumes[first : first + 32, ..., margin : margin + SIZE, margin : margin + SIZE]
            values = torch.from_numpy(features[first : first + 32]).to(device)
            parts.append(network(torch.from_numpy(cropped).float().div_(GREY).to(device), values))
    return Logits(
        *(
            torch.cat([getattr(part, name) for part in parts]).cpu()
            for name in ("image", "morphology", "motion", "fused", "auxiliary")
        )
    )


def _held_out_logits(
    network: RemodellingNetwork,
    hearts: Sequence[RemodellingHeart],
    rows: _Rows,
    held: NDArray[np.bool_],
    device: str,
) -> tuple[Array, Array]:
    """Fused logits of the held-out rows with what each subset has, (H, 4), and logits of every branch, (H, 4)."""
    volumes = np.stack([hearts[index].volume for index in rows.heart[held]])
    fused, branches = [], np.zeros((0, len(BRANCHES)))
    for number, subset in enumerate(SUBSETS):
        features = rows.features[held].copy()
        if 1 not in subset:
            features[:, FEATURES.index(Feature.GLS)] = np.nan
        if 2 not in subset:
            features[:, FEATURES.index(Feature.LA_RESERVOIR)] = np.nan
        logits = branch_logits(network, volumes, features, device)
        fused.append(logits.fused.double().numpy())
        if number == 0:
            parts = (logits.image, logits.morphology, logits.motion, logits.fused)
            branches = np.stack([part.double().numpy() for part in parts], axis=1)
    return np.stack(fused, axis=1), branches


def _keep_held_out(
    hearts: Sequence[RemodellingHeart],
    rows: _Rows,
    combined: CombinedModel,
    predictors: Array,
    branches: Array,
    path: Path,
) -> None:
    """Write what was said of each heart by the networks that have not seen it, as it was measured first."""
    first = np.unique(rows.heart, return_index=True)[1]
    probability = [combined.risk(predictors[row]).probability for row in first]
    np.savez_compressed(
        path,
        outcome=rows.outcome[first],
        truth=np.array([heart.probability for heart in hearts]),
        branches=branches[first],
        combined=np.array(probability),
    )


def _fit_combined(
    rows: _Rows, logits: Array, recipe: RemodellingRecipe, earlier: RemodellingNetwork | None, seed: int
) -> tuple[CombinedModel, Array]:
    """Fit infarct size and the logistic models, and the latter again to hearts drawn with replacement.

    The predictors (N, 4) that the model of all of them was fitted to come with it.
    """
    infarct, residual = _fit_infarct(rows, earlier)
    terms = 1 + len(SUBSETS[0])
    empty = np.zeros((len(SUBSETS), recipe.bootstrap, terms))
    model = CombinedModel(
        np.zeros((len(SUBSETS), terms)), empty, np.zeros(4), float(rows.outcome.mean()), infarct, residual
    )
    given = [
        {name: float(value) for name, value in zip(FEATURES, row, strict=True) if np.isfinite(value)}
        for row in rows.features
    ]
    sizes = [model.infarct(features).percent for features in given]
    predictors = np.stack(
        [
            np.stack(
                [
                    predictors_of(float(logit), features, size)
                    for logit, features, size in zip(logits[:, subset], given, sizes, strict=True)
                ]
            )
            for subset in range(len(SUBSETS))
        ]
    )
    rng = np.random.default_rng([seed, 0x424F])
    resampled = [_drawn_hearts(rows, rng) for _ in range(recipe.bootstrap)]
    coefficients = np.stack(
        [_coefficients(rows, predictors, subset, np.arange(len(rows.heart)), recipe) for subset in range(len(SUBSETS))]
    )
    bootstrap = np.stack(
        [
            np.stack([_coefficients(rows, predictors, subset, drawn, recipe) for drawn in resampled])
            for subset in range(len(SUBSETS))
        ]
    )
    means = np.array([np.nanmean(column) if np.isfinite(column).any() else 0.0 for column in predictors[0].T])
    return replace(model, coefficients=coefficients, bootstrap=bootstrap, means=means), predictors[0]


def _drawn_hearts(rows: _Rows, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of as many hearts drawn with replacement within each outcome: hearts are independent, rows are not."""
    of_heart = {int(one): np.flatnonzero(rows.heart == one) for one in np.unique(rows.heart)}
    outcome = {one: bool(rows.outcome[where[0]]) for one, where in of_heart.items()}
    drawn = []
    for group in (True, False):
        names = [one for one, event in outcome.items() if event is group]
        drawn += [of_heart[int(one)] for one in rng.choice(names, len(names))]
    return np.concatenate(drawn)


def _coefficients(
    rows: _Rows, predictors: Array, subset: int, chosen: NDArray[np.intp], recipe: RemodellingRecipe
) -> Array:
    """Intercept and coefficients, (5,), of one subset; those of a predictor that no heart has are 0."""
    columns = sorted(SUBSETS[subset])
    table = predictors[subset][chosen]
    columns = [column for column in columns if np.isfinite(table[:, column]).any()]
    whole = np.isfinite(table[:, columns]).all(axis=1)
    fitted: LogisticModel = fit_logistic(table[whole][:, columns], rows.outcome[chosen][whole], recipe.penalty)
    result = np.zeros(1 + predictors.shape[2])
    result[0] = fitted.intercept
    result[[1 + column for column in columns]] = fitted.coefficients
    return result


def _fit_infarct(rows: _Rows, earlier: RemodellingNetwork | None) -> tuple[Array, Array]:
    """Least squares of infarct size on function and motion, by set of features; an earlier model's without sizes."""
    known = np.isfinite(rows.infarct)
    weights, residual = np.zeros((2, 1 + len(FEATURES))), np.zeros(2)
    for variant, names in enumerate(INFARCT_FEATURES):
        columns = [FEATURES.index(name) for name in names]
        whole = known & np.isfinite(rows.features[:, columns]).all(axis=1)
        if whole.sum() < 5 * (1 + len(columns)):
            if earlier is None:
                raise ValueError(
                    f"{whole.sum()} hearts with infarct size are too few to regress it from {len(columns)} features"
                )
            weights[variant] = earlier.get_buffer("infarct_coefficients")[variant].cpu().numpy()
            residual[variant] = float(earlier.get_buffer("infarct_residual")[variant])
            continue
        table = rows.features[whole][:, columns].astype(np.float64)
        design = np.column_stack([np.ones(len(table)), table])
        solution = np.linalg.lstsq(design, rows.infarct[whole], rcond=None)[0]
        weights[variant, [0, *(1 + column for column in columns)]] = solution
        residual[variant] = float((rows.infarct[whole] - design @ solution).std())
    return weights, residual


def _store(network: RemodellingNetwork, combined: CombinedModel) -> None:
    """Put the combined model beside the weights of the network."""
    for name, value in (
        ("combined_coefficients", combined.coefficients),
        ("combined_bootstrap", combined.bootstrap),
        ("combined_means", combined.means),
        ("combined_prevalence", np.array(combined.prevalence)),
        ("infarct_coefficients", combined.infarct_coefficients),
        ("infarct_residual", combined.infarct_residual),
    ):
        network.get_buffer(name).copy_(torch.from_numpy(value))


def _architecture(recipe: RemodellingRecipe) -> FusionArchitecture:
    return FusionArchitecture(
        features=recipe.features, hidden=recipe.hidden, bootstrap=recipe.bootstrap, images=recipe.images
    )


def _card(
    recipe: RemodellingRecipe, sha256: str, cases: tuple[str, ...], events: int, command: str, source: str
) -> ModelCard:
    return ModelCard(
        name=REMODELLING_MODEL,
        version="0.3.0",
        task="risk of adverse remodelling after an acute infarct from cine MR",
        licence="Apache-2.0",
        weights_sha256=sha256,
        summary=f"Fuses {'five keyframes of the short axis with ' if recipe.images else ''}morphology and motion; a "
        "combined logistic model of its logit, GLS, left atrial reservoir strain and estimated infarct size lies "
        "beside it.",
        input=InputSpecification(
            size=SIZE,
            field="heart crop",
            spacing_mm=SPACING_MM,
            channels=tuple(name.replace("_", " ") for name in KEYFRAMES),
            normalisation="2nd and 98th percentile of 154 mm around the left ventricle over slices and phases to 0 "
            "and 1, clipped to 0 … 1.25; slices interpolated to 8 levels, apex first",
        ),
        output=("logit of adverse remodelling",),
        label_weights=(),
        architecture=_architecture(recipe),
        training=TrainingData(
            name=f"{len(cases)} hearts after an acute infarct, {events} with adverse remodelling",
            licence="Apache-2.0",
            source=source,
            cases=cases,
            split=HELD_OUT,
            steps=recipe.steps,
            command=command,
        ),
        limits=(
            "The outcome of simulated hearts is drawn from a law that was invented: the network learns that law, and "
            "its probability has not been shown to hold for any patient.",
            "Acute, reperfused infarcts a few days old; five keyframes of a short axis that spans the cycle.",
        ),
        not_for=(
            "Diagnosis, or any decision about a patient: research use only.",
            "Hearts without an acute infarct, chronic infarcts, congenital heart disease.",
        ),
    )
