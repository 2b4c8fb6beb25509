"""How motion and scar belong together in the simulated population: a stated, changeable law.

Scar and loss of motion are two correlated fields, not one: an area at risk holds more than the infarct, stunned and
hibernating muscle stands still without scar, and a scar that spares the outer half of the wall hardly shows in its
motion. A simulator that lowers motion exactly where it paints scar would let any network score by construction.

The figures are ranges from reviews and from the papers named, set from memory of them: they are assumptions of this
simulator that a user can change, not findings.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LAW", "PESSIMISTIC_LAW", "JointLaw"]


@dataclass(frozen=True, slots=True)
class JointLaw:
    """Parameters of the joint distribution of scar, motion and what else shows in cine images.

    Attributes
    ----------
    coupling : float
        0 … 1: how much of the motion of a place follows from its scar and its area at risk. The rest is drawn
        independently, as fields that are smooth over 12 mm and 25°.
    visible_transmurality, visibility_width : float
        Depth of a chronic scar at which half of its motion loss shows, and width of that transition (Mahrholdt, JACC
        2003: thickening is near normal until transmurality passes about one half).
    stunning : (float, float)
        Range of the part of the core's motion loss that the area at risk around an acute infarct shares (reviews: a
        third to a half of the muscle that stands still is not infarcted).
    risk_ratio : (float, float)
        Range of the size of the area at risk relative to the infarct (reviews: 1.3 … 2).
    hibernation : float
        Probability that the heart of a chronic infarct also has a territory that stands still without scar (Kim, NEJM
        2000: 78 % of the dysfunctional segments without scar recover).
    second_infarct : float
        Probability of an infarct in a second territory.
    fat : float
        Probability that a chronic infarct holds fat.
    haemorrhage : float
        Probability of haemorrhage in an obstruction (reviews: 40 … 60 %): the core is then dark in balanced SSFP.
    oedema : (float, float)
        Range of the part of the T2 effect of oedema that shows in the area at risk.
    heterogeneity : float
        Standard deviation of contractility in remote muscle.
    midwall_fibrosis_dcm, patchy_fibrosis_hcm, lesion_myocarditis : float
        Prevalence of enhancement in dilated and hypertrophic cardiomyopathy and in acute myocarditis (reviews: 25 … 35,
        50 … 65 and 70 … 90 %).
    """

    coupling: float = 0.7
    visible_transmurality: float = 0.5
    visibility_width: float = 0.1
    stunning: tuple[float, float] = (0.3, 1.0)
    risk_ratio: tuple[float, float] = (1.3, 2.0)
    hibernation: float = 0.3
    second_infarct: float = 0.15
    fat: float = 0.3
    haemorrhage: float = 0.5
    oedema: tuple[float, float] = (0.2, 1.0)
    heterogeneity: float = 0.06
    midwall_fibrosis_dcm: float = 0.3
    patchy_fibrosis_hcm: float = 0.58
    lesion_myocarditis: float = 0.8

    def __post_init__(self) -> None:
        for name in (
            *("coupling", "hibernation", "second_infarct", "fat", "haemorrhage"),
            *("midwall_fibrosis_dcm", "patchy_fibrosis_hcm", "lesion_myocarditis"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


DEFAULT_LAW = JointLaw()
"""The law that phantoms follow unless told otherwise."""

PESSIMISTIC_LAW = JointLaw(
    coupling=0.4,
    visible_transmurality=0.65,
    hibernation=0.5,
    fat=0.1,
    oedema=(0.0, 0.4),
    heterogeneity=0.12,
)
"""Motion explains less of the scar, more muscle stands still without one, and less of it shows in grey values: the
setting to report beside the default, because nobody knows which of the two patients are nearer to."""
