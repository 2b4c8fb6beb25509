"""Trained networks: one directory each, with ``card.yaml`` and ``weights.safetensors``."""
