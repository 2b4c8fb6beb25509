"""Logs: one line an event, with the correlation id of what it belongs to, and no patient data."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO, cast

import pydicom.config
import structlog

from dicom_node.log_files import LogFile, LogFolder

__all__ = ["configure_logging"]


class _LogStream(io.TextIOBase):
    """A stream for the log that never raises: work must not break off because nobody can be told of it.

    A log that lies on a full disk, or whose reader has ended, would otherwise end the association or the job that had
    something to say. Later lines say how often it failed so far.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._failures = stream, 0

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def tell_failures(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Processor of structlog that adds ``log_failures`` to an event."""
        if self._failures:
            event["log_failures"] = self._failures
        return event

    def keep_in(self, file: LogFile) -> structlog.typing.Processor:
        """Processor of structlog that writes an event into a file too, with the same indulgence."""

        def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            self._try(file.write, event)
            return event

        return keep

    def _try(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except OSError:
            self._failures += 1


def configure_logging(
    *, json: bool | None = None, role: str = "", level: int = logging.INFO, folder: LogFolder | None = None
) -> None:
    """Send the log of this process to standard error, and where one is named to a file of a folder.

    Parameters
    ----------
    json
        JSON lines or text for people; unless given, text on a terminal and JSON elsewhere.
    role
        Name of this process in every line.
    level
        Least level that is shown.
    folder
        Where the log is kept besides.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )

    stream = _LogStream(sys.stderr)

    def name_the_process(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Not a context variable: threads of libraries do not inherit those.
        event["role"] = role
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([name_the_process] if role else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            stream.tell_failures,
            *([stream.keep_in(LogFile(folder, role))] if folder is not None else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", stream)),
        # Loggers of modules live as long as the process: cached, they would keep a standard error that was replaced.
        cache_logger_on_first_use=False,
    )
    # pydicom warns of invalid values by quoting them, a birth date as readily as a window width.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
