"""Reading the configuration again while the node runs: what takes effect at once, and what needs a restart.

What can change is handed to the processes, each of which goes on with it at its next step: an association that is open,
a job that runs and a round of deliveries end by the configuration that they began with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from dicom_node.config import Configuration
from dicom_node.config_file import mistakes_between_keys
from dicom_node.errors import ConfigurationError

__all__ = ["RELOADABLE", "Reloaded", "Reloading", "reloaded"]

_log = structlog.get_logger(__name__)

RELOADABLE: dict[str, frozenset[str] | None] = {
    "peers": None,
    "routes": None,
    "results": None,
    "delivery": None,
    "storage": frozenset(
        {"retention_days", "low_watermark_mb", "high_watermark_mb", "quarantine_days", "history_days", "conflicts"}
    ),
    "execution": frozenset(
        {
            "job_timeout_s",
            "maximum_attempts",
            "free_memory_mb",
            "quiet_time_s",
            "incomplete_quiet_time_s",
            "complete_quiet_time_s",
            "missing_images_quiet_time_s",
        }
    ),
}
"""Sections that can change while the node runs, whole or these keys of them."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What becomes of a configuration that was read again."""

    configuration: Configuration
    """What the node goes on with."""
    changed: tuple[str, ...]
    """Keys that take effect."""
    at_next_start: tuple[str, ...]
    """Keys that differ and take effect when the node is started again."""


def reloaded(running: Configuration, written: Configuration) -> Reloaded:
    """Take from what is written now whatever can change while the node runs.

    Raises
    ------
    ConfigurationError
        What can change does not go together with what cannot: nothing is taken.
    """
    changed: list[str] = []
    at_next_start: list[str] = []
    sections: dict[str, object] = {}
    for name in Configuration.model_fields:
        before, after = getattr(running, name), getattr(written, name)
        if before == after:
            continue
        if name in RELOADABLE and RELOADABLE[name] is None:
            sections[name] = after
            changed.append(name)
            continue
        if isinstance(before, dict):
            at_next_start.append(name)
            continue
        taken = RELOADABLE.get(name) or frozenset()
        differing = [key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
        changed += [f"{name}.{key}" for key in differing if key in taken]
        at_next_start += [f"{name}.{key}" for key in differing if key not in taken]
        sections[name] = before.model_copy(update={key: getattr(after, key) for key in differing if key in taken})
    configuration = running.model_copy(update=sections)
    for mistake in mistakes_between_keys(configuration):
        where = ".".join(str(key) for key in mistake.keys[0])
        raise ConfigurationError(
            f"goes together only with what takes effect at the next start ({', '.join(at_next_start)}): "
            f"{mistake.sentence}",
            subject=where,
            remedy="start the node again",
        )
    return Reloaded(configuration, tuple(changed), tuple(at_next_start))


@dataclass(slots=True)
class Reloading:
    """Reads the configuration again when asked to.

    Attributes
    ----------
    running : Configuration
        What the node works by now.
    renew : callable
        Hands another configuration to the processes.
    reread : callable
        Reads and validates what is written now.
    """

    running: Configuration
    renew: Callable[[Configuration], None] = field(repr=False)
    reread: Callable[[], Configuration] = field(repr=False)

    def reload(self) -> None:
        """Take what is written now, or say why not and go on as before."""
        try:
            result = reloaded(self.running, self.reread())
        except ConfigurationError as error:
            _log.error("configuration not reloaded: nothing was changed", error=str(error))
            return
        if result.changed:
            self.running = result.configuration
            self.renew(result.configuration)
        _log.info("configuration reloaded", changed=result.changed)
        if result.at_next_start:
            _log.warning("these keys take effect when the node is started again", keys=result.at_next_start)
