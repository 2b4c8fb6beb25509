"""A long run of a proof adds up over calls and keeps what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from proofs.campaign import Proof, State, run

TEST = """
import os
def test_of_a_seed():
    print("rounds", os.environ["ROUNDS"])
    assert os.environ["SEED"] != "2", "found"
"""


def test_batches_add_up_over_calls_and_a_finding_is_kept(tmp_path: Path) -> None:
    test, file = tmp_path / "test_toy.py", tmp_path / "toy.json"
    test.write_text(TEST)
    proof = Proof(str(test), "ROUNDS", "SEED", 5)
    assert run(proof, State.read(file), file, until=5, batch=5)
    assert run(proof, State.read(file), file, until=5, batch=5), "all is done: nothing more is run"
    assert [(one["seed"], one["rounds"], one["passed"]) for one in State.read(file).batches] == [(1, 5, True)]
    assert not run(proof, State.read(file), file, until=9, batch=5)
    state = State.read(file)
    assert (state.done, state.batches[-1]["seed"], state.batches[-1]["rounds"]) == (5, 2, 4)
    assert "found" in (tmp_path / "toy-2.log").read_text()
    assert run(proof, State.read(file), file, until=6, batch=5)
    assert State.read(file).done == 6
    assert [path.name for path in tmp_path.glob("*.log")] == ["toy-2.log"]


BESIDE = """
import os, pathlib, time
def test_of_a_seed():
    met = pathlib.Path(os.environ["MET"])
    (met / os.environ["SEED"]).touch()
    until = time.monotonic() + 120
    while len(list(met.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(list(met.iterdir())) >= 2, "alone"
    assert os.environ["SEED"] != "1", "found"
"""


def test_batches_run_beside_each_other_and_a_finding_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test, file, met = tmp_path / "test_toy.py", tmp_path / "toy.json", tmp_path / "met"
    met.mkdir()
    monkeypatch.setenv("MET", str(met))
    test.write_text(BESIDE)
    assert not run(Proof(str(test), "ROUNDS", "SEED", 5), State(), file, until=100, batch=5, parallel=2)
    state = State.read(file)
    # Each waits for the other, and what runs beside a finding counts.
    assert state.done == 5 * sum(one["passed"] for one in state.batches)
    assert {one["seed"]: one["passed"] for one in state.batches}.items() >= {1: False, 2: True}.items()
