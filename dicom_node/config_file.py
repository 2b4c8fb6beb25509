"""Reading ``config.yaml``: every mistake is named by file, line and key, in one sentence that says what to write.

``DICOM_NODE__SECTION__KEY=value`` overrides a key (``DICOM_NODE__NODE__PORT=11113``); the value is read as YAML.
"""

from __future__ import annotations

import difflib
import itertools
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dicom_node.config import BASE, Configuration, HostRole, Peer, PeerPermission, Route
from dicom_node.errors import ConfigurationError
from dicom_node.plain_words import Key, dotted, in_plain_words

__all__ = ["ConfigurationText", "Key", "Mistake", "keys_of", "load_configuration", "mistakes_between_keys"]

ENVIRONMENT_PREFIX = "DICOM_NODE__"

_REMEDY = "the shipped config.yaml explains every key"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, and where; several keys where they disagree with each other."""

    keys: tuple[Key, ...]
    sentence: str
    """What is wrong and what to write instead."""


@dataclass(frozen=True, slots=True, eq=False)
class ConfigurationText:
    """A configuration file as written: its values, where each key stands, and what the environment replaces."""

    path: Path
    root: yaml.Node | None
    values: dict[str, Any]
    overridden: Mapping[tuple[str, ...], str]
    """The environment variable that replaces a key."""

    @staticmethod
    def read(path: Path, environment: Mapping[str, str] | None = None) -> ConfigurationText:
        """Read a file and the variables that override it, ``os.environ`` unless given.

        Raises
        ------
        ConfigurationError
            The file cannot be read, is not text in UTF-8, is not YAML, or names a key twice.
        """
        return ConfigurationText.of(path, _text(path), environment)

    @staticmethod
    def of(path: Path, text: str, environment: Mapping[str, str] | None = None) -> ConfigurationText:
        """Read a text that is to stand in the file, as :meth:`read` reads the file.

        Raises
        ------
        ConfigurationError
            It is not YAML, or names a key twice.
        """
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise _not_yaml(path, error) from error
        except (ValueError, RecursionError) as error:
            # Of PyYAML's constructors: a date such as 2026-99-99, or nesting without end.
            raise ConfigurationError(
                "holds a value that cannot be read", subject=str(path), remedy="put text in quotes"
            ) from error
        if not isinstance(values, dict):
            raise ConfigurationError(
                "must be a mapping of sections", subject=str(path), remedy="start from the shipped config.yaml"
            )
        repeated = [
            f"{path}:{second}: {dotted(key)}: is written twice (first in line {first}), and only one of the two would "
            "count: give each its own name, or remove one"
            for key, first, second in _repeated(root)
        ]
        if repeated:
            raise ConfigurationError("\n".join(repeated), remedy=_REMEDY)
        return ConfigurationText(
            path, root, values, _override(values, os.environ if environment is None else environment)
        )

    def place(self, keys: Key) -> str:
        """``file:line`` of a key, or of what holds it where it is not written; or the environment variable."""
        for length in range(len(keys), 0, -1):
            variable = self.overridden.get(tuple(str(key) for key in keys[:length]))
            if variable:
                return f"environment variable {variable}"
        line, node = 1, self.root
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                match = next(((name, value) for name, value in node.value if name.value == str(key)), None)
                if match is None:
                    break
                line, node = match[0].start_mark.line + 1, match[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                break
        return f"{self.path}:{line}"

    def error(self, mistakes: Sequence[Mistake]) -> ConfigurationError:
        """The error that names all of these, a line each."""
        return ConfigurationError("\n".join(self._line(one) for one in mistakes), remedy=_REMEDY)

    def _line(self, mistake: Mistake) -> str:
        first, *others = mistake.keys
        also = "".join(f" (the other is {self.place(key)}: {dotted(key)})" for key in others)
        return f"{self.place(first)}: {dotted(first) or 'file'}: {mistake.sentence}{also}"

    def configuration(self) -> Configuration:
        """Validate the whole.

        Raises
        ------
        ConfigurationError
            With the file, the line and the key of everything that is wrong.
        """
        try:
            configuration = Configuration.model_validate(self.values, context={BASE: self.path.resolve().parent})
        except ValidationError as error:
            found = [_mistake(details) for details in _causes(error.errors(include_url=False))]
            raise self.error(list(dict.fromkeys(found))) from error
        between = list(mistakes_between_keys(configuration))
        if between:
            raise self.error(between)
        return configuration


def load_configuration(path: Path, environment: Mapping[str, str] | None = None) -> Configuration:
    """Read, override and validate a configuration file.

    Parameters
    ----------
    path
        The YAML file. Relative paths in it are relative to the directory that holds it.
    environment
        Variables to override from, ``os.environ`` unless given.

    Raises
    ------
    ConfigurationError
        With the file, the line and the key of everything that is wrong.
    """
    return ConfigurationText.read(path, environment).configuration()


# -- the file ----------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot be read: {error.strerror}", subject=str(path), remedy="give another file with --config"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            "this line is not text in UTF-8", subject=f"{path}:{line}", remedy="save the file as UTF-8"
        ) from error


def _not_yaml(path: Path, error: yaml.YAMLError) -> ConfigurationError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where = f"{path}:{error.problem_mark.line + 1}"
        return ConfigurationError(f"is not YAML: {error.problem}", subject=where, remedy="mend the line named")
    return ConfigurationError(
        "is not text: it holds control characters", subject=str(path), remedy="give the configuration file itself"
    )


def _repeated(node: yaml.Node | None, above: Key = ()) -> Iterator[tuple[Key, int, int]]:
    """Keys that a mapping names twice: the key, the line of the first and of the second."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            key, line = (*above, str(name.value)), name.start_mark.line + 1
            if name.value in lines and name.tag != "tag:yaml.org,2002:merge":
                yield key, lines[name.value], line
            lines[name.value] = line
            yield from _repeated(value, key)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated(item, (*above, index))


