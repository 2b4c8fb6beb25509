"""Who the simulated person is in DICOM: names, identifiers, dates and UIDs, all derived from the recipe."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid

from pydicom.dataset import Dataset

from pipelines.phantom.law import JointLaw
from pipelines.phantom.recipe import Disease, PhantomRecipe
from pipelines.phantom.study import PhantomStudy

__all__ = ["Script", "phantom_uid", "recipe_key", "study_header", "study_moment"]

_NAMESPACE = uuid.UUID("6ab6a0d4-3f3c-5d5a-9a4e-2f6c1c9f0e11")


class Script(enum.StrEnum):
    """Script of the patient's name, with the SpecificCharacterSet that scanners of that region write."""

    LATIN = "latin"
    CYRILLIC = "cyrillic"
    JAPANESE = "japanese"
    ARABIC = "arabic"
    UNICODE = "unicode"

    @property
    def character_set(self) -> str | list[str]:
        """SpecificCharacterSet (0008,0005)."""
        sets: dict[str, str | list[str]] = {
            "latin": "ISO_IR 100",
            "cyrillic": "ISO_IR 144",
            "japanese": ["", "ISO 2022 IR 87"],
            "arabic": "ISO_IR 127",
            "unicode": "ISO_IR 192",
        }
        return sets[self.value]


_FAMILY = {
    Script.CYRILLIC: "Фантом",
    Script.ARABIC: "شبح",
    Script.UNICODE: "Fantôme-Ørsted",
}
_GIVEN = {
    Disease.NORMAL: "Normal",
    Disease.DCM: "Dilated",
    Disease.HCM: "Hypertrophic",
    Disease.INFARCT: "Infarct",
    Disease.RV_OVERLOAD: "Overload",
    Disease.HIBERNATION: "Hibernating",
    Disease.MYOCARDITIS: "Myocarditis",
    Disease.AMYLOID: "Amyloid",
    Disease.BUNDLE_BRANCH_BLOCK: "Bundle",
}
_GIVEN_CYRILLIC = {
    Disease.NORMAL: "Норма",
    Disease.DCM: "Дилатация",
    Disease.HCM: "Гипертрофия",
    Disease.INFARCT: "Инфаркт",
    Disease.RV_OVERLOAD: "Перегрузка",
    Disease.HIBERNATION: "Гибернация",
    Disease.MYOCARDITIS: "Миокардит",
    Disease.AMYLOID: "Амилоид",
    Disease.BUNDLE_BRANCH_BLOCK: "Блокада",
}


def recipe_key(recipe: PhantomRecipe) -> str:
    """Text that is equal for equal recipes on any machine."""
    parts = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == "severe" and not value:
            continue  # Recipes from before there was this choice keep their UIDs.
        if isinstance(value, JointLaw) and (recipe.disease is not Disease.INFARCT or recipe.acute is False):
            value = value.without_acute_infarct()  # So do those without an acute infarct.
        if isinstance(value, frozenset):
            value = ",".join(sorted(str(item) for item in value))
        parts.append(f"{field.name}={value}")
    return ";".join(parts)


def phantom_uid(recipe: PhantomRecipe, role: str) -> str:
    """UID under 2.25 (PS3.5 B.2) derived from the recipe and the role of the object."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{recipe_key(recipe)}|{role}').int}"


def study_moment(recipe: PhantomRecipe, seconds: float = 0.0) -> datetime.datetime:
    """Date and time of the study plus some seconds; the same for equal seeds."""
    start = datetime.datetime(2025, 1, 6, 8, 0) + datetime.timedelta(
        days=recipe.seed % 360, minutes=(recipe.seed * 37) % 540
    )
    return start + datetime.timedelta(seconds=seconds)


def patient_name(recipe: PhantomRecipe, script: Script) -> str:
    """Person name: always begins with a word for phantom, so that nobody takes it for a patient."""
    number = f"{recipe.seed % 10000:04d}"
    if script is Script.CYRILLIC:
        return f"{_FAMILY[script]}^{_GIVEN_CYRILLIC[recipe.disease]} {number}"
    if script is Script.JAPANESE:
        return f"Phantom^{_GIVEN[recipe.disease]} {number}=模型^心臓=もけい^しんぞう"
    return f"{_FAMILY.get(script, 'Phantom')}^{_GIVEN[recipe.disease]} {number}"


def study_header(study: PhantomStudy, script: Script) -> Dataset:
    """Patient and study attributes that every object of the study carries."""
    recipe, body = study.recipe, study.subject.body
    moment = study_moment(recipe)
    header = Dataset()
    header.SpecificCharacterSet = script.character_set
    header.StudyDate = f"{moment:%Y%m%d}"
    header.StudyTime = f"{moment:%H%M%S}"
    header.AccessionNumber = f"PH{recipe.seed % 10**10:010d}"
    header.ReferringPhysicianName = ""
    header.StudyDescription = "Cardiac MR phantom"
    header.PatientName = patient_name(recipe, script)
    header.PatientID = f"PHANTOM-{recipe.seed:04d}"
    header.PatientBirthDate = f"{moment.year - body.age_years - 1}0701"
    header.PatientSex = body.sex
    age = moment.year - (moment.year - body.age_years - 1) - (0 if (moment.month, moment.day) >= (7, 1) else 1)
    header.PatientAge = f"{age:03d}Y"
    header.PatientSize = f"{body.height_m:.2f}"
    header.PatientWeight = f"{body.weight_kg:.0f}"
    header.PatientComments = "Simulated phantom, not a person"
    header.StudyInstanceUID = phantom_uid(recipe, "study")
    header.StudyID = str(recipe.seed % 10**8)
    return header
