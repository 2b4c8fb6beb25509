"""Segmentation of the LV cavity, the myocardium and the RV cavity on every phase of a short-axis stack."""
