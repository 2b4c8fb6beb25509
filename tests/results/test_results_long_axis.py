"""Results of the long-axis package: numbers in the report, the page, the gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_node.config import DestinationProfile, ResultSettings
from dicom_node.results.encode import Circumstances, encode_study
from dicom_node.results.gate import check
from dicom_node.results.long_axis.encoder import summary_text
from dicom_node.results.long_axis.images import KEY_PHASE, SEGMENTATION
from dicom_node.results.objects import ResultObject
from dicom_node.results.roles import REPORT, SUMMARY
from dicom_node.results.sources import SourceDatasets
from pipelines.analysis import Findings
from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy, View
from pipelines.long_axis.annulus import annulus_points, apex_points
from pipelines.long_axis.findings import LongAxisFunction, LongAxisLabel, LongAxisView, LongAxisViews, Valve
from pipelines.long_axis.measure import long_axis_stacks, measure_long_axis
from pipelines.long_axis.package import PACKAGE
from pipelines.phantom import PhantomRecipe, PhantomStudy, measure_truth, simulate, write_study
from pipelines.study import PackageFindings
from results.synthetic import CREATED, MODEL, unaccepted

RECIPE = PhantomRecipe(seed=31, slices=4, phases=12, rows=128, columns=128, spacing_mm=2.0)


@pytest.fixture(scope="module")
def phantom() -> PhantomStudy:
    return simulate(RECIPE)


@pytest.fixture(scope="module")
def written(phantom: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], CineStudy]:
    paths = write_study(phantom, tmp_path_factory.mktemp("long-axis"))
    (study,) = assemble(paths)
    return paths, study


def views_of(phantom: PhantomStudy, study: CineStudy) -> LongAxisViews:
    """The views with their true labels."""
    truth = {cine.view: cine for cine in phantom.cines[1:]}
    views = []
    for stack in long_axis_stacks(study):
        cine = truth[stack.view]
        atria, ventricles = cine.atria[:, 0], cine.labels[:, 0]
        labels = np.where((atria > 0) & (ventricles == 0), atria + LongAxisLabel.LA - 1, ventricles).astype(np.uint8)
        annuli = {
            valve: points for valve in Valve if (points := annulus_points(labels, stack.geometry, valve)) is not None
        }
        apex = apex_points(labels, stack.geometry, annuli[Valve.MITRAL])
        views.append(LongAxisView(stack.view, stack, labels, np.ones(len(labels), np.float32), annuli, apex))
    return LongAxisViews(tuple(views), (MODEL,))


@pytest.fixture(scope="module")
def made(
    phantom: PhantomStudy, written: tuple[list[Path], CineStudy]
) -> tuple[LongAxisFunction, SourceDatasets, list[ResultObject]]:
    paths, study = written
    views = views_of(phantom, study)
    function = measure_long_axis(views)
    sources = SourceDatasets.index(paths)
    found = PackageFindings(PACKAGE, Findings({LongAxisViews: views, LongAxisFunction: function}))
    circumstances = Circumstances(tuple(path.name for path in paths), "cine", ResultSettings(), CREATED)
    encoded = encode_study(study, [found], sources, {"pacs": DestinationProfile(peer="pacs")}, circumstances)
    assert encoded.packages[0].causes == ()
    assert "MAPSE" in encoded.packages[0].key_numbers[0]
    return function, sources, list(encoded.objects)


def test_all_three_views_are_found_in_the_study(written: tuple[list[Path], CineStudy]) -> None:
    stacks = long_axis_stacks(written[1])
    assert {stack.view for stack in stacks} == {View.LAX_2CH, View.LAX_3CH, View.LAX_4CH}


def test_measures_are_those_of_the_heart(phantom: PhantomStudy, made: tuple[LongAxisFunction, object, object]) -> None:
    function, truth = made[0], measure_truth(phantom)
    lids = [state.lid for state in phantom.states]
    assert function.plane_excursion_mm[Valve.MITRAL] == pytest.approx(max(lids) - min(lids), abs=2.0)
    assert Valve.TRICUSPID in function.plane_excursion_mm
    assert function.atrium is not None
    assert function.atrium.maximum_ml > 1.3 * function.atrium.minimum_ml
    assert function.atrium.reservoir_percent == pytest.approx(truth.facts.la_reservoir_percent, abs=12.0)


def test_each_view_has_both_phases_with_its_chambers_on_them(
    made: tuple[LongAxisFunction, SourceDatasets, list[ResultObject]],
) -> None:
    objects = made[2]
    for kind in (View.LAX_2CH, View.LAX_3CH, View.LAX_4CH):
        for when in ("ED", "ES"):
            (image,) = [each for each in objects if each.role == KEY_PHASE[kind, when]]
            (seg,) = [each for each in objects if each.role == SEGMENTATION[kind, when]]
            assert objects.index(image) < objects.index(seg)
            said = [segment.SegmentLabel for segment in seg.dataset.SegmentSequence]
            assert {"LV blood pool", "LV myocardium", "Left atrium"} <= set(said)
            assert ("Right atrium" in said) == (kind is View.LAX_4CH)
            referenced = seg.dataset.ReferencedSeriesSequence[0]
            assert referenced.SeriesInstanceUID == image.series_instance_uid
    numbers = [int(each.dataset.SeriesNumber) for each in objects]
    series = {each.series_instance_uid for each in objects}
    assert len({*zip(numbers, (each.series_instance_uid for each in objects), strict=True)}) == len(series)
    assert len(set(numbers)) == len(series), "no two series of a package share a number"


def test_the_summary_says_which_views_were_moved_in_time_and_which_were_not_used(
    phantom: PhantomStudy, written: tuple[list[Path], CineStudy]
) -> None:
    late, other, *_ = views_of(phantom, written[1]).views
    late = replace(late, delay=-0.25)
    views = LongAxisViews((late,), (MODEL,), (replace(other, told_by="series 7"),))
    said = " ".join(block.text for block in summary_text(measure_long_axis(views), views))
    assert f"The phases of {late.view} come 25% of the cycle earlier than those of the short axis" in said
    assert f"Not used: {other.view} (series 7)," in said


def test_every_object_passes_the_gate_and_dciodvfy(
    made: tuple[LongAxisFunction, SourceDatasets, list[ResultObject]],
) -> None:
    _, sources, objects = made
    assert [tuple(map(str, found)) for found in check(objects, sources)] == [()] * len(objects)
    for each in objects:
        assert not unaccepted(each, sources)


def test_the_report_says_what_was_found(made: tuple[LongAxisFunction, SourceDatasets, list[ResultObject]]) -> None:
    function, _, objects = made
    (report,) = (each.dataset for each in objects if each.role == REPORT)
    assert any(each.role == SUMMARY for each in objects)

    def numbers(items: object) -> dict[str, float]:
        found = {}
        for item in items:  # type: ignore[attr-defined]
            if item.ValueType == "NUM":
                found[item.ConceptNameCodeSequence[0].CodeValue] = float(item.MeasuredValueSequence[0].NumericValue)
            found |= numbers(item.get("ContentSequence") or [])
        return found

    said = numbers(report.ContentSequence)
    assert function.atrium is not None
    assert said["MAPSE"] == round(function.plane_excursion_mm[Valve.MITRAL], 1)
    assert said["LAVMAX"] == round(function.atrium.maximum_ml, 1)
    assert said["LASR"] == round(function.atrium.reservoir_percent, 1)
