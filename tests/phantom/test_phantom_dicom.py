from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.signal import find_peaks

from pipelines.cine.assemble import assemble
from pipelines.cine.stack import CineStudy, OmissionReason, Reconstruction, View
from pipelines.phantom import TRANSFER_SYNTAXES, Dialect, PhantomStudy, RecipeError, Script, write_study


def read_back(paths: list[Path], written: PhantomStudy) -> CineStudy:
    """The study as the assembler reads it: every view, every phase in its place, every pixel."""
    (study,) = assemble(paths)
    assert [stack.view for stack in study.stacks] == [View.SAX, View.LAX_2CH, View.LAX_3CH, View.LAX_4CH]
    for stack, truth in zip(study.stacks, written.cines, strict=True):
        # Philips stores rescaled integers: what comes back is within half a stored step of the grey value.
        assert np.array_equal(np.rint(stack.pixels), truth.pixels)
        assert np.abs(stack.pixels - truth.pixels).max() < 0.2
    return study


@pytest.mark.parametrize("dialect", Dialect)
def test_the_assembler_reads_every_dialect_back_to_the_same_stacks(
    dialect: Dialect, infarct_study: PhantomStudy, tmp_path: Path
) -> None:
    study = read_back(write_study(infarct_study, tmp_path, dialect=dialect, ecg=True), infarct_study)
    for stack, truth in zip(study.stacks, infarct_study.cines, strict=True):
        assert np.allclose(stack.geometry.positions, truth.geometry.positions, atol=1e-5)
        assert np.allclose(stack.geometry.normal, truth.geometry.normal, atol=1e-6)
        assert stack.geometry.pixel_spacing == pytest.approx(truth.geometry.pixel_spacing)
        assert np.allclose(stack.rr_intervals, truth.rr_intervals, rtol=0.02)
        assert np.allclose(stack.trigger_times, truth.trigger_times, atol=0.03 * truth.rr_intervals.max())
        assert not stack.resampled_slices
    assert [(one.view, one.reconstruction) for one in study.late_enhancement] == [
        (View.SAX, Reconstruction.MAGNITUDE),
        (View.SAX, Reconstruction.PHASE_SENSITIVE),
    ]
    assert {omission.reason for omission in study.omissions} <= {OmissionReason.NOT_AN_IMAGE}
    body = infarct_study.subject.body
    assert study.context.sex == body.sex
    assert study.context.height_m == pytest.approx(body.height_m)
    assert study.context.weight_kg == pytest.approx(body.weight_kg)
    assert study.context.age_years == pytest.approx(body.age_years, abs=1)
    assert study.context.field_strength_t == infarct_study.protocol.field_t


@pytest.mark.parametrize("dialect", Dialect)
def test_dciodvfy_finds_no_error(dialect: Dialect, infarct_study: PhantomStudy, tmp_path: Path) -> None:
    paths = write_study(infarct_study, tmp_path, dialect=dialect, ecg=True)
    tool = Path(sys.executable).with_name("dciodvfy")
    # One of each kind: short axis, long axis, magnitude, PSIR, ECG.
    for path in (paths[0], paths[max(len(paths) - 8, 1)], paths[-2], paths[-1]):
        report = subprocess.run([tool, "-new", path], capture_output=True, text=True, check=False)
        errors = [line for line in (report.stdout + report.stderr).splitlines() if line.startswith("Error")]
        assert errors == []


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_transfer_syntaxes_are_lossless(syntax: str, infarct_study: PhantomStudy, tmp_path: Path) -> None:
    paths = write_study(infarct_study, tmp_path, dialect=Dialect.SIEMENS_XA, transfer_syntax=syntax)
    written = pydicom.dcmread(paths[0])
    assert written.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
    assert np.array_equal(written.pixel_array, infarct_study.short_axis.pixels[:, -1])


@pytest.mark.parametrize(
    ("syntax", "dialect"),
    [
        ("implicit", Dialect.PHILIPS),
        ("rle", Dialect.GE),
        ("jpeg-ls", Dialect.SIEMENS),
        ("jpeg-2000", Dialect.GE),
        ("jpeg-2000", Dialect.PHILIPS_ENHANCED),
        ("rle", Dialect.SIEMENS_XA),
    ],
)
def test_the_assembler_reads_compressed_studies_back_to_the_same_stacks(
    syntax: str, dialect: Dialect, infarct_study: PhantomStudy, tmp_path: Path
) -> None:
    read_back(write_study(infarct_study, tmp_path, dialect=dialect, transfer_syntax=syntax), infarct_study)


@pytest.mark.parametrize("script", Script)
def test_names_survive_their_character_set(script: Script, infarct_study: PhantomStudy, tmp_path: Path) -> None:
    path = write_study(infarct_study, tmp_path, dialect=Dialect.PHILIPS_ENHANCED, script=script)[0]
    name = pydicom.dcmread(path).PatientName
    expected = {"cyrillic": "Фантом", "arabic": "شبح", "japanese": "模型", "latin": "Phantom", "unicode": "Fantôme"}
    assert expected[script.value] in str(name)


def test_identifiers_are_equal_for_equal_recipes_and_unique(infarct_study: PhantomStudy, tmp_path: Path) -> None:
    first = write_study(infarct_study, tmp_path / "a", dialect=Dialect.GE, ecg=True)
    second = write_study(infarct_study, tmp_path / "b", dialect=Dialect.GE, ecg=True)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in first]
    assert len({header.SOPInstanceUID for header in headers}) == len(first)
    assert len({header.StudyInstanceUID for header in headers}) == 1
    assert all(str(header.PatientName).startswith("Phantom^") for header in headers)


def test_the_ecg_beats_as_the_cine(infarct_study: PhantomStudy, tmp_path: Path) -> None:
    paths = write_study(infarct_study, tmp_path, dialect=Dialect.SIEMENS, ecg=True)
    (group,) = pydicom.dcmread(paths[-1]).WaveformSequence
    leads = np.frombuffer(group.WaveformData, "<i2").reshape(-1, group.NumberOfWaveformChannels).T
    assert leads.shape == (12, 5000)
    second = leads[1].astype(float)
    peaks, _ = find_peaks(second, height=0.6 * second.max(), distance=150)
    rr_ms = 1000 * np.diff(peaks) / float(group.SamplingFrequency)
    nominal = [float(pydicom.dcmread(path, stop_before_pixels=True).NominalInterval) for path in paths[:72:12]]
    assert np.ptp(rr_ms) < 0.15 * rr_ms.mean()
    assert rr_ms.mean() == pytest.approx(np.mean(nominal), rel=0.03)


def test_an_unknown_transfer_syntax_is_refused(infarct_study: PhantomStudy, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="transfer syntax"):
        write_study(infarct_study, tmp_path, transfer_syntax="mpeg")
