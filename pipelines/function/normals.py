"""Reference intervals of ventricular function: a table that a department can replace, with source and method.

The table that comes with this package (``normals.yaml``) is of one study that traced as this package does, with the
papillary muscles and trabeculae in the cavity: Petersen et al., "Reference ranges for cardiac structure and function
using cardiovascular magnetic resonance (CMR) in Caucasians from the UK Biobank population cohort", JCMR 2017;19:18, doi
10.1186/s12968-017-0327-9; 368 men and 432 women aged 45 to 74, bSSFP at 1.5 T, manual contours. What the study does not
give, or could not be checked, is left out: there is no interval for RVEF, absolute mass, output or rates.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.cine.stack import StudyContext
from pipelines.function.findings import Quantity

__all__ = [
    "PACKAGED",
    "NormalTable",
    "NormalTableError",
    "ReferenceInterval",
    "Standing",
    "read_normals",
    "reference_interval",
]

PACKAGED = Path(__file__).with_name("normals.yaml")
"""The table that is used where a department names none of its own."""


class NormalTableError(ValueError):
    """A table of normal ranges cannot be used."""


class Standing(enum.StrEnum):
    """Position of a value relative to its reference interval."""

    BELOW = "below"
    WITHIN = "within"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class ReferenceInterval:
    """Interval of a healthy population, in the unit of the quantity."""

    quantity: Quantity
    lower: float
    upper: float
    definition: str
    """What the bounds are."""
    source: str
    population: str
    """Sex, number and age of the people it is from."""
    age_years: tuple[float, float]
    """Age of the people it is from, the first included, the second not."""
    age_fits: bool | None
    """Whether the patient is of the age of that population; ``None`` when the age is not known."""

    def standing(self, value: float) -> Standing:
        """Tell whether a value is below, within or above the interval."""
        if value < self.lower:
            return Standing.BELOW
        return Standing.ABOVE if value > self.upper else Standing.WITHIN


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the first bound must be below the second")
    return bounds


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Group(_Part):
    sex: Literal["M", "F"]
    age_years: Annotated[tuple[float, float], AfterValidator(_rises)]
    population: str = Field(min_length=1)
    ranges: dict[Quantity, tuple[float, float, str]]

    @model_validator(mode="after")
    def _ranges_rise(self) -> _Group:
        for quantity, (lower, upper, _) in self.ranges.items():
            if not lower < upper:
                raise ValueError(f"{quantity.value}: the first bound must be below the second")
        return self

    def fits(self, age_years: float) -> bool:
        return self.age_years[0] <= age_years < self.age_years[1]


class _Table(_Part):
    source: str = Field(min_length=1)
    adult_from_years: float = 18.0
    definitions: dict[str, str]
    groups: tuple[_Group, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _definitions_are_there(self) -> _Table:
        for group in self.groups:
            for quantity, (_, _, definition) in group.ranges.items():
                if definition not in self.definitions:
                    raise ValueError(f"{quantity.value}: {definition!r} is not among the definitions")
        return self


@dataclass(frozen=True, slots=True)
class NormalTable:
    """A table of normal ranges by sex and age.

    Attributes
    ----------
    source : str
        Where the numbers are from.
    digest : str
        sha256 of the file.
    """

    source: str
    digest: str
    adult_from_years: float
    definitions: Mapping[str, str]
    groups: tuple[_Group, ...]


def read_normals(path: Path) -> NormalTable:
    """Read a table of normal ranges.

    Raises
    ------
    NormalTableError
        It cannot be read, or is not laid out as ``normals.yaml``.
    """
    try:
        content = path.read_bytes()
        table = _Table.model_validate(yaml.safe_load(content))
    except OSError as error:
        raise NormalTableError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise NormalTableError(f"{path} is not YAML") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(key) for key in first["loc"])
        raise NormalTableError(f"{path}: {where}: {first['msg']}") from error
    digest = hashlib.sha256(content).hexdigest()
    return NormalTable(table.source, digest, table.adult_from_years, table.definitions, table.groups)


@cache
def _packaged() -> NormalTable:
    return read_normals(PACKAGED)


def reference_interval(
    quantity: Quantity, context: StudyContext, table: NormalTable | None = None
) -> ReferenceInterval | None:
    """Reference interval of a quantity for a patient.

    Parameters
    ----------
    quantity : Quantity
    context : StudyContext
        Sex, and age where known.
    table : NormalTable, optional
        The one that comes with this package unless given.

    Returns
    -------
    ReferenceInterval or None
        ``None`` for a child, where the sex is not M or F, and where the table gives no interval.
    """
    table = _packaged() if table is None else table
    age = context.age_years
    groups = [one for one in table.groups if one.sex == context.sex and quantity in one.ranges]
    if not groups or (age is not None and age < table.adult_from_years):
        return None
    group = next((one for one in groups if age is not None and one.fits(age)), groups[0])
    lower, upper, definition = group.ranges[quantity]
    return ReferenceInterval(
        quantity,
        lower,
        upper,
        table.definitions[definition],
        table.source,
        group.population,
        group.age_years,
        None if age is None else group.fits(age),
    )
