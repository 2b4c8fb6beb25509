"""Measures the memory that is free for this process, and frees models when it is little."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

__all__ = ["available_mb", "let_go_of_models"]

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_mb(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> float:
    """Memory that this process can still take, 2^20 bytes: what the machine has, or less where a cgroup limits it."""
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in _lines(meminfo))}
    available = float(fields["MemAvailable"][0]) / 1024 if "MemAvailable" in fields else float("inf")
    return min(available, _cgroup_mb(cgroup))


def _cgroup_mb(cgroup: Path) -> float:
    limit, used = _lines(cgroup / "memory.max"), _lines(cgroup / "memory.current")
    if not limit or not used or limit[0] == "max":
        return float("inf")
    # The kernel drops these pages of files before it refuses anything.
    statistics = dict(line.split() for line in _lines(cgroup / "memory.stat"))
    return (int(limit[0]) - int(used[0]) + int(statistics.get("inactive_file", 0))) / 2**20


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def let_go_of_models() -> bool:
    """Free the models that this process has loaded, and give the memory back to the machine.

    Returns
    -------
    bool
        Whether there were any; the next study that needs one loads it again.
    """
    registry = sys.modules.get("pipelines.models.registry")
    if registry is None or registry.load_model_once.cache_info().currsize == 0:
        return False
    registry.load_model_once.cache_clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps what is freed in small pieces.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return True
