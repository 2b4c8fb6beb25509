"""What people who look at the console cost the reception of images: with and without them, in one run.

    python benchmarks/console_load.py [--users 50] [--rounds 8] [--images 240] [--json]

A node (``dicom-node serve``, as shipped but for its ports, and with quiet times that let nothing be analysed) receives
a phantom's cine of 128 KiB an image by C-STORE over one association. In every other round 50 people are logged in, each
with the page *Now* open, which renews itself every three seconds as in a browser, and every fourth time with the list
of studies instead. The figure is the ratio of images a second with people to that without, by pairs of neighbouring
rounds, whose order changes; its interval is a bootstrap over the pairs. It wants a quiet machine, where it takes about
two minutes; each round is told on standard error when it has ended.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import requests
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


class People:
    """Users of the console, each in a thread."""

    def __init__(self, root: str, cookies: Sequence[str]) -> None:
        self._root, self._stop = root, threading.Event()
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._look, args=(cookie, EVERY_S * index / len(cookies)), daemon=True)
            for index, cookie in enumerate(cookies)
        ]

    def __enter__(self) -> People:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _look(self, cookie: str, wait_s: float) -> None:
        session = requests.Session()
        session.trust_env = False
        session.cookies.set("console", cookie, domain="127.0.0.1", path="/")
        number = 0
        while not self._stop.wait(wait_s):
            number += 1
            path, headers = ("/studies", {}) if number % STUDY_EVERY == 0 else ("/", {"x-live": "1"})
            started = time.perf_counter()
            answer = session.get(self._root + path, headers=headers, timeout=60)
            self.seconds.append(time.perf_counter() - started)
            if answer.status_code != 200:
                self.failures.append(f"{path}: {answer.status_code}")
            wait_s = EVERY_S


@contextlib.contextmanager
def node(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """A node that runs: its DICOM port, the root of its console, and its ledger."""
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
            yield port, f"http://127.0.0.1:{console_port}", folder / "var" / "ledger.sqlite"
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


def measured(paths: Sequence[Path], port: int, root: str, cookies: Sequence[str]) -> Round:
    """One round, with people if there are cookies."""
    peer = Peer(ae_title="NODE", host="127.0.0.1", port=port)
    people = People(root, cookies)
    with people if cookies else contextlib.nullcontext():
        # Everybody has looked once before the clock starts.
        time.sleep(EVERY_S if cookies else 1.0)
        looked = len(people.seconds)
        started = time.perf_counter()
        outcomes = send_files(paths, peer, ScuSettings("MR1"))
        seconds = time.perf_counter() - started
        during = people.seconds[looked:]
    if people.failures or any(one.error for one in outcomes):
        raise SystemExit(f"failed: {people.failures[:3]} {[str(one.error) for one in outcomes if one.error][:3]}")
    return Round(bool(cookies), len(paths) / seconds, len(during), max(during, default=0.0))


def main(
    users: Annotated[int, typer.Option(min=1, help="People who look.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of rounds.")] = 8,
    images: Annotated[int, typer.Option(min=SLICES, help="Images of a round.")] = 240,
    as_json: Annotated[bool, typer.Option("--json", help="Rows instead of a table.")] = False,
) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = studies(folder, images, 2 * rounds + 1)
        with node(folder) as (port, root, ledger):
            cookies = log_in(ledger, users)
            measured(sets.pop(), port, root, ())  # warms up
            done = []
            for pair in range(rounds):
                for people in (pair % 2 == 0, pair % 2 == 1):
                    done.append(measured(sets.pop(), port, root, cookies if people else ()))
                    told = f"{users if people else 'no'} people: {done[-1].images_per_s:.0f} images/s"
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
        ["people", "images/s>", "pages>", "slowest page, s>"],
        ((one.people, f"{one.images_per_s:.0f}", one.pages, f"{one.slowest_page_s:.2f}") for one in done),
    )
    console.print(f"With people to without: {median:.3f} ({low:.3f} to {high:.3f}), {rounds} pairs of rounds")


if __name__ == "__main__":
    typer.run(main)
