"""The steps of a training run: what all networks have in common, whatever they learn from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.training.checkpoint import load_checkpoint, save_atomically, save_checkpoint
from pipelines.training.schedule import learning_rate, update_average

__all__ = ["Progress", "Run", "TrainedWeights", "TrainingResult", "train_steps", "usable_device"]

_STEPS_OF_A_REPORT = 50
_STEPS_OF_A_CHECKPOINT = 250


@dataclass(frozen=True, slots=True)
class Progress:
    """A report of a running training."""

    step: int
    steps: int
    loss: float
    seconds_per_step: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a training, apart from what it learns and how.

    Attributes
    ----------
    seed : int
        Of initialisation, sampling and augmentation.
    device : str
        ``cpu`` or a CUDA device.
    resume : bool
        Go on from the checkpoint in the output folder where there is one.
    stop_after : int or None
        Stop after this step, to go on later.
    """

    seed: int = 0
    device: str = "cpu"
    resume: bool = True
    stop_after: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training run left behind."""

    model: str
    steps: int
    training_cases: tuple[str, ...]
    held_out_cases: tuple[str, ...]
    loss: float
    """Mean loss of the last 200 steps."""
    weights: Path
    card: Path
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """The averaged weights of a network after its steps."""

    path: Path
    sha256: str
    loss: float
    """Mean loss of the last 200 steps; NaN where none was left to make."""


def usable_device(name: str) -> str:
    """Name of a torch device, known to be one that this machine has.

    Raises
    ------
    ValueError
        It has none of that name.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        # torch raises AssertionError where it is built without CUDA.
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; use cpu") from error
    return name


def train_steps(
    network: torch.nn.Module,
    loss: Callable[[int], torch.Tensor],
    *,
    clip: float,
    peak_rate: float,
    steps: int,
    settings: dict[str, object],
    output: Path,
    device: str = "cpu",
    resume: bool = True,
    stop_after: int | None = None,
    report: Callable[[Progress], None] | None = None,
    kept: Callable[[int, str], None] | None = None,
    rate: Callable[[int, int, float], float] = learning_rate,
) -> TrainedWeights:
    """Make the steps of a training run, from the first or from where an earlier one stopped.

    Parameters
    ----------
    network : torch.nn.Module
        Trained in place, on ``device``.
    loss : callable
        Loss of the network at a step, 0 …: a function of the step and of the weights. What it draws from torch's
        global generator, as dropout does, is a function of the step too.
    clip : float
        Largest norm of a gradient.
    peak_rate : float
        Learning rate after the warm-up.
    steps : int
        Steps in all: they set the decay of the learning rate.
    settings : dict
        What else decides the run, as JSON can hold it; a checkpoint of a run with others is refused.
    output : Path
        Receives ``checkpoint.safetensors`` and ``weights.safetensors``, the averaged weights, every 250 steps and after
        the last.
    device : str
        ``cpu`` or a CUDA device.
    resume : bool
        Go on from ``checkpoint.safetensors`` where there is one.
    stop_after : int or None
        Stop after this step, to go on later.
    report : callable
        Is called every 50 steps.
    kept : callable
        Is called with the steps done and the SHA-256 of the weights whenever weights were written.
    rate : callable
        Learning rate of a step, the number of steps and ``peak_rate``.

    Raises
    ------
    ValueError
        A loss or gradient is not finite; the checkpoint cannot be read, is of another run or of more steps; or this
        machine has no such device.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint, weights = output / "checkpoint.safetensors", output / "weights.safetensors"
    network.to(usable_device(device)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_rate, weight_decay=0.01)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    start = 0
    if resume and checkpoint.is_file():
        start, average = load_checkpoint(checkpoint, network, optimizer, settings)
        average = {name: tensor.to(device) for name, tensor in average.items()}
        if start > steps:
            raise ValueError(
                f"checkpoint {checkpoint} has made {start} steps, more than {steps}: ask for more, or start without "
                "resuming"
            )

    def keep_weights(done: int) -> None:
        save_atomically(average, weights)
        if kept is not None:
            kept(done, hashlib.sha256(weights.read_bytes()).hexdigest())

    losses: list[float] = []
    clock, reported = time.perf_counter(), start
    last = steps if stop_after is None else min(steps, stop_after)
    for step in range(start, last):
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate(step, steps, peak_rate)
        torch.manual_seed(step)
        of_step = loss(step)
        optimizer.zero_grad(set_to_none=True)
        of_step.backward()
        gradient = float(torch.nn.utils.clip_grad_norm_(network.parameters(), clip))
        losses.append(float(of_step.detach()))
        if not (np.isfinite(losses[-1]) and np.isfinite(gradient)):
            # Before the step is made: no checkpoint ever holds weights that are not finite.
            raise ValueError(
                f"the loss of step {step} is {losses[-1]}, its gradient {gradient}: lower the learning rate of the "
                "recipe"
            )
        optimizer.step()
        update_average(average, network, step)
        done = step + 1
        if report is not None and done % _STEPS_OF_A_REPORT == 0:
            now = time.perf_counter()
            report(Progress(done, steps, float(np.mean(losses[reported - start :])), (now - clock) / (done - reported)))
            clock, reported = now, done
        if done % _STEPS_OF_A_CHECKPOINT == 0 or done == last:
            save_checkpoint(checkpoint, done, network, average, optimizer, settings)
            keep_weights(done)
    if not losses:
        # A checkpoint of all steps whose weights were lost, or never written, still gives them.
        keep_weights(start)
    return TrainedWeights(
        weights,
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        float(np.mean(losses[-200:])) if losses else float("nan"),
    )
