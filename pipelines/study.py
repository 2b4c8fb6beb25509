"""Running the steps of analysis packages on a study, and what of the findings belongs to which package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pipelines.analysis import Analysis, Findings, plan, run
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.errors import Refusal
from pipelines.models.identity import MadeByModels, ModelIdentity
from pipelines.package import GIVEN, AnalysisPackage, Device, all_steps, packages

__all__ = ["PackageFindings", "analyse_study", "findings_of"]


@dataclass(frozen=True, slots=True)
class PackageFindings:
    """What one package found on a study, with everything that led to it.

    Attributes
    ----------
    package : AnalysisPackage
    findings : Findings
        Values and seconds of the steps that lead to what the package gives, and of no others; refusals of those that
        it cannot do without.
    """

    package: AnalysisPackage
    findings: Findings

    @property
    def found(self) -> bool:
        """Whether there is what the package gives."""
        return self.findings.get(self.package.gives) is not None

    @property
    def causes(self) -> tuple[Refusal, ...]:
        """The refusals that are causes: those that only followed from another one tell a reader nothing."""
        return tuple(one for one in self.findings.refusals if one.because_of is None)

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """Every network that took part, each once; empty when the package was refused before any ran."""
        took_part = (value.models for value in self.findings.values.values() if isinstance(value, MadeByModels))
        return tuple(dict.fromkeys(model for models in took_part for model in models))


def analyse_study(
    study: CineStudy,
    wanted: Iterable[type] | None = None,
    steps: Iterable[Analysis[..., Any]] | None = None,
    on_start: Callable[[str], None] | None = None,
    device: str = "cpu",
    known: Mapping[type, object] | None = None,
) -> Findings:
    """Run steps on a study; what could not be done is in ``refusals`` of the findings and is never raised.

    Parameters
    ----------
    study : CineStudy
    wanted, on_start
        See :func:`pipelines.analysis.run`.
    steps : iterable of Analysis, optional
        The steps there are; those of all packages when left out.
    device : str
        Torch device that networks run on.
    known : mapping of type to value, optional
        What an earlier run on the same study found already; the steps that give it are not run again.

    Raises
    ------
    AnalysisSetupError
        The steps do not fit together: a defect of the configuration, whatever the study.
    """
    already = dict(known or {})
    available = all_steps(packages().values()) if steps is None else tuple(steps)
    given = {CineStudy: study, StudyContext: study.context, cast("type", Device): Device(device), **already}
    return run((step for step in available if step.gives not in already), given, wanted, on_start)


def findings_of(
    package: AnalysisPackage, findings: Findings, steps: Iterable[Analysis[..., Any]] | None = None
) -> PackageFindings:
    """The part of the findings that belongs to a package.

    Parameters
    ----------
    findings
        Of a run that the package may have shared with others.
    steps
        The steps there are; those of all packages when left out.
    """
    available = all_steps(packages().values()) if steps is None else tuple(steps)
    own = plan(available, GIVEN, [package.gives])
    kinds, names = {*GIVEN, *(step.gives for step in own)}, {step.name for step in own}
    needed = _needed(own, package.gives)
    return PackageFindings(
        package,
        Findings(
            {kind: value for kind, value in findings.values.items() if kind in kinds},
            tuple(one for one in findings.refusals if one.analysis in needed),
            {name: seconds for name, seconds in findings.seconds.items() if name in names},
        ),
    )


def _needed(steps: Iterable[Analysis[..., Any]], wanted: type) -> frozenset[str]:
    """Names of the steps without which a result cannot be: what others only use where it is there is not among them."""
    source = {step.gives: step for step in steps}
    pending, names = [wanted], set()
    while pending:
        step = source.get(pending.pop())
        if step is not None and step.name not in names:
            names.add(step.name)
            pending += [need.type for need in step.needs if not need.optional]
    return frozenset(names)
