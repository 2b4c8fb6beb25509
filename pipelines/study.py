"""Running the steps of analysis packages on a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from pipelines.analysis import Analysis, Findings, run
from pipelines.cine.stack import CineStudy, StudyContext
from pipelines.package import Device, all_steps, packages

__all__ = ["analyse_study"]


def analyse_study(
    study: CineStudy,
    wanted: Iterable[type] | None = None,
    steps: Iterable[Analysis[..., Any]] | None = None,
    on_start: Callable[[str], None] | None = None,
    device: str = "cpu",
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

    Raises
    ------
    AnalysisSetupError
        The steps do not fit together: a defect of the configuration, whatever the study.
    """
    available = all_steps(packages().values()) if steps is None else tuple(steps)
    given = {CineStudy: study, StudyContext: study.context, cast("type", Device): Device(device)}
    return run(available, given, wanted, on_start)
