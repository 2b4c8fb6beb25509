"""Links into the console, for people outside it."""

from __future__ import annotations

import platform

from dicom_node.config import Configuration

__all__ = ["invitation_link"]


def invitation_link(configuration: Configuration, token: str) -> str:
    """Where a person chooses a password."""
    console = configuration.console
    anywhere = console.address in ("", "0.0.0.0", "::")
    host = platform.node() if anywhere else f"[{console.address}]" if ":" in console.address else console.address
    scheme = "http" if console.certificate is None else "https"
    return f"{scheme}://{host}:{console.port}/invitation/{token}"
