"""Several hosts of one node: what each does, under which names, and what is said when they do not make a node."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from interop.ports import free_port, wait_until
from ledger_rows import NOW, an_instance, associate

from dicom_node import node
from dicom_node.audit.messages import Participant
from dicom_node.audit.received import tell_what_was_received
from dicom_node.audit.trail import AuditTrail
from dicom_node.config import (
    BucketSettings,
    Configuration,
    DeliveryPolicy,
    Host,
    HostRole,
    NodeSettings,
    StorageSettings,
)
from dicom_node.config_file import load_configuration
from dicom_node.doctor import examine, mount_of
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.hosts import execution_here, host_name, owner_name, roles_here, slots, worker_prefix
from dicom_node.machine import serving_mistakes
from dicom_node.network.listening_ports import listening_socket, no_listening_ports
from dicom_node.node_status import HOST_SILENT, node_status
from dicom_node.notify import notifier
from dicom_node.process_states import ProcessState, exclusive_service, serving_hosts, states_file, write_states
from dicom_node.reloading import reloaded
from dicom_node.roles import RoleContext
from dicom_node.schedule.scheduler import close_receptions_of_dead_hosts
from dicom_node.uploader import HostReport
from storage.files import InstanceFiles
from storage.hosts import HostWatch, beat
from storage.identity import bind, is_bound
from storage.instances import close_association, open_receptions, record_instances
from storage.ledger import Ledger, open_ledger, utc_now

TWO = {
    "front": {"roles": ["receiver", "deliverer"]},
    "back": {"roles": ["scheduler", "executor"], "devices": ["cpu", "cpu"]},
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield opened
    opened.close()


def _configuration(tmp_path: Path, host: str | None = "front", **hosts: object) -> Configuration:
    found = {name: Host.model_validate(one) for name, one in (hosts or TWO).items()}
    return Configuration(
        node=NodeSettings(ae_title="NODE", address="127.0.0.1", port=free_port(), host=host),
        hosts=found,
        storage=StorageSettings(database=f"sqlite:///{tmp_path}/ledger.sqlite", directory=tmp_path / "instances"),
    )


def test_each_host_runs_its_roles_and_opens_the_ports_of_no_other(tmp_path: Path) -> None:
    names = {}
    for host in TWO:
        configuration = _configuration(tmp_path, host)
        with contextlib.closing(node._listening_ports(configuration)) as ports:
            assert (ports.plain is None) == (host == "back")
            names[host] = [role.name for role in node.node_roles(configuration, ports)]
    assert names == {"front": ["receiver-0", "receiver-1", "deliverer"], "back": ["scheduler", "executor"]}


def test_what_a_host_holds_begins_with_its_name(tmp_path: Path) -> None:
    front, back = (_configuration(tmp_path, host) for host in TWO)
    assert (owner_name(front, "receiver-0"), worker_prefix(back)) == ("front/receiver-0", "back/")
    assert (len(execution_here(back).devices), len(execution_here(front).devices), slots(front)) == (2, 1, 2)
    # A node on one machine holds its work under the names that it always had.
    alone = Configuration(node=NodeSettings(ae_title="NODE", port=104))
    assert owner_name(alone, "deliverer") == "NODE:104/deliverer"
    assert worker_prefix(alone).endswith(":104/")
    assert roles_here(alone) == frozenset(HostRole)
    assert host_name(alone)


SOUND = {
    "storage": {"database": "postgresql+psycopg://node@db/node", "low_watermark_mb": 0, "high_watermark_mb": 0},
    "peers": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 4242, "may": ["receive"]}},
    "routes": {"cine": {"destinations": ["pacs"]}},
    "results": {"destinations": {"pacs": {"peer": "pacs"}}},
    "hosts": TWO,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"storage": {"database": "sqlite:///ledger.sqlite"}}, "SQLite is of one machine"),
        ({"hosts": {"front": TWO["front"], "back": {"roles": ["executor"]}}}, "no host has the role scheduler"),
        ({"hosts": {**TWO, "desk": {"roles": ["console"]}}}, "hosts.desk.roles: role console does nothing"),
        ({"web": {"port": 8443}}, "no host has the role web"),
        ({"audit": {"file": "var/instances/audit.log"}}, "lies in the storage directory"),
        (
            {
                "storage": {**SOUND["storage"], "bucket": {"url": "s3://images/node"}},
                "hosts": {**TWO, **{name: {"roles": ["notifier"]} for name in ("north", "south")}},
                "notifications": {"webhook": {"url": "https://hook.example"}},
            },
            "north and south would both notify",
        ),
        ({"storage": {**SOUND["storage"], "bucket": {"url": "s3://images/a b"}}}, "storage.bucket.url"),
        ({"storage": {**SOUND["storage"], "bucket": {"url": "s3://i-1", "endpoint": "http://far"}}}, "over https://"),
        (
            {"storage": {**SOUND["storage"], "bucket": {"url": "s3://i-1", "access_key": {"environment": "KEY"}}}},
            "access_key and secret_key belong together",
        ),
        ({"hosts": {**TWO, "a b": TWO["front"]}}, "the name of a host has at most 40"),
        ({"hosts": {**TWO, "idle": {"roles": []}}}, "hosts.idle.roles"),
        ({"hosts": {**TWO, "idle": {"roles": ["worker"]}}}, "hosts.idle.roles"),
    ],
)
def test_hosts_that_make_no_node_are_told(changed: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**SOUND, **changed}), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path, {})
    assert said in str(caught.value)


def test_a_machine_that_is_none_of_the_hosts_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SOUND), encoding="utf-8")
    stranger = load_configuration(path, {})
    (mistake,) = [one for one in serving_mistakes(stranger) if one.keys == (("hosts",),)]
    assert "DICOM_NODE__NODE__HOST" in mistake.sentence
    named = load_configuration(path, {"DICOM_NODE__NODE__HOST": "front"})
    assert not [one for one in serving_mistakes(named) if "no host has that name" in one.sentence]


def test_ray_without_ray_and_a_wrong_address_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    one = {**SOUND, "hosts": {}, "storage": {"directory": str(tmp_path)}}
    path.write_text(yaml.safe_dump({**one, "execution": {"engine": "ray", "ray": {"address": "ray://head"}}}))
    with pytest.raises(ConfigurationError, match=r"execution\.ray\.address"):
        load_configuration(path, {})
    path.write_text(yaml.safe_dump({**one, "execution": {"engine": "ray"}}))
    configuration = load_configuration(path, {})
    monkeypatch.setattr("dicom_node.machine._EXTRAS", {"analysis": (), "web": (), "messages": (), "ray": ("no_ray",)})
    (mistake,) = serving_mistakes(configuration)
    assert (mistake.keys, "dicom-node[ray]" in mistake.sentence) == ((("execution", "engine"),), True)


def test_commands_that_need_a_stopped_node_see_every_host(tmp_path: Path) -> None:
    directory = tmp_path / "instances"
    with node.alone(directory, "front", beside=TWO):
        assert serving_hosts(directory) == ("front",)
        with pytest.raises(NodeError, match="front serves it"), node.alone(directory):
            pass
        with pytest.raises(NodeError, match="already serves it"), node.alone(directory, "front", beside=TWO):
            pass
        with node.alone(directory, "back", beside=TWO):
            assert serving_hosts(directory) == ("back", "front")
    with node.alone(directory):
        pass


def test_status_is_that_of_all_hosts(tmp_path: Path, ledger: Ledger) -> None:
    configuration = _configuration(tmp_path, "back")
    directory = configuration.storage.directory
    directory.mkdir()
    with exclusive_service(directory, "front"):
        write_states(states_file(directory, "supervisor", "front"), [])
        found = node_status(configuration, ledger)
        assert (found.running, found.pid) == (True, None)
        assert [one.sentence for one in found.alarms if "host" in one.sentence] == ["host back is not running"]
        with exclusive_service(directory, "back"):
            assert not [one for one in node_status(configuration, ledger).alarms if "host" in one.sentence]


def test_processes_of_a_host_that_serves_no_more_are_told_as_they_were(tmp_path: Path, ledger: Ledger) -> None:
    configuration = _configuration(tmp_path, "back")
    directory = configuration.storage.directory
    directory.mkdir()
    states = {host: ProcessState("receiver-0", 7, True, 0, None, NOW) for host in ("front", "back")}
    for host, state in states.items():
        write_states(states_file(directory, "supervisor", host), [state])
    with exclusive_service(directory, "back"):
        found = node_status(configuration, ledger)
    assert [one.name for one in found.processes] == ["back/receiver-0"]
    (silent,) = found.silent_hosts
    assert (silent.name, silent.heard_at) == ("front", None)
    assert [one.name for one in silent.processes] == ["front/receiver-0"]


def _on_a_bucket(tmp_path: Path, host: str) -> Configuration:
    """The configuration of a host, whose storage directory is its own."""
    configuration = _configuration(tmp_path, host)
    storage = configuration.storage.model_copy(
        update={
            "directory": tmp_path / host,
            "bucket": BucketSettings(url="s3://images/node"),
            "low_watermark_mb": 0,
            "high_watermark_mb": 0,
        }
    )
    storage.directory.mkdir(exist_ok=True)
    return configuration.model_copy(update={"storage": storage})


def test_hosts_with_a_bucket_tell_each_other_of_their_processes(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, back = _on_a_bucket(tmp_path, "front"), _on_a_bucket(tmp_path, "back")
    now = utc_now()
    report = HostReport(ledger, back.storage.directory, "back")
    file = states_file(back.storage.directory, "supervisor", "back")
    with exclusive_service(front.storage.directory, "front"):
        write_states(
            states_file(front.storage.directory, "supervisor", "front"), [ProcessState("web", 1, True, 0, None, now)]
        )
        before = node_status(front, ledger)
        assert [(one.name, one.heard_at, one.processes) for one in before.silent_hosts] == [("back", None, ())]
        assert "host back is not running" in [one.sentence for one in before.alarms]
        starting = ProcessState("executor", 9, False, 0, None, now)
        write_states(file, [starting])
        report.tell(now)
        found = node_status(front, ledger)
        assert (found.silent_hosts, found.starting) == ((), ("back/executor",))
        # It dies again and again.
        write_states(file, [dataclasses.replace(starting, pid=None, failed_starts=3, last_death="exit code 1")])
        report.tell(now)
        said = [one.sentence for one in node_status(front, ledger).alarms]
        assert "process back/executor cannot start: it died 3 times in a row (exit code 1)" in said
        write_states(file, [dataclasses.replace(starting, ready=True)])
        report.tell(now)
        found = node_status(front, ledger)
        assert ([one.name for one in found.processes], found.well) == (["back/executor", "front/web"], True)
        # Its own disk is nearly full, then full.
        storage = front.storage.model_copy(update={"low_watermark_mb": 100, "high_watermark_mb": 200})
        watched = front.model_copy(update={"storage": storage})
        beat(ledger, "back", now, free_mb=150.0)
        found = node_status(watched, ledger)
        assert [(one.host, one.free_mb, one.accepts_images) for one in found.other_disks] == [("back", 150.0, True)]
        assert any("storage of host back is nearly full: 150 MB are free" in one.sentence for one in found.alarms)
        beat(ledger, "back", now, free_mb=50.0)
        found = node_status(watched, ledger)
        assert any("storage of host back is closed: 50 MB are free" in one.sentence for one in found.alarms)
        # It falls silent, with what it said last.
        report.tell(now - HOST_SILENT - dt.timedelta(seconds=1))
        found = node_status(front, ledger)
        assert [one.name for one in found.processes] == ["front/web"]
        (silent,) = found.silent_hosts
        assert silent.heard_at == now - HOST_SILENT - dt.timedelta(seconds=1)
        assert [(one.name, one.ready) for one in silent.processes] == [("back/executor", True)]
        (alarm,) = [one for one in found.alarms if "host back" in one.sentence]
        assert "has said nothing since" in alarm.sentence
        assert "start it there" in alarm.remedy
        # Of a version that says more of a process than this one knows.
        beat(ledger, "back", now, processes=[{"name": "executor", "mood": "good"}])
        assert [one.name for one in node_status(front, ledger).processes] == ["front/web"]


def test_associations_of_a_host_that_serves_no_more_are_closed_and_no_others(tmp_path: Path, ledger: Ledger) -> None:
    configuration = _configuration(tmp_path)
    InstanceFiles(configuration.storage.directory)
    ids = {host: associate(ledger, f"{host}/receiver-0") for host in ("front", "gone")}
    fetching = associate(ledger, "gone/fetch")
    for number, association in enumerate((*ids.values(), fetching)):
        record_instances(ledger, [an_instance(association, number)], at=NOW)
    with exclusive_service(configuration.storage.directory, "front"):
        assert close_receptions_of_dead_hosts(ledger, configuration, HostWatch(30.0), NOW) == 1
        assert dict(open_receptions(ledger)) == {"front": frozenset({ids["front"]})}
        assert close_receptions_of_dead_hosts(ledger, configuration, HostWatch(30.0), NOW) == 0
    # A node that names no hosts has only its own.
    alone = configuration.model_copy(update={"hosts": {}})
    assert close_receptions_of_dead_hosts(ledger, alone, HostWatch(30.0), NOW) == 0


def test_a_host_tells_the_audit_trail_what_it_received_itself(tmp_path: Path, ledger: Ledger) -> None:
    files, trail = InstanceFiles(tmp_path / "instances"), AuditTrail(tmp_path / "a.log", Participant("a", "N", "h"))
    for number, host in enumerate(("front", "front-2")):
        association = associate(ledger, f"{host}/receiver-0")
        record_instances(ledger, [an_instance(association, number)], at=utc_now())
        close_association(ledger, association, outcome="released", at=utc_now())
    assert tell_what_was_received(ledger, files, trail, "front/") == 1
    assert tell_what_was_received(ledger, files, trail, "front/") == 0
    assert tell_what_was_received(ledger, files, trail) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_hosts_that_meet_a_new_ledger_and_directory_at_once_agree(attempt: int, tmp_path: Path) -> None:
    files = InstanceFiles(tmp_path / "instances")
    ledgers = [open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite") for _ in range(4)]
    together = threading.Barrier(len(ledgers))
    failures: list[Exception] = []

    def begin(ledger: Ledger) -> None:
        together.wait(60)
        try:
            bind(ledger, files, now=NOW)
        except Exception as error:  # noqa: BLE001 - nobody sees the exception of a thread
            failures.append(error)

    threads = [threading.Thread(target=begin, args=(one,)) for one in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert is_bound(ledgers[0], files)
    assert files.identity() is not None
    for one in ledgers:
        one.close()


def test_of_two_notifiers_one_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = _configuration(tmp_path)
    InstanceFiles(configuration.storage.directory)
    telling: list[str] = []

    def tell(context: RoleContext, _configuration: Configuration) -> None:
        telling.append(context.name)
        context.stop.wait(60)

    monkeypatch.setattr(notifier, "_notify", tell)
    monkeypatch.setattr(notifier, "LOOK_EVERY_S", 0.05)
    stops = {name: threading.Event() for name in ("one", "other")}
    threads = [
        threading.Thread(target=notifier.serve_notifier, args=(RoleContext(name, stop, lambda: None), configuration))
        for name, stop in stops.items()
    ]
    for thread in threads:
        thread.start()
        wait_until(lambda: len(telling) == 1, seconds=60, what="one tells")
    stops[telling[0]].set()
    wait_until(lambda: len(telling) == 2, seconds=60, what="the other takes over")
    assert set(telling) == set(stops)
    for stop, thread in zip(stops.values(), threads, strict=True):
        stop.set()
        thread.join(60)


def test_a_port_is_shared_only_by_those_that_both_say_so() -> None:
    port = free_port()
    with contextlib.closing(listening_socket("127.0.0.1", port, shared=True)):
        with contextlib.closing(listening_socket("127.0.0.1", port, shared=True)):
            pass
        with pytest.raises(OSError, match="in use"):
            listening_socket("127.0.0.1", port)
    with (
        contextlib.closing(listening_socket("127.0.0.1", port)),
        pytest.raises(OSError, match="in use"),
    ):
        listening_socket("127.0.0.1", port, shared=True)


def test_a_host_without_receivers_counts_no_associations(tmp_path: Path) -> None:
    ports = no_listening_ports(_configuration(tmp_path))
    assert (ports.plain, ports.secure, ports.places.total()) == (None, None, 0)


def test_the_file_system_of_the_storage_directory_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    here = tmp_path / "a b"
    here.mkdir()
    named = str(here.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/node {named} nfs4 rw,local_lock=none 0 0\n")
    found, root = mount_of(here, mounts), mount_of(Path("/"), mounts)
    assert found is not None
    assert root is not None
    assert (found.kind, found.point, "local_lock=none" in found.options) == ("nfs4", here.resolve(), True)
    assert root.kind == "ext4"
    assert mount_of(here, tmp_path / "absent") is None


def test_doctor_says_which_hosts_run(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path)
    InstanceFiles(configuration.storage.directory)
    with exclusive_service(configuration.storage.directory, "back"):
        now = dt.datetime.now(dt.UTC)
        said = [one for one in examine(configuration, now=now, call_peers=False) if one.about == "hosts"]
    assert [one.sentence for one in said[:2]] == [
        "front (this one): deliverer, receiver; does not run",
        "back: executor, scheduler; runs",
    ]


def test_other_hosts_take_effect_at_the_next_start(tmp_path: Path) -> None:
    shared = StorageSettings(database="postgresql+psycopg://node@db/node", directory=tmp_path)
    running = _configuration(tmp_path).model_copy(update={"storage": shared})
    written = running.model_copy(update={"hosts": {**running.hosts, "new": running.hosts["front"]}})
    result = reloaded(running, written.model_copy(update={"delivery": DeliveryPolicy(maximum_attempts=3)}))
    assert (result.changed, result.at_next_start) == (("delivery",), ("hosts",))
    assert result.configuration.hosts == running.hosts
