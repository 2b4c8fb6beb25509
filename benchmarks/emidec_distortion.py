"""How far the square PNG of EMIDEC are stretched, and whether that alone tells hearts with an infarct from others.

python benchmarks/emidec_distortion.py DIR

The measure is the width of the labelled ventricle over its height (standard deviations of its pixels), the median of
the upper two thirds of the slices: about 1 in a true image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from pipelines.training.emidec import aspect, find_cases, read_case


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="EMIDEC as PNG slices.")],
) -> None:
    """Print the range by group and the AUC."""
    ratios, infarct = [], []
    for images in find_cases(folder).values():
        case = read_case(images)
        ratios.append(1 / aspect(case.labels))
        infarct.append(case.group != "normal")
    values, truth = np.array(ratios), np.array(infarct)
    for name, chosen in (("without an infarct", ~truth), ("with an infarct", truth)):
        within = ((values[chosen] >= 0.8) & (values[chosen] <= 1.25)).sum()
        low, middle, high = np.percentile(values[chosen], [0, 50, 100])
        print(f"{name}: {low:.2f} to {high:.2f}, median {middle:.2f}; {within} of {chosen.sum()} from 0.8 to 1.25")
    print(f"AUC of |log ratio| for hearts without an infarct: {roc_auc_score(~truth, np.abs(np.log(values))):.2f}")


if __name__ == "__main__":
    typer.run(main)
