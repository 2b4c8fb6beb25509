"""Processes one study: assemble, analyse, encode, gate. No network, no ledger.

The worker calls it for a job, ``dicom-node analyze`` for a folder: both get the same objects.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.config import DestinationProfile, ResultSettings, Route
from dicom_node.errors import CannotUnderstandError, GateError, ProcessingFailureError
from dicom_node.execute.corrected import Corrected, corrected_findings, is_segmentation
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.content import Predecessor
from dicom_node.results.encode import EncodedPackage, EncodedStudy, encode_refusal, encode_study
from dicom_node.results.front_page import ListedPackage, front_page, told_to
from dicom_node.results.gate import Gate, check
from dicom_node.results.numbers import ReportedNumber
from dicom_node.results.objects import ResultObject
from dicom_node.results.paragraph import EarlierExamination, paragraph, read_template
from dicom_node.results.problems import in_short
from dicom_node.results.sources import SourceDatasets
from dicom_node.results.verdict import Verdict, VerdictKind
from dicom_node.results.whole import RejectedObject, checked_set, identity_refusal
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy
from pipelines.errors import Refusal
from pipelines.package import packages
from pipelines.sampling import Sampling
from pipelines.study import analyse_study, findings_of

__all__ = ["Processed", "ProcessedStudy", "Told", "process_front_page", "process_study"]


@dataclass(frozen=True, slots=True)
class Told:
    """What a front page tells those who read no SR."""

    paragraph: str
    """Empty when there is none."""
    numbers: tuple[ReportedNumber, ...]


@dataclass(frozen=True, slots=True)
class Processed:
    """Results and verdict of one job.

    Attributes
    ----------
    objects : tuple of ResultObject
        In the order of delivery: the whole set, or a refusal alone.
    rejected : tuple of RejectedObject
        What the gate found something in; the rest of its set is withheld with it.
    seconds : mapping of str to float
        By step, in order; the analyses under their own names.
    verdicts : tuple of Verdict
        One for each package, in the order asked for; none of a front page.
    """

    objects: tuple[ResultObject, ...]
    rejected: tuple[RejectedObject, ...]
    seconds: Mapping[str, float]
    verdicts: tuple[Verdict, ...]
    told: Mapping[str, Told] = field(default_factory=dict)
    """What each front page tells, by its SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class ProcessedStudy(Processed):
    """Everything that came of one study on one route.

    Attributes
    ----------
    study : CineStudy
    findings : Findings
        Of all packages that were run together.
    numbers : mapping of str to mapping of str to float
        What each package found, by its name and the name of the number.
    reported : tuple of ReportedNumber
        The same of all packages, with units and, where there are any, bounds and normal ranges.
    """

    study: CineStudy = field(kw_only=True)
    findings: Findings = field(kw_only=True)
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict, kw_only=True)
    reported: tuple[ReportedNumber, ...] = field(default=(), kw_only=True)


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
    known: Mapping[type, object] | None = None,
    own_results: Mapping[str, str] | None = None,
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
    known
        What another package found on the same files, by type; it is not found again.
    own_results
        Role of each result of this node on the study, by SOP Instance UID: a SEG among the files that is none of them
        holds masks that a person corrected.
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
    sources = SourceDatasets()
    asked = [packages()[name] for name in (route.analyses if package is None else (package,))]
    with _timed("assemble", seconds, on_step):
        segs: list[Dataset] = []

        def seen(path: Path, dataset: Dataset) -> None:
            sources.take(path, dataset)
            if is_segmentation(dataset):
                segs.append(dataset)

        read = assemble(paths, seen)
        study = next((one for one in read if one.context.study_instance_uid == study_instance_uid), None)
    if study is None:
        raise CannotUnderstandError(
            f"none of {len(paths)} files belongs to the study",
            subject=study_instance_uid,
            remedy="send the study again",
        )
    chosen = route.synthetic_sampling
    sampling = Sampling(chosen.samples, chosen.steps, chosen.precision)
    study = replace(study, context=replace(study.context, indication=route.indication, sampling=sampling))
    with _timed("identity", seconds, on_step):
        contradiction = identity_refusal(sources, study_instance_uid)
    corrected = Corrected(known or {})
    if contradiction is None and segs:
        with _timed("corrections", seconds, on_step):
            corrected = corrected_findings(study, segs, own_results or {}, known, device)
        contradiction = corrected.refusal
        used = {str(one.get("SeriesInstanceUID", "")) for one in segs}
        study = replace(study, omissions=tuple(one for one in study.omissions if one.series_instance_uid not in used))
    if contradiction is None:
        findings = analyse_study(
            study, [one.gives for one in asked], on_start=on_step, device=device, known=corrected.known
        )
    else:
        findings = Findings({}, (contradiction,))
    seconds |= findings.seconds
    _raise_failure(findings.refusals, last_attempt)
    with Gate(sources, [one.sop_instance_uid for one in predecessors]) as gate:
        profiles = _profiles(route, results)
        circumstances = Circumstances(tuple(inputs), route_name, results, created, tuple(predecessors), sampling)
        found = [findings_of(one, findings) for one in asked]

        def encoded_as(refusal: Refusal | None) -> EncodedStudy:
            def encode(told: Circumstances) -> EncodedStudy:
                if refusal is None:
                    return encode_study(study, found, sources, profiles, told, gate.take)
                return encode_refusal(study, found, refusal, sources, profiles, told)

            made = encode(circumstances)
            earlier = _before_those_made_again(predecessors, made.objects)
            return made if earlier is None else encode(replace(circumstances, predecessors=earlier))

        with _timed("encode", seconds, on_step):
            encoded = encoded_as(contradiction)
        _raise_failure([cause for one in encoded.packages for cause in one.causes], last_attempt)
        with _timed("gate", seconds, on_step):
            checked = checked_set(encoded.objects, gate.problems, lambda refusal: encoded_as(refusal).objects)
        if checked.withheld is not None:
            # What does not leave is not told in other ways either.
            encoded = encoded_as(checked.withheld)
            findings = Findings({}, (*findings.refusals, checked.withheld), findings.seconds)
    return ProcessedStudy(
        objects=checked.objects,
        rejected=checked.rejected,
        seconds=seconds,
        verdicts=tuple(map(_verdict, encoded.packages)),
        study=study,
        findings=findings,
        numbers={one.package.name: one.numbers for one in encoded.packages},
        reported=tuple(number for one in encoded.packages for number in one.reported),
    )


