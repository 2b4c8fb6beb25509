"""Which worker takes which jobs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dicom_node.config import ExecutionSettings, RaySettings
from storage.schema import JobSlot

__all__ = ["Lane", "lanes", "ray_lanes", "threads_per_slot"]


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker process.

    Attributes
    ----------
    name
        Unique among the workers of a node.
    device
        Torch device that networks run on.
    threads
        CPU threads that it may use.
    slots
        Kinds of jobs that it takes.
    background
        Takes only jobs that give way, and works at the lowest priority of the operating system; ``None`` takes every
        job, at the usual priority.
    """

    name: str
    device: str
    threads: int
    slots: frozenset[JobSlot]
    background: bool | None


def threads_per_slot(execution: ExecutionSettings) -> int:
    """CPU threads of one worker: as configured, or the cores this process may use divided among the slots."""
    if execution.threads_per_slot is not None:
        return execution.threads_per_slot
    slots = len(execution.devices) * execution.slots_per_device
    return max(1, len(os.sched_getaffinity(0)) // slots)


def lanes(execution: ExecutionSettings) -> tuple[Lane, ...]:
    """The workers of a node.

    Jobs that give way have workers of their own (``background_slots``), so that they never hold a slot that a quick
    one waits for; with none, the others take them, too, when nothing else waits.
    """
    threads = threads_per_slot(execution)
    kinds = {device: _kind(device) for device in execution.devices}
    found = []
    for number, device in enumerate(execution.devices):
        # A kind of slot that no device is configured for is taken by the devices that there are.
        missing = frozenset(JobSlot) - set(kinds.values())
        slots = frozenset({kinds[device]}) | missing
        name = device if execution.devices.count(device) == 1 else f"{device}.{number}"
        usual = None if execution.background_slots == 0 else False
        found += [Lane(f"{name}/{slot}", device, threads, slots, usual) for slot in range(execution.slots_per_device)]
        found += [
            Lane(f"{name}/background-{slot}", device, threads, slots, True)
            for slot in range(execution.background_slots)
        ]
    return tuple(found)


def ray_lanes(settings: RaySettings) -> tuple[Lane, ...]:
    """The actors of a node that executes on Ray; each sees the device that Ray gives it as the first."""
    device = "cuda:0" if settings.gpus_per_actor > 0 else "cpu"
    usual = None if settings.background_actors == 0 else False

    def lane(name: str, background: bool | None) -> Lane:
        return Lane(f"ray/{name}", device, settings.cpus_per_actor, frozenset(JobSlot), background)

    return (
        *(lane(f"{number}", usual) for number in range(settings.actors)),
        *(lane(f"background-{number}", True) for number in range(settings.background_actors)),
    )


def _kind(device: str) -> JobSlot:
    return JobSlot.CPU if device.startswith("cpu") else JobSlot.GPU
