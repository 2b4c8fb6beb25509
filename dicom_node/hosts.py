"""Which host of a node this machine is, and what it does there; a node on one machine names no hosts.

Everything that a process holds in the ledger is held under a name that begins with its host, so that no host takes up,
or gives back, what a process of another one holds.
"""

from __future__ import annotations

import platform
from pathlib import Path

from dicom_node.config import Configuration, ExecutionSettings, HostRole

__all__ = [
    "execution_here",
    "host_name",
    "numbers_name",
    "owner_name",
    "owner_prefix",
    "receivers_told_by",
    "roles_here",
    "slots",
    "worker_prefix",
]


def host_name(configuration: Configuration) -> str:
    """Name of this host: ``node.host``, or what the machine calls itself."""
    return configuration.node.host or platform.node()


def roles_here(configuration: Configuration) -> frozenset[HostRole]:
    """What this host does: everything where no hosts are named, nothing where they are and it is none of them."""
    if not configuration.hosts:
        return frozenset(HostRole)
    host = configuration.hosts.get(host_name(configuration))
    return frozenset() if host is None else host.roles


def execution_here(configuration: Configuration) -> ExecutionSettings:
    """How jobs run on this host, with its own devices where it has any."""
    host = configuration.hosts.get(host_name(configuration))
    if host is None or host.devices is None:
        return configuration.execution
    return configuration.execution.model_copy(update={"devices": host.devices})


def slots(configuration: Configuration) -> int:
    """How many jobs that do not give way the node runs at once, on all its hosts."""
    execution = configuration.execution
    executors = [host.devices for host in configuration.hosts.values() if HostRole.EXECUTOR in host.roles] or [None]
    if execution.engine == "ray":
        return execution.ray.actors * len(executors)
    return execution.slots_per_device * sum(len(devices or execution.devices) for devices in executors)


def owner_prefix(configuration: Configuration) -> str:
    """What the names of all processes of this host begin with where they receive and deliver."""
    if configuration.hosts:
        return f"{host_name(configuration)}/"
    return f"{configuration.node.ae_title}:{configuration.node.port}/"


def owner_name(configuration: Configuration, process: str) -> str:
    """Under which name a process holds in the ledger what it receives or delivers; the same after a restart."""
    return f"{owner_prefix(configuration)}{process}"[:64]


def receivers_told_by(configuration: Configuration) -> str:
    """What the names of the receivers begin with of which the audit trail of this host tells; empty for all."""
    return owner_prefix(configuration) if configuration.hosts else ""


def worker_prefix(configuration: Configuration) -> str:
    """What the names of the workers of this host begin with."""
    if configuration.hosts:
        return f"{host_name(configuration)}/"
    return f"{platform.node()[:24]}:{configuration.node.port}/"


def numbers_name(configuration: Configuration) -> Path:
    """What tells the numbers of this host's processes from those of another host on the same machine."""
    directory = configuration.storage.directory
    return directory / host_name(configuration) if configuration.hosts else directory
