from __future__ import annotations

import pytest

from pipelines.phantom import Disease, PhantomRecipe, PhantomStudy, Territory, simulate


@pytest.fixture(scope="session")
def infarct_study() -> PhantomStudy:
    """A small study with everything: infarct with obstruction, long axes, late enhancement."""
    return simulate(
        PhantomRecipe(
            seed=5,
            disease=Disease.INFARCT,
            territory=Territory.LAD,
            transmurality=0.9,
            obstruction=True,
            slices=6,
            phases=12,
            rows=96,
            columns=112,
            spacing_mm=2.6,
            late_enhancement=True,
        )
    )
