"""Makes bytes in a forked process while this one goes on.

Drawing pages is Python from end to end, so threads do not share it. A fork needs nothing handed over: what pages show
lies in memory already.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from dicom_node.errors import ProcessingFailureError, raised_at

__all__ = ["made_apart"]

_fork = multiprocessing.get_context("fork")


def made_apart(make: Callable[[], bytes], what: str) -> Callable[[], bytes]:
    """Start to make bytes in a forked process.

    What is made may neither compute with PyTorch, whose threads a fork does not have, nor write to the ledger or to
    files: nothing that the other process changes is seen here.

    Parameters
    ----------
    make
        Is called in the other process.
    what
        What is made, for messages.

    Returns
    -------
    callable
        Waits for the bytes and returns them.

    Raises
    ------
    ProcessingFailureError
        By the callable: the other process failed or was killed.
    """
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_send, args=(theirs, make), name="apart", daemon=True)
    process.start()
    theirs.close()

    def made() -> bytes:
        try:
            outcome: bytes | str | None = ours.recv()
        except EOFError:
            outcome = None
        finally:
            ours.close()
            process.join()
        if isinstance(outcome, bytes):
            return outcome
        raise ProcessingFailureError(
            f"the process that makes {what} "
            + (f"was ended (exit code {process.exitcode})" if outcome is None else f"failed: {outcome}"),
            subject=what,
            remedy="the job is tried again; if that repeats, look for a lack of memory, and report this as a defect",
        )

    return made


def _send(to: Connection, make: Callable[[], bytes]) -> None:
    # The signals that end the node are for the process that this one was forked from.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        outcome: bytes | str = make()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told
        outcome = raised_at(error)
    with contextlib.suppress(BrokenPipeError):
        # Who waited for it may have been killed meanwhile.
        to.send(outcome)
    # No exit handler of the process that this one was forked from may run here.
    os._exit(0)
