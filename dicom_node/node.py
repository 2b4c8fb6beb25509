"""The node: one supervisor that starts the roles, starts them again when they die, and stops them cleanly."""

from __future__ import annotations

import contextlib
import platform
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config import Configuration, HostRole, NodeSettings
from dicom_node.errors import ConfigurationError, NodeError, OutOfResourcesError
from dicom_node.exposition import exposed
from dicom_node.hosts import host_name, owner_name, owner_prefix, roles_here
from dicom_node.instance_files import instance_files
from dicom_node.log_files import LogFolder, check_log_folder
from dicom_node.logs import configure_logging
from dicom_node.network.listening_ports import (
    ListeningPorts,
    listening_socket,
    no_listening_ports,
    open_listening_ports,
)
from dicom_node.network.tls import check_credentials
from dicom_node.process_states import exclusive_service, forget_states, serving_hosts, states_file
from dicom_node.reloading import Reloading
from dicom_node.roles import STEP_GRACE_S, Role, RoleContext, RoleKeeper, stop_on_signals
from storage.bucket import BucketError
from storage.files import InstanceFiles
from storage.filing import file_left_segments
from storage.identity import IdentityError, bind
from storage.instances import close_abandoned_associations
from storage.journal import unfiled
from storage.ledger import Ledger, LedgerError, open_ledger, utc_now

if TYPE_CHECKING:
    from dicom_node.execute.worker import ProcessStudy

__all__ = ["alone", "node_roles", "serve"]

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

TEND_S = 0.1
GRACE_S = STEP_GRACE_S + 5.0
"""Longer than the executor gives its workers."""
PORT_PATIENCE_S = 3.0


def serve(
    configuration: Configuration,
    *,
    process: ProcessStudy | None = None,
    on_ready: Callable[[], None] | None = None,
    reread: Callable[[], Configuration] | None = None,
    file: Path | None = None,
) -> bool:
    """Run the node until SIGTERM or SIGINT.

    Start-up is recovery: whatever an earlier life left half done is taken up again.

    Parameters
    ----------
    process
        What the workers do with a job, unless it is what the node is for; a module-level function.
    on_ready
        Called once, when the port listens and the workers have their models loaded; prints ``ready`` unless given.
    reread
        Reads and validates the configuration again, on SIGHUP; it raises :class:`ConfigurationError` where it cannot be
        used, and then nothing changes.
    file
        Where the configuration is written: the console saves edited routes there.

    Returns
    -------
    bool
        True after a clean stop.

    Raises
    ------
    NodeError
        The node cannot start: the ledger, the storage directory, the audit file or the folder of the log cannot be
        used, another node serves them, or a port is taken.
    """
    log = LogFolder.of(configuration)
    if log is not None:
        check_log_folder(log)
    configure_logging(role="supervisor", folder=log)
    hangup = threading.Event()
    stop = stop_on_signals(hangup if reread is not None else None)
    with alone(configuration.storage.directory, host_name(configuration), beside=configuration.hosts):
        forget_states(configuration.storage.directory, host_name(configuration))
        _prepare(configuration)
        with contextlib.closing(_listening_ports(configuration)) as ports, exposed(configuration, ports.places):
            # Counts, and so is imported only where it is said by now where the numbers go.
            from dicom_node.audit.auditor import audited

            with audited(configuration):
                keeper = RoleKeeper(
                    node_roles(configuration, ports, process, file),
                    states_file(configuration.storage.directory, "supervisor", host_name(configuration)),
                    log,
                )
                reloading = Reloading(configuration, keeper.renew, reread or (lambda: configuration))
                try:
                    _keep(configuration.node, keeper, stop, hangup, on_ready or _print_ready, reloading)
                finally:
                    _log.info("stopping")
                    ports.close()
                    keeper.stop(max(GRACE_S, configuration.node.drain_s + STEP_GRACE_S))
    _log.info("stopped")
    return True


def _keep(
    node: NodeSettings,
    keeper: RoleKeeper,
    stop: threading.Event,
    hangup: threading.Event,
    on_ready: Callable[[], None],
    reloading: Reloading,
) -> None:
    told_ready = False
    while not stop.wait(TEND_S):
        if hangup.is_set():
            hangup.clear()
            reloading.reload()
        keeper.tend()
        if not told_ready and keeper.all_ready():
            told_ready = True
            _log.info("ready", ae_title=node.ae_title, port=node.port)
            on_ready()


