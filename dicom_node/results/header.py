"""What all result objects have in common: roles, series, equipment, dates, and how they become bytes."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr

from dicom_node.config import ResultSettings
from dicom_node.implementation import SOFTWARE_VERSION
from dicom_node.results.codes import (
    ACQUISITION_EQUIPMENT,
    PRIVATE_DESIGNATOR,
    PROCESSING_EQUIPMENT,
    code_item,
    private_scheme_item,
)
from dicom_node.results.dates import last_acquired, local_time, offset_text
from dicom_node.results.identity import CarriedIdentity, ResultIdentity, one_line
from dicom_node.results.part10 import part10_file
from dicom_node.results.roles import USUAL, ResultRole, Variant
from dicom_node.results.stated import stated
from dicom_node.results.uids import derive_uid
from pipelines.cine.headers import OWN_MODEL_NAME
from pipelines.models.identity import ModelIdentity
from pipelines.package import SERIES_PER_BLOCK

__all__ = [
    "BANNER",
    "MANUFACTURER",
    "ResultContext",
    "complete",
    "device_uid",
    "encoded",
    "model_device_uid",
    "series_dataset",
]

MANUFACTURER = "dicom-node"

BANNER = "RESEARCH – not for diagnostic use. AI-generated; not CE-marked or FDA-cleared."


@dataclass(frozen=True, slots=True, eq=False)
class ResultContext:
    """Everything the objects of one package, or of packages that report together, share.

    Attributes
    ----------
    title : str
        For people, as within a sentence: "ventricular function".
    series_block : int
        Whose series numbers the objects have.
    reference : pydicom.Dataset
        Header of the source instance that patient and study come from.
    created : datetime.datetime
        When the results count as made, with time zone. It belongs to the version of the study, not to the attempt: an
        attempt repeated after a crash yields the same bytes.
    models : tuple of ModelIdentity
        Every network that took part; empty for a refusal before any ran.
    acquired : datetime.datetime or None
        When the last image was acquired, as its clock said, without time zone; that of ``reference`` when ``None``.
    editor : str
        Person who corrected masks that the objects come of, as a PN; empty where nobody did, or is not named.
    """

    title: str
    series_block: int
    identity: ResultIdentity
    carried: CarriedIdentity
    reference: Dataset
    created: datetime.datetime
    settings: ResultSettings
    models: tuple[ModelIdentity, ...]
    acquired: datetime.datetime | None = None
    editor: str = ""
    _local: datetime.datetime = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("created must have a time zone")
        known = [moment for moment in (self.acquired, last_acquired([self.reference])) if moment is not None]
        local = local_time(
            self.created, self.carried.timezone_offset, self.settings.time_zone, max(known, default=None)
        )
        object.__setattr__(self, "_local", local)

    @property
    def timezone_offset(self) -> str:
        """TimezoneOffsetFromUTC: it governs every date and time of the object that has none of its own (C.12.1)."""
        return offset_text(self._local.utcoffset() or datetime.timedelta())

    @property
    def date(self) -> str:
        """DA of the results."""
        return self._local.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """TM of the results."""
        return self._local.strftime("%H%M%S")

    @property
    def datetime(self) -> str:
        """DT of the results, with its offset."""
        return self._local.strftime("%Y%m%d%H%M%S%z")

    @property
    def created_text(self) -> str:
        """Date and time for people."""
        return self._local.strftime("%Y-%m-%d %H:%M %Z").strip()

    def series_uid(self, role: ResultRole, variant: Variant = USUAL) -> str:
        """Series Instance UID of a role."""
        return self.identity.uid("series", role.value, variant.name)

    def instance_uid(self, role: ResultRole, number: int, variant: Variant = USUAL) -> str:
        """SOP Instance UID of the ``number``-th instance of a role."""
        return self.identity.uid("instance", role.value, variant.name, str(number))

    def series_number(self, role: ResultRole, variant: Variant = USUAL) -> int:
        """SeriesNumber of a role: fixed for each, so series sort alike in every study."""
        block = self.settings.series_number_base + SERIES_PER_BLOCK * self.series_block
        return block + role.series_offset + variant.series_offset

    def series_description(self, role: ResultRole) -> str:
        """SeriesDescription of a role."""
        return role.series_description.format(title=self.title)[:64]


def model_device_uid(model: ModelIdentity) -> str:
    """DeviceUID (0018,1002) of a network: new with every version and every set of weights."""
    return derive_uid("device", model.name, model.version, model.weights_sha256)


def device_uid(models: Sequence[ModelIdentity]) -> str:
    """DeviceUID of this software with these networks."""
    return derive_uid("device", OWN_MODEL_NAME, SOFTWARE_VERSION, *sorted(map(model_device_uid, models)))


def _software_versions(context: ResultContext) -> list[str]:
    return [SOFTWARE_VERSION, *(f"{model.name} {model.version}"[:64] for model in context.models)]


def series_dataset(
    context: ResultContext,
    role: ResultRole,
    *,
    sop_class_uid: str,
    modality: str,
    number: int = 1,
    variant: Variant = USUAL,
) -> Dataset:
    """Start a result object: SOP Common, General Series, General Equipment and file meta information.

    Parameters
    ----------
    number
        InstanceNumber, from 1.
    variant
        Which of the variants for different destinations it is.
    """
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = context.instance_uid(role, number, variant)
    dataset.SeriesInstanceUID = context.series_uid(role, variant)
    dataset.Modality = modality
    dataset.SeriesNumber = context.series_number(role, variant)
    dataset.SeriesDescription = context.series_description(role)
    dataset.InstanceNumber = number
    dataset.file_meta = FileMetaDataset()
    complete(context, dataset)
    return dataset


def constructor_arguments(header: Dataset) -> dict[str, Any]:
    """What highdicom's constructors ask for of series, instance and equipment, from :func:`series_dataset`."""
    return {
        "series_instance_uid": header.SeriesInstanceUID,
        "series_number": int(header.SeriesNumber),
        "sop_instance_uid": header.SOPInstanceUID,
        "instance_number": int(header.InstanceNumber),
        "manufacturer": header.Manufacturer,
        "manufacturer_model_name": header.ManufacturerModelName,
        "software_versions": list(header.SoftwareVersions),
        "device_serial_number": header.DeviceSerialNumber,
    }


