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
from dicom_node.results.encode import encode_refusal, encode_study, result_identity
from dicom_node.results.objects import ResultObject
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.whole import RejectedObject, checked_set, identity_refusal
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy
from pipelines.errors import Refusal
from pipelines.function.findings import VentricularFunction
from pipelines.ventricles import VENTRICLES, analyse_study

__all__ = ["ProcessedStudy", "process_study"]

_WANTED: Mapping[str, tuple[type, ...]] = {"ventricular_function": (VentricularFunction,)}
"""What each name in ``Route.analyses`` asks the runner for."""


@dataclass(frozen=True, slots=True)
class ProcessedStudy:
    """Everything that came of one study on one route."""

    study: CineStudy
    findings: Findings
    objects: tuple[ResultObject, ...]
    """In the order of delivery: the whole set, or a refusal."""
    rejected: tuple[RejectedObject, ...]
    """What the gate found something in; nothing of its set is delivered but the refusal that says so."""
    seconds: Mapping[str, float]
    """By step, in order; the analyses under their own names."""


def process_study(
    paths: Sequence[Path],
    *,
    study_instance_uid: str,
    inputs: Sequence[str],
    created: dt.datetime,
    route_name: str,
    route: Route,
    results: ResultSettings,
    last_attempt: bool = True,
    device: str = "cpu",
    on_step: Callable[[str], None] = lambda _step: None,
) -> ProcessedStudy:
    """Process one study.

    Parameters
    ----------
    paths
        Its files; what is not cine among them becomes an omission.
    inputs
        Digests of the input instances, part of the identity of the results.
    created
        Date and time the results carry, with time zone: of the study version, so that a repeated attempt yields the
        same bytes.
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
    ProcessingFailureError
        An analysis failed (not: refused) and attempts are left, or a source instance cannot be read again.
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

    with step("assemble"):
        study = next((one for one in assemble(paths) if one.context.study_instance_uid == study_instance_uid), None)
    if study is None:
        raise CannotUnderstandError(
            f"none of {len(paths)} files belongs to the study",
            subject=study_instance_uid,
            remedy="send the study again",
        )
    wanted = [kind for name in route.analyses for kind in _WANTED[name]]
    with step("identity"):
        sources = SourceDatasets.index(paths)
        contradiction = identity_refusal(sources, study_instance_uid)
    if contradiction is None:
        findings = analyse_study(study, VENTRICLES, wanted, on_step, device)
    else:
        findings = Findings({}, (contradiction,))
    seconds |= findings.seconds
    failed = next((one for one in findings.refusals if one.reason.retry_can_help), None)
    if failed is not None and not last_attempt:
        raise ProcessingFailureError(failed.sentence, subject=failed.analysis, remedy="see the log of the worker")
    profiles = {name: profile for name, profile in results.destinations.items() if name in route.destinations}
    identity = result_identity(study, findings, inputs=inputs, route_name=route_name, settings=results)

    def refuse(refusal: Refusal) -> list[ResultObject]:
        return encode_refusal(study, refusal, sources, profiles, results, identity, created)

    with step("encode"):
        if contradiction is None:
            objects = encode_study(study, findings, sources, profiles, results, identity, created)
        else:
            objects = refuse(contradiction)
    with step("gate"):
        checked = checked_set(objects, sources, refuse)
    if checked.withheld is not None:
        # What does not leave is not told in other ways either.
        findings = Findings({}, (*findings.refusals, checked.withheld), findings.seconds)
    return ProcessedStudy(study, findings, checked.objects, checked.rejected, seconds)
