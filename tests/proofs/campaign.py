"""Long runs of the proofs, in batches that add up: stopped at any moment, a run goes on where it was.

    python tests/proofs/campaign.py NAME --until 10000 --state FILE

Each batch is one run of a test with the next seed; ``--parallel`` says how many run at once. The state file holds how
many rounds are done, and of each batch its seed, its revision, whether it passed, and the figures that it printed. All
that a failed one printed is kept beside the state, so that its seed can be run again. A batch that fails ends the run,
once those beside it have ended; the next call goes on with the next seed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.1


@dataclass(frozen=True)
class Proof:
    """A test whose number of rounds and whose seed come from the environment."""

    test: str
    rounds: str
    """Variable of the number of rounds."""
    seed: str
    batch: int
    """Rounds of a batch: some minutes."""
    corpus: bool = False
    """Whether it keeps inputs, in the folder ``corpus`` beside the state."""


PROOFS = {
    "kill": Proof("tests/test_crash.py", "DICOM_NODE_CRASH_ROUNDS", "DICOM_NODE_CRASH_SEED", 60),
    "kill-receiver": Proof("tests/network/test_killed.py", "DICOM_NODE_KILL_ROUNDS", "DICOM_NODE_KILL_SEED", 30),
    "power-cut": Proof("tests/proofs/test_power_cut.py", "DICOM_NODE_POWER_CUTS", "DICOM_NODE_POWER_CUT_SEED", 500),
    "cluster": Proof("tests/test_cluster.py", "DICOM_NODE_CLUSTER_ROUNDS", "DICOM_NODE_CRASH_SEED", 20),
    "clock": Proof("tests/proofs/test_clock_steps.py", "DICOM_NODE_CLOCK_STEPS", "DICOM_NODE_CLOCK_SEED", 50),
    "fuzz": Proof("tests/network/test_fuzz.py", "DICOM_NODE_FUZZ_INPUTS", "DICOM_NODE_FUZZ_SEED", 20_000, corpus=True),
    "fuzz-parsers": Proof(
        "tests/network/test_fuzz_parsers.py", "DICOM_NODE_FUZZ_PARSED", "DICOM_NODE_FUZZ_SEED", 250_000, corpus=True
    ),
}


@dataclass
class State:
    """What a campaign has done so far."""

    done: int = 0
    """Rounds of the batches that passed."""
    batches: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def read(file: Path) -> State:
        return State(**json.loads(file.read_text())) if file.exists() else State()

    def write(self, file: Path) -> None:
        # Whole or not at all, whenever this process is stopped.
        new = file.with_suffix(".new")
        with new.open("w") as stream:
            json.dump(asdict(self), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)

    def next_seed(self) -> int:
        return 1 + max((batch["seed"] for batch in self.batches), default=0)


@dataclass
class _Batch:
    """One run of the test, in a process of its own."""

    proof: Proof
    seed: int
    rounds: int
    file: Path
    """Of the state: the log, and what is kept, lie beside it."""

    def __post_init__(self) -> None:
        self.log = self.file.with_name(f"{self.file.stem}-{self.seed}.log")
        self._revision, self._started = _revision(), time.monotonic()
        environment = {
            **os.environ,
            self.proof.rounds: str(self.rounds),
            self.proof.seed: str(self.seed),
            # Compiled code is kept: a node's processes start again and again.
            "PYTHONDONTWRITEBYTECODE": "",
        }
        if self.proof.corpus:
            environment["DICOM_NODE_FUZZ_CORPUS"] = str(self.file.parent.resolve() / "corpus")
        test = str(ROOT / self.proof.test)
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-s", "-n", "0", "-p", "no:randomly", test],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def told(self) -> dict[str, Any]:
        """What the state file says of it, once it has ended."""
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "passed": self.process.returncode == 0,
            "seconds": round(time.monotonic() - self._started),
            "revision": self._revision,
            "told": [line for line in self.log.read_text().splitlines() if line[:1].isdigit()][-3:],
        }


def run(proof: Proof, state: State, file: Path, *, until: int, batch: int, parallel: int = 1) -> bool:
    """Run batches until so many rounds are done; returns whether all of them passed."""
    running: list[_Batch] = []
    passed = True
    try:
        while True:
            left = until - state.done - sum(one.rounds for one in running)
            if passed and left > 0 and len(running) < parallel:
                seed = max([state.next_seed(), *(one.seed + 1 for one in running)])
                running.append(_Batch(proof, seed, min(batch, left), file))
                continue
            if not running:
                return passed
            time.sleep(LOOK_S)
            for one in [each for each in running if each.process.poll() is not None]:
                running.remove(one)
                told = one.told()
                state.batches.append(told)
                state.done += one.rounds * told["passed"]
                state.write(file)
                if told["passed"]:
                    one.log.unlink()
                passed = passed and told["passed"]
    finally:
        for one in running:
            # As by hand: the test takes down what it has started.
            one.process.send_signal(signal.SIGINT)
            one.process.wait()


def _revision() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip()


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PROOFS)}.")],
    state: Annotated[Path, typer.Option(help="File that the run adds to.")],
    until: Annotated[int, typer.Option(min=1, help="Rounds in all, those of earlier calls included.")],
    batch: Annotated[int | None, typer.Option(min=1, help="Rounds of a batch, as the proof says unless given.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Batches at once, each with a node of its own.")] = 1,
) -> None:
    """Go on with a campaign until so many rounds are done."""
    if name not in PROOFS:
        raise typer.BadParameter(f"{name} is none of {', '.join(PROOFS)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also in the background of a shell, which would have it and its tests ignore the first.
        signal.signal(number, signal.default_int_handler)
    so_far = State.read(state)
    passed = run(PROOFS[name], so_far, state, until=until, batch=batch or PROOFS[name].batch, parallel=parallel)
    failed = [one["seed"] for one in so_far.batches if not one["passed"]]
    typer.echo(
        f"{so_far.done} of {until} rounds of {name}, {len(so_far.batches)} batches; failed seeds: {failed or 'none'}"
    )
    raise typer.Exit(0 if passed else 1)


if __name__ == "__main__":
    typer.run(main)
