"""Measures the analyses against references; the one folder that imports analyses and their training alike."""
