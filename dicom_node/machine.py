"""What the configuration asks of this machine: storage that can be written, devices that are there, routes that work.

``dicom-node check`` tells all of it; ``dicom-node serve`` refuses to start where the node could do no work.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dicom_node.config import Configuration, HostRole
from dicom_node.config_file import ConfigurationText, Key, Mistake
from dicom_node.errors import ConfigurationError
from dicom_node.hosts import execution_here, host_name, roles_here
from pipelines.errors import AnalysisSetupError
from pipelines.package import packages

__all__ = ["free_space_mistakes", "serving_mistakes", "usable"]

_DEVICE_COUNT = "import torch; print(torch.cuda.device_count(), torch.backends.mps.is_available())"
_DEVICES_TIMEOUT_S = 120.0
_EXTRAS = {
    "analysis": ("torch", "monai", "safetensors", "scipy", "skimage", "highdicom", "matplotlib"),
    "web": ("fastapi", "uvicorn", "jinja2", "argon2", "authlib", "joserfc"),
    "messages": ("hl7", "fhir.resources"),
    "postgresql": ("psycopg",),
    "ray": ("ray",),
    "s3": ("s3fs",),
}
"""Libraries of the optional dependencies (pyproject.toml) that a node may have to do without."""


def serving_mistakes(configuration: Configuration) -> Iterator[Mistake]:
    """What would keep the node from doing any work: no route, no storage, absent devices, analyses that do not work."""
    here = roles_here(configuration)
    if not here:
        names = ", ".join(configuration.hosts)
        sentence = (
            f"this machine is {host_name(configuration)}, and no host has that name ({names}): add it, or say which "
            "one this is with node.host or DICOM_NODE__NODE__HOST"
        )
        yield Mistake((("node", "host"),) if configuration.node.host else (("hosts",),), sentence)
    if not configuration.routes:
        yield Mistake((("routes",),), "there is no route, so no study would be analysed: add one")
    elif HostRole.EXECUTOR in here and (absent := _absent("analysis")):
        yield Mistake((("routes",),), f"routes cannot be analysed, for {absent}")
    for role, port in ((HostRole.WEB, configuration.web.port), (HostRole.CONSOLE, configuration.console.port)):
        if port is not None and role in here and (absent := _absent("web")):
            yield Mistake(((role.value, "port"),), f"nothing can be served there, for {absent}")
    if configuration.orders.port is not None and HostRole.ORDERS in here and (absent := _absent("messages")):
        yield Mistake((("orders", "port"),), f"no order can be taken, for {absent}")
    for name, profile in configuration.results.destinations.items():
        if (profile.hl7 or profile.fhir) and HostRole.DELIVERER in here and (absent := _absent("messages")):
            yield Mistake((("results", "destinations", name),), f"no message can be sent, for {absent}")
    if configuration.storage.database.startswith("postgresql") and (absent := _absent("postgresql")):
        yield Mistake((("storage", "database"),), f"the ledger cannot be opened, for {absent}")
    if configuration.storage.bucket is not None and (absent := _absent("s3")):
        yield Mistake((("storage", "bucket"),), f"it cannot be reached, for {absent}")
    yield from _storage(configuration)
    yield from _wording(configuration)
    if HostRole.EXECUTOR in here and configuration.execution.engine == "local":
        yield from _devices(configuration)
    elif HostRole.EXECUTOR in here and (absent := _absent("ray")):
        yield Mistake((("execution", "engine"),), f"nothing can be executed on Ray, for {absent}")
    yield from _analyses(configuration)


def usable(text: ConfigurationText) -> Configuration:
    """The configuration that a node can work by on this machine.

    Raises
    ------
    ConfigurationError
        It is not valid, or asks of this machine what it does not have.
    """
    configuration = text.configuration()
    mistakes = list(serving_mistakes(configuration))
    if mistakes:
        raise text.error(mistakes)
    return configuration


def free_space_mistakes(configuration: Configuration) -> Iterator[Mistake]:
    """A low watermark above the free space: every image would be answered with A700."""
    low_mb = configuration.storage.low_watermark_mb
    directory = _existing(configuration.storage.directory)
    free_mb = shutil.disk_usage(directory).free / 1e6
    if free_mb < low_mb:
        yield Mistake(
            (("storage", "low_watermark_mb"),),
            f"only {free_mb:.0f} MB are free in {directory}, so that every image would be refused (A700): free space, "
            "or lower the watermark",
        )


def _absent(extra: str) -> str:
    """What of an extra is not installed, and what to do about it; empty when nothing is missing."""
    missing = [name for name in _EXTRAS[extra] if importlib.util.find_spec(name.partition(".")[0]) is None]
    return f"{', '.join(missing)} is not installed: pip install 'dicom-node[{extra}]'" if missing else ""


def _analyses(configuration: Configuration) -> Iterator[Mistake]:
    try:
        known = packages()
    except AnalysisSetupError as error:
        yield Mistake((("routes",),), f"the analyses do not fit together: {error}; mend or remove the package")
        return
    for route, settings in configuration.routes.items():
        for index, name in enumerate(settings.analyses):
            # Looked for and not imported: an encoder draws pages, which the supervisor need not.
            if name in known and importlib.util.find_spec(f"dicom_node.results.{name}") is None:
                key = ("routes", route, "analyses", index)
                yield Mistake((key,), f"analysis {name} has no encoder: put dicom_node/results/{name}.py beside it")


def _storage(configuration: Configuration) -> Iterator[Mistake]:
    directory = configuration.storage.directory
    reason = _not_writable(directory)
    if reason:
        yield Mistake((("storage", "directory"),), f"{directory} cannot be written ({reason}): give the node access")
    scheme = "sqlite:///"
    if configuration.storage.database.startswith(scheme):
        database = Path(configuration.storage.database.removeprefix(scheme))
        if database.is_dir():
            yield Mistake((("storage", "database"),), f"{database} is a folder: name a file")
            return
        reason = _not_writable(database.parent) or _not_opened(database)
        if reason:
            yield Mistake((("storage", "database"),), f"{database} cannot be written ({reason}): give the node access")


def _wording(configuration: Configuration) -> Iterator[Mistake]:
    """A template or a table of a department's own; those that come with this software are sound."""
    results = configuration.results
    if results.paragraph.template is not None:
        from dicom_node.results.paragraph import read_template

        try:
            read_template(results.paragraph)
        except ConfigurationError as error:
            yield Mistake((("results", "paragraph", "template"),), error.what)
    if results.normal_ranges is not None:
        from dicom_node.results.normal_ranges import normal_table

        try:
            normal_table(results)
        except ConfigurationError as error:
            yield Mistake((("results", "normal_ranges"),), error.what)
    if configuration.notifications.template is not None:
        from dicom_node.notify.wording import read_notification_template

        try:
            read_notification_template(configuration.notifications)
        except ConfigurationError as error:
            yield Mistake((("notifications", "template"),), error.what)


