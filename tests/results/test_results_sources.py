"""Headers of source instances as the encoders get them."""

from __future__ import annotations

from pathlib import Path

import pytest
from network.objects import encoded, mr_image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.network.file_meta import encode_file_meta
from dicom_node.results.sources import SourceDatasets


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_decimal_commas_come_as_points(tmp_path: Path, syntax: UID) -> None:
    image = mr_image()
    for keyword, value in (("PixelSpacing", b"1,4\\1,4\\"), ("SliceThickness", b"8,0 "), ("EchoTime", b"1;5 ")):
        tag = Tag(keyword)
        image._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    path = tmp_path / "object.dcm"
    path.write_bytes(encode_file_meta(image.SOPClassUID, image.SOPInstanceUID, syntax) + encoded(image, syntax))
    header = SourceDatasets.index([path]).header(str(image.SOPInstanceUID))
    assert list(header.PixelSpacing) == [1.4, 1.4]
    assert header.SliceThickness == 8.0
    # What is no number stays as it is: the encoders leave it out.
    assert header.get_item("EchoTime").value == b"1;5 "
