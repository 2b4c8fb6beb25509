"""The square of a long-axis view that the network sees."""

from __future__ import annotations

__all__ = ["CHANNELS", "FIELD_MM", "SIZE"]

SIZE = 112
FIELD_MM = 212.8
"""Side of the square, mm: 1.9 mm a point, both atria and the apex inside."""
CHANNELS = 3
"""Frame before, frame, frame after."""
