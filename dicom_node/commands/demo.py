"""``dicom-node demo``: scanner, node and PACS on one machine, over real DICOM associations."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.commands.demo_enhancement import TrueEnhancement, show_enhancement, true_enhancement
from dicom_node.commands.ledger import opened
from dicom_node.commands.send import send_folder
from dicom_node.commands.terminal import ExitCode, console, table
from dicom_node.config import Configuration, Peer
from dicom_node.config_file import load_configuration
from dicom_node.errors import ConfigurationError, ExecutionTimeoutError, NodeError
from storage.overview import delivery_overviews, job_overviews, study_overviews
from storage.schema import ENDED, DeliveryState, JobState, Verdict

if TYPE_CHECKING:
    from pipelines.function.findings import Quantity
    from pipelines.phantom import PhantomRecipe
    from storage.ledger import Ledger

__all__ = ["SEED", "demo", "demo_recipe"]

SCANNER, PACS = "DEMOSCANNER", "DEMOPACS"
START_S, PATIENCE_S, STOP_S = 120.0, 900.0, 40.0
ANALYSES = ("ventricular_function", "synthetic_enhancement")
SEED = 2
"""The lowest whose old infarct is over 15 % of the muscle: smaller ones are mostly missed by synthetic enhancement."""
_MARK = ".dicom-node-demo"
_JOB_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.SUPERSEDED})
_DELIVERY_ENDS = ENDED | {DeliveryState.DEAD}


def demo(
    study: Annotated[
        Path | None,
        typer.Option(exists=True, help="Your own folder of DICOM instead of the simulated scanner's study."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes; made anew each time.")] = Path(
        "demo-output"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated patient.")] = SEED,
) -> None:
    """Rehearse: a scanner sends a cine study to the node, which stores its results in a PACS."""
    from dicom_node.network.pacs import Pacs, PacsSettings
    from dicom_node.network.sender import ScuSettings

    output = _emptied(output)
    truth: Mapping[Quantity, float] = {}
    enhancement: TrueEnhancement | None = None
    images = study or output / "scanner"
    if study is None:
        truth, enhancement = _simulate(images, seed)
    node_port, pacs_port = _free_port(), _free_port()
    configuration = _configured(output / "config.yaml", node_port, pacs_port)
    callers = {
        configuration.node.ae_title: Peer(ae_title=configuration.node.ae_title, host="127.0.0.1", port=node_port)
    }
    settings = PacsSettings(output / "pacs", pacs_port, PACS, callers=callers)
    with Pacs(settings) as pacs, _node(output), opened(configuration) as ledger:
        console.print(f"scanner {SCANNER} → node {configuration.node.ae_title} → PACS {PACS}")
        peer = Peer(ae_title=configuration.node.ae_title, host="127.0.0.1", port=node_port)
        outcomes = send_folder(images, peer, ScuSettings(SCANNER), quiet=False)
        refused = [one for one in outcomes if one.error is not None]
        if refused:
            console.print(f"[yellow]{len(refused)} objects were not taken[/yellow], such as {refused[0].error}")
        if len(refused) == len(outcomes):
            raise NodeError("nothing arrived", subject=str(images), remedy=f"see {output / 'node.log'}")
        started = time.monotonic()
        _watch(ledger, configuration)
        console.print(f"{time.monotonic() - started:.1f} s from the last image to the last storage commitment")
        held = sorted(pacs.held().values())
        _show_jobs(ledger)
    committed = _show_results(held, output, truth)
    if enhancement is not None:
        show_enhancement(held, enhancement, output)
    _tell_how_to_go_on(output)
    if not committed:
        raise typer.Exit(ExitCode.FAILED)


def _emptied(output: Path) -> Path:
    output = output.resolve()
    if output.exists() and any(output.iterdir()):
        if not (output / _MARK).exists():
            raise ConfigurationError(
                "is not empty and no demo made it", subject=str(output), remedy="give another folder with --output"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / _MARK).touch()
    return output


def demo_recipe(seed: int) -> PhantomRecipe:
    """The simulated patient of a seed: an old infarct, with late enhancement as the truth."""
    from pipelines.phantom import Disease, PhantomRecipe

    return PhantomRecipe(seed=seed, disease=Disease.INFARCT, acute=False, late_enhancement=True)


def _simulate(folder: Path, seed: int) -> tuple[Mapping[Quantity, float], TrueEnhancement]:
    """Write the cine study of a simulated patient with an infarct; the true numbers of the heart, and its scar.

    Late enhancement is simulated as the truth and not sent: the patient gets no contrast agent.
    """
    from pipelines.function.findings import Quantity
    from pipelines.phantom import measure_truth, simulate, write_study

    with console.status("the simulated scanner acquires a short-axis stack and three long-axis views"):
        phantom = simulate(demo_recipe(seed), matched_enhancement=True)
        files = write_study(replace(phantom, enhancement=None), folder)
        facts = measure_truth(phantom).facts
    console.print(f"the simulated scanner made {len(files)} images of a heart with an infarct in {folder}")
    numbers = {
        Quantity.LVEDV: facts.lv_edv_ml,
        Quantity.LVESV: facts.lv_esv_ml,
        Quantity.LVSV: facts.lv_edv_ml - facts.lv_esv_ml,
        Quantity.LVEF: facts.lv_ef_percent,
        Quantity.LVM: facts.lv_mass_g,
        Quantity.RVEDV: facts.rv_edv_ml,
        Quantity.RVESV: facts.rv_esv_ml,
        Quantity.RVSV: facts.rv_edv_ml - facts.rv_esv_ml,
        Quantity.RVEF: facts.rv_ef_percent,
        Quantity.HEART_RATE: facts.heart_rate_bpm,
    }
    return numbers, true_enhancement(phantom)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configured(path: Path, node_port: int, pacs_port: int) -> Configuration:
    values = {
        "node": {"address": "127.0.0.1", "port": node_port},
        "peers": {
            "scanner": {"ae_title": SCANNER, "may": ["send"]},
            "pacs": {"ae_title": PACS, "host": "127.0.0.1", "port": pacs_port, "may": ["send", "receive"]},
        },
        "routes": {"cine": {"analyses": _analyses(), "destinations": ["pacs"]}},
        "storage": {
            "database": "sqlite:///node/ledger.sqlite",
            "directory": "node/instances",
            "low_watermark_mb": 64,
            "high_watermark_mb": 128,
        },
        "execution": {"quiet_time_s": 5, "incomplete_quiet_time_s": 5},
        "results": {"destinations": {"pacs": {"peer": "pacs"}}},
    }
    path.write_text("# Written by the demo.\n" + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return load_configuration(path)


def _analyses() -> list[str]:
    """The analyses of the demo whose networks are installed."""
    from pipelines.models.registry import model_folders
    from pipelines.package import packages

    installed = model_folders().keys()
    chosen = [name for name in ANALYSES if installed >= set(packages()[name].models)]
    for name in ANALYSES:
        if name not in chosen:
            console.print(f"[yellow]{name} is left out[/yellow]: its networks are not installed")
    return chosen


@contextlib.contextmanager
def _node(output: Path) -> Iterator[None]:
    """``dicom-node serve`` as a process of its own, stopped at the end."""
    log = output / "node.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(output / "config.yaml")],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        with console.status("the node starts and loads its models"):
            ready = process.stdout.readline().strip() if process.stdout else ""
        if ready != "ready":
            raise NodeError("the node did not start", subject=str(log), remedy="read this log")
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _watch(ledger: Ledger, configuration: Configuration) -> None:
    """Show progress until nothing is left to do.

    Raises
    ------
    ExecutionTimeoutError
        It took longer than a quarter of an hour.
    """
    from dicom_node.schedule.study import describe
    from storage.ledger import utc_now

    give_up = time.monotonic() + PATIENCE_S
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
    ) as progress:
        bars = {name: progress.add_task(name, total=None, detail="") for name in ("analysed", "delivered", "committed")}
        while time.monotonic() < give_up:
            studies = study_overviews(ledger)
            jobs = job_overviews(ledger)
            deliveries = delivery_overviews(ledger)
            waiting = [one for one in studies if one.instances_waiting]
            detail = (
                describe(ledger, configuration, waiting[0].study_instance_uid, now=utc_now()).sentence
                if waiting
                else ""
            )
            ended = sum(one.state in _JOB_ENDS for one in jobs)
            progress.update(bars["analysed"], total=len(jobs) + len(waiting), completed=ended, detail=detail)
            sent = [one for one in deliveries if one.sent_at is not None]
            settled = [one for one in deliveries if one.state in _DELIVERY_ENDS]
            progress.update(bars["delivered"], total=len(deliveries) or None, completed=len(sent))
            progress.update(bars["committed"], total=len(deliveries) or None, completed=len(settled))
            if studies and not waiting and ended == len(jobs) and len(settled) == len(deliveries):
                return
            time.sleep(0.2)
    raise ExecutionTimeoutError(f"not finished after {PATIENCE_S:.0f} s", subject="demo", remedy="read node.log")


def _show_jobs(ledger: Ledger) -> None:
    for job in job_overviews(ledger):
        came_to = job.verdict.value if job.verdict is not None else job.state.value
        colour = "green" if job.verdict is Verdict.DELIVERED else "yellow" if job.error is None else "red"
        why = " ".join(job.sentences) or job.error
        console.print(f"[{colour}]{job.package} {came_to}[/{colour}]{f': {why}' if why else ''}")
        seconds = (job.summary or {}).get("seconds", {})
        if seconds:
            table("Seconds", ["step", ">"], ((step, f"{value:.2f}") for step, value in seconds.items()))


def _show_results(held: Collection[Path], output: Path, truth: Mapping[Quantity, float]) -> bool:
    """Print what the PACS holds, the numbers beside the truth, and write the pages; whether it holds anything."""
    from PIL import Image
    from pydicom import dcmread
    from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

    from dicom_node.results.reading import reported_numbers

    rows: dict[tuple[int, str, str], int] = {}
    pages: list[Path] = []
    for path in held:
        dataset = dcmread(path)
        key = (int(dataset.SeriesNumber), str(dataset.get("SeriesDescription", "")), dataset.SOPClassUID.name)
        rows[key] = rows.get(key, 0) + 1
        if dataset.SOPClassUID == SecondaryCaptureImageStorage and dataset.SamplesPerPixel == 3:
            name = re.sub(r"[^0-9A-Za-z.]", "_", str(dataset.StudyInstanceUID))[-24:]
            page = output / f"summary-{name}-{dataset.SeriesNumber}-{dataset.InstanceNumber}.png"
            Image.fromarray(dataset.pixel_array).save(page)
            pages.append(page)
        elif dataset.SOPClassUID == Comprehensive3DSRStorage:
            numbers = reported_numbers(dataset)
            if numbers:
                _show_numbers(numbers, truth)
    table(
        "The PACS holds, committed",
        ["series>", "description", "SOP class", "objects>"],
        ((number, description, name, count) for (number, description, name), count in sorted(rows.items())),
    )
    for page in sorted(pages):
        console.print(f"page: {page}")
    return bool(rows)


def _show_numbers(numbers: Mapping[Quantity, float], truth: Mapping[Quantity, float]) -> None:
    table(
        "The report, as the PACS has it",
        ["", "reported>", *(["simulated truth>", "difference>"] if truth else [])],
        (
            (
                quantity.value,
                f"{value:g}",
                *_beside(value, truth.get(quantity), told=bool(truth)),
            )
            for quantity, value in numbers.items()
        ),
        caption="research use only, not for diagnosis",
    )


def _beside(value: float, true: float | None, *, told: bool) -> tuple[str | None, ...]:
    """Cells of the truth and of the difference: none where no truth is told, empty ones where this number has none."""
    if true is None:
        return (None, None) if told else ()
    return f"{true:.1f}", f"{value - true:+.1f}"


def _tell_how_to_go_on(output: Path) -> None:
    console.print(
        f"Everything is in {output}: config.yaml, the ledger, the objects of the PACS, node.log.\n"
        "To use it with your own PACS: in config.yaml at the top of the checkout, put your scanner's AE title and your "
        "PACS's AE title, host and port under peers; make this node (AE title DICOMNODE, port 11112) known at both; "
        "run `dicom-node check`, then `dicom-node serve`."
    )
