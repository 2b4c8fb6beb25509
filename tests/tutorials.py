"""Runs every command of the tutorials as a reader does, one tutorial after the other in one folder: ``make tutorials``.

    python tests/tutorials.py FOLDER [NAME …]

Named ones are run alone, in a folder in which the first one was run before. Each begins with the configuration that the
first one leaves. The ports that they name have to be free, and Orthanc installed. It prints what each came to, and ends
with the first that fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("first_study", "tls", "adding_an_analysis", "disaster_recovery", "web_pacs")
LIMIT_S = 1800
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands_of(name: str) -> str:
    """The shell commands of a tutorial, to be run by one shell that stops at the first that fails."""
    page = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    return "set -e -m -v\n" + "\n".join(_BLOCK.findall(page))


def main(folder: Path, names: Sequence[str]) -> int:
    """Run them; the exit status."""
    if ORDER[0] in names:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "REPOSITORY": str(ROOT)}
    first = folder / "first"
    for name in names:
        if first.exists():
            shutil.copy(folder / "config.yaml", first / "config.yaml")
        began = time.monotonic()
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            ended = subprocess.run(
                ["bash", "-c", commands_of(name)],
                cwd=first if first.exists() else folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
                check=False,
            )
        if name == ORDER[0] and (first / "config.yaml").exists():
            shutil.copy(first / "config.yaml", folder / "config.yaml")
        sys.stdout.write(f"{name}: {'well' if ended.returncode == 0 else f'failed, see {log}'}, ")
        sys.stdout.write(f"{time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
        if ended.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), sys.argv[2:] or ORDER))
