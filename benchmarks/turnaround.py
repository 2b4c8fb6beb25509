"""How long after the last image of a study its results are committed at the PACS, and where that time goes.

    python benchmarks/turnaround.py STUDY [STUDY ...] [--pacs small|orthanc] [--runs N] [--json]
    python benchmarks/turnaround.py STUDY [STUDY ...] --beside-slow [--background-slots 0|1] [--runs N] [--json]

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from crash_parts import write_cine
from interop.hospital import SentStudy
from interop.node import AE_TITLE as NODE_AE_TITLE
from interop.node import Destination, NodeUnderTest
from interop.orthanc import AE_TITLE as ORTHANC_AE_TITLE
from interop.orthanc import Modality, Orthanc
from interop.ports import free_port, wait_until
from slow_package import SLOW, slow_package

from dicom_node.commands.terminal import console, print_json, table
from dicom_node.config import Peer
from dicom_node.network.pacs import Pacs, PacsSettings
from dicom_node.network.sender import ScuSettings, send_files
from storage.ledger import Ledger, utc_now
from storage.overview import delivery_overviews, job_overviews
from storage.schema import DeliveryState, JobState, Verdict

SCANNER = "MR1"
FUNCTION = "ventricular_function"
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
    beside_slow: Annotated[bool, typer.Option(help="Measure each run again beside a slow package.")] = False,
    background_slots: Annotated[int, typer.Option(min=0, help="Workers for packages that give way.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure the turnaround of studies."""
    # Real studies break PS3.5, and pydicom says so of every image.
    warnings.filterwarnings("ignore", "Invalid value for VR")
    sent = [SentStudy.lying_in(folder, "/".join(folder.resolve().parts[-2:])) for folder in studies]
    measured: list[Turnaround] = []
    beside: list[Turnaround] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="turnaround-") as folder:
            measured += _run(Path(folder), pacs, sent)
        if beside_slow:
            with tempfile.TemporaryDirectory(prefix="turnaround-") as folder, slow_package(Path(folder) / "packages"):
                beside += _run(Path(folder), pacs, sent, background_slots)
    median = statistics.median(one.total for one in measured)
    slowed = statistics.median(one.total for one in beside) if beside else None
    if as_json:
        document = {"pacs": pacs, "turnarounds": measured, "median_s": median}
        if slowed is not None:
            document |= {"beside_slow": beside, "beside_slow_median_s": slowed, "ratio": slowed / median}
        print_json(document)
        return
    _show(measured, pacs)
    if slowed is not None:
        _show(beside, pacs)
        console.print(f"median {median:.2f} s, beside a slow package {slowed:.2f} s: ratio {slowed / median:.3f}")


def _run(folder: Path, pacs: PacsKind, sent: Sequence[SentStudy], slots: int | None = None) -> list[Turnaround]:
    analyses = (FUNCTION,) if slots is None else (FUNCTION, SLOW)
    execution = {} if slots is None else {"background_slots": slots}
    with _running(folder, pacs, analyses, execution) as node:
        if slots is not None:
            _keep_busy(node, folder)
        return [_through(node, study) for study in sent]


def _keep_busy(node: NodeUnderTest, folder: Path) -> None:
    """Send a study that the slow package works on until the node ends."""
    _send(node, write_cine(folder / "other", "other"))
    with node.ledger() as ledger:
        wait_until(
            lambda: any(one.package == SLOW for one in job_overviews(ledger, states=(JobState.RUNNING,))),
            seconds=300,
            what="the slow package works",
        )


@contextlib.contextmanager
def _running(
    folder: Path, pacs: PacsKind, analyses: Sequence[str], execution: Mapping[str, Any]
) -> Iterator[NodeUnderTest]:
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
        yield stack.enter_context(
            NodeUnderTest(
                folder / "node", destination, scanner=SCANNER, port=port, analyses=analyses, execution=execution
            )
        )


def _through(node: NodeUnderTest, study: SentStudy) -> Turnaround:
    started = utc_now()
    responses = _send(node, list(study.files.values()))
    uid = study.study_instance_uid
    with node.ledger() as ledger:
        wait_until(lambda: _function_is_committed(ledger, uid), seconds=900, what="function is committed", every=0.05)
        (job,) = (one for one in job_overviews(ledger, study_instance_uid=uid) if one.package == FUNCTION)
        deliveries = [one for one in delivery_overviews(ledger, study_instance_uid=uid) if one.job_id == job.id]
    sent_at = max(one.sent_at for one in deliveries if one.sent_at is not None)
    committed_at = max(one.committed_at for one in deliveries if one.committed_at is not None)
    if job.started_at is None or job.ended_at is None:
        raise SystemExit(f"job {job.id} succeeded without having run")
    summary = job.summary or {}
    if job.verdict is not Verdict.DELIVERED:
        raise SystemExit(f"{study.folder} was not analysed: {job.verdict} {job.sentences}")
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
        images=len(responses),
        results=len(deliveries),
        send=_seconds(started, responses[-1]),
        total=_seconds(responses[-1], committed_at),
        steps=steps,
    )


def _send(node: NodeUnderTest, files: list[Path]) -> list[dt.datetime]:
    """Send as a scanner does; when each C-STORE response came."""
    responses: list[dt.datetime] = []
    outcomes = send_files(
        files,
        Peer(ae_title=NODE_AE_TITLE, host="127.0.0.1", port=node.port),
        ScuSettings(SCANNER),
        progress=lambda _outcome: responses.append(utc_now()),
    )
    refused = [one.error for one in outcomes if one.error is not None]
    if refused:
        raise SystemExit(f"{len(refused)} of {len(outcomes)} images were not taken: {refused[0]}")
    return responses


def _function_is_committed(ledger: Ledger, study_instance_uid: str) -> bool:
    ended = [
        one.id
        for one in job_overviews(ledger, study_instance_uid=study_instance_uid)
        if one.package == FUNCTION and one.verdict is not None
    ]
    deliveries = [
        one for one in delivery_overviews(ledger, study_instance_uid=study_instance_uid) if one.job_id in ended
    ]
    return bool(ended) and all(one.state is DeliveryState.COMMITTED for one in deliveries)


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
