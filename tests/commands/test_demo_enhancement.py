"""What the demo shows of synthetic enhancement: numbers and pictures beside the simulated truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from results.enhancement import EnhancedPhantom, enhanced_phantom
from results.synthetic import CREATED

from dicom_node.commands.demo import SEED, _show_numbers, demo_recipe
from dicom_node.commands.demo_enhancement import show_enhancement, true_enhancement
from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.circumstances import Circumstances
from dicom_node.results.encode import encode_study
from dicom_node.results.sources import SourceDatasets
from pipelines.function.findings import Quantity
from pipelines.phantom import measure_truth, simulate
from pipelines.study import PackageFindings
from pipelines.synthetic_enhancement.package import PACKAGE

TILE, LINE = 160, 22


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[EnhancedPhantom, list[Path]]:
    """A phantom, and what a PACS holds of a perfect prediction on it."""
    folder = tmp_path_factory.mktemp("demo")
    heart = enhanced_phantom(folder / "scanner")
    sources = SourceDatasets.index(heart.paths)
    circumstances = Circumstances(("demo",), "cine", ResultSettings(), CREATED)
    profiles = {"pacs": DestinationProfile(peer="pacs", summary_pdf=False)}
    made = encode_study(heart.study, [PackageFindings(PACKAGE, heart.findings())], sources, profiles, circumstances)
    paths = []
    for number, each in enumerate(made.objects):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(each.content)
    return heart, paths


def test_the_prediction_stands_beside_the_truth(
    held: tuple[EnhancedPhantom, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heart, paths = held
    truth = true_enhancement(heart.phantom)
    assert truth.percent == measure_truth(heart.phantom).facts.infarct_percent
    show_enhancement(paths, truth, tmp_path)
    told = capsys.readouterr().out
    assert "SYNTHETIC, NOT ACQUIRED" in told
    assert f"{heart.found.hyperintense.percent:.1f}" in told
    assert f"{truth.percent:.1f}" in told
    picture = np.asarray(Image.open(tmp_path / "synthetic-beside-truth.png"), dtype=float)
    assert picture.shape == (3 * (TILE + LINE), TILE * len(heart.found.slices))
    for column in range(len(heart.found.slices)):
        # The middle of the tiles: around it the synthetic image ends, and further out are its words.
        middle = np.s_[TILE // 3 : 2 * TILE // 3, column * TILE + TILE // 3 : column * TILE + 2 * TILE // 3]
        synthetic, true = (picture[row * (TILE + LINE) + LINE :][middle] for row in (1, 2))
        assert np.corrcoef(synthetic.ravel(), true.ravel())[0, 1] > 0.95


def test_without_a_prediction_there_is_no_picture(
    held: tuple[EnhancedPhantom, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heart, _ = held
    show_enhancement(heart.paths, true_enhancement(heart.phantom), tmp_path)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_demo_has_the_lowest_seed_whose_infarct_is_over_fifteen_per_cent() -> None:
    def percent(seed: int) -> float:
        # The scar of a seed does not depend on how the heart is imaged.
        recipe = replace(
            demo_recipe(seed), rows=64, columns=64, spacing_mm=4.0, slices=1, phases=4, coils=1, long_axis=False,
            late_enhancement=False,
        )  # fmt: skip
        return measure_truth(simulate(recipe, workers=1)).facts.infarct_percent

    assert [percent(seed) > 15 for seed in range(SEED + 1)] == [False] * SEED + [True]


def test_a_number_without_a_truth_leaves_its_cells_empty(capsys: pytest.CaptureFixture[str]) -> None:
    _show_numbers({Quantity.LVEF: 51.0, Quantity.RVEF: 40.0}, {Quantity.LVEF: 50.0})
    told = capsys.readouterr().out
    assert "+1.0" in told
    assert "40" in told
    _show_numbers({Quantity.LVEF: 51.0}, {})
    assert "simulated truth" not in capsys.readouterr().out
