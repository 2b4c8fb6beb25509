"""How many hosts a number of studies a year takes, by figures that were measured; each can be replaced by one's own.

    python benchmarks/capacity.py [--studies N ...] [--images N] [--rate R] [--worker-s S] [...]

Nothing is measured here. The defaults are figures of docs/scale.md (two cores): images that one host takes in, durably,
from four senders, and seconds of a worker with two cores for ventricular function of a study of 240 images; they go
from the last image to the last commitment, more than the work itself. Hosts are filled to 70 % in the busiest hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import typer

from dicom_node.commands.terminal import console, table

FILLED = 0.7
STUDIES = [1e4, 1e5, 1e6, 1e7]


@dataclass(frozen=True)
class Load:
    """What the busiest hour asks for.

    Attributes
    ----------
    studies_an_hour, images_a_second
        In the busiest hour.
    receivers, workers
        Hosts of two cores that receive, and workers of two cores.
    terabytes
        Of images, kept at once.
    rows
        Of instances in the ledger.
    """

    studies_an_hour: float
    images_a_second: float
    receivers: int
    workers: int
    terabytes: float
    rows: float


def load(
    studies: float,
    *,
    images: float,
    image_kib: float,
    hours: float,
    peak: float,
    rate: float,
    worker_s: float,
    retention_days: float,
    history_days: float,
) -> Load:
    """The model; all parameters as those of the command."""
    an_hour = studies / hours * peak
    a_second = an_hour * images / 3600
    return Load(
        an_hour,
        a_second,
        max(1, math.ceil(a_second / (rate * FILLED))),
        max(1, math.ceil(an_hour * worker_s / 3600 / FILLED)),
        studies / 365 * retention_days * images * image_kib * 1024 / 1e12,
        studies / 365 * (retention_days + history_days) * images,
    )


def main(
    studies: Annotated[list[float] | None, typer.Option(help="Studies a year.")] = None,
    images: Annotated[float, typer.Option(help="Images a study, all series.")] = 500,
    image_kib: Annotated[float, typer.Option(help="KiB an image.")] = 128,
    hours: Annotated[float, typer.Option(help="Hours a year in which scanners send: 52 weeks of 5 days of 10.")] = 2600,
    peak: Annotated[float, typer.Option(help="The busiest hour against the mean of those.")] = 2,
    rate: Annotated[float, typer.Option(help="Images a second that one receiving host takes in.")] = 704,
    worker_s: Annotated[float, typer.Option(help="Seconds of one worker a study, all analyses of its route.")] = 13.27,
    retention_days: Annotated[float, typer.Option(help="storage.retention_days")] = 14,
    history_days: Annotated[float, typer.Option(help="storage.history_days")] = 365,
) -> None:
    """Print what several numbers of studies a year take."""
    loads = {
        one: load(
            one,
            images=images,
            image_kib=image_kib,
            hours=hours,
            peak=peak,
            rate=rate,
            worker_s=worker_s,
            retention_days=retention_days,
            history_days=history_days,
        )
        for one in studies or STUDIES
    }
    table(
        f"{images:g} images of {image_kib:g} KiB a study; busiest hour {peak:g} × the mean of {hours:g} hours a year",
        ["studies a year", "studies an hour", "images/s", "receiving hosts", "workers", "TB kept", "rows of instances"],
        (
            (
                f"{one:,.0f}",
                f"{found.studies_an_hour:,.0f}",
                f"{found.images_a_second:,.0f}",
                found.receivers,
                found.workers,
                f"{found.terabytes:,.1f}",
                f"{found.rows:.1e}",
            )
            for one, found in loads.items()
        ),
    )
    console.print(f"hosts and workers of two cores, filled to {FILLED:.0%}; at least two of each, so that one may fail")


if __name__ == "__main__":
    typer.run(main)