def _not_writable(directory: Path) -> str | None:
    """Why a file cannot be made in a directory, which itself may have to be made; ``None`` when it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(directory)):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _not_opened(file: Path) -> str | None:
    try:
        if file.exists():
            with file.open("r+b"):
                return None
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _existing(directory: Path) -> Path:
    return next(one for one in (directory, *directory.parents) if one.exists())


def _devices(configuration: Configuration) -> Iterator[Mistake]:
    asked = [(index, name) for index, name in enumerate(execution_here(configuration).devices) if name != "cpu"]
    if not asked:
        return
    # In a process of its own: torch takes seconds and hundreds of megabytes, which the supervisor need not hold.
    counted = subprocess.run(
        [sys.executable, "-c", _DEVICE_COUNT], capture_output=True, text=True, timeout=_DEVICES_TIMEOUT_S, check=False
    )
    words = counted.stdout.split()
    gpus, mps = (int(words[0]), words[1] == "True") if counted.returncode == 0 and len(words) == 2 else (0, False)
    for index, name in asked:
        kind, _, number = name.partition(":")
        there = mps if kind == "mps" else int(number or 0) < gpus
        if not there:
            has = f"this machine has {gpus} CUDA device(s)" if kind == "cuda" else "this machine has no such device"
            own = configuration.hosts.get(host_name(configuration))
            at: Key = ("execution", "devices", index)
            if own is not None and own.devices is not None:
                at = ("hosts", host_name(configuration), "devices", index)
            yield Mistake((at,), f"{name} is not there ({has}): write cpu, or mend the driver")
