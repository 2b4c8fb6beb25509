"""Figures of predicted beside acquired late enhancement, and what they let through."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from pathlib import Path

import numpy as np
import pytest
from ledger_rows import receive_and_schedule
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import DestinationProfile, SyntheticPolicy
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError
from dicom_node.shadow.agreement import agreement, by_month, by_scanner
from dicom_node.shadow.comparison import compared, scanner_of
from dicom_node.shadow.withholding import withheld_destinations
from storage.ledger import open_ledger
from storage.shadow import KeptComparison, Segment, record_comparison

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def studies(count: int, *, noise: float = 3.0, seed: int = 0) -> list[KeptComparison]:
    """Comparisons whose prediction is the truth, 2 points too large, with noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        present = number % 2 == 0
        acquired = float(rng.uniform(5, 30)) if present else 0.0
        predicted = acquired + 2.0 + float(rng.normal(0, noise))
        parts = {
            part: Segment(float(np.clip(0.1 + 0.8 * hit + rng.normal(0, 0.2), 0, 1)), bool(hit))
            for part, hit in enumerate(rng.random(16) < (0.4 if present else 0.0), start=1)
        }
        made.append(
            KeptComparison(
                version="1.0.0",
                scanner="ACME A 1.5 T" if number % 3 else "ACME B 3 T",
                compared_at=NOW + dt.timedelta(days=number),
                probability=float(np.clip(0.5 + (0.3 if present else -0.3) + rng.normal(0, 0.25), 0.01, 0.99)),
                present=present,
                predicted_percent=predicted,
                acquired_percent=acquired,
                segments=parts,
            )
        )
    return made


def test_figures_are_those_of_the_textbook() -> None:
    made = studies(60)
    found = agreement(made)
    predicted = np.array([one.predicted_percent for one in made])
    acquired = np.array([one.acquired_percent for one in made])
    difference = predicted - acquired
    assert (found.studies, found.with_infarct) == (60, 30)
    assert found.r is not None
    assert found.r.value == pytest.approx(np.corrcoef(predicted, acquired)[0, 1])
    # Fisher: atanh(r) ± 1.96 / sqrt(n − 3).
    half = 1.959964 / math.sqrt(57)
    assert found.r.low == pytest.approx(math.tanh(math.atanh(found.r.value) - half), abs=1e-6)
    assert found.bias is not None
    assert found.bias.value == pytest.approx(difference.mean())
    assert found.bias.low < 2.0 < found.bias.high
    assert found.limits == pytest.approx(
        (difference.mean() - 1.96 * difference.std(ddof=1), difference.mean() + 1.96 * difference.std(ddof=1))
    )
    pairs = [
        (one.probability > other.probability) + 0.5 * (one.probability == other.probability)
        for one in made
        if one.present
        for other in made
        if not other.present
    ]
    assert found.auc is not None
    assert found.auc.value == pytest.approx(np.mean(pairs))
    assert found.auc.low < found.auc.value < found.auc.high
    assert found.auc_segment is not None
    assert found.auc_segment.low < found.auc_segment.value <= found.auc_segment.high
    assert found.brier == pytest.approx(np.mean([(one.probability - one.present) ** 2 for one in made]))
    assert found.calibration is not None


def test_few_studies_give_no_figure_that_they_do_not_determine() -> None:
    none = agreement([])
    assert (none.studies, none.with_infarct) == (0, 0)
    assert {none.r, none.bias, none.limits, none.auc, none.auc_segment, none.brier, none.calibration} == {None}
    one = agreement(studies(1))
    assert (one.studies, one.r, one.bias, one.auc) == (1, None, None, None)
    three = agreement(studies(3))
    assert three.r is not None
    assert math.isnan(three.r.low)
    alike = [dataclasses.replace(each, present=False, acquired_percent=0.0) for each in studies(8)]
    assert agreement(alike).r is None
    assert agreement(alike).auc is None
    assert agreement(studies(12)).calibration is None


def test_figures_by_scanner_and_month_divide_the_studies() -> None:
    made = studies(45)
    scanners, months = by_scanner(made), by_month(made)
    assert list(scanners) == ["ACME A 1.5 T", "ACME B 3 T"]
    assert list(months) == ["2026-03", "2026-04"]
    assert sum(one.studies for one in scanners.values()) == sum(one.studies for one in months.values()) == 45


PREDICTED = {
    "synthetic_probability": 0.8,
    "synthetic_hyperintense_percent": 14.0,
    "synthetic_segment_7_probability": 0.9,
    "synthetic_segment_8_probability": 0.2,
}
ACQUIRED = {
    "LGE_infarct_present": 1.0,
    "LGE_network_percent": 11.0,
    "LGE_segment7_percent": 40.0,
    "LGE_segment8_percent": 9.0,
    "LGE_segment9_percent": 30.0,
}


def test_the_numbers_of_both_packages_are_put_together() -> None:
    found = compared(PREDICTED, ACQUIRED, version="1.0.0", scanner="ACME", now=NOW)
    assert found == KeptComparison(
        "1.0.0", "ACME", NOW, 0.8, True, 14.0, 11.0, {7: Segment(0.9, True), 8: Segment(0.2, False)}
    )


