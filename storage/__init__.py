"""Where state lives: the ledger (a database) and the instance files.

This package imports neither ``pipelines`` nor ``dicom_node``.
"""
