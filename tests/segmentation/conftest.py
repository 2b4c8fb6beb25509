from __future__ import annotations

from pathlib import Path

import pytest

from tests.segmentation.drawn_hearts import write_hearts


@pytest.fixture(scope="session")
def drawn_hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hearts(tmp_path_factory.mktemp("hearts"))
