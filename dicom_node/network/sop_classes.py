"""SOP Class UIDs of services, and of storage where pydicom does not name the class (PS3.6 A)."""

from __future__ import annotations

from pydicom.uid import UID

__all__ = [
    "LabelMapSegmentationStorage",
    "ModalityPerformedProcedureStep",
    "PatientRootQueryRetrieveInformationModelFind",
    "PatientRootQueryRetrieveInformationModelGet",
    "PatientRootQueryRetrieveInformationModelMove",
    "StorageCommitmentPushModel",
    "StudyRootQueryRetrieveInformationModelFind",
    "StudyRootQueryRetrieveInformationModelGet",
    "StudyRootQueryRetrieveInformationModelMove",
    "Verification",
]

Verification = UID("1.2.840.10008.1.1")
StorageCommitmentPushModel = UID("1.2.840.10008.1.20.1")
ModalityPerformedProcedureStep = UID("1.2.840.10008.3.1.2.3.3")
LabelMapSegmentationStorage = UID("1.2.840.10008.5.1.4.1.1.66.7")
PatientRootQueryRetrieveInformationModelFind = UID("1.2.840.10008.5.1.4.1.2.1.1")
PatientRootQueryRetrieveInformationModelMove = UID("1.2.840.10008.5.1.4.1.2.1.2")
PatientRootQueryRetrieveInformationModelGet = UID("1.2.840.10008.5.1.4.1.2.1.3")
StudyRootQueryRetrieveInformationModelFind = UID("1.2.840.10008.5.1.4.1.2.2.1")
StudyRootQueryRetrieveInformationModelMove = UID("1.2.840.10008.5.1.4.1.2.2.2")
StudyRootQueryRetrieveInformationModelGet = UID("1.2.840.10008.5.1.4.1.2.2.3")
