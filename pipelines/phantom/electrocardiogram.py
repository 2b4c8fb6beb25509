"""A 12-lead ECG of ten seconds whose RR interval matches the cine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import TwelveLeadECGWaveformStorage

from pipelines.phantom.identity import phantom_uid, study_moment
from pipelines.phantom.population import Infarct
from pipelines.phantom.recipe import Fault, Territory
from pipelines.phantom.study import PhantomStudy

__all__ = ["coded", "ecg_leads", "electrocardiogram"]

SAMPLING_HZ = 500
_SECONDS = 10
_MICROVOLT_PER_BIT = 5.0
# Lead name, SCPECG-free MDC code (PS3.16 CID 3001), and the amplitudes of P, Q, R, S, T in mV of a normal heart.
_LEADS: tuple[tuple[str, str, tuple[float, float, float, float, float]], ...] = (
    ("Lead I", "2:1", (0.10, -0.05, 0.70, -0.10, 0.20)),
    ("Lead II", "2:2", (0.15, -0.06, 1.10, -0.15, 0.30)),
    ("Lead III", "2:61", (0.06, -0.05, 0.45, -0.15, 0.10)),
    ("aVR, augmented voltage, right", "2:62", (-0.12, 0.05, -0.90, 0.12, -0.25)),
    ("aVL, augmented voltage, left", "2:63", (0.03, -0.05, 0.30, -0.12, 0.08)),
    ("aVF, augmented voltage, foot", "2:64", (0.10, -0.06, 0.75, -0.12, 0.20)),
    ("Lead V1", "2:3", (0.06, 0.0, 0.20, -0.90, -0.05)),
    ("Lead V2", "2:4", (0.08, 0.0, 0.40, -1.30, 0.40)),
    ("Lead V3", "2:5", (0.08, -0.02, 0.80, -0.90, 0.45)),
    ("Lead V4", "2:6", (0.09, -0.06, 1.50, -0.50, 0.45)),
    ("Lead V5", "2:7", (0.09, -0.08, 1.40, -0.25, 0.35)),
    ("Lead V6", "2:8", (0.09, -0.08, 1.10, -0.10, 0.28)),
)
_FACING = {
    Territory.LAD: (6, 7, 8, 9),
    Territory.RCA: (1, 2, 5),
    Territory.LCX: (0, 4, 10, 11),
}


def ecg_leads(study: PhantomStudy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voltages in mV, (12, samples), and the times of the R peaks in seconds."""
    rng = np.random.default_rng([study.recipe.seed, 0x454347])
    rr = study.subject.cycle.rr_ms / 1000
    spread = 0.14 if Fault.ARRHYTHMIA in study.recipe.faults else 0.02
    peaks = [0.35]
    while peaks[-1] < _SECONDS:
        peaks.append(peaks[-1] + rr * float(np.clip(1 + rng.normal(0, spread), 0.6, 1.5)))
    time = np.arange(_SECONDS * SAMPLING_HZ) / SAMPLING_HZ
    leads = np.zeros((len(_LEADS), time.size))
    repolarisation = 0.27 * np.sqrt(rr / 0.85)
    infarct = study.subject.infarct
    for index, (_, _, amplitudes) in enumerate(_LEADS):
        waves = zip(
            amplitudes,
            (-0.16, -0.028, 0.0, 0.028, repolarisation),
            (0.022, 0.009, 0.011, 0.011, 0.045),
            strict=True,
        )
        for amplitude, offset, width in waves:
            for peak in peaks:
                leads[index] += amplitude * np.exp(-0.5 * ((time - peak - offset) / width) ** 2)
        if infarct is not None and index in _FACING[infarct.territory]:
            leads[index] += _infarct_pattern(infarct, time, peaks, repolarisation)
    wander = 0.03 * np.sin(2 * np.pi * 0.25 * time + rng.uniform(0, 2 * np.pi))
    leads += wander + rng.normal(0, 0.008, leads.shape)
    inside = np.array([peak for peak in peaks if peak < _SECONDS])
    return leads, inside


def _infarct_pattern(
    infarct: Infarct, time: NDArray[np.float64], peaks: list[float], repolarisation: float
) -> NDArray[np.float64]:
    """ST elevation of an acute infarct, Q wave and inverted T of a chronic one."""
    change = np.zeros_like(time)
    for peak in peaks:
        if infarct.acute:
            middle, width = peak + repolarisation * 0.6, 0.06
            change += 0.25 * infarct.transmurality * np.exp(-0.5 * ((time - middle) / width) ** 4)
        else:
            change -= 0.35 * infarct.transmurality * np.exp(-0.5 * ((time - peak + 0.03) / 0.014) ** 2)
            change -= 0.40 * infarct.transmurality * np.exp(-0.5 * ((time - peak - repolarisation) / 0.045) ** 2)
    return change


def electrocardiogram(study: PhantomStudy, header: Dataset, scanner: Dataset) -> Dataset:
    """12-Lead ECG Waveform Storage object (PS3.3 A.34.3) of the same study."""
    leads, _ = ecg_leads(study)
    moment = study_moment(study.recipe, -600)
    ecg = Dataset()
    ecg.update(header)
    ecg.update(scanner)
    ecg.Manufacturer = "Simulated electrocardiograph"
    ecg.ManufacturerModelName = "Phantom ECG"
    ecg.SOPClassUID = TwelveLeadECGWaveformStorage
    ecg.SOPInstanceUID = phantom_uid(study.recipe, "ecg")
    ecg.SeriesInstanceUID = phantom_uid(study.recipe, "ecg series")
    ecg.Modality = "ECG"
    ecg.SeriesNumber = "1"
    ecg.InstanceNumber = "1"
    ecg.SeriesDescription = "12-lead ECG"
    ecg.ContentDate = ecg.SeriesDate = f"{moment:%Y%m%d}"
    ecg.ContentTime = ecg.SeriesTime = f"{moment:%H%M%S}"
    ecg.AcquisitionDateTime = f"{moment:%Y%m%d%H%M%S}"
    ecg.AcquisitionContextSequence = Sequence()
    stored = np.clip(np.rint(leads * 1000 / _MICROVOLT_PER_BIT), -32768, 32767).astype("<i2")
    group = Dataset()
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels = len(_LEADS)
    group.NumberOfWaveformSamples = stored.shape[1]
    group.SamplingFrequency = str(SAMPLING_HZ)
    group.MultiplexGroupLabel = "RHYTHM"
    group.ChannelDefinitionSequence = Sequence(
        _channel(index, name, code) for index, (name, code, _) in enumerate(_LEADS, 1)
    )
    group.WaveformBitsAllocated = 16
    group.WaveformSampleInterpretation = "SS"
    group.WaveformData = stored.T.tobytes()
    ecg.WaveformSequence = Sequence([group])
    return ecg


def _channel(number: int, name: str, code: str) -> Dataset:
    channel = Dataset()
    channel.WaveformChannelNumber = str(number)
    channel.ChannelLabel = name.split(",")[0]
    channel.ChannelSourceSequence = Sequence([coded(code, "MDC", name)])
    channel.ChannelSensitivity = str(_MICROVOLT_PER_BIT)
    channel.ChannelSensitivityUnitsSequence = Sequence([coded("uV", "UCUM", "microvolt")])
    channel.ChannelSensitivityCorrectionFactor = "1"
    channel.ChannelBaseline = "0"
    channel.ChannelSampleSkew = "0"
    channel.WaveformBitsStored = 16
    return channel


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence (PS3.3 8.8)."""
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code