def _override(values: dict[str, Any], environment: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    overridden: dict[tuple[str, ...], str] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = tuple(part.lower() for part in variable.removeprefix(ENVIRONMENT_PREFIX).split("__"))
        place = values
        for key in keys[:-1]:
            below = place.setdefault(key, {})
            if not isinstance(below, dict):
                raise ConfigurationError(
                    f"{key!r} is not a section", subject=variable, remedy="correct the variable's name"
                )
            place = below
        try:
            place[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(
                "its value is not YAML", subject=f"environment variable {variable}", remedy="put text in quotes"
            ) from error
        overridden[keys] = variable
    return overridden


# -- what the model refuses -------------------------------------------------------------------------------------------


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are too short only because what stands in them is wrong."""
    wrong = {one["loc"][:-1] for one in errors}
    return [one for one in errors if not (one["type"] == "too_short" and one["loc"] in wrong)]


def _mistake(details: ErrorDetails) -> Mistake:
    at, sentence = in_plain_words(details, known=keys_of)
    return Mistake((at,), sentence)


def keys_of(keys: Key) -> list[str]:
    """Names of the keys that the section at a path may have; those of the whole file for the empty path."""
    section: Any = Configuration
    for key in keys:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(key)].annotation
        else:
            section = next(one for one in reversed(typing.get_args(section)) if one is not Ellipsis)
        if type(None) in typing.get_args(section):
            section = next(one for one in typing.get_args(section) if one is not type(None))
    return list(section.model_fields)


# -- what keys say of each other ---------------------------------------------------------------------------------------


def mistakes_between_keys(configuration: Configuration) -> Iterator[Mistake]:
    """Keys that are sound alone and not together."""
    yield from _names_resolve(configuration)
    yield from _titles_differ(configuration)
    yield from _ports_differ(configuration)
    yield from _hosts_make_a_node(configuration)


def _names_resolve(configuration: Configuration) -> Iterator[Mistake]:
    for name, peer in configuration.peers.items():
        if peer.tls and configuration.node.tls is None:
            yield Mistake((("peers", name, "tls"),), "this node has no certificate: fill in node.tls")
    destinations = configuration.results.destinations
    for name, profile in destinations.items():
        for reporter in sorted(profile.commitment_reported_by - configuration.peers.keys()):
            where: Key = ("results", "destinations", name, "commitment_reported_by")
            yield Mistake((where,), f"no peer named {reporter!r}{_named(configuration.peers, reporter)}")
        if profile.peer is None:
            continue
        key: Key = ("results", "destinations", name, "peer")
        receiver = configuration.peers.get(profile.peer)
        if receiver is None:
            yield Mistake((key,), f"no peer named {profile.peer!r}{_named(configuration.peers, profile.peer)}")
        elif PeerPermission.RECEIVE not in receiver.may:
            yield Mistake((key, ("peers", profile.peer, "may")), f"peer {profile.peer!r} may not 'receive': add it")
    for name, route in configuration.routes.items():
        for index, destination in enumerate(route.destinations):
            if destination not in destinations:
                yield Mistake(
                    (("routes", name, "destinations", index),),
                    f"no destination named {destination!r} in results.destinations{_named(destinations, destination)}",
                )
        for other in sorted(route.leaves_to - configuration.routes.keys()):
            where = ("routes", name, "leaves_to")
            yield Mistake((where,), f"no route named {other!r}{_named(configuration.routes, other)}")
        if name in _left_to(configuration.routes, name):
            yield Mistake(
                (("routes", name, "leaves_to"),), "it would stand back before itself, and nobody take the study"
            )
        for index, rule in enumerate(route.series):
            if rule.order is not None and configuration.orders.port is None:
                where = ("routes", name, "series", index, "order")
                yield Mistake((where,), "no order comes in, so that this rule would take nothing: set orders.port")
    if configuration.orders.tls and configuration.node.tls is None:
        yield Mistake((("orders", "tls"),), "this node has no certificate: fill in node.tls")


def _left_to(routes: Mapping[str, Route], name: str) -> frozenset[str]:
    """Routes before which one stands back, and those before which they do."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = routes[waiting.pop()].leaves_to.intersection(routes) - found
        found |= new
        waiting += sorted(new)
    return frozenset(found)


def _named(known: Mapping[str, object], wanted: str) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": there are {', '.join(known)}" if known else ": there is none, add it"


def _titles_differ(configuration: Configuration) -> Iterator[Mistake]:
    own = configuration.node.ae_title
    for name, peer in configuration.peers.items():
        if peer.ae_title == own:
            yield Mistake(
                (("peers", name, "ae_title"), ("node", "ae_title")),
                f"{own!r} is this node itself: a peer needs an AE title of its own",
            )
    for (one, first), (other, second) in itertools.combinations(configuration.peers.items(), 2):
        if first.ae_title == second.ae_title and _indistinguishable(first, second):
            yield Mistake(
                (("peers", other, "ae_title"), ("peers", one, "ae_title")),
                f"two peers have the AE title {first.ae_title!r}, and their hosts do not tell them apart: join them, "
                "or give each its host",
            )


def _indistinguishable(first: Peer, second: Peer) -> bool:
    """Whether an association could come from either of two peers of one AE title."""
    return not first.host or not second.host or first.host.lower() == second.host.lower()


def _ports_differ(configuration: Configuration) -> Iterator[Mistake]:
    node, web, metrics = configuration.node, configuration.web, configuration.metrics
    console, orders = configuration.console, configuration.orders
    listening = [
        (("node", "port"), node.address, node.port),
        (("node", "tls", "port"), node.address, None if node.tls is None else node.tls.port),
        (("web", "port"), web.address, web.port),
        (("console", "port"), console.address, console.port),
        (("orders", "port"), orders.address, orders.port),
        (("metrics", "port"), metrics.address, metrics.port),
    ]
    for (one, address, port), (other, other_address, other_port) in itertools.combinations(listening, 2):
        anywhere = {"0.0.0.0", "::", ""}.intersection((address, other_address))
        # node.port beside node.tls.port is told by the section itself.
        if port is not None and port == other_port and (anywhere or address == other_address) and other[0] != "node":
            yield Mistake((other, one), f"port {port} is taken by {dotted(one)}: choose another")


def _hosts_make_a_node(configuration: Configuration) -> Iterator[Mistake]:
    hosts = configuration.hosts
    if not hosts:
        return
    if not configuration.storage.database.startswith("postgresql"):
        yield Mistake(
            (("storage", "database"), ("hosts",)),
            "several hosts share one ledger, and SQLite is of one machine: write "
            "postgresql+psycopg://user:password@host/database",
        )
    notifying = [name for name, host in hosts.items() if HostRole.NOTIFIER in host.roles]
    if configuration.storage.bucket is not None and len(notifying) > 1:
        yield Mistake(
            (("hosts", notifying[1], "roles"), ("storage", "bucket")),
            f"{' and '.join(notifying)} would both notify, for hosts without a common directory know nothing of each "
            "other's mails: give the role notifier to one",
        )
    file, directory = configuration.audit.file, configuration.storage.directory
    if configuration.storage.bucket is None and file is not None and file.is_relative_to(directory):
        yield Mistake(
            (("audit", "file"), ("hosts",)),
            "lies in the storage directory, which all hosts share, and each writes a trail of its own: name a file of "
            "the machine's own",
        )
    done = frozenset[HostRole]().union(*(host.roles for host in hosts.values()))
    notifications = configuration.notifications
    wanted = {
        HostRole.RECEIVER: True,
        HostRole.SCHEDULER: True,
        HostRole.EXECUTOR: True,
        HostRole.DELIVERER: True,
        HostRole.WEB: configuration.web.port is not None,
        HostRole.CONSOLE: configuration.console.port is not None,
        HostRole.NOTIFIER: notifications.email is not None or notifications.webhook is not None,
        HostRole.ORDERS: configuration.orders.port is not None,
    }
    undone = [role.value for role, is_wanted in wanted.items() if is_wanted and role not in done]
    if undone:
        yield Mistake((("hosts",),), f"no host has the role {', '.join(undone)}: give it to one")
    sections = {
        HostRole.WEB: "web.port",
        HostRole.CONSOLE: "console.port",
        HostRole.NOTIFIER: "notifications",
        HostRole.ORDERS: "orders.port",
    }
    for name, host in hosts.items():
        for role in sorted(host.roles):
            if not wanted[role]:
                yield Mistake(
                    (("hosts", name, "roles"),), f"role {role.value} does nothing while {sections[role]} is not set"
                )
