"""What processes write into the files of the log: whole lines in the order of their times, in so many files at most."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.config import Configuration, LogSettings
from dicom_node.errors import OutOfResourcesError
from dicom_node.log_files import LONGEST_LINE, LogFile, LogFolder, check_log_folder, last_time

NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


def at(seconds: float) -> str:
    return (NOON + dt.timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def folder_of(directory: Path, *, maximum_bytes: int = 1 << 20, kept_files: int = 3) -> LogFolder:
    return LogFolder(directory, "front-1", maximum_bytes, kept_files)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(one) for one in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_tells_who_wrote_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "log")
    # Names of workers as the local engine, on one of several hosts too, gives them: each has a file of its own.
    for worker in ("front-1:11112/cpu/0", "front-1/cpu-background/0", "front-1/cuda:1/0", "receiver-0"):
        LogFile(folder, worker).write({"event": "job started", "level": "info", "timestamp": at(0), "role": worker})
    names = ("cpu-0", "cpu-background-0", "cuda-1-0", "receiver-0")
    assert sorted(one.name for one in folder.directory.iterdir()) == [f"front-1.{name}.log" for name in names]
    for name in names:
        path = folder.file(name)
        (line,) = lines(path)
        assert (line["host"], line["role"], line["event"]) == ("front-1", name, "job started")
    # Closed to whoever is not of the node's group.
    assert (path.stat().st_mode & 0o007, folder.directory.stat().st_mode & 0o007) == (0, 0)


def test_a_full_file_is_renamed_and_the_oldest_goes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maximum_bytes=400, kept_files=2)
    log = LogFile(folder, "receiver-0")
    for number in range(40):
        log.write({"event": "said", "timestamp": at(number), "number": number})
    newest, *full = sorted(tmp_path.iterdir())
    assert [newest.name, *(one.name for one in full)] == [
        f"front-1.receiver-0.log{suffix}" for suffix in ("", ".1", ".2")
    ]
    kept = [line["number"] for path in (*reversed(full), newest) for line in lines(path)]
    assert kept == list(range(40 - len(kept), 40))
    assert all(path.stat().st_size <= 400 for path in (newest, *full))


def test_whoever_renames_the_file_loses_no_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    log = LogFile(folder, "web")
    log.write({"event": "before", "timestamp": at(0)})
    path = folder.file("web")
    path.rename(tmp_path / "elsewhere")
    log.write({"event": "after", "timestamp": at(1)})
    assert [one["event"] for one in (*lines(tmp_path / "elsewhere"), *lines(path))] == ["before", "after"]


def test_times_in_a_file_never_go_back(tmp_path: Path) -> None:
    log = LogFile(folder_of(tmp_path), "scheduler")
    for seconds in (10, 9.5, 11, -3600, -3599):
        log.write({"event": "said", "timestamp": at(seconds)})
    newest, first = (lines(tmp_path / f"front-1.scheduler.log{suffix}") for suffix in ("", ".1"))
    # Threads of one process; then the clock is set back by an hour.
    assert [one["timestamp"] for one in first] == [at(10), at(10), at(11)]
    assert [one["timestamp"] for one in newest] == [at(-3600), at(-3599)]
    # A process that starts again knows what stands in its file.
    LogFile(folder_of(tmp_path), "scheduler").write({"event": "said", "timestamp": at(-9000)})
    assert lines(tmp_path / "front-1.scheduler.log.2") == first


def test_a_line_that_a_power_cut_left_half_spoils_no_other(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    path = folder.file("receiver-0")
    path.write_text(json.dumps({"event": "whole", "timestamp": at(0)}) + '\n{"event": "ha')
    LogFile(folder, "receiver-0").write({"event": "next", "timestamp": at(1)})
    assert [json.loads(one)["event"] for one in path.read_bytes().splitlines()[::2]] == ["whole", "next"]
    with path.open("rb") as file:
        assert last_time(file.fileno()) == NOON + dt.timedelta(seconds=1)


def test_of_a_very_long_line_only_who_and_what_is_kept(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    event = {"event": "result failed the gate", "level": "error", "timestamp": at(0), "problems": ["x" * 100] * 900}
    LogFile(folder, "cpu-0").write(event)
    data = folder.file("cpu-0").read_bytes()
    assert len(data) < LONGEST_LINE
    (line,) = lines(folder.file("cpu-0"))
    assert (line["event"], line["level"], line["role"]) == ("result failed the gate", "error", "cpu-0")
    assert line["left_out_bytes"] > 90000  # type: ignore[operator]


WRITER = """
import pathlib, sys, threading
from dicom_node.log_files import LogFolder
from dicom_node.logs import configure_logging
import structlog

configure_logging(json=True, role="same", folder=LogFolder(pathlib.Path(sys.argv[1]), "h", 20000, 100))

def write(thread):
    for number in range(200):
        structlog.get_logger().info("said", name=f"{sys.argv[2]}-{thread}-{number}")

threads = [threading.Thread(target=write, args=(one,)) for one in range(3)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def test_processes_of_one_name_and_their_threads_lose_nothing_while_files_are_renamed(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(number)], stderr=subprocess.DEVNULL)
        for number in range(2)
    ]
    assert [one.wait(120) for one in writers] == [0, 0]
    assert len(list(tmp_path.iterdir())) > 3
    said = [line["name"] for path in tmp_path.iterdir() for line in lines(path)]
    wanted = {f"{process}-{thread}-{number}" for process in range(2) for thread in range(3) for number in range(200)}
    assert (len(said), set(said)) == (1200, wanted)
    for path in tmp_path.iterdir():
        times = [line["timestamp"] for line in lines(path)]
        assert times == sorted(times), path.name  # type: ignore[type-var]


def test_a_line_that_waited_while_another_process_wrote_later_ones_does_not_go_back_in_time(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    one, other = LogFile(folder, "same"), LogFile(folder, "same")
    for file, seconds in ((one, 0.0), (other, 0.5), (one, 0.2), (other, 0.6), (one, 0.55)):
        file.write({"event": "said", "timestamp": at(seconds)})
    times = [line["timestamp"] for line in lines(folder.file("same"))]
    assert len(times) == 5
    assert times == sorted(times)  # type: ignore[type-var]


def test_a_log_that_cannot_be_kept_is_told_at_the_start_and_ends_nothing_later(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = folder_of(tmp_path / "file" / "log")
    with pytest.raises(OutOfResourcesError, match="cannot be written"):
        check_log_folder(folder)
    program = WRITER.replace("range(3)", "range(1)") + "sys.stdout.write('went on')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder.directory), "0"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "went on"
    # Later lines on standard error say how often.
    assert json.loads(done.stderr.splitlines()[-1])["log_failures"] >= 199


def test_the_folder_is_as_configured(tmp_path: Path) -> None:
    assert LogFolder.of(Configuration()) is None
    settings = LogSettings(directory=tmp_path, maximum_mb=2, kept_files=7)
    folder = LogFolder.of(Configuration(log=settings, node={"host": "gpu-1"}))
    assert folder == LogFolder(tmp_path, "gpu-1", 2 << 20, 7)
