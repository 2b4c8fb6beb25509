"""One study through the whole of the science: assemble, analyse, encode, gate. No network, no ledger.

The worker calls it for a job, ``dicom-node analyze`` for a folder: both get the same objects.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_node.config import ResultSettings, Route
from dicom_node.errors import CannotUnderstandError, ProcessingFailureError
from dicom_node.results.content import Predecessor
from dicom_node.results.encode import Circumstances, EncodedPackage, encode_study
from dicom_node.results.gate import check
from dicom_node.results.objects import ResultObject
from dicom_node.results.problems import Problem
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.verdict import Verdict, VerdictKind
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy
from pipelines.errors import Refusal
from pipelines.package import packages
from pipelines.study import analyse_study, findings_of

__all__ = ["ProcessedStudy", "RejectedObject", "process_study"]


@dataclass(frozen=True, slots=True)
class RejectedObject:
    """A result object that the gate kept back, and why."""

    object: ResultObject
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class ProcessedStudy:
    """Everything that came of one study on one route.

    Attributes
    ----------
    study : CineStudy
    findings : Findings
        Of all packages that were run together.
    objects : tuple of ResultObject
        Passed the gate; in the order of delivery.
    rejected : tuple of RejectedObject
    seconds : mapping of str to float
        By step, in order; the analyses under their own names.
    verdicts : tuple of Verdict
        One for each package, in the order asked for.
    """

    study: CineStudy
    findings: Findings
    objects: tuple[ResultObject, ...]
    rejected: tuple[RejectedObject, ...]
    seconds: Mapping[str, float]
    verdicts: tuple[Verdict, ...] = ()


def process_study(
    paths: Sequence[Path],
    *,
    study_instance_uid: str,
    inputs: Sequence[str],
    created: dt.datetime,
    route_name: str,
    route: Route,
    results: ResultSettings,
    package: str | None = None,
    predecessors: Sequence[Predecessor] = (),
    last_attempt: bool = True,
    device: str = "cpu",
    on_step: Callable[[str], None] = lambda _step: None,
) -> ProcessedStudy:
    """Process one study.

    Parameters
    ----------
    paths
        Its files; what no analysis can use among them becomes an omission.
    inputs
        Digests of the input instances, part of the identity of the results.
    created
        Date and time the results carry, with time zone: of the study version, so that a repeated attempt yields the
        same bytes.
    package
        Name of the one package to run. All packages of the route are run when it is left out, and report together.
    predecessors
        Reports on earlier versions of the study by the same package on the same route, to be named as what the new
        report takes the place of.
    last_attempt
        Whether a failure of an analysis should now be told to the department as a refusal. Before the last attempt it
        is raised, because another attempt may succeed.
    device
        Torch device that networks run on.
    on_step
        Told the name of each step as it starts.

    Raises
    ------
    CannotUnderstandError
        The files hold no such study.
    ConfigurationError
        A package has no encoder.
    ProcessingFailureError
        A package failed (not: declined) and attempts are left, or a source instance cannot be read again.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        on_step(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds[name] = time.perf_counter() - started

    asked = [packages()[name] for name in (route.analyses if package is None else (package,))]
    with step("assemble"):
        study = next((one for one in assemble(paths) if one.context.study_instance_uid == study_instance_uid), None)
    if study is None:
        raise CannotUnderstandError(
            f"none of {len(paths)} files belongs to the study",
            subject=study_instance_uid,
            remedy="send the study again",
        )
    findings = analyse_study(study, [one.gives for one in asked], on_start=on_step, device=device)
    seconds |= findings.seconds
    _raise_failure(findings.refusals, last_attempt)
    with step("encode"):
        sources = SourceDatasets.index(paths)
        profiles = {name: profile for name, profile in results.destinations.items() if name in route.destinations}
        circumstances = Circumstances(tuple(inputs), route_name, results, created, tuple(predecessors))
        encoded = encode_study(study, [findings_of(one, findings) for one in asked], sources, profiles, circumstances)
    _raise_failure([cause for one in encoded.packages for cause in one.causes], last_attempt)
    with step("gate"):
        problems = check(encoded.objects, sources)
    judged = list(zip(encoded.objects, problems, strict=True))
    rejected = tuple(RejectedObject(one, found) for one, found in judged if found)
    return ProcessedStudy(
        study,
        findings,
        tuple(one for one, found in judged if not found),
        rejected,
        seconds,
        tuple(_verdict(one, len(judged), rejected) for one in encoded.packages),
    )


def _raise_failure(causes: Sequence[Refusal], last_attempt: bool) -> None:
    failed = next((one for one in causes if one.reason.retry_can_help), None)
    if failed is not None and not last_attempt:
        raise ProcessingFailureError(failed.sentence, subject=failed.analysis, remedy="see the log of the worker")


def _verdict(encoded: EncodedPackage, objects: int, rejected: Sequence[RejectedObject]) -> Verdict:
    name = encoded.package.name
    sentences = tuple(dict.fromkeys(cause.sentence for cause in encoded.causes))
    if any(cause.reason.retry_can_help for cause in encoded.causes):
        return Verdict(name, VerdictKind.FAILED, sentences)
    if encoded.causes:
        return Verdict(name, VerdictKind.DECLINED, sentences)
    if not rejected:
        return Verdict(name, VerdictKind.DELIVERED, key_numbers=encoded.key_numbers)
    kept_back = tuple(
        dict.fromkeys(
            f"{one.object.series_description}: kept back by the gate ({problem})"
            for one in rejected
            for problem in one.problems
        )
    )
    if len(rejected) == objects:
        return Verdict(name, VerdictKind.FAILED, kept_back)
    return Verdict(name, VerdictKind.PARTIAL, kept_back, encoded.key_numbers)
