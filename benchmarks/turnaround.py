"""How long after the last image of a study its results are committed at the PACS, and where that time goes.

    python benchmarks/turnaround.py STUDY [STUDY ...] [--pacs small|orthanc] [--runs N] [--json]

Starts a PACS (the package's own, or Debian's Orthanc) and a node of its own for each run, sends each study in turn as a
scanner does, waits until all its results are committed, and reads the times from the ledger. A STUDY is a folder that
holds the DICOM files of one study. Times are wall-clock on this machine, with nothing else running if they are to mean
anything.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interop.hospital import SentStudy
from interop.node import AE_TITLE as NODE_AE_TITLE
from interop.node import Destination, NodeUnderTest
from interop.orthanc import AE_TITLE as ORTHANC_AE_TITLE
from interop.orthanc import Modality, Orthanc
from interop.ports import free_port

from dicom_node.commands.terminal import console, print_json, table
from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import ScuSettings, send_files
from storage.ledger import utc_now
from storage.overview import delivery_overviews, job_overviews
from storage.schema import DeliveryState, JobState

SCANNER = "MR1"
SMALL_PACS = "PACS"


class PacsKind(StrEnum):
    """Which PACS takes the results."""

    SMALL = "small"
    ORTHANC = "orthanc"


@dataclass(frozen=True)
class Turnaround:
    """One study through the node.

    Attributes
    ----------
    study
        The end of its folder's path.
    images, results
        How many were sent, and how many came of it.
    send
        Seconds from the first image to the last C-STORE response: the scanner's and the receiver's time.
    total
        Seconds from the last C-STORE response to the last commitment.
    steps
        Seconds of each part of ``total``, in order; they add up to it.
    """

    study: str
    images: int
    results: int
    send: float
    total: float
    steps: dict[str, float]


def main(
    studies: Annotated[list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of one study each.")],
    pacs: Annotated[PacsKind, typer.Option(help="Which PACS takes the results.")] = PacsKind.SMALL,
    runs: Annotated[int, typer.Option(min=1, help="How often; each with a new node.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure the turnaround of studies."""
    # Real studies break PS3.5, and pydicom says so of every image.
    warnings.filterwarnings("ignore", "Invalid value for VR")
    sent = [SentStudy.lying_in(folder, "/".join(folder.resolve().parts[-2:])) for folder in studies]
    measured: list[Turnaround] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="turnaround-") as folder, _running(Path(folder), pacs) as node:
            measured += [_through(node, study) for study in sent]
    if as_json:
        print_json(
            {"pacs": pacs, "turnarounds": measured, "median_s": statistics.median(one.total for one in measured)}
        )
    else:
        _show(measured, pacs)


@contextlib.contextmanager
def _running(folder: Path, pacs: PacsKind) -> Iterator[NodeUnderTest]:
    port = free_port()
    with contextlib.ExitStack() as stack:
        if pacs is PacsKind.ORTHANC:
            orthanc = stack.enter_context(Orthanc(folder / "pacs", (Modality(NODE_AE_TITLE, port),)))
            destination = Destination(ORTHANC_AE_TITLE, orthanc.dicom_port)
        else:
            destination = Destination(SMALL_PACS, free_port())
            caller = Peer(ae_title=NODE_AE_TITLE, host="127.0.0.1", port=port)
            settings = PacsSettings(folder / "pacs", destination.port, SMALL_PACS, callers={NODE_AE_TITLE: caller})
            stack.enter_context(Pacs(settings))
        yield stack.enter_context(NodeUnderTest(folder / "node", destination, scanner=SCANNER, port=port))


def _through(node: NodeUnderTest, study: SentStudy) -> Turnaround:
    started = utc_now()
    responses: list[dt.datetime] = []
    outcomes = send_files(
        list(study.files.values()),
        Peer(ae_title=NODE_AE_TITLE, host="127.0.0.1", port=node.port),
        ScuSettings(SCANNER),
        progress=lambda _outcome: responses.append(utc_now()),
    )
    refused = [one.error for one in outcomes if one.error is not None]
    if refused:
        raise SystemExit(f"{len(refused)} of {len(outcomes)} images were not taken: {refused[0]}")
    node.wait_until_delivered([study.study_instance_uid], seconds=900)
    with node.ledger() as ledger:
        jobs = job_overviews(ledger, states=(JobState.SUCCEEDED,), study_instance_uid=study.study_instance_uid)
        deliveries = delivery_overviews(ledger, study_instance_uid=study.study_instance_uid)
    if len(jobs) != 1 or any(one.state is not DeliveryState.COMMITTED for one in deliveries):
        raise SystemExit(f"{study.folder}: the node did not deliver one set of results, see `dicom-node jobs`")
    (job,) = jobs
    sent_at = max(one.sent_at for one in deliveries if one.sent_at is not None)
    committed_at = max(one.committed_at for one in deliveries if one.committed_at is not None)
    if job.started_at is None or job.ended_at is None:
        raise SystemExit(f"job {job.id} succeeded without having run")
    summary = job.summary or {}
    if summary.get("refusals") or summary.get("rejected"):
        raise SystemExit(f"{study.folder} was not analysed: {summary['refusals']} {summary['rejected']}")
    inside: dict[str, float] = summary["seconds"]
    steps = {
        "quiet time": _seconds(responses[-1], job.created_at),
        "queue": _seconds(job.created_at, job.started_at),
        **inside,
        "record results": _seconds(job.started_at, job.ended_at) - sum(inside.values()),
        "deliver": _seconds(job.ended_at, sent_at),
        "commit": _seconds(sent_at, committed_at),
    }
    return Turnaround(
        study=study.name,
        images=len(outcomes),
        results=len(deliveries),
        send=_seconds(started, responses[-1]),
        total=_seconds(responses[-1], committed_at),
        steps=steps,
    )


def _seconds(begin: dt.datetime, end: dt.datetime) -> float:
    return (end - begin).total_seconds()


def _show(measured: Sequence[Turnaround], pacs: PacsKind) -> None:
    steps = list(dict.fromkeys(step for one in measured for step in one.steps))
    columns = [
        "from the last C-STORE response to the last commitment",
        *(f"{one.study} (s)>" for one in measured),
    ]
    rows: list[list[Any]] = [[step, *(f"{one.steps.get(step, 0.0):.2f}" for one in measured)] for step in steps]
    rows.append(["total", *(f"{one.total:.2f}" for one in measured)])
    table(f"Turnaround with the PACS {pacs.value!r}", columns, rows)
    for one in measured:
        console.print(f"{one.study}: {one.images} images sent in {one.send:.2f} s, {one.results} results")


if __name__ == "__main__":
    typer.run(main)
