"""How motion and scar belong together in the simulated population: a stated, changeable law.

Scar and loss of motion are two correlated fields, not one: an area at risk holds more than the infarct, stunned and
hibernating muscle stands still without scar, and a scar that spares the outer half of the wall hardly shows in its
motion. A simulator that lowers motion exactly where it paints scar would let any network score by construction.

The figures are ranges from reviews and from the papers named, set from memory of them: they are assumptions of this
simulator that a user can change, not findings. How acute infarcts with microvascular obstruction differ from those
without follows EMIDEC (``benchmarks/obstruction_law.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["DEFAULT_LAW", "PESSIMISTIC_LAW", "JointLaw"]

_OF_ACUTE = frozenset({"infarct_spread", "obstruction_size", "obstruction_depth", "obstruction_motion"})
_LARGEST = 3.0


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
    infarct_spread : float
        Standard deviation of the logarithm of the area of an acute infarct, beyond that of its width and its length
        (EMIDEC: the share of the wall's surface that is scarred varies by 15 to 17 % of the surface).
    obstruction_size : float
        How many times as large in area an acute infarct with obstruction is, in the median (EMIDEC: 38 against 30 % of
        the wall's surface, 25 against 15 % of the muscle, since it is deeper as well).
    obstruction_depth : float
        0 … 1: which part of what is left to the epicardium an infarct with obstruction goes deeper.
    obstruction_motion : float
        How much less of remote contraction the core of an infarct with obstruction has at the same depth (no recovery
        from stunning where reperfusion failed; the size is set so that an observer of the true motion tells
        obstruction about as well as, or a little better than, published models of images do).
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
    infarct_spread: float = 0.4
    obstruction_size: float = 1.4
    obstruction_depth: float = 0.5
    obstruction_motion: float = 0.1
    oedema: tuple[float, float] = (0.2, 1.0)
    heterogeneity: float = 0.06
    midwall_fibrosis_dcm: float = 0.3
    patchy_fibrosis_hcm: float = 0.58
    lesion_myocarditis: float = 0.8

    def __post_init__(self) -> None:
        for name in (
            *("coupling", "hibernation", "second_infarct", "fat", "haemorrhage"),
            *("infarct_spread", "obstruction_depth", "obstruction_motion"),
            *("midwall_fibrosis_dcm", "patchy_fibrosis_hcm", "lesion_myocarditis"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 < self.obstruction_size <= _LARGEST:
            raise ValueError(f"obstruction_size is {self.obstruction_size}; it must lie above 0 and up to {_LARGEST:g}")

    def without_acute_infarct(self) -> str:
        """The law as text, less what only acute infarcts follow."""
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.name not in _OF_ACUTE)
        return f"{type(self).__name__}({', '.join(shown)})"


DEFAULT_LAW = JointLaw()
"""The law that phantoms follow unless told otherwise."""

PESSIMISTIC_LAW = JointLaw(
    coupling=0.4,
    visible_transmurality=0.65,
    hibernation=0.5,
    fat=0.1,
    obstruction_size=1.2,
    obstruction_motion=0.05,
    oedema=(0.0, 0.4),
    heterogeneity=0.12,
)
"""Motion explains less of the scar, more muscle stands still without one, less of it shows in grey values, and
infarcts with obstruction differ less from others: the setting to report beside the default, because nobody knows which
of the two patients are nearer to."""
