"""Ventricular function: volumes, mass, wall thickness and thickening, from a segmented short-axis cine."""
