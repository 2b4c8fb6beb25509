"""How like real images the phantom's are: contrast, signal-to-noise ratio and grey values side by side, contact sheet.

python benchmarks/phantom_likeness.py grey --cine NAME=FOLDER … --acdc FOLDER --emidec FOLDER --output FOLDER
python benchmarks/phantom_likeness.py sheet --cine NAME=FOLDER … --output FOLDER

A folder of ``--cine`` holds the DICOM of one short-axis cine. The ventricles of those, and of nothing else, are found
by the shipped network; ACDC and EMIDEC bring the masks of experts, the phantom its truth. Everything is measured by the
same functions. ``sheet`` shows frames of the ``--cine`` studies: give it only studies that may be published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.cine.stack import CineStack, View
from pipelines.phantom import Dialect, Disease, PhantomRecipe, PhantomStudy, Territory, simulate
from pipelines.phantom.study import PSIR_ZERO
from pipelines.segmentation.labels import Label

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Output = Annotated[Path, typer.Option(help="Folder for the picture.")]
Cine = Annotated[list[str], typer.Option(metavar="NAME=FOLDER", help="DICOM of one short-axis cine; several times.")]

INFARCT, OBSTRUCTION = 4, 5
"""Labels of late enhancement beside those of :class:`Label`."""
_TILE = 96
"""Side of one image of the contact sheet, pixels."""
_EMIDEC = np.array([Label.BACKGROUND, Label.LV, Label.MYO, INFARCT, OBSTRUCTION], np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Images of one moment of one person, (S, R, C), and what each pixel is."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.uint8]

    def values(self, label: int) -> NDArray[np.float32]:
        """Grey values well inside a structure: its outermost pixels hold two tissues."""
        inside = ndimage.binary_erosion(self.labels == label, np.ones((1, 3, 3)))
        return self.pixels[inside if inside.sum() >= 20 else self.labels == label]


def _robust_spread(values: NDArray[np.float32]) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _noise(sample: Sample, label: int) -> float:
    """Noise within a structure: robust spread of second differences along rows, which smooth signal has not."""
    second = sample.pixels - 0.5 * (np.roll(sample.pixels, 1, -1) + np.roll(sample.pixels, -1, -1))
    return _robust_spread(Sample(second, sample.labels).values(label)) / np.sqrt(1.5)


def _cine_figures(sample: Sample) -> list[float]:
    blood, muscle = sample.values(Label.LV), sample.values(Label.MYO)
    right = sample.values(Label.RV)
    level = float(np.median(blood))
    return [
        level / float(np.median(muscle)),
        float(np.median(right)) / level if right.size else float("nan"),
        level / _robust_spread(blood),
        level / _noise(sample, Label.LV),
    ]


def _enhancement_figures(sample: Sample) -> list[float]:
    """Blood, infarct and obstruction on a scale where remote muscle is 0 and infarct 1, and the noise on it."""
    remote = float(np.median(sample.values(Label.MYO)))
    scale = float(np.median(sample.values(INFARCT))) - remote
    core = sample.values(OBSTRUCTION)
    return [
        (float(np.median(sample.values(Label.LV))) - remote) / scale,
        (float(np.median(core)) - remote) / scale if core.size else float("nan"),
        scale / _noise(sample, Label.MYO),
    ]


def real_stack(folder: Path) -> CineStack:
    """The short-axis cine of a folder of DICOM."""
    from pipelines.cine.assemble import assemble

    for study in assemble([path for path in folder.rglob("*") if path.is_file()]):
        if study.short_axis is not None:
            return study.short_axis
    raise SystemExit(f"{folder} holds no short-axis cine")


def _segmented(folder: Path) -> Sample:
    from pipelines.segmentation.segment import segment

    stack = real_stack(folder)
    return Sample(stack.pixels[0], segment(stack).labels[0])


def _acdc(folder: Path, every: int) -> Iterator[Sample]:
    from pipelines.training.acdc import find_patients, read_patient

    for path in find_patients(folder)[::every]:
        frame = read_patient(path).ed
        yield Sample(frame.pixels, frame.labels)


def _emidec(folder: Path) -> Iterator[Sample]:
    """Cases with an infarct; ``images/Case_PNNN_sliceNNN.png`` and the same under ``labels``."""
    from PIL import Image

    cases: dict[str, list[Path]] = {}
    for path in sorted((folder / "images").glob("Case_*_slice*.png")):
        cases.setdefault(path.name.rpartition("_slice")[0], []).append(path)
    for paths in cases.values():
        pixels = np.stack([np.asarray(Image.open(path).convert("L"), np.float32) for path in paths])
        labels = np.stack([np.asarray(Image.open(folder / "labels" / path.name)) for path in paths])
        if labels.ndim != 3 or labels.max() >= len(_EMIDEC):
            raise SystemExit(f"{paths[0]}: labels are not single-channel values 0 to 4")
        if (labels == 3).any():
            yield Sample(pixels, _EMIDEC[labels])


def _phantom_cine(dialect: Dialect, count: int) -> Iterator[Sample]:
    diseases = (Disease.NORMAL, Disease.DCM, Disease.HCM, Disease.INFARCT, Disease.RV_OVERLOAD)
    for seed in range(3000, 3000 + count):
        recipe = PhantomRecipe(
            seed=seed,
            disease=diseases[seed % len(diseases)],
            dialect=dialect,
            slices=10,
            phases=4,
            rows=144,
            columns=160,
            long_axis=False,
        )
        cine = simulate(recipe).short_axis
        yield Sample(cine.pixels[0].astype(np.float32), cine.labels[0])


def _phantom_enhancement(count: int) -> Iterator[tuple[Sample, Sample]]:
    """Magnitude and phase-sensitive images of infarcts."""
    for seed in range(3100, 3100 + count):
        recipe = PhantomRecipe(
            seed=seed,
            disease=Disease.INFARCT,
            slices=10,
            phases=4,
            rows=144,
            columns=160,
            long_axis=False,
            late_enhancement=True,
        )
        lge = simulate(recipe).enhancement
        assert lge is not None
        labels = lge.labels.copy()
        labels[lge.lesions == 1], labels[lge.lesions == 2] = INFARCT, OBSTRUCTION
        yield (
            Sample(lge.magnitude.astype(np.float32), labels),
            Sample(lge.phase_sensitive.astype(np.float32) - PSIR_ZERO, labels),
        )


def _named_folders(texts: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    if not all(name and mark and Path(folder).is_dir() for name, mark, folder in pairs):
        raise SystemExit(f"--cine needs NAME=FOLDER of an existing folder, not {' '.join(texts)}")
    return {name: Path(folder) for name, _, folder in pairs}


def _show(name: str, columns: tuple[str, ...], rows: list[list[float]]) -> None:
    values = np.array(rows, float)
    cells = []
    for column, of in zip(columns, values.T, strict=True):
        known = of[np.isfinite(of)]
        cells.append(f"{column} {known.mean():.2f} ± {known.std():.2f}" if known.size else f"{column} none")
    print(f"{name:28s} n={len(rows):3d}  " + "  ".join(cells), flush=True)


@app.command()
def grey(
    output: Output,
    cine: Cine = [],  # noqa: B006 - typer copies it
    acdc: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of ACDC.")] = None,
    emidec: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="EMIDEC as PNG slices.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Phantoms of each kind.")] = 8,
) -> None:
    """Contrast, noise and histograms of cine and late enhancement, phantoms beside real studies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cines = {name: [_segmented(folder)] for name, folder in _named_folders(cine).items()}
    if acdc is not None:
        cines["ACDC"] = list(_acdc(acdc, 4))
    for dialect in (Dialect.SIEMENS, Dialect.GE, Dialect.PHILIPS):
        cines[f"phantom {dialect}"] = list(_phantom_cine(dialect, count))
    enhancement = {"EMIDEC": list(_emidec(emidec))} if emidec is not None else {}
    pairs = list(_phantom_enhancement(count))
    enhancement["phantom magnitude"] = [magnitude for magnitude, _ in pairs]
    enhancement["phantom PSIR"] = [signed for _, signed in pairs]

    for name, samples in cines.items():
        names = ("blood/muscle", "RV/LV blood", "blood/spread", "blood/noise")
        _show(name, names, [_cine_figures(sample) for sample in samples])
    for name, samples in enhancement.items():
        names = ("blood", "obstruction", "infarct − muscle over noise")
        _show(name, names, [_enhancement_figures(sample) for sample in samples])

    width = max(len(cines), len(enhancement))
    figure, axes = pyplot.subplots(2, width, figsize=(2.5 * width, 4.6), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, samples) in zip(axes[0], cines.items(), strict=False):
        axis.set_axis_on()
        for label, colour in ((Label.LV, "C3"), (Label.MYO, "C2"), (Label.RV, "C0")):
            values = [sample.pixels[sample.labels == label] / np.median(sample.values(Label.LV)) for sample in samples]
            pooled = np.concatenate(values)
            if pooled.size:
                axis.hist(pooled, 60, range=(0, 1.8), density=True, histtype="step", color=colour, label=label.name)
        axis.set_title(f"{name} (n={len(samples)})", fontsize=8)
    for axis, (name, samples) in zip(axes[1], enhancement.items(), strict=False):
        axis.set_axis_on()
        for label, title, colour in (
            (Label.LV, "blood", "C3"),
            (Label.MYO, "muscle", "C2"),
            (INFARCT, "infarct", "C1"),
            (OBSTRUCTION, "obstruction", "k"),
        ):
            values = []
            for sample in samples:
                remote = np.median(sample.values(Label.MYO))
                scale = np.median(sample.values(INFARCT)) - remote
                values.append((sample.pixels[sample.labels == label] - remote) / scale)
            axis.hist(
                np.concatenate(values), 60, range=(-1.5, 2), density=True, histtype="step", color=colour, label=title
            )
        axis.set_title(f"{name} (n={len(samples)})", fontsize=8)
    for axis in axes.flat:
        axis.tick_params(labelsize=6)
        axis.set_yticks([])
    axes[0, 0].legend(fontsize=6)
    axes[1, 0].legend(fontsize=6)
    axes[0, 0].set_xlabel("grey value / median of LV blood", fontsize=6)
    axes[1, 0].set_xlabel("0 remote muscle, 1 infarct (medians)", fontsize=6)
    figure.tight_layout(pad=0.4)
    output.mkdir(parents=True, exist_ok=True)
    figure.savefig(output / "phantom-grey-values.png", dpi=90)