def node_roles(
    configuration: Configuration,
    ports: ListeningPorts,
    process: ProcessStudy | None = None,
    file: Path | None = None,
) -> tuple[Role, ...]:
    """The processes of this host, in the order they are started."""
    here = roles_here(configuration)
    notifies = configuration.notifications.email is not None or configuration.notifications.webhook is not None
    roles = {
        HostRole.WEB: (configuration.web.port is not None, Role("web", _serve_web, (configuration,))),
        HostRole.CONSOLE: (
            configuration.console.port is not None,
            Role("console", _serve_console, (configuration, file)),
        ),
        HostRole.SCHEDULER: (True, Role("scheduler", _schedule, (configuration,))),
        HostRole.EXECUTOR: (
            True,
            # Its workers die with it: until it lives again, nothing is known of them.
            Role("executor", _execute, (configuration, process), on_death=lambda _how: _forget_workers(configuration)),
        ),
        HostRole.DELIVERER: (True, Role("deliverer", _deliver, (configuration,))),
        HostRole.NOTIFIER: (notifies, Role("notifier", _notify, (configuration,), renewable=False)),
        HostRole.ORDERS: (
            configuration.orders.port is not None,
            Role("orders", _take_orders, (configuration,), renewable=False),
        ),
    }
    return (
        *(receiver_roles(configuration, ports) if HostRole.RECEIVER in here else ()),
        *(role for name, (wanted, role) in roles.items() if wanted and name in here),
        *((Role("uploader", _upload, (configuration,), renewable=False),) if configuration.storage.bucket else ()),
        # Of each host: it tells what this one received, and brings the file of this one to the collector.
        *(
            (Role("auditor", _audit, (configuration,), renewable=False),)
            if configuration.audit.file is not None
            else ()
        ),
    )


def receiver_roles(configuration: Configuration, ports: ListeningPorts) -> tuple[Role, ...]:
    """The processes that receive."""
    return tuple(
        Role(
            f"receiver-{number}",
            _receive,
            (configuration, ports, number),
            # Until it lives again, it holds no place.
            on_death=lambda _how, row=number: ports.places.clear(row),  # type: ignore[misc]
        )
        for number in range(configuration.node.receiver_processes)
    )


def _forget_workers(configuration: Configuration) -> None:
    forget_states(configuration.storage.directory, host_name(configuration), keepers=("executor",))


# Imported by each process for itself: none pays for what the others need.


def _receive(context: RoleContext, configuration: Configuration, ports: ListeningPorts, row: int) -> None:
    from dicom_node.network.receiver import serve_receiver

    serve_receiver(
        configuration,
        context.stop,
        name=context.name,
        ports=ports,
        row=row,
        ready=context.ready,
        renewed=context.renewed,
    )


