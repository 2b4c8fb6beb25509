"""The science of the node: cine assembly, analyses, models and the phantom.

This package imports neither ``storage`` nor ``dicom_node``, opens no network connection and speaks no SQL.
Only ``pipelines.cine`` reads DICOM; everything else works on :class:`pipelines.cine.CineStack`.
"""
