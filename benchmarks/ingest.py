"""How fast images are received, beside dcmtk's storescp and Orthanc, in one run.

    python benchmarks/ingest.py speed [--rounds N] [--json]     images a second, CPU and memory; one and four senders
    python benchmarks/ingest.py speed --only dicom-node --against CHECKOUT     two revisions, taking turns
    python benchmarks/ingest.py filled [--database D] [--hosts]    with millions of instances in the ledger, and empty
    python benchmarks/ingest.py nagle [--json]                  a sender that leaves Nagle's algorithm on
    python benchmarks/ingest.py delivery [--json]               results to an Orthanc as Debian ships it
    python benchmarks/ingest.py memory [--json]                 peak memory by size of the object and number of senders

The images are short-axis cines of the phantom: 360 for each sender, 128 KiB each. Every round starts each receiver anew
on an empty folder beside the others' and sends the same files; the table shows medians over the rounds. Senders are
dcmtk's ``storescu``, which together with Orthanc runs with ``TCP_NODELAY=1`` unless said otherwise: without it both
stall for 40 ms an image. Trust the ratios, not the figures: machines differ, and the disk decides what durable costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from pydicom import dcmread
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interop.orthanc import AE_TITLE as ORTHANC_AE_TITLE
from interop.orthanc import Orthanc
from interop.ports import free_port, listening, wait_until
from interop.tools import TOOL_ENVIRONMENT, tool
from ledger import Database, Filled, Uids, databases
from ledger import filled as filled_ledger
from sqlalchemy import create_engine, text

from dicom_node.commands.terminal import console, print_json, table
from dicom_node.config import Configuration, DataPath, Host, NodeSettings, Peer, StorageSettings
from dicom_node.network.sender import ScuSettings, send_files
from pipelines.phantom import PhantomRecipe, simulate, write_study

NODE = "NODE"
SCANNER = "MR1"
SLICES, PHASES, SIDE = 12, 30, 256
MAXIMUM_PDU = 131072
AS_SHIPPED = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
HERE = Path(__file__).resolve().parents[1]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds to take the median of.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Rows instead of a table.")]


@dataclass(frozen=True)
class Row:
    """One receiver under one load, medians over the rounds."""

    receiver: str
    senders: int
    durable: bool
    images_per_s: float
    cpu_us_per_image: float
    """Processor time of the receiver's processes, user and system."""
    peak_mb: float
    """Largest sum of the proportional set sizes of its processes, megabytes."""


@dataclass(frozen=True)
class Receiver:
    """Something that receives, and how to start it on an empty folder."""

    name: str
    durable: bool
    called: str
    start: Callable[[Path], contextlib.AbstractContextManager[tuple[int, int]]]
    """Gives its process id and its port."""


def images(folder: Path, senders: int) -> list[list[Path]]:
    """The files of each sender: the same pictures, of a study of its own."""
    first = folder / "0"
    write_study(
        simulate(PhantomRecipe(seed=1, slices=SLICES, phases=PHASES, rows=SIDE, columns=SIDE, long_axis=False)), first
    )
    sets = [sorted(path for path in first.rglob("*.dcm"))]
    datasets = [dcmread(path) for path in sets[0]]
    for number in range(1, senders):
        study = generate_uid(prefix=None)
        series: dict[str, str] = {}
        paths = []
        for index, dataset in enumerate(datasets):
            dataset.StudyInstanceUID = study
            dataset.SeriesInstanceUID = series.setdefault(dataset.SeriesInstanceUID, generate_uid(prefix=None))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
            paths.append(folder / str(number) / f"{index:04d}.dcm")
            paths[-1].parent.mkdir(exist_ok=True)
            dataset.save_as(paths[-1])
        sets.append(paths)
    return sets


