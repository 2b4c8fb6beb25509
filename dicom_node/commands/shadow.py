"""``dicom-node shadow``: how well predicted late enhancement agrees with acquired late enhancement at this site."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.commands.ledger import DEFAULT, opened
from dicom_node.commands.terminal import ConfigurationFile, JsonFlag, console, print_json, table
from dicom_node.config_file import load_configuration
from storage.shadow import kept_comparisons

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_node.shadow.agreement import Agreement
    from pipelines.statistics import Estimate

__all__ = ["shadow"]


def shadow(
    config: ConfigurationFile = DEFAULT,
    since: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only studies compared from this day on (UTC).")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the package that predicted. [default: the installed one]")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell how late enhancement predicted from cine agrees with what was acquired in the same studies of this site."""
    from dicom_node.shadow.agreement import agreement, by_month, by_scanner
    from dicom_node.shadow.comparison import PREDICTED
    from dicom_node.shadow.withholding import shortfall
    from pipelines.package import packages

    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        every = kept_comparisons(ledger, None if since is None else since.replace(tzinfo=dt.UTC))
    installed = packages().get(PREDICTED)
    wanted = version or (installed.version if installed is not None else None)
    compared = [one for one in every if wanted is None or one.version == wanted]
    whole = agreement(compared)
    scanners, months = by_scanner(compared), by_month(compared)
    destinations = {
        name: shortfall(profile.synthetic, whole)
        for name, profile in configuration.results.destinations.items()
        if profile.synthetic.has_thresholds
    }
    if as_json:
        print_json(
            {
                "version": wanted,
                "other_versions": len(every) - len(compared),
                "all": whole,
                "by_scanner": scanners,
                "by_month": months,
                "withheld": destinations,
            }
        )
        return
    console.print(
        "Predicted from cine (SYNTHETIC, not acquired) beside acquired late enhancement of the same studies"
        + (f", version {wanted}" if wanted else "")
        + f": {whole.studies} studies, {whole.with_infarct} with an infarct.",
        soft_wrap=True,
    )
    if len(every) > len(compared):
        console.print(f"{len(every) - len(compared)} comparisons of other versions are left out: --version shows them")
    _show("Agreement", {"all": whole}, "")
    _show("By scanner", scanners, "scanner")
    _show("By month", months, "month")
    if whole.calibration is not None:
        console.print(
            f"Calibration of the study's probability: slope {whole.calibration.slope:.2f}, intercept "
            f"{whole.calibration.intercept:+.2f}"
        )
    for name, sentence in destinations.items():
        console.print(f"{name}: {sentence or 'gets synthetic results: its thresholds are passed.'}", soft_wrap=True)


def _show(title: str, rows: Mapping[str, Agreement], first: str) -> None:
    table(
        title,
        [
            f"{first}!",
            "studies>",
            "infarct>",
            "r",
            "bias, points",
            "limits of agreement",
            "AUC study",
            "AUC segment",
            "Brier>",
        ],
        (
            (
                name,
                one.studies,
                one.with_infarct,
                _estimate(one.r),
                _estimate(one.bias, "+.1f"),
                "–" if one.limits is None else f"{one.limits[0]:+.1f} to {one.limits[1]:+.1f}",
                _estimate(one.auc),
                _estimate(one.auc_segment),
                "–" if one.brier is None else f"{one.brier:.3f}",
            )
            for name, one in rows.items()
        ),
        caption="in brackets: 95 % interval; extents and bias are % of the left ventricular muscle",
    )


def _estimate(estimate: Estimate | None, form: str = ".2f") -> str:
    if estimate is None:
        return "–"
    value = f"{estimate.value:{form}}"
    if estimate.low != estimate.low:
        return value
    return f"{value} ({estimate.low:{form}} to {estimate.high:{form}})"
