"""What the analysis of disease patterns finds: which group of patients a heart resembles. No diagnosis."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pipelines.models.identity import ModelIdentity

__all__ = ["Contribution", "DiseasePattern", "Pattern"]


class Pattern(enum.StrEnum):
    """A group of patients of the second task of ACDC (Bernard et al., IEEE TMI 2018); the value is its key."""

    NORMAL = "normal"
    DILATED = "dilated"
    HYPERTROPHIC = "hypertrophic"
    OLD_INFARCT = "old_infarct"
    ABNORMAL_RV = "abnormal_rv"

    @property
    def words(self) -> str:
        """Name of the pattern, as it stands within a sentence."""
        return _WORDS[self]


_WORDS = {
    Pattern.NORMAL: "normal",
    Pattern.DILATED: "dilated left ventricle",
    Pattern.HYPERTROPHIC: "hypertrophic left ventricle",
    Pattern.OLD_INFARCT: "old infarct with reduced function",
    Pattern.ABNORMAL_RV: "abnormal right ventricle",
}


@dataclass(frozen=True, slots=True)
class Contribution:
    """Contribution of one feature to the likeliest pattern, compared with the next.

    Attributes
    ----------
    name : str
        With its unit.
    value : float
    logit : float
        What it adds to the difference of the two logits, compared with an average patient of the training.
    """

    name: str
    value: float
    logit: float


@dataclass(frozen=True, slots=True)
class DiseasePattern:
    """Resemblance of a heart to five groups of patients.

    Attributes
    ----------
    probabilities : dict of Pattern to float
        They sum to 1: in the training each group was as frequent as any other.
    contributions : tuple of Contribution
        The strongest first.
    features : dict of str to float
        Everything that the classifier was given.
    departure : float
        Root mean square departure from the patients of the training, standard deviations.
    assumed_size : bool
        Whether the body surface area had to be assumed.
    notes : tuple of str
    models : tuple of ModelIdentity
    """

    probabilities: dict[Pattern, float]
    contributions: tuple[Contribution, ...]
    features: dict[str, float]
    departure: float
    assumed_size: bool
    notes: tuple[str, ...]
    models: tuple[ModelIdentity, ...]

    @property
    def ranked(self) -> tuple[tuple[Pattern, float], ...]:
        """Patterns with their probability, the likeliest first."""
        return tuple(sorted(self.probabilities.items(), key=lambda item: -item[1]))
