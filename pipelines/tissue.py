"""Properties of tissue that several computations need."""

from __future__ import annotations

__all__ = ["MYOCARDIAL_DENSITY_G_ML"]

MYOCARDIAL_DENSITY_G_ML = 1.05
"""Density of myocardium, g/ml (Schulz-Menger et al., JCMR 2020;22:19)."""