def _schedule(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.schedule.scheduler import serve_scheduler

    serve_scheduler(context, configuration)


def _execute(context: RoleContext, configuration: Configuration, process: ProcessStudy | None) -> None:
    if configuration.execution.engine == "ray":
        from dicom_node.execute import ray_engine as engine
    else:
        from dicom_node.execute import local as engine  # type: ignore[no-redef]

    engine.serve_executor(context, configuration, process)


def _deliver(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.deliver.deliver import serve_deliverer

    serve_deliverer(configuration, context.stop, name=context.name, ready=context.ready, renewed=context.renewed)


def _serve_web(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.web.serve import serve_web

    serve_web(configuration, context.stop, name=context.name, ready=context.ready, renewed=context.renewed)


def _serve_console(context: RoleContext, configuration: Configuration, file: Path | None) -> None:
    from dicom_node.console.serve import serve_console

    serve_console(
        configuration, context.stop, name=context.name, file=file, ready=context.ready, renewed=context.renewed
    )


def _audit(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.audit.auditor import serve_auditor

    serve_auditor(context, configuration)


def _upload(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.uploader import serve_uploader

    serve_uploader(context, configuration)


def _notify(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.notify.notifier import serve_notifier

    serve_notifier(context, configuration)


def _take_orders(context: RoleContext, configuration: Configuration) -> None:
    from dicom_node.orders.server import serve_orders

    serve_orders(context, configuration)


def _print_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def _prepare(configuration: Configuration) -> None:
    """Find out what would keep the roles from starting, and say it once instead of restarting them for ever."""
    node = configuration.node
    if node.tls is not None:
        check_credentials(node.tls)
    try:
        with contextlib.closing(open_ledger(configuration.storage.database)) as ledger:
            files = instance_files(configuration)
            bind(ledger, files, now=utc_now())
            if _filed(configuration, ledger, files):
                # Each receiver closes its own; this closes those of receivers that are no longer configured.
                close_abandoned_associations(ledger, owner_prefix(configuration), at=utc_now())
    except IdentityError as error:
        raise ConfigurationError(str(error), subject=f"storage.directory {configuration.storage.directory}") from error
    except BucketError as error:
        if configuration.storage.bucket is None:
            raise
        raise OutOfResourcesError(
            str(error.strerror),
            subject=f"storage.bucket {configuration.storage.bucket.url}",
            remedy="check url, endpoint and keys; the node starts when the bucket answers",
        ) from error
    except (SQLAlchemyError, LedgerError) as error:
        raise OutOfResourcesError(
            f"the ledger cannot be opened: {type(error).__name__}",
            subject="storage.database",
            remedy="check the URL, and that the database server runs",
        ) from error
    here = roles_here(configuration)
    for key, role, service in (
        ("web.port", HostRole.WEB, configuration.web),
        ("console.port", HostRole.CONSOLE, configuration.console),
        ("orders.port", HostRole.ORDERS, configuration.orders),
    ):
        if service.port is not None and role in here:
            address, port = service.address, service.port
            _patiently(key, lambda where=(address, port): listening_socket(*where).close())  # type: ignore[misc]


def _filed(configuration: Configuration, ledger: Ledger, files: InstanceFiles) -> bool:
    """Whether all is in the ledger that receivers, of whatever name, had acknowledged before the node ended."""
    try:
        filed = file_left_segments(ledger, files, owner_name(configuration, "start"))
    except (OSError, SQLAlchemyError) as error:
        # Each receiver goes on with its own.
        _log.error("journal not filed yet", error=type(error).__name__)
        return False
    if filed:
        _log.warning("journal filed", instances=filed)
    # What a process that is just dying still holds, the receiver that takes its place files.
    return unfiled(files.root)[0] == 0


def _listening_ports(configuration: Configuration) -> ListeningPorts:
    if HostRole.RECEIVER not in roles_here(configuration):
        return no_listening_ports(configuration)
    return _patiently("node.port", lambda: open_listening_ports(configuration))


def _patiently(key: str, listen: Callable[[], _T]) -> _T:
    # The processes of a node that was killed this instant may hold the port for a moment longer.
    give_up = time.monotonic() + PORT_PATIENCE_S
    while True:
        try:
            return listen()
        except OSError as error:
            if time.monotonic() >= give_up:
                raise NodeError(
                    f"{error.filename} cannot be listened on: {error.strerror}",
                    subject=key,
                    remedy="stop what uses the port, or choose another",
                ) from error
            time.sleep(TEND_S)


@contextlib.contextmanager
def alone(directory: Path, host: str | None = None, *, beside: Collection[str] = ()) -> Iterator[None]:
    """Hold the storage directory against a second node on this machine, and against commands that need it stopped.

    Parameters
    ----------
    host
        Name of this host; that of the machine unless given.
    beside
        Names of the hosts that may serve the directory at the same time.

    Raises
    ------
    OutOfResourcesError
        The directory cannot be written.
    NodeError
        A node serves it.
    """
    with contextlib.ExitStack() as held:
        try:
            InstanceFiles(directory)
            others = sorted(set(serving_hosts(directory)) - {host or platform.node()} - set(beside))
            other = held.enter_context(exclusive_service(directory, host))
        except OSError as error:
            raise OutOfResourcesError(
                f"cannot be written: {error.strerror}", subject="storage.directory", remedy="give the node write access"
            ) from error
        if other is not None:
            raise NodeError(
                f"process {other} already serves it",
                subject=f"storage.directory {directory}",
                remedy="stop that node first",
            )
        if others:
            raise NodeError(
                f"{', '.join(others)} serves it",
                subject=f"storage.directory {directory}",
                remedy="stop the node there first, or name all machines in section hosts",
            )
        yield