def sender(paths: Sequence[Path], port: int, called: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a storescu that sends these files over one association."""
    command = [tool("storescu"), "-aet", SCANNER, "-aec", called, "--max-send-pdu", str(MAXIMUM_PDU)]
    return subprocess.Popen([*command, "127.0.0.1", str(port), *paths], env=environment)


def send_all(sets: Sequence[Sequence[Path]], port: int, called: str, environment: dict[str, str]) -> float:
    """Send each set with a sender of its own, all at once; returns seconds."""
    started = time.perf_counter()
    running = [sender(paths, port, called, environment) for paths in sets]
    codes = [one.wait() for one in running]
    seconds = time.perf_counter() - started
    if any(codes):
        raise SystemExit(f"storescu ended with {codes}")
    return seconds


class Watch:
    """Processor time and peak memory of a process and all it started."""

    def __init__(self, pid: int, *, peak: bool = True) -> None:
        self._root, self._watches_peak = psutil.Process(pid), peak
        self._stop = threading.Event()
        self.peak_mb = 0.0

    def __enter__(self) -> Watch:
        self._before = self._cpu_s()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu_s = self._cpu_s() - self._before

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _cpu_s(self) -> float:
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
                if process.pid == self._root.pid:
                    # storescp --fork: its children are gone when the last image is in.
                    total += times.children_user + times.children_system
        return total

    def _look(self) -> None:
        while self._watches_peak and not self._stop.wait(0.05):
            total = 0
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_full_info().pss
            self.peak_mb = max(self.peak_mb, total / 1e6)


@contextlib.contextmanager
def _started(
    command: Sequence[object], port: int, log: Path, environment: dict[str, str], ready: Path | None = None
) -> Iterator[tuple[int, int]]:
    with log.open("wb") as output:
        process = subprocess.Popen([str(part) for part in command], env=environment, stdout=output, stderr=output)
    try:
        wait_until(
            lambda: listening(port) and (ready is None or ready.exists()),
            seconds=60,
            what=f"{command[0]} receives, see {log}",
        )
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(60)


def storescp(folder: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """dcmtk's storescp, a process for each association; it never flushes."""
    port, received = free_port(), folder / "received"
    received.mkdir()
    command = [tool("storescp"), "--fork", "-aet", NODE, "--max-pdu", str(MAXIMUM_PDU), "-od", received, str(port)]
    return _started(command, port, folder / "log", TOOL_ENVIRONMENT)


class _FlushlessOrthanc(Orthanc):
    def _configuration(self, dicom_web: Path) -> dict[str, object]:
        return {**super()._configuration(dicom_web), "SyncStorageArea": False}


def orthanc(kind: type[Orthanc]) -> Callable[[Path], contextlib.AbstractContextManager[tuple[int, int]]]:
    """Debian's Orthanc with SQLite."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[tuple[int, int]]:
        with kind(folder / "orthanc") as running:
            assert running._process is not None
            yield running._process.pid, running.dicom_port

    return start


def node(
    *,
    processes: int,
    durable: bool = True,
    data_path: DataPath = DataPath.DIRECT,
    checkout: Path = HERE,
    database: str | None = None,
    is_host: bool = False,
) -> Callable[[Path], contextlib.AbstractContextManager[tuple[int, int]]]:
    """This node's receiver processes, or those of another checkout, under their supervisor.

    With a SQLite ledger of their own unless a ``database`` is given; as one of the ``hosts`` of a node they have no
    journal.
    """

    def start(folder: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
        configuration = Configuration(
            node=NodeSettings(
                ae_title=NODE,
                address="127.0.0.1",
                port=free_port(),
                receiver_processes=processes,
                data_path=data_path,
                maximum_pdu=MAXIMUM_PDU,
                **({"host": "front"} if is_host else {}),
            ),
            peers={"scanner": Peer(ae_title=SCANNER)},
            storage=StorageSettings(
                database=database or f"sqlite:///{folder}/ledger.sqlite",
                directory=folder / "instances",
                durable=durable,
            ),
            **({"hosts": {"front": Host(roles=("receiver",))}} if is_host else {}),
        )
        file = folder / "configuration.json"
        # Another revision need not know the settings that are left as they are.
        file.write_text(configuration.model_dump_json(exclude_unset=True))
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, checkout / "benchmarks" / "receivers.py", file, ready]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        return _started(command, configuration.node.port, folder / "log", environment, ready)

    return start


RECEIVERS = (
    Receiver("storescp --fork", False, NODE, storescp),
    Receiver("Orthanc, no flush", False, ORTHANC_AE_TITLE, orthanc(_FlushlessOrthanc)),
    Receiver("dicom-node, no flush", False, NODE, node(processes=2, durable=False)),
    Receiver("Orthanc", True, ORTHANC_AE_TITLE, orthanc(Orthanc)),
    Receiver("dicom-node", True, NODE, node(processes=2)),
    Receiver("dicom-node, one process", True, NODE, node(processes=1)),
    Receiver("dicom-node, stock data path", True, NODE, node(processes=2, data_path=DataPath.STOCK)),
)


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    # Beside the checkout, not in /tmp, which may be memory.
    folder = Path(tempfile.mkdtemp(prefix=".ingest-", dir=Path(__file__).resolve().parents[1]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _round(receiver: Receiver, sets: Sequence[Sequence[Path]], folder: Path) -> tuple[float, float, float]:
    folder.mkdir()
    count = sum(map(len, sets))
    with receiver.start(folder) as (pid, port), Watch(pid) as watch:
        seconds = send_all(sets, port, receiver.called, TOOL_ENVIRONMENT)
    # Left until the end: ext4 is slow to create files for half a minute after many were removed.
    return count / seconds, 1e6 * watch.cpu_s / count, watch.peak_mb


@app.command()
def speed(
    rounds: Rounds = 5,
    senders: Annotated[list[int] | None, typer.Option(help="How many send at once.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only receivers of these names.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Checkout of another revision, whose receivers take turns with those here.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Images a second of each receiver, for one and for four senders."""
    loads = senders or [1, 4]
    chosen = [one for one in RECEIVERS if not only or one.name in only]
    if against is not None:
        chosen.append(Receiver("the other revision", True, NODE, node(processes=2, checkout=against.resolve())))
    measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with _workplace() as folder:
        sets = images(folder / "images", max(loads))
        for number in range(rounds):
            for load in loads:
                # Turned about in every other round: what comes first finds another disk than what comes last.
                for receiver in chosen if number % 2 == 0 else chosen[::-1]:
                    result = _round(receiver, sets[:load], folder / f"{number}-{load}-{receiver.name.replace(' ', '')}")
                    measured.setdefault((receiver.name, load), []).append(result)
    rows = [
        Row(
            receiver.name,
            load,
            receiver.durable,
            *(round(statistics.median(values), 1) for values in zip(*measured[receiver.name, load], strict=True)),
        )
        for load in loads
        for receiver in chosen
    ]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table(
        "Receiving",
        ["receiver", "senders>", "durable", "images/s>", "CPU µs an image>", "peak MB>"],
        (
            (
                row.receiver,
                row.senders,
                "yes" if row.durable else "no",
                row.images_per_s,
                row.cpu_us_per_image,
                row.peak_mb,
            )
            for row in rows
        ),
    )


@dataclass(frozen=True)
class FilledRow:
    """One load on a ledger that holds millions of instances; medians over the rounds."""

    database: Database
    journal: bool
    senders: int
    instances: int
    images_per_s: float
    """Until all are in the ledger."""
    empty_images_per_s: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    cpu_us_per_image: float
    empty_cpu_us_per_image: float
    """Processor time of the receiver's processes, without that of a database server."""


@app.command()
def filled(
    database: Annotated[list[Database], typer.Option(help="Where the ledger lives.")] = list(Database),  # noqa: B006
    instances: Annotated[int, typer.Option(min=1, help="Instances in the full ledger.")] = 10_000_000,
    uids: Annotated[Uids, typer.Option(help="How SOP Instance UIDs follow one another.")] = Uids.RANDOM,
    senders: Annotated[list[int], typer.Option(help="How many send at once.")] = [1, 4],  # noqa: B006
    each: Annotated[int, typer.Option(min=1, max=SLICES * PHASES, help="Images of each sender.")] = 180,
    hosts: Annotated[bool, typer.Option(help="Also as one of the hosts of a node, on PostgreSQL.")] = False,
    rounds: Rounds = 5,
    folder: Annotated[Path | None, typer.Option(help="Where the databases are put for the time.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Images a second until they are in the ledger, with millions of instances in it and empty, in turns."""
    rows = []
    with _workplace() as place:
        sets = [paths[:each] for paths in images(place / "images", max(senders))]
        for kind in database:
            with databases(kind, folder) as new_url:
                ledgers = [filled_ledger(new_url(), size, uids) for size in (0, instances)]
                for one in ledgers:
                    one.ledger.close()
                for is_host in (False, True) if hosts and kind is Database.POSTGRESQL else (False,):
                    for load in senders:
                        turns = [_turns(ledgers, sets[:load], place, is_host, number) for number in range(rounds)]
                        rows.append(_filled_row(kind, is_host, load, instances, turns))
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table(
        f"Receiving with {instances:,} instances in the ledger, and with none",
        [
            "database",
            "journal",
            "senders>",
            "images/s>",
            "empty>",
            "ratio>",
            "lowest>",
            "highest>",
            "CPU µs>",
            "empty>",
        ],
        (
            (
                row.database,
                "yes" if row.journal else "no, hosts",
                row.senders,
                row.images_per_s,
                row.empty_images_per_s,
                *(f"{one:.2f}" for one in (row.ratio, row.lowest_ratio, row.highest_ratio)),
                row.cpu_us_per_image,
                row.empty_cpu_us_per_image,
            )
            for row in rows
        ),
    )


def _filled_row(
    kind: Database, is_host: bool, load: int, instances: int, turns: Sequence[Sequence[tuple[float, float]]]
) -> FilledRow:
    empty, full = ([turn[index] for turn in turns] for index in (0, 1))
    ratios = [one[0] / other[0] for one, other in zip(full, empty, strict=True)]
    medians = [round(statistics.median(one[part] for one in rows), 1) for part in (0, 1) for rows in (full, empty)]
    return FilledRow(
        kind,
        not is_host,
        load,
        instances,
        medians[0],
        medians[1],
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        *medians[2:],
    )


def _turns(
    ledgers: Sequence[Filled], sets: Sequence[Sequence[Path]], place: Path, is_host: bool, number: int
) -> list[tuple[float, float]]:
    """Images a second and CPU microseconds an image of each ledger; who begins is turned about."""
    measured = {}
    for index in (0, 1) if number % 2 == 0 else (1, 0):
        # The ledger is bound to its storage directory.
        folder = place / ledgers[index].ledger.engine.url.render_as_string().replace("/", "-")
        folder.mkdir(exist_ok=True)
        url = ledgers[index].ledger.engine.url.render_as_string(hide_password=False)
        measured[index] = _into(url, _sent_anew(sets, folder), folder, is_host)
    return [measured[0], measured[1]]


def _sent_anew(sets: Sequence[Sequence[Path]], folder: Path) -> list[list[Path]]:
    """The same images as new ones, of new studies: other last digits in all UIDs."""
    again = []
    for number, paths in enumerate(sets):
        target = folder / "sent" / str(number)
        target.mkdir(parents=True, exist_ok=True)
        ending, renewed = f"{secrets.randbelow(10**9):09d}".encode(), []
        for path in paths:
            header = dcmread(path, stop_before_pixels=True)
            data = path.read_bytes()
            for uid in (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID):
                old = str(uid).encode()
                # The first digits, so that images of one study are nobody's neighbours in the index.
                new = b"2.25.1" + ending + old[15:]
                data = data.replace(old, new)
            renewed.append(target / path.name)
            renewed[-1].write_bytes(data)
        again.append(renewed)
    return again


def _into(database: str, sets: Sequence[Sequence[Path]], folder: Path, is_host: bool) -> tuple[float, float]:
    count = sum(map(len, sets))
    engine = create_engine(database)
    start = node(processes=2, database=database, is_host=is_host)
    try:
        with engine.connect() as connection, start(folder) as (pid, port):
            last = connection.scalar(text("SELECT max(id) FROM instance")) or 0
            connection.rollback()
            new = text("SELECT count(*) FROM instance WHERE id > :last").bindparams(last=last)
            with Watch(pid, peak=False) as watch:
                began = time.perf_counter()
                send_all(sets, port, NODE, TOOL_ENVIRONMENT)
                while connection.scalar(new) < count:
                    connection.rollback()
                    time.sleep(0.005)
                seconds = time.perf_counter() - began
    finally:
        engine.dispose()
    return count / seconds, 1e6 * watch.cpu_s / count


@app.command()
def nagle(rounds: Rounds = 3, as_json: JsonFlag = False) -> None:
    """A dcmtk sender without TCP_NODELAY: images a second of Orthanc as shipped and of this node."""

    class AsShipped(Orthanc):
        environment = AS_SHIPPED

    rows: dict[str, list[float]] = {}
    with _workplace() as folder:
        paths = images(folder / "images", 1)[0][:60]
        for number in range(rounds):
            for receiver in (
                Receiver("Orthanc as shipped", True, ORTHANC_AE_TITLE, orthanc(AsShipped)),
                Receiver("dicom-node", True, NODE, node(processes=2)),
            ):
                place = folder / f"{number}-{receiver.name.replace(' ', '')}"
                place.mkdir()
                with receiver.start(place) as (_, port):
                    seconds = send_all([paths], port, receiver.called, AS_SHIPPED)
                rows.setdefault(receiver.name, []).append(len(paths) / seconds)
    medians = {name: round(statistics.median(values), 1) for name, values in rows.items()}
    ratio = round(medians["dicom-node"] / medians["Orthanc as shipped"], 1)
    if as_json:
        print_json({"images_per_s": medians, "ratio": ratio})
        return
    table("A sender that leaves Nagle's algorithm on", ["receiver", "images/s>"], medians.items())
    console.print(f"ratio {ratio}")


@app.command()
def delivery(rounds: Rounds = 3, as_json: JsonFlag = False) -> None:
    """Milliseconds an object that the node's sender needs to store results to an Orthanc as shipped."""

    class AsShipped(Orthanc):
        environment = AS_SHIPPED

    times = []
    with _workplace() as folder:
        paths = images(folder / "images", 1)[0][:100]
        for number in range(rounds):
            with AsShipped(folder / str(number)) as pacs:
                peer = Peer(ae_title=ORTHANC_AE_TITLE, host="127.0.0.1", port=pacs.dicom_port)
                started = time.perf_counter()
                outcomes = send_files(paths, peer, ScuSettings(NODE))
                times.append(1000 * (time.perf_counter() - started) / len(paths))
                if any(outcome.error for outcome in outcomes):
                    raise SystemExit("an object was not stored")
    median = round(statistics.median(times), 2)
    if as_json:
        print_json({"ms_per_object": median, "objects": len(paths), "rounds": rounds})
        return
    console.print(f"{median} ms an object ({len(paths)} objects of 128 KiB, median of {rounds} rounds)")


@app.command()
def memory(as_json: JsonFlag = False) -> None:
    """Peak memory of one receiver process by size of the object and by number of senders."""
    rows = []
    receiver = Receiver("dicom-node", True, NODE, node(processes=1))
    with _workplace() as folder:
        sets = images(folder / "images", 16)
        small = dcmread(sets[0][0])
        for megabytes in (1, 64, 512):
            small.PixelData = bytes(megabytes * 1_000_000)
            small.SOPInstanceUID = small.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
            big = folder / f"{megabytes}.dcm"
            small.save_as(big)
            _, _, peak = _round(receiver, [[big]], folder / f"{megabytes}-MB")
            big.unlink()
            rows.append({"senders": 1, "object_mb": megabytes, "peak_mb": round(peak, 1)})
        for load in (1, 4, 16):
            _, _, peak = _round(receiver, sets[:load], folder / f"{load}-senders")
            rows.append({"senders": load, "object_mb": 0.13, "peak_mb": round(peak, 1)})
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    table(
        "Peak memory, supervisor and one receiver",
        ["senders>", "object MB>", "peak MB>"],
        (tuple(row.values()) for row in rows),
    )


if __name__ == "__main__":
    app()
