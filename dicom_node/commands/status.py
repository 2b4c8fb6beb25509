"""``dicom-node status``: does the node run, is all well, and if not, what is wrong and what to do about it."""

from __future__ import annotations

from pathlib import Path

import typer

from dicom_node.commands.ledger import opened
from dicom_node.commands.terminal import ConfigurationFile, ExitCode, JsonFlag, console, print_json, table
from dicom_node.config_file import load_configuration
from dicom_node.node_status import NodeStatus, Queue, SilentHost, local_time, node_status
from dicom_node.process_states import ProcessState
from storage.overview import Backlog
from storage.schema import DeliveryState, JobState, ReportState, Verdict

__all__ = ["status"]


def status(config: ConfigurationFile = Path("config.yaml"), as_json: JsonFlag = False) -> None:
    """Say whether the node runs and all is well; exit status 1 when it does not run or something calls for a person."""
    configuration = load_configuration(config)
    with opened(configuration) as ledger:
        found = node_status(configuration, ledger)
    if as_json:
        print_json(found)
    else:
        _print(found, takes_orders=configuration.orders.port is not None)
    if not found.well:
        raise typer.Exit(ExitCode.FAILED)


def _print(found: NodeStatus, *, takes_orders: bool) -> None:
    running = "Running" if found.pid is None else f"Running (process {found.pid})"
    if found.well:
        console.print(f"[bold green]{running}, and all is well.[/bold green]")
    else:
        if not found.running:
            console.print("[bold red]Not running.[/bold red]")
        elif found.starting:
            console.print(
                f"[bold yellow]{running}, but not ready yet: {', '.join(found.starting)}.[/bold yellow]", soft_wrap=True
            )
        else:
            console.print(f"[bold red]{running}, but not all is well:[/bold red]")
        for alarm in found.alarms:
            console.print(f"  • {alarm.sentence} – {alarm.remedy}", soft_wrap=True)
    queue = found.queue
    table(
        "Now",
        ["", ""],
        [
            ("disk", _disk(found.free_mb, accepts=found.accepts_images)),
            *(
                (f"disk of host {one.host}", _disk(one.free_mb, accepts=one.accepts_images))
                for one in found.other_disks
            ),
            ("journal", f"{found.unfiled} images are on the disk and not filed yet ({found.unfiled_mb:.1f} MB)"),
            *((("to be uploaded", f"{found.not_uploaded} images"),) if found.not_uploaded else ()),
            ("open associations", found.ledger.open_associations),
            ("studies waiting for images", found.waiting.studies_waiting),
            ("jobs", f"{queue.running} running, {queue.queued} queued{_ready(queue)}"),
            *((f"to {name}", _deliveries(found.waiting, name)) for name in _destinations(found.waiting)),
            *(
                [("in quarantine", f"{found.waiting.quarantined} objects; dicom-node quarantine list says why")]
                if found.waiting.quarantined
                else []
            ),
            ("last image", local_time(found.ledger.last_received_at)),
            *((("last message about orders", local_time(found.last_order_at)),) if takes_orders else ()),
            ("last commitment", local_time(found.ledger.last_committed_at)),
        ],
    )
    if found.processes or found.silent_hosts:
        table(
            "Processes",
            ["process", "state", "since"],
            [
                *((one.name, _process(one), local_time(one.changed_at)) for one in found.processes),
                *(row for host in found.silent_hosts for row in _silent(host)),
            ],
        )
    table(
        "Ledger",
        ["", ">"],
        [
            ("studies", found.ledger.studies),
            ("instances", found.ledger.instances),
            *((f"jobs {state.value}", found.ledger.jobs.get(state, 0)) for state in JobState),
            *((f"came to {verdict.value}", found.ledger.verdicts.get(verdict, 0)) for verdict in Verdict),
            *((f"deliveries {state.value}", found.ledger.deliveries.get(state, 0)) for state in DeliveryState),
            *((f"commitment reports {state.value}", found.ledger.commitments.get(state, 0)) for state in ReportState),
            ("quarantined objects", found.ledger.quarantined),
        ],
    )


def _process(one: ProcessState) -> str:
    if one.pid is None:
        return f"waits to be started again ({one.last_death})"
    return "ready" if one.ready else "starting"


def _disk(free_mb: float, *, accepts: bool) -> str:
    return f"{free_mb / 1000:.1f} GB free, images are {'accepted' if accepts else 'refused'}"


def _silent(host: SilentHost) -> list[tuple[str, str, str]]:
    heard = local_time(host.heard_at) if host.heard_at is not None else ""
    rows = [(one.name, f"not known; last told: {_process(one)}", local_time(one.changed_at)) for one in host.processes]
    return [(f"host {host.name}", "silent" if heard else "does not run", heard), *rows]


def _ready(queue: Queue) -> str:
    if not queue.ready_in_s:
        return ""
    return f"; ready in about {queue.ready_in_s:.0f} s (a job takes {queue.typical_job_s:.0f} s)"


def _destinations(waiting: Backlog) -> list[str]:
    return sorted({destination for destination, _ in waiting.deliveries})


def _deliveries(waiting: Backlog, destination: str) -> str:
    counts = ", ".join(
        f"{count} {state.value}" for (name, state), count in sorted(waiting.deliveries.items()) if name == destination
    )
    oldest = waiting.oldest_delivery_at.get(destination)
    return counts + (f"; the oldest since {local_time(oldest)}" if oldest else "")
