"""What a test does about a program or a permission that it needs and this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ["absent"]


def absent(why: str) -> NoReturn:
    """Fail in CI (environment variable ``CI=true``), and skip elsewhere, saying why and what to install."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