def complete(context: ResultContext, dataset: Dataset) -> None:
    """Give an object the header that all results share (everything but patient and study)."""
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = context.date, context.time
    dataset.SeriesDate, dataset.SeriesTime = context.date, context.time
    dataset.ContentDate, dataset.ContentTime = context.date, context.time
    dataset.BodyPartExamined = "HEART"
    dataset.ContentQualification = "RESEARCH"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = OWN_MODEL_NAME
    dataset.SoftwareVersions = _software_versions(context)
    dataset.DeviceSerialNumber = hashlib.sha256(device_uid(context.models).encode()).hexdigest()[:16]
    if context.settings.institution:
        dataset.InstitutionName = context.settings.institution[:64]
    dataset.ContributingEquipmentSequence = _contributing_equipment(context)


_EQUIPMENT = (
    ("InstitutionName", 64),
    ("StationName", 16),
    ("ManufacturerModelName", 64),
    ("DeviceSerialNumber", 64),
)
"""What is said of the scanner, with the most characters of its VR (PS3.5 6.2)."""


def _contributing_equipment(context: ResultContext) -> list[Dataset]:
    acquisition = Dataset()
    acquisition.PurposeOfReferenceCodeSequence = [code_item(ACQUISITION_EQUIPMENT)]
    acquisition.Manufacturer = _text(context.reference, "Manufacturer", 64) or "unknown"
    for keyword, limit in _EQUIPMENT:
        value = _text(context.reference, keyword, limit)
        if value:
            setattr(acquisition, keyword, value)
    versions = stated(context.reference, "SoftwareVersions") or []
    named = [one_line(str(one), 64) for one in ([versions] if isinstance(versions, str) else versions)]
    if any(named):
        acquisition.SoftwareVersions = named

    node = _processing(context, OWN_MODEL_NAME, [SOFTWARE_VERSION], device_uid(context.models))
    node.ContributionDescription = "assembly of the cine, quality control, measurement, encoding"
    equipment = [acquisition, node]
    for model in context.models:
        item = _processing(context, model.name[:64], [model.version[:64]], model_device_uid(model))
        item.ContributionDescription = (
            f"{model.task}; weights SHA-256 {model.weights_sha256}; trained on {model.training_data}; {model.licence}"
        )[:1024]
        equipment.append(item)
    return equipment


def _processing(context: ResultContext, model_name: str, versions: list[str], uid: str) -> Dataset:
    # IHE AI Results 6.5.3.1: one item for each algorithm, its Device UID updated at each change of the model.
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = model_name
    item.SoftwareVersions = versions
    item.DeviceUID = uid
    item.ContributionDateTime = context.datetime
    return item


def _text(dataset: Dataset, keyword: str, limit: int) -> str:
    value = stated(dataset, keyword) or ""
    return one_line(str(value) if isinstance(value, str) else " ".join(map(str, value)), limit)


def encoded(context: ResultContext, dataset: Dataset) -> bytes:
    """Settle identity, character set and file meta information, and write the object as a PS3.10 file.

    Explicit VR Little Endian; equal input gives equal bytes.
    """
    if _uses_private_code(dataset):
        dataset.CodingSchemeIdentificationSequence = [private_scheme_item()]
    # Before raw elements are put in, after which pydicom does it no more.
    correct_ambiguous_vr(dataset, is_little_endian=True)
    dataset.TimezoneOffsetFromUTC = context.timezone_offset
    context.carried.apply(dataset)
    return part10_file(dataset)


def _uses_private_code(dataset: Dataset) -> bool:
    return any(
        element.keyword == "CodingSchemeDesignator" and element.value == PRIVATE_DESIGNATOR
        for element in dataset.iterall()
    )
