"""The receiver processes of a configuration under a supervisor, and nothing else of the node: for benchmarks.

python benchmarks/receivers.py CONFIGURATION.json READY

makes the file READY when all of them receive, and runs until SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_node.config import Configuration
from dicom_node.network.listening_ports import open_listening_ports
from dicom_node.node import receiver_roles
from dicom_node.roles import RoleKeeper, stop_on_signals


def main() -> None:
    stop = stop_on_signals()
    configuration = Configuration.model_validate_json(Path(sys.argv[1]).read_text())
    ports = open_listening_ports(configuration)
    keeper = RoleKeeper(receiver_roles(configuration, ports))
    try:
        ready = Path(sys.argv[2])
        while not stop.wait(0.1):
            keeper.tend()
            if keeper.all_ready() and not ready.exists():
                ready.touch()
    finally:
        ports.close()
        keeper.stop(10)


if __name__ == "__main__":
    main()
