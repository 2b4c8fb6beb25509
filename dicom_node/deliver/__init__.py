"""Brings results to their destinations and keeps at it until the destination has committed to keep them."""
