"""Long-axis views of the one subject whose surfaces were fitted, against what the planes cut out of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.external import AnnotationError
from pipelines.evaluation.long_axis import compare_with_surfaces


@pytest.mark.real_data
def test_cavities_and_longitudinal_strain_of_a_siemens_vida(siemens_vida_dir: Path) -> None:
    found = compare_with_surfaces(siemens_vida_dir)
    for view in ("2CH 1", "4CH 3"):
        assert found.dice[view]["LV"] > 0.85
        assert found.mitral_mm[view] < 12
    assert found.lv_edv_ml["short axis alone"] == pytest.approx(found.lv_edv_ml["surfaces"], rel=0.1)
    assert found.lv_esv_ml["short axis alone"] == pytest.approx(found.lv_esv_ml["surfaces"], rel=0.2)
    # Slices 18 mm apart: muscle rings half of the most basal one at end diastole, which holds 23 ml, 8 points of LVEF.
    assert found.lv_ef_percent["short axis alone"] == pytest.approx(found.lv_ef_percent["surfaces"], abs=10)
    # Only 2CH shows the left ventricle alone; the outside of its wall shortens less than the inside.
    by_view = found.longitudinal_percent
    assert [view for view, lines in by_view.items() if "fitted epicardium" in lines] == ["2CH 1"]
    fitted = by_view["2CH 1"]
    assert -27 < fitted["fitted endocardium"] < -22
    assert -20 < fitted["fitted epicardium"] < -15
    middle = (fitted["fitted endocardium"] + fitted["fitted epicardium"]) / 2
    for way in ("found, mid-wall", "found, axis"):
        assert fitted[way] == pytest.approx(middle, abs=8), way


def test_a_subject_without_surfaces_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    with pytest.raises(AnnotationError, match="has no long-axis view"):
        compare_with_surfaces(tmp_path)
