"""Storage of the node's state: the ledger (a database) and the instance files.

This package imports neither ``pipelines`` nor ``dicom_node``.
"""