def process_front_page(
    paths: Sequence[Path],
    *,
    listed: Sequence[ListedPackage],
    study_instance_uid: str,
    inputs: Sequence[str],
    created: dt.datetime,
    route_name: str,
    route: Route,
    results: ResultSettings,
    withheld: Mapping[str, Mapping[str, str]] | None = None,
    predecessors: Sequence[Predecessor] = (),
    earlier: EarlierExamination | None = None,
) -> Processed:
    """Make the front page and the manifest of a study version on a route; see :mod:`dicom_node.results.front_page`.

    Parameters
    ----------
    paths
        Files of the study: patient and study are taken from one of them.
    listed
        Every package of the route, in its order, whatever it came to.
    inputs, created, route_name, route, results
        See :func:`process_study`.
    withheld
        By package the destinations that its results are withheld from, and why: they get a front page that says so,
        and nothing of what was found.
    predecessors
        The front page of before, if there is one.
    earlier
        The patient's last examination before, if the node holds one.

    Raises
    ------
    ProcessingFailureError
        No file of the study can be read.
    GateError
        The front page does not pass the gate.
    """
    seconds: dict[str, float] = {}
    with _timed("encode", seconds):
        sources = SourceDatasets.index(paths)
        circumstances = Circumstances(tuple(inputs), route_name, results, created, tuple(predecessors))
        reference = sources.any_of(study_instance_uid)
        template = read_template(results.paragraph)

        def encode(circumstances: Circumstances) -> tuple[list[ResultObject], dict[str, Told]]:
            objects: list[ResultObject] = []
            told: dict[str, Told] = {}
            for listing, names in _told_alike(listed, withheld or {}, route.destinations):
                numbers = tuple(number for one in listing for number in one.numbers)
                wording = paragraph(numbers, template, earlier)
                profiles = {name: profile for name, profile in _profiles(route, results).items() if name in names}
                report, *others = front_page(reference, listing, profiles, circumstances, wording)
                # Those who get messages are told by what the report says.
                objects += [
                    replace(report, destinations=report.destinations | (names & _receivers(route, results))),
                    *others,
                ]
                told[report.sop_instance_uid] = Told("" if wording is None else wording.text, numbers)
            return objects, told

        objects, told = encode(circumstances)
        replaced = _before_those_made_again(predecessors, objects)
        if replaced is not None:
            objects, told = encode(replace(circumstances, predecessors=replaced))
    with _timed("gate", seconds):
        delivered = [each.sop_instance_uid for one in listed for each in one.results]
        problems = check(objects, sources, [*delivered, *(one.sop_instance_uid for one in predecessors)])
    if any(problems):
        raise GateError(
            "the front page was found unfit by the check before delivery: "
            + in_short([problem for found in problems for problem in found]),
            subject=objects[0].sop_instance_uid,
            remedy="report this as a defect",
        )
    return Processed(tuple(objects), (), seconds, (), told)


