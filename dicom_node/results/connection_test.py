"""An object that says in pixels and header that it is a test of a connection, and of no patient."""

from __future__ import annotations

import datetime as dt

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage

from dicom_node.implementation import SOFTWARE_VERSION

__all__ = ["TEST_PATIENT_ID", "connection_test_object"]

TEST_PATIENT_ID = "DICOM-NODE-TEST"
_SIDE = 256


def connection_test_object(
    sop_instance_uid: str, study_instance_uid: str, series_instance_uid: str, at: dt.datetime
) -> Dataset:
    """A Secondary Capture image (PS3.3 A.8.1) of the words that it is a test.

    Parameters
    ----------
    at
        Of the test, with time zone.
    """
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, UID(sop_instance_uid)
    image.StudyInstanceUID, image.SeriesInstanceUID = UID(study_instance_uid), UID(series_instance_uid)
    image.PatientName, image.PatientID = "TEST^CONNECTION", TEST_PATIENT_ID
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "TEST", "", ""
    image.StudyDescription = "TEST of a connection, no patient"
    image.SeriesDescription = "TEST object, to be deleted"
    image.Modality, image.ConversionType = "OT", "SYN"
    image.SeriesNumber, image.InstanceNumber = 1, 1
    image.PatientOrientation = ""
    image.Manufacturer, image.SoftwareVersions = "dicom-node", SOFTWARE_VERSION
    image.TimezoneOffsetFromUTC = at.strftime("%z")
    image.StudyDate = image.SeriesDate = image.ContentDate = at.strftime("%Y%m%d")
    image.StudyTime = image.SeriesTime = image.ContentTime = at.strftime("%H%M%S")
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.ImageComments = "Sent by a person who tested the connection of the analysis node. It shows nobody."
    image.BurnedInAnnotation = "NO"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = _SIDE
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.add_new("PixelData", "OB", _pixels().tobytes())
    return image


def _pixels() -> np.ndarray:
    page = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(page)
    draw.rectangle((4, 4, _SIDE - 5, _SIDE - 5), outline=255, width=3)
    draw.text((28, 100), "TEST", fill=255, font_size=48)
    draw.text((28, 160), "of a connection, no patient", fill=255, font_size=14)
    return np.asarray(page, np.uint8)
