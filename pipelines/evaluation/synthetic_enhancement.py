"""Synthetic enhancement against what is true of phantoms and real images of EMIDEC.

Phantoms go the whole way of a study: the node's segmentation, its key frames and its quality control. So do cines that
are simulated from the anatomy of a patient of EMIDEC; the truth is then the patient's image and the experts' masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.enhancement_ablations import ablated_from, load_others
from pipelines.evaluation.figures import plain
from pipelines.evaluation.motion_observer import observer_of
from pipelines.evaluation.synthetic_figures import EnhancementEvaluation, summarise
from pipelines.evaluation.synthetic_hearts import PHASES, HeartResult, Pictures, judged
from pipelines.models.registry import PACKAGED, LoadedModel
from pipelines.phantom.law import DEFAULT_LAW, PESSIMISTIC_LAW, JointLaw
from pipelines.phantom.study import PhantomStudy, simulate
from pipelines.sampling import Sampling
from pipelines.synthetic_enhancement.load import Networks, load_networks
from pipelines.training.emidec import find_cases, read_case
from pipelines.training.heart_clips import Population, clip_recipe
from pipelines.training.semi_synthetic import Part, part_of, semi_synthetic_study, upright

__all__ = ["evaluate_emidec", "evaluate_phantoms"]


def evaluate_phantoms(
    count: int,
    *,
    seed: int = 900000,
    pessimistic: bool = False,
    ablations: bool = False,
    against: Sequence[Path] = (),
    models: Path = PACKAGED,
    sampling: Sampling | None = None,
    keep: Path | None = None,
    report: Callable[[HeartResult, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Analyse phantoms as the node would, segmentation included, and compare with what is true of them.

    Parameters
    ----------
    count : int
    seed : int
        Of the first phantom; seeds count up.
    pessimistic : bool
        Draw hearts by the pessimistic law of motion and scar instead of the default one.
    ablations : bool
        Ask the networks again with something kept from them, and the refiner with other numbers of steps.
    against : sequence of Path
        Folders that hold other first guesses, such as those that were trained without an input; the first is the one
        that the others are held against.
    models : Path
        Folder that holds the networks and the calibration.
    keep : Path or None
        Folder that keeps each heart, for a run to go on where it stopped, and the pictures of one slice of each.
    report : callable
        Is called after each phantom.

    Raises
    ------
    ModelUnavailable
        A network is missing.
    ValueError
        Two networks to compare have the same name.
    """
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    judge = _Judge(law, load_networks(root=models), sampling or Sampling(), ablations, load_others(against), keep)

    def phantom(number: int) -> tuple[HeartResult, Pictures | None]:
        recipe = replace(clip_recipe(seed + number, Population.ALL, law), phases=PHASES)
        return judge.heart(simulate(recipe, workers=1, matched_enhancement=True))

    return _over(
        [
            (f"{'pessimistic' if pessimistic else 'default'}-{seed + number}", partial(phantom, number))
            for number in range(count)
        ],
        judge,
        report,
    )


def evaluate_emidec(
    data: Path,
    *,
    part: Part = Part.REPORTED,
    pessimistic: bool = False,
    against: Sequence[Path] = (),
    models: Path = PACKAGED,
    sampling: Sampling | None = None,
    keep: Path | None = None,
    report: Callable[[HeartResult, int, int], None] | None = None,
) -> EnhancementEvaluation:
    """Analyse cines simulated from the anatomy of patients of EMIDEC, and compare with their real late enhancement.

    See :mod:`pipelines.training.semi_synthetic` for what is the patient's and what is simulated, and for the parts; no
    weight was fitted to the part that is reported on.

    Parameters
    ----------
    data : Path
        Folder with ``images`` and ``labels``.
    part : Part
    pessimistic, against, models, sampling, keep, report
        As in :func:`evaluate_phantoms`.

    Raises
    ------
    EmidecLayoutError
        The folder does not hold EMIDEC as PNG slices.
    ModelUnavailable
        A network is missing.
    ValueError
        Two networks to compare have the same name.
    """
    law = PESSIMISTIC_LAW if pessimistic else DEFAULT_LAW
    judge = _Judge(law, load_networks(root=models), sampling or Sampling(), False, load_others(against), keep)
    cases = find_cases(data)

    def patient(images: Sequence[Path]) -> tuple[HeartResult, Pictures | None]:
        case = upright(read_case(images))
        result, pictures = judge.heart(semi_synthetic_study(case, law), real=True)
        return replace(result, case=case.identifier, disease=case.group), pictures

    return _over(
        [
            (f"emidec-{'pessimistic' if pessimistic else 'default'}-{name}", partial(patient, images))
            for name, images in ((name, cases[name]) for name in part_of(tuple(cases), part))
        ],
        judge,
        report,
    )


@dataclass(frozen=True, slots=True)
class _Judge:
    """What all hearts of one evaluation are judged with."""

    law: JointLaw
    networks: Networks
    sampling: Sampling
    ablations: bool
    others: Mapping[str, LoadedModel]
    keep: Path | None

    def heart(self, study: PhantomStudy, *, real: bool = False) -> tuple[HeartResult, Pictures | None]:
        """See :func:`judged`."""
        ceiling = observer_of(self.law, self.keep)
        return judged(study, self.networks, self.sampling, ceiling, self.ablations, self.others, real)


def _over(
    hearts: Sequence[tuple[str, Callable[[], tuple[HeartResult, Pictures | None]]]],
    judge: _Judge,
    report: Callable[[HeartResult, int, int], None] | None,
) -> EnhancementEvaluation:
    """Judge every heart that is not kept yet, by name, and summarise all."""
    networks, keep = judge.networks, judge.keep
    identity = "".join(
        model.identity.weights_sha256[:8] for model in (networks.first, networks.refiner, *judge.others.values())
    )
    results = []
    for number, (name, make) in enumerate(hearts, 1):
        kept = None if keep is None else keep / f"{name}-{identity}.json"
        if kept is not None and kept.is_file():
            result = _result_from(json.loads(kept.read_text(encoding="utf-8")))
        else:
            result, pictures = make()
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                if pictures is not None:
                    np.savez_compressed(
                        kept.with_suffix(".npz"),
                        **{field: getattr(pictures, field) for field in Pictures.__dataclass_fields__},
                    )
                kept.write_text(json.dumps(plain(asdict(result))), encoding="utf-8")
        results.append(result)
        if report is not None:
            report(result, number, len(hearts))
    return summarise(results)


def _result_from(value: dict[str, Any]) -> HeartResult:
    pairs = {name: tuple(map(tuple, value[name])) for name in ("slices", "segments", "ceiling_segments")}
    others = {name: tuple(value[name]) for name in ("faults", "withheld", "hyperintense", "intermediate", "patient")}
    ablations = {name: ablated_from(entry) for name, entry in value["ablations"].items()}
    return HeartResult(**{**value, **pairs, **others, "ablations": ablations})
