"""A long run of a proof adds up over calls and keeps what it found."""

from __future__ import annotations

from pathlib import Path

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
