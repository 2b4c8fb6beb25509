"""Roles and analyses that misbehave, for processes that a test starts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.errors import GateError
from dicom_node.roles import RoleContext

if TYPE_CHECKING:
    from dicom_node.config import Configuration
    from dicom_node.execute.process import ProcessedStudy
    from dicom_node.execute.worker import ProcessStudy


def wait_until_stopped(context: RoleContext, journal: Path) -> None:
    """A role that does as it is told, and writes down what happens to it."""
    _note(journal, "started")
    context.ready()
    context.stop.wait()
    _note(journal, "stopped")


def ignore_stop(context: RoleContext, journal: Path) -> None:
    """A role that hangs, with a process of its own beside it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    _note(journal, f"child {child.pid}")
    context.ready()
    while True:
        time.sleep(1)


def die_at_once(context: RoleContext, journal: Path) -> None:
    """A role that cannot start."""
    _note(journal, f"{time.monotonic()}")
    os.kill(os.getpid(), signal.SIGKILL)


def _note(journal: Path, line: str) -> None:
    with journal.open("a") as file:
        file.write(line + "\n")


def hang(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis that never ends."""
    while True:
        time.sleep(1)


def refuse(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis with an error that no further attempt can help."""
    raise GateError("is not a heart", subject="study", remedy="send a heart")


def stumble(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis with a defect."""
    raise ZeroDivisionError("patient DOE^JOHN divided by zero")


def die(*_paths: object, **_settings: object) -> ProcessedStudy:
    """An analysis that takes its process along."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def take_the_node_along(*paths: Any, study_instance_uid: str, **settings: Any) -> ProcessedStudy:
    """An analysis that has the whole node killed over one study, as a machine does that runs out of memory."""
    import psutil
    from crash_analysis import cheap_analysis

    from dicom_node.results.uids import derive_uid

    if study_instance_uid == derive_uid("a", "study"):
        supervisor = psutil.Process().parent().parent()
        os.killpg(os.getpgid(supervisor.pid), signal.SIGKILL)
        hang()
    return cheap_analysis(*paths, study_instance_uid=study_instance_uid, **settings)


def serve_in_a_group(configuration: Configuration, process: ProcessStudy) -> None:
    """A node that leads a process group of its own."""
    from dicom_node import node

    os.setpgid(0, 0)
    node.serve(configuration, process=process)


def hang_when_slow(*paths: Any, package: str, **settings: Any) -> ProcessedStudy:
    """An analysis that never ends where its package is slow."""
    from crash_analysis import cheap_analysis

    if "slow" in package:
        hang()
    return cheap_analysis(*paths, package=package, **settings)


def partly_rejected(*paths: Any, **settings: Any) -> ProcessedStudy:
    """An analysis of whose objects the gate keeps one back."""
    from crash_analysis import cheap_analysis

    from dicom_node.execute.process import RejectedObject
    from dicom_node.results.problems import GateCheck, Problem
    from dicom_node.results.verdict import Verdict, VerdictKind

    whole = cheap_analysis(*paths, **settings)
    *kept, last = whole.objects
    check = next(iter(GateCheck))
    verdict = Verdict(settings["package"], VerdictKind.PARTIAL, ("report: kept back by the gate",))
    return dataclasses.replace(
        whole,
        objects=tuple(kept),
        rejected=(RejectedObject(last, (Problem(check, "test"),)),),
        verdicts=(verdict,),
    )


def tell_priorities(*paths: Any, **settings: Any) -> ProcessedStudy:
    """An analysis that finds the priorities of its thread and of its process."""
    from crash_analysis import cheap_analysis

    from dicom_node.results.verdict import Verdict, VerdictKind

    whole = cheap_analysis(*paths, **settings)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found = f"{own} {os.getpriority(os.PRIO_PROCESS, os.getpid())}"
    return dataclasses.replace(
        whole, verdicts=(Verdict(settings["package"], VerdictKind.DELIVERED, key_numbers=(found,)),)
    )


def note_renewals(context: RoleContext, argument: str, journal: Path) -> None:
    """Write down each argument that it works with."""
    while True:
        with journal.open("a") as file:
            file.write(f"{context.name} {argument}\n")
        context.ready()
        changed = None
        while changed is None:
            if context.stop.wait(0.05):
                return
            changed = context.renewed()
        argument = changed