def _heart_box(labels: NDArray[np.uint8], spacing: float, half_mm: float) -> tuple[slice, slice]:
    """Square about the heart, cut at the border of the image."""
    rows, columns = np.nonzero(labels.max(axis=tuple(range(labels.ndim - 2))))
    half = round(half_mm / spacing)
    centre = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    first, second = (slice(max(0, middle - half), middle + half) for middle in centre)
    return first, second


def _levels(labels: NDArray[np.uint8]) -> list[int]:
    """Slices at 75, 50 and 20 % of the ventricle, base first."""
    has = np.flatnonzero((labels == Label.LV).any(axis=(1, 2)))
    area = (labels > 0).sum(axis=(1, 2))
    if area[has[: len(has) // 2]].sum() > area[has[len(has) // 2 :]].sum():
        has = has[::-1]
    return [int(has[round(part * (len(has) - 1))]) for part in (0.75, 0.5, 0.2)]


def _real_row(folder: Path) -> list[NDArray[np.float32] | None]:
    from pipelines.segmentation.segment import segment

    stack = real_stack(folder)
    labels = segment(stack).labels
    systole = int(np.argmin((labels == Label.LV).sum(axis=(1, 2, 3))))
    rows, columns = _heart_box(labels, stack.geometry.pixel_spacing[0], 75)
    frames = [stack.pixels[phase, level, rows, columns] for level in _levels(labels[0]) for phase in (0, systole)]
    return [*frames, None, None, None]


def _phantom_row(study: PhantomStudy) -> list[NDArray[np.float32] | None]:
    cine, lge = study.short_axis, study.enhancement
    assert lge is not None
    systole = int(np.argmin([state.lv_volume_ml for state in study.states]))
    rows, columns = _heart_box(cine.labels, cine.geometry.pixel_spacing[0], 75)
    levels = _levels(cine.labels[0])
    frames = [cine.pixels[phase, level, rows, columns] for level in levels for phase in (0, systole)]
    four = next(view for view in study.cines if view.view is View.LAX_4CH)
    across = _heart_box(four.labels, four.geometry.pixel_spacing[0], 90)
    level = int(np.argmax((lge.lesions > 0).sum(axis=(1, 2)))) if lge.lesions.any() else levels[1]
    images = [
        *frames,
        four.pixels[0, 0][across],
        lge.magnitude[level, rows, columns],
        lge.phase_sensitive[level, rows, columns],
    ]
    return [image.astype(np.float32) for image in images]


@app.command()
def sheet(
    output: Output,
    cine: Cine = [],  # noqa: B006 - typer copies it
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 21,
) -> None:
    """Contact sheet: real frames above phantoms, cine at end diastole and end systole, late enhancement."""
    from PIL import Image, ImageDraw

    rows = {name: _real_row(folder) for name, folder in _named_folders(cine).items()}
    for disease in (Disease.NORMAL, Disease.INFARCT, Disease.DCM, Disease.HCM):
        recipe = PhantomRecipe(seed=seed, disease=disease, phases=12, late_enhancement=True)
        name = f"phantom {disease}"
        if disease is Disease.INFARCT:
            recipe = replace(recipe, territory=Territory.LAD, transmurality=0.9, obstruction=True)
            name += ", obstruction"
        rows[name] = _phantom_row(simulate(recipe))
    titles = [f"{place} {phase}" for place in ("base", "middle", "apex") for phase in ("ED", "ES")]
    titles += ["4CH ED", "LGE magnitude", "LGE PSIR"]
    page = Image.new("L", (len(titles) * _TILE, len(rows) * (_TILE + 12) + 12))
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((column * _TILE + 3, 0), title, fill=255)
    for line, (name, images) in enumerate(rows.items()):
        top = 12 + line * (_TILE + 12)
        draw.text((3, top), name, fill=255)
        for column, (image, title) in enumerate(zip(images, titles, strict=True)):
            if image is None:
                continue
            low = float(np.percentile(image, 2)) if title == "LGE PSIR" else 0.0
            shown = np.clip((image - low) / (np.percentile(image, 99.3) - low), 0, 1)
            tile = np.asarray(Image.fromarray((shown * 255).astype(np.uint8)).resize((_TILE, _TILE)))
            # A few grey levels keep the file small.
            page.paste(
                Image.fromarray((np.rint(tile / 255 * 23) * (255 / 23)).astype(np.uint8)), (column * _TILE, top + 12)
            )
    output.mkdir(parents=True, exist_ok=True)
    page.save(output / "phantom-sheet.png", optimize=True)


if __name__ == "__main__":
    app()
