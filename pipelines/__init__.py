"""The science of the node: cine assembly, analyses, models and the phantom.

This package imports neither ``storage`` nor ``dicom_node``, opens no network connection and speaks no SQL.
Only ``pipelines.cine`` reads DICOM; everything else works on :class:`pipelines.cine.CineStack`.
"""

from pkgutil import extend_path

# A folder on PYTHONPATH that is laid out like this one adds analyses (see CONTRIBUTING.md).
__path__ = extend_path(__path__, __name__)
