"""What people who look at the console cost the reception of images: with and without them, in one run.

    python benchmarks/console_load.py [--users 50] [--rounds 8] [--images 480] [--json]

A node (``dicom-node serve``, as shipped but for its ports, and with quiet times that let nothing be analysed) receives
a phantom's cine of 128 KiB an image by C-STORE over one association. In every other round 50 people are logged in, each
with the page *Now* open, which renews itself every three seconds as in a browser, and every fourth time with the list
of studies instead. The figure is the ratio of images a second with people to that without, by pairs of neighbouring
rounds, whose order changes; its interval is a bootstrap over the pairs. It wants a quiet machine, where it takes about
three minutes; each round is told on standard error when it has ended.

Those who look are a process of their own, as their browsers would run on machines of their own. Here they share the
processors with the node, so the processor time is told as well: of the console and of those who look, while they do, as
a share of one processor. The console's share holds on a machine that does other things, too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from pydicom import dcmread
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interop.ports import free_port

from dicom_node.commands.terminal import console, print_json, table
from dicom_node.config import Peer
from dicom_node.console.passwords import hashed
from dicom_node.network.sender import ScuSettings, send_files
from dicom_node.process_states import read_states
from pipelines.phantom import PhantomRecipe, simulate, write_study
from storage.accounts import account_named, invite, open_session, redeem_invitation, secret_digest
from storage.ledger import open_ledger, utc_now
from storage.schema import AccountRole

SLICES, SIDE = 12, 256
EVERY_S = 3.0
STUDY_EVERY = 4
DRAWS = 2000


@dataclass(frozen=True)
class Round:
    """One round."""

    people: bool
    images_per_s: float
    pages: int
    """That people got meanwhile."""
    slowest_page_s: float
    console: float
    """Share of one processor that the console used."""
    people_share: float
    """The same of those who looked."""


@dataclass(frozen=True)
class Looked:
    """What people saw of the console."""

    seconds: list[float]
    """That each page took."""
    failures: list[str]
    processor_s: float
    """Of the process that stands for them."""


class People:
    """Users of the console, in a process of their own, from the time that they begin to look to when they are told."""

    def __init__(self, port: int, cookies: Sequence[str]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_look, args=(port, list(cookies), theirs))
        self._process.start()
        # Everybody has looked once before a clock starts.
        self._ours.recv()

    def since_last_asked(self) -> Looked:
        """What they saw since they were asked last."""
        self._ours.send(True)
        looked: Looked = self._ours.recv()
        return looked

    def leave(self) -> None:
        """Let them look no more."""
        self._ours.send(False)
        self._process.join()


def _look(port: int, cookies: list[str], pipe: Connection) -> None:
    """Look at the console as so many people do whose pages renew themselves every three seconds."""
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in cookies]
    tags, numbers = [""] * len(cookies), [0] * len(cookies)
    begun, used = time.monotonic(), time.process_time()
    due = [begun + EVERY_S * index / len(cookies) for index in range(len(cookies))]
    seconds, failures, told = list[float](), list[str](), False
    while True:
        index = min(range(len(due)), key=due.__getitem__)
        if not told and due[index] >= begun + EVERY_S:
            pipe.send(True)
            told = True
        while pipe.poll(max(0.0, due[index] - time.monotonic())):
            if not pipe.recv():
                return
            pipe.send(Looked(seconds, failures, time.process_time() - used))
            seconds, failures, used = [], [], time.process_time()
        numbers[index] += 1
        path, headers = "/studies", {"cookie": f"console={cookies[index]}"}
        if numbers[index] % STUDY_EVERY:
            path, headers = "/", {**headers, "x-live": "1", "if-none-match": tags[index]}
        started = time.perf_counter()
        connections[index].request("GET", path, headers=headers)
        answer = connections[index].getresponse()
        answer.read()
        seconds.append(time.perf_counter() - started)
        if answer.status not in (200, 304):
            failures.append(f"{path}: {answer.status}")
        tags[index] = answer.headers.get("etag", tags[index])
        due[index] += EVERY_S


def processor_s(process: int) -> float:
    """Processor time that a process has used, s (proc(5), utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def node(folder: Path) -> Iterator[tuple[int, int, int, Path]]:
    """A node that runs: its DICOM port, the port and process of its console, and its ledger."""
    port, console_port = free_port(), free_port()
    quiet = {"quiet_time_s": 86400, "incomplete_quiet_time_s": 86400, "complete_quiet_time_s": 86400}
    settings = {
        "node": {"ae_title": "NODE", "address": "127.0.0.1", "port": port},
        "peers": {"scanner": {"ae_title": "MR1"}},
        "routes": {"cine": {"destinations": []}},
        "storage": {"low_watermark_mb": 0, "high_watermark_mb": 0},
        "execution": quiet,
        "console": {"port": console_port},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "serve", "--config", config],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            if not any(line.strip() == "ready" for line in process.stdout):
                raise SystemExit(f"the node did not start: {(folder / 'node.log').read_text(encoding='utf-8')}")
            (console_process,) = (one.pid for one in read_states(folder / "var" / "instances") if one.name == "console")
            assert console_process is not None
            yield port, console_port, console_process, folder / "var" / "ledger.sqlite"
        finally:
            process.terminate()
            process.wait(60)


def log_in(ledger_file: Path, users: int) -> list[str]:
    """Sessions of so many viewers; their passwords were typed elsewhere."""
    ledger = open_ledger(f"sqlite:///{ledger_file}")
    cookies, password = [], hashed(secrets.token_urlsafe(16))
    try:
        for number in range(users):
            name, token, now = f"viewer{number}", secrets.token_urlsafe(32), utc_now()
            until = now + dt.timedelta(minutes=10)
            invite(
                ledger, secret_digest(token), name=name, role=AccountRole.VIEWER, by="bench", expires_at=until, now=now
            )
            redeem_invitation(ledger, secret_digest(token), name=name, password_hash=password, now=now)
            account = account_named(ledger, name)
            assert account is not None
            cookies.append(secrets.token_urlsafe(32))
            open_session(ledger, account, secret_digest(cookies[-1]), secrets.token_urlsafe(32), now=now)
    finally:
        ledger.close()
    return cookies


def studies(folder: Path, count: int, rounds: int) -> list[list[Path]]:
    """A study of so many images for each round, of the same pictures."""
    recipe = PhantomRecipe(seed=1, slices=SLICES, phases=-(-count // SLICES), rows=SIDE, columns=SIDE, long_axis=False)
    write_study(simulate(recipe), folder / "first")
    datasets = [dcmread(path) for path in sorted((folder / "first").rglob("*.dcm"))[:count]]
    sets = []
    for number in range(rounds):
        (folder / str(number)).mkdir()
        study, series, paths = generate_uid(prefix=None), dict[str, str](), list[Path]()
        for index, dataset in enumerate(datasets):
            dataset.StudyInstanceUID = study
            dataset.SeriesInstanceUID = series.setdefault(dataset.SeriesInstanceUID, generate_uid(prefix=None))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
            paths.append(folder / str(number) / f"{index:04d}.dcm")
            dataset.save_as(paths[-1])
        sets.append(paths)
    return sets


def measured(paths: Sequence[Path], port: int, console_process: int, people: People | None) -> Round:
    """One round, with people or without."""
    peer = Peer(ae_title="NODE", host="127.0.0.1", port=port)
    if people is not None:
        people.since_last_asked()
    used, started = processor_s(console_process), time.perf_counter()
    outcomes = send_files(paths, peer, ScuSettings("MR1"))
    seconds = time.perf_counter() - started
    used = processor_s(console_process) - used
    looked = people.since_last_asked() if people is not None else Looked([], [], 0.0)
    if looked.failures or any(one.error for one in outcomes):
        raise SystemExit(f"failed: {looked.failures[:3]} {[str(one.error) for one in outcomes if one.error][:3]}")
    return Round(
        people is not None,
        len(paths) / seconds,
        len(looked.seconds),
        max(looked.seconds, default=0.0),
        used / seconds,
        looked.processor_s / seconds,
    )


def main(
    users: Annotated[int, typer.Option(min=1, help="People who look.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of rounds.")] = 8,
    images: Annotated[int, typer.Option(min=SLICES, help="Images of a round.")] = 480,
    as_json: Annotated[bool, typer.Option("--json", help="Rows instead of a table.")] = False,
) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = studies(folder, images, 2 * rounds + 1)
        with node(folder) as (port, console_port, process, ledger):
            cookies = log_in(ledger, users)
            measured(sets.pop(), port, process, None)  # warms up
            done = []
            for pair in range(rounds):
                for looked_at in (pair % 2 == 0, pair % 2 == 1):
                    people = People(console_port, cookies) if looked_at else None
                    try:
                        done.append(measured(sets.pop(), port, process, people))
                    finally:
                        if people is not None:
                            people.leave()
                    told = f"{users if looked_at else 'no'} people: {done[-1].images_per_s:.0f} images/s"
                    typer.echo(f"pair {pair + 1} of {rounds}, {told}", err=True)
    ratios = []
    for first, second in zip(done[::2], done[1::2], strict=True):
        with_people, without = (first, second) if first.people else (second, first)
        ratios.append(with_people.images_per_s / without.images_per_s)
    random = np.random.default_rng(1)
    drawn = np.median(random.choice(ratios, (DRAWS, len(ratios))), axis=1)
    low, high = (float(value) for value in np.quantile(drawn, (0.025, 0.975)))
    median = statistics.median(ratios)
    if as_json:
        print_json({"users": users, "rounds": done, "ratios": ratios, "ratio": median, "interval": [low, high]})
        return
    table(
        f"{images} images a round, {users} people",
        ["people", "images/s>", "pages>", "slowest page, s>", "console, % of a processor>", "people, %>"],
        (
            (
                one.people,
                f"{one.images_per_s:.0f}",
                one.pages,
                f"{one.slowest_page_s:.2f}",
                f"{100 * one.console:.1f}",
                f"{100 * one.people_share:.1f}",
            )
            for one in done
        ),
    )
    console.print(f"With people to without: {median:.3f} ({low:.3f} to {high:.3f}), {rounds} pairs of rounds")


if __name__ == "__main__":
    typer.run(main)
