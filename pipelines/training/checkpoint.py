"""State of a training run on disk: safetensors only, replaced atomically, exact enough to go on as if never stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

__all__ = ["load_checkpoint", "save_atomically", "save_checkpoint"]

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_atomically(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file so that a reader sees the old file or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata)
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(path)


def save_checkpoint(
    path: Path,
    step: int,
    network: torch.nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    settings: dict[str, object],
) -> None:
    """Write network, averaged weights and moments of Adam after ``step`` steps."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{moment}": state[moment] for moment in _MOMENTS}
    save_atomically(tensors, path, {"step": str(step), "settings": json.dumps(settings, sort_keys=True)})


def load_checkpoint(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, object]
) -> tuple[int, dict[str, torch.Tensor]]:
    """Restore what :func:`save_checkpoint` wrote.

    Returns
    -------
    step, average
        Steps done, and the averaged weights.

    Raises
    ------
    ValueError
        The checkpoint is of a run with other settings, of another network, or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}; start without resuming") from error
    if "step" not in metadata or "settings" not in metadata:
        raise ValueError(f"{path} is no checkpoint that this version writes; start without resuming")
    found = json.loads(metadata["settings"])
    expected = json.loads(json.dumps(settings))
    if found != expected:
        different = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        raise ValueError(f"checkpoint {path} is of a run with another {', '.join(different)}; start without resuming")

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    average = part("average.")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    for weights in (part("network."), average):
        if {name: tensor.shape for name, tensor in weights.items()} != shapes:
            raise ValueError(f"checkpoint {path} is of a network of other layers; start without resuming")
    network.load_state_dict(part("network."))
    state = optimizer.state_dict()
    # A parameter that no loss reached has no moments.
    state["state"] = {
        index: {moment: tensors[f"optimizer.{index}.{moment}"] for moment in _MOMENTS}
        for group in state["param_groups"]
        for index in group["params"]
        if f"optimizer.{index}.{_MOMENTS[0]}" in tensors
    }
    optimizer.load_state_dict(state)
    return int(metadata["step"]), average
