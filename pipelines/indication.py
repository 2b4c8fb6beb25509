"""Why a patient was examined, and the analyses that are for one indication only."""

from __future__ import annotations

import enum

from pipelines.errors import AnalysisRefused, RefusalReason

__all__ = ["Indication", "require_indication"]


class Indication(enum.StrEnum):
    """Why a patient was examined, as far as an analysis depends on it. Images do not tell it: the route does."""

    ACUTE_INFARCT = "acute infarct"
    """Reperfused myocardial infarct, a few days old."""


def require_indication(given: Indication | None, needed: Indication, what: str) -> None:
    """Decline a study that was not made for what an analysis is for.

    Parameters
    ----------
    given : Indication or None
        Of :class:`pipelines.cine.stack.StudyContext`.
    needed : Indication
    what : str
        What is declined, at the beginning of a sentence: "Microvascular obstruction".

    Raises
    ------
    AnalysisRefused
        The study has another indication or none.
    """
    if given is not needed:
        known = f"the indication of this study is {given}" if given is not None else "the route states no indication"
        raise AnalysisRefused(
            RefusalReason.NOT_SUITABLE,
            f"{what} is estimated only where the route says that the patient has an {needed}; {known}.",
        )
