from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.segmentation.labels import Label
from pipelines.training.acdc import AcdcLayoutError, find_patients, read_patient, to_stack
from pipelines.training.data_set import folds

INFO = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def write_patient(root: Path, name: str = "patient001", affine: np.ndarray | None = None, info: str = INFO) -> Path:
    """A patient whose images count columns, rows and slices, with one voxel of each label."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(info)
    column, row, index = np.mgrid[:7, :5, :3]
    affine = np.diag([-1.5, -1.25, 10.0, 1.0]) if affine is None else affine
    truth = np.zeros((7, 5, 3), dtype=np.uint8)
    truth[1, 2, 0], truth[3, 2, 1], truth[5, 4, 2] = 1, 2, 3
    for frame in ("frame01", "frame12"):
        stem = folder / f"{name}_{frame}"
        nibabel.save(nibabel.Nifti1Image((100 * index + 10 * row + column).astype(np.uint8), affine), f"{stem}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(truth, affine), f"{stem}_gt.nii.gz")
    return folder


def test_arrays_are_slices_rows_columns_with_labels_by_name(tmp_path: Path) -> None:
    patient = read_patient(write_patient(tmp_path))
    assert patient.ed.pixels.shape == (3, 5, 7)
    assert patient.ed.pixels[2, 4, 6] == 246
    assert patient.ed.labels[0, 2, 1] == Label.RV
    assert patient.ed.labels[1, 2, 3] == Label.MYO
    assert patient.ed.labels[2, 4, 5] == Label.LV
    assert patient.geometry.pixel_spacing == (1.25, 1.5)
    assert patient.geometry.pitch == pytest.approx(10.0)
    assert (patient.group, patient.height_cm, patient.weight_kg) == ("DCM", 184.0, 95.0)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_every_voxel_keeps_its_place_whatever_the_handedness(tmp_path: Path, flip: float) -> None:
    affine = np.diag([-1.5, -1.25, flip * 10.0, 1.0])
    affine[:3, 3] = (4.0, 5.0, 6.0)
    patient = read_patient(write_patient(tmp_path, affine=affine))
    geometry = patient.geometry
    assert np.all(np.diff(geometry.positions @ geometry.normal) > 0)
    for index, row, column in np.ndindex(*patient.ed.pixels.shape):
        value = int(patient.ed.pixels[index, row, column])
        ras = affine @ [value % 10, value // 10 % 10, value // 100, 1]
        assert np.allclose(geometry.to_patient(index, row, column), [-ras[0], -ras[1], ras[2]])


def test_an_affine_of_another_scale_yields_to_the_pixel_dimensions(tmp_path: Path) -> None:
    folder = write_patient(tmp_path)
    for path in folder.glob("*.nii.gz"):
        image = nibabel.load(path)
        header = image.header.copy()
        data = np.asanyarray(image.dataobj)
        header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
        header.set_qform(None, code=0)
        header["pixdim"][1:4] = (1.5, 1.25, 10.0)
        path.unlink()
        nibabel.Nifti1Image(data, None, header).to_filename(path)
    geometry = read_patient(folder).geometry
    assert geometry.pixel_spacing == pytest.approx((1.25, 1.5))
    assert geometry.pitch == pytest.approx(10.0)


def test_the_stack_has_end_diastole_first(tmp_path: Path) -> None:
    stack = to_stack(read_patient(write_patient(tmp_path)))
    assert (stack.phases, stack.slices) == (2, 3)
    assert [row[0].sop_instance_uid for row in stack.sources] == ["patient001.1.0", "patient001.12.0"]


def test_patients_are_found_at_any_depth(tmp_path: Path) -> None:
    write_patient(tmp_path / "training", "patient002")
    write_patient(tmp_path / "testing" / "more", "patient001")
    assert [folder.name for folder in find_patients(tmp_path)] == ["patient001", "patient002"]


def test_two_patients_of_one_name_are_refused(tmp_path: Path) -> None:
    write_patient(tmp_path / "a")
    write_patient(tmp_path / "b")
    with pytest.raises(AcdcLayoutError, match="patient001"):
        find_patients(tmp_path)


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_patients_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AcdcLayoutError, match=folder):
        find_patients(tmp_path / folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_patient(tmp_path)
    (folder / "patient001_frame12_gt.nii.gz").unlink()
    with pytest.raises(AcdcLayoutError, match=r"patient001_frame12_gt\.nii\.gz is missing"):
        read_patient(folder)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_patient(tmp_path)
    path = folder / "patient001_frame01.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(AcdcLayoutError, match=r"patient001_frame01\.nii\.gz cannot be read"):
        read_patient(folder)


def test_unknown_labels_are_refused(tmp_path: Path) -> None:
    folder = write_patient(tmp_path)
    image = nibabel.Nifti1Image(np.full((7, 5, 3), 4, dtype=np.uint8), np.eye(4))
    nibabel.save(image, folder / "patient001_frame01_gt.nii.gz")
    with pytest.raises(AcdcLayoutError, match="labels"):
        read_patient(folder)


def test_an_info_without_frames_is_refused(tmp_path: Path) -> None:
    folder = write_patient(tmp_path, info="Group: NOR\nED: first\n")
    with pytest.raises(AcdcLayoutError, match="'ED'"):
        read_patient(folder)


@settings(max_examples=50)
@given(
    st.dictionaries(st.text("abc0123", min_size=1, max_size=5), st.sampled_from(["NOR", "DCM", "RV"]), min_size=5),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_are_a_balanced_partition(groups: dict[str, str], count: int, seed: int) -> None:
    split = folds(groups, count, seed)
    assert sorted(name for fold in split for name in fold) == sorted(groups)
    assert split == folds(dict(reversed(groups.items())), count, seed)
    sizes = [len(fold) for fold in split]
    assert max(sizes) - min(sizes) <= 1
    for group in set(groups.values()):
        members = [sum(groups[name] == group for name in fold) for fold in split]
        assert max(members) - min(members) <= 1


@pytest.mark.real_data
def test_the_real_data_are_complete_and_plausible(acdc_dir: Path) -> None:
    folders = find_patients(acdc_dir)
    assert len(folders) == 80
    patient = read_patient(folders[0])
    assert patient.group == "DCM"
    for frame in patient.frames:
        areas = {label: int((frame.labels == label).sum()) for label in Label}
        assert min(areas.values()) > 100
    assert (patient.ed.labels == Label.LV).sum() > (patient.es.labels == Label.LV).sum()
