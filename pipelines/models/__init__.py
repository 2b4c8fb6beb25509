"""Trained networks: one directory each, with ``card.yaml`` and ``weights.safetensors``."""

from pkgutil import extend_path

# A folder on PYTHONPATH that is laid out like this one adds analyses (see CONTRIBUTING.md).
__path__ = extend_path(__path__, __name__)