def _before_those_made_again(
    predecessors: Sequence[Predecessor], objects: Sequence[ResultObject]
) -> tuple[Predecessor, ...] | None:
    """The predecessors that objects had when they were made first; ``None`` when none of these is made again.

    A job that runs again may come to the same, object by object: it then takes the place of what was there when it came
    to that first, neither of itself nor of what it came to in between.
    """
    made = {one.sop_instance_uid for one in objects}
    first = next((place for place, one in enumerate(predecessors) if one.sop_instance_uid in made), None)
    return None if first is None else tuple(predecessors[:first])


def _told_alike(
    listed: Sequence[ListedPackage], withheld: Mapping[str, Mapping[str, str]], destinations: Sequence[str]
) -> Iterator[tuple[list[ListedPackage], frozenset[str]]]:
    """Groups of destinations that may be told the same, with what they may be told."""
    groups: dict[tuple[tuple[str, str], ...], set[str]] = {} if destinations else {(): set()}
    for name in destinations:
        kept_back = tuple((package, by[name]) for package, by in sorted(withheld.items()) if name in by)
        groups.setdefault(kept_back, set()).add(name)
    for kept_back, group in groups.items():
        why = dict(kept_back)
        told = [told_to(one, withheld.get(one.verdict.package, {}), why.get(one.verdict.package)) for one in listed]
        yield told, frozenset(group)


def _profiles(route: Route, results: ResultSettings) -> dict[str, DestinationProfile]:
    """Those that take DICOM objects."""
    return {
        name: profile
        for name, profile in results.destinations.items()
        if name in route.destinations and profile.takes_objects
    }


def _receivers(route: Route, results: ResultSettings) -> frozenset[str]:
    """Those that get a message for each front page."""
    return frozenset(name for name in route.destinations if not results.destinations[name].takes_objects)


@contextmanager
def _timed(name: str, seconds: dict[str, float], on_step: Callable[[str], None] = lambda _step: None) -> Iterator[None]:
    on_step(name)
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - started


def _raise_failure(causes: Sequence[Refusal], last_attempt: bool) -> None:
    failed = next((one for one in causes if one.reason.retry_can_help), None)
    if failed is not None and not last_attempt:
        raise ProcessingFailureError(failed.sentence, subject=failed.analysis, remedy="see the log of the worker")


def _verdict(encoded: EncodedPackage) -> Verdict:
    name = encoded.package.name
    sentences = tuple(dict.fromkeys(cause.sentence for cause in encoded.causes))
    if any(cause.reason.of_this_software for cause in encoded.causes):
        return Verdict(name, VerdictKind.FAILED, sentences)
    if encoded.causes:
        return Verdict(name, VerdictKind.DECLINED, sentences)
    return Verdict(name, VerdictKind.DELIVERED, key_numbers=encoded.key_numbers)
