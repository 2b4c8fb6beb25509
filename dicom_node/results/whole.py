"""Holds a set of results against the gate: it leaves whole, or a short report alone says why it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicom_node.errors import GateError
from dicom_node.results.agreement import disagreements
from dicom_node.results.objects import ResultObject
from dicom_node.results.problems import Problem, in_short
from dicom_node.results.sources import SourceDatasets
from pipelines.errors import Refusal, RefusalReason

__all__ = ["CheckedSet", "RejectedObject", "checked_set", "identity_refusal"]


@dataclass(frozen=True, slots=True)
class RejectedObject:
    """A result object in which the gate found something, and what."""

    object: ResultObject
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """What may leave of one set of results.

    Attributes
    ----------
    objects : tuple of ResultObject
        In the order of delivery: the whole set, or the refusal alone.
    rejected : tuple of RejectedObject
        What the gate found something in; the rest of the set is withheld with it.
    withheld : Refusal or None
        Why the set does not leave.
    """

    objects: tuple[ResultObject, ...]
    rejected: tuple[RejectedObject, ...] = ()
    withheld: Refusal | None = None


def checked_set(
    objects: Sequence[ResultObject],
    check: Callable[[Sequence[ResultObject]], Sequence[tuple[Problem, ...]]],
    refuse: Callable[[Refusal], Sequence[ResultObject]],
) -> CheckedSet:
    """Hold a set of results against the gate.

    Parameters
    ----------
    objects
        All results of one package.
    check
        The gate: what is wrong with each of the objects that are to leave together.
    refuse
        Encodes the report that says why nothing else comes.

    Raises
    ------
    GateError
        The gate found something in that report too.
    """
    rejected = _rejected(objects, check)
    if not rejected:
        return CheckedSet(tuple(objects))
    withheld = Refusal("gate", RefusalReason.RESULTS_WITHHELD, _sentence(rejected))
    instead = tuple(refuse(withheld))
    unfit = _rejected(instead, check)
    if unfit:
        raise GateError(
            "neither the results nor the report that they are withheld passed the check: "
            + in_short([problem for one in unfit for problem in one.problems]),
            subject=instead[0].sop_instance_uid,
            remedy="look at the quarantine, and report this as a defect",
        )
    return CheckedSet(instead, rejected, withheld)


def _rejected(
    objects: Sequence[ResultObject], check: Callable[[Sequence[ResultObject]], Sequence[tuple[Problem, ...]]]
) -> tuple[RejectedObject, ...]:
    judged = zip(objects, check(objects), strict=True)
    return tuple(RejectedObject(one, problems) for one, problems in judged if problems)


def _sentence(rejected: Sequence[RejectedObject]) -> str:
    # The kind of check and the role only: what exactly departs is for the administrator.
    found = sorted(
        {f"{problem.check.value} of {one.object.role.value}" for one in rejected for problem in one.problems}
    )
    return (
        "The results were made, but the check before delivery found them unfit and they were withheld "
        f"({', '.join(found)}). Ask the administrator of the node."
    )


def identity_refusal(sources: SourceDatasets, study_instance_uid: str) -> Refusal | None:
    """Why a study is declined whose images contradict each other in whose study it is, if they do."""
    contradictory = disagreements(sources.identities(study_instance_uid))
    if not contradictory:
        return None
    return Refusal(
        "identity",
        RefusalReason.IDENTITY_CONFLICT,
        f"The images of the study disagree in {' and '.join(contradictory)}, so it is not certain whose study it is. "
        "Correct the images at the archive and send the study again.",
    )
