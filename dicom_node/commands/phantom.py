"""``dicom-node phantom``: simulated studies with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.commands.terminal import JsonFlag, console, print_json, table
from dicom_node.errors import ConfigurationError

__all__ = ["phantom"]


def phantom(
    output: Annotated[Path, typer.Option(help="Receives one folder a phantom: dicom/ and truth.npz.")],
    count: Annotated[int, typer.Option(min=1, help="How many; seeds count up.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal studies.")] = 0,
    disease: Annotated[str | None, typer.Option(help="Left out: each in turn.")] = None,
    vendor: Annotated[str, typer.Option(help="DICOM dialect.")] = "siemens",
    fault: Annotated[list[str] | None, typer.Option(help="Defect of the acquisition; may be repeated.")] = None,
    slices: Annotated[int, typer.Option(min=1)] = 12,
    phases: Annotated[int, typer.Option(min=4)] = 30,
    late_enhancement: Annotated[bool, typer.Option(help="Acquire late enhancement too.")] = True,
    ecg: Annotated[bool, typer.Option(help="Record a 12-lead ECG.")] = True,
    transfer_syntax: Annotated[str, typer.Option(help="Encoding of the pixels.")] = "explicit",
    script: Annotated[str, typer.Option(help="Script of the patient's name.")] = "latin",
    as_json: JsonFlag = False,
) -> None:
    """Simulate cardiac MR studies and write their DICOM with the truth beside it (docs/phantom.md)."""
    from pipelines.phantom import RecipeError, write_phantoms

    with Progress(
        TextColumn("phantoms"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=as_json,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=count)
        try:
            written = write_phantoms(
                output,
                count=count,
                seed=seed,
                disease=disease,
                vendor=vendor,
                faults=fault or (),
                slices=slices,
                phases=phases,
                late_enhancement=late_enhancement,
                ecg=ecg,
                transfer_syntax=transfer_syntax,
                script=script,
                progress=lambda done, _count: progress.update(task, completed=done),
            )
        except RecipeError as error:
            raise ConfigurationError(str(error), subject="phantom") from error
    if as_json:
        print_json(
            [
                {"directory": one.directory, "dicom": len(one.dicom), "truth": one.truth, "facts": one.facts}
                for one in written
            ]
        )
        return
    table(
        "Phantoms",
        ["folder", "objects>", "disease", "LVEDV ml>", "LVEF %>", "LV mass g>", "RVEF %>", "GLS %>"],
        (
            (
                one.directory,
                len(one.dicom),
                one.facts.disease,
                f"{one.facts.lv_edv_ml:.0f}",
                f"{one.facts.lv_ef_percent:.0f}",
                f"{one.facts.lv_mass_g:.0f}",
                f"{one.facts.rv_ef_percent:.0f}",
                f"{one.facts.gls_percent:.1f}",
            )
            for one in written
        ),
    )
