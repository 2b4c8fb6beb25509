"""Delivery to destinations."""