@pytest.mark.parametrize("missing", ["synthetic_probability", "LGE_network_percent", "LGE_infarct_present"])
def test_a_package_that_found_nothing_leaves_nothing_to_compare(missing: str) -> None:
    predicted = {name: value for name, value in PREDICTED.items() if name != missing}
    acquired = {name: value for name, value in ACQUIRED.items() if name != missing}
    assert compared(predicted, acquired, version="1.0.0", scanner="ACME", now=NOW) is None


def test_an_extent_that_is_not_reported_is_held_against_the_truth_as_none() -> None:
    predicted = {name: value for name, value in PREDICTED.items() if name != "synthetic_hyperintense_percent"}
    found = compared(predicted, ACQUIRED, version="1.0.0", scanner="ACME", now=NOW)
    assert found is not None
    assert (found.predicted_percent, found.acquired_percent) == (0.0, 11.0)


def test_the_scanner_is_named_as_the_images_say(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.dcm"
    nothing.write_bytes(b"no DICOM")
    assert scanner_of([nothing]) == "scanner not named"
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    image.Manufacturer, image.ManufacturerModelName, image.MagneticFieldStrength = "SIEMENS", "Aera", "1.500"
    image.PatientName, image.StationName = "Doe^John", "MR7"
    path = tmp_path / "image.dcm"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    assert scanner_of([nothing, path]) == "SIEMENS Aera 1.5 T"


def profiles(**policy: float) -> dict[str, DestinationProfile]:
    asking = DestinationProfile(peer="pacs", synthetic=SyntheticPolicy.model_validate(policy))
    return {"asking": asking, "open": DestinationProfile(peer="pacs")}


def test_a_destination_waits_until_the_figures_of_the_site_pass() -> None:
    made = studies(40)
    figures = agreement(made)
    assert figures.r is not None
    assert figures.auc is not None
    passing = profiles(minimum_studies=40, minimum_r=figures.r.value - 0.01, minimum_auc=figures.auc.value - 0.01)
    assert withheld_destinations(passing, made, "1.0.0") == {}
    too_few = withheld_destinations(passing, made[:39], "1.0.0")
    assert list(too_few) == ["asking"]
    assert "39 of 40 studies compared" in too_few["asking"]
    strict = withheld_destinations(profiles(minimum_studies=1, minimum_r=0.999, minimum_auc=1), made, "1.0.0")
    assert f"correlation of extents {figures.r.value:.2f}, 0.999 asked for" in strict["asking"]
    assert "area under the curve by study" in strict["asking"]
    # What another version predicted does not speak for this one.
    assert "0 of 40 studies" in withheld_destinations(passing, made, "2.0.0")["asking"]
    unknown = withheld_destinations(profiles(minimum_studies=1, minimum_r=0.5), made[:1], "1.0.0")
    assert "correlation of extents not known" in unknown["asking"]


def test_without_thresholds_nothing_is_withheld() -> None:
    assert withheld_destinations({"open": DestinationProfile(peer="pacs")}, [], "1.0.0") == {}
    assert withheld_destinations(profiles(), [], "1.0.0") == {}


def configured(tmp_path: Path, synthetic: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "peers: {pacs: {ae_title: PACS, host: localhost, port: 104, may: [receive]}}\n"
        "routes: {cine: {destinations: [pacs]}}\n"
        "storage: {database: 'sqlite:///ledger.sqlite', directory: instances}\n"
        f"results: {{destinations: {{pacs: {{peer: pacs, synthetic: {synthetic}}}}}}}\n",
        encoding="utf-8",
    )
    return path


def test_thresholds_need_a_number_of_studies(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="minimum_studies"):
        load_configuration(configured(tmp_path, "{minimum_r: 0.8}"), {})


def test_the_command_tells_figures_and_who_waits(tmp_path: Path) -> None:
    path = configured(tmp_path, "{minimum_studies: 100}")
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    made = studies(30)
    for number, one in enumerate(made):
        study = f"1.2.{number}"
        receive_and_schedule(ledger, study, count=1)
        record_comparison(ledger, study, "cine", one)
    ledger.close()
    command = ["shadow", "--config", str(path), "--version", "1.0.0"]
    answer = CliRunner().invoke(app, [*command, "--json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    figures = agreement(made)
    assert figures.r is not None
    assert told["all"]["studies"] == 30
    assert told["all"]["r"]["value"] == pytest.approx(figures.r.value)
    assert sum(one["studies"] for one in told["by_scanner"].values()) == 30
    assert "30 of 100 studies compared" in told["withheld"]["pacs"]
    assert "1.2." not in json.dumps(told["by_scanner"])
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "30 of 100 studies compared" in shown.stdout
    assert "ACME B 3 T" in shown.stdout
    later = CliRunner().invoke(app, [*command, "--json", "--since", "2026-03-16"])
    since = dt.datetime(2026, 3, 16, tzinfo=dt.UTC)
    assert json.loads(later.stdout)["all"]["studies"] == sum(one.compared_at >= since for one in made)
    other = CliRunner().invoke(app, ["shadow", "--config", str(path), "--version", "2.0.0", "--json"])
    assert json.loads(other.stdout)["other_versions"] == 30
