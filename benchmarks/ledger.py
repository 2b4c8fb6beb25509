"""How fast the ledger records images, empty and with millions of instances in it.

    python benchmarks/ledger.py [--database sqlite|postgresql] [--instances N ...] [--batch N ...] [--json]

Fills one ledger for each size, then records images in all of them in turn, with every commit flushed to the disk: one
image a commit is a single sender, sixteen a commit are many at once. The medians are over the rounds. Ten million
instances take about ten minutes to fill and 11 GB of disk for each database. PostgreSQL is a server of the benchmark's
own with its default settings; only the client's share of its CPU time is counted.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Engine, create_engine, make_url, text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from postgresql_server import running_postgresql

from dicom_node.commands.terminal import print_json, table
from storage.instances import ReceivedInstance, Reception, close_association, open_association, record_instances
from storage.ledger import Ledger, open_ledger, utc_now

SCANNERS = 10
IMAGES_PER_STUDY = 400
IMAGES_PER_SERIES = 25
COMMITS_PER_ROUND = 200
SIZE = 131_072
ROOT = "1.3.12.2.1107.5.2.43"
FIRST_SCANNER = 67_000
FIRST_STUDY = 3_000_025_010_100_000_000
FIRST_SERIES = 2_025_010_100_000_000_000
FIRST_IMAGE = 5_025_010_100_000_000_000
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
SERIES = ("MR1", "MR", "cine SAX", "Cardiac", "SIEMENS", "HEART")


class Database(StrEnum):
    """What the ledger lives in."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Uids(StrEnum):
    """How SOP Instance UIDs follow one another."""

    SCANNER = "scanner"
    """Root of the scanner, time, counter: neighbours in time are neighbours in the index."""
    RANDOM = "random"
    """Derived from UUIDs (PS3.5 B.2): every one is somewhere else in the index."""


@dataclass(frozen=True)
class Measurement:
    """One size × one batch: medians over the rounds."""

    database: Database
    uids: Uids
    instances: int
    batch: int
    images_per_s: float
    ratio_to_empty: float
    cpu_us_per_image: float
    database_mb: float


@dataclass
class Filled:
    """A ledger, and the number of the image that it gets next."""

    ledger: Ledger
    size: int
    next_image: int
    megabytes: float


def main(
    database: Annotated[list[Database], typer.Option(help="Where the ledger lives.")] = list(Database),  # noqa: B006
    instances: Annotated[list[int], typer.Option(min=0, help="Sizes of the ledger.")] = [0, 1_000_000, 10_000_000],  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="Images a commit.")] = [1, 16],  # noqa: B006
    uids: Annotated[list[Uids], typer.Option(help="How SOP Instance UIDs follow one another.")] = list(Uids),  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    folder: Annotated[Path | None, typer.Option(help="Where the databases are put for the time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> None:
    """Measure the ledger."""
    measured = [
        one
        for kind in database
        for order in uids
        for one in _measure(kind, order, sorted(instances), batch, rounds, folder)
    ]
    if as_json:
        print_json(measured)
    else:
        _show(measured)


def _measure(
    kind: Database, uids: Uids, sizes: Sequence[int], batches: Sequence[int], rounds: int, folder: Path | None
) -> list[Measurement]:
    with contextlib.ExitStack() as stack:
        new_url = stack.enter_context(databases(kind, folder))
        ledgers = [filled(new_url(), size, uids) for size in sizes]
        for one in ledgers:
            stack.callback(one.ledger.close)
        for batch in batches:
            _round(ledgers, batch, uids)  # to warm up
        measured = {batch: [_round(ledgers, batch, uids) for _ in range(rounds)] for batch in batches}
        return [
            Measurement(
                database=kind,
                uids=uids,
                instances=one.size,
                batch=batch,
                images_per_s=statistics.median(turn[index][0] for turn in measured[batch]),
                ratio_to_empty=statistics.median(turn[index][0] / turn[0][0] for turn in measured[batch]),
                cpu_us_per_image=statistics.median(turn[index][1] for turn in measured[batch]),
                database_mb=one.megabytes,
            )
            for index, one in enumerate(ledgers)
            for batch in batches
        ]


@contextlib.contextmanager
def databases(kind: Database, folder: Path | None) -> Iterator[Callable[[], str]]:
    """A function that gives the URL of one more empty database."""
    if kind is Database.SQLITE:
        with tempfile.TemporaryDirectory(prefix="ledger-", dir=folder) as name:
            yield lambda: f"sqlite:///{tempfile.mkdtemp(dir=name)}/ledger.sqlite"
        return
    with running_postgresql(fsync=True, parent=folder) as url:
        server = create_engine(url, isolation_level="AUTOCOMMIT")
        names = (f"ledger_{number}" for number in range(1000))

        def create() -> str:
            name = next(names)
            with server.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            return make_url(url).set(database=name).render_as_string(hide_password=False)

        yield create
        server.dispose()


def filled(url: str, size: int, uids: Uids) -> Filled:
    ledger = open_ledger(url)
    started = time.monotonic()
    if size:
        _fill(ledger.engine, size, uids)
        print(f"{url.split(':')[0]}: {size} instances in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return Filled(ledger, size, size, _size_mb(ledger.engine))


def _fill(engine: Engine, size: int, uids: Uids) -> None:
    """Write studies that were closed long ago, made up by the database itself."""
    if engine.dialect.name == "sqlite":
        # Without a journal, which would grow as large as the ledger.
        settings = ("journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000", "foreign_keys=OFF")
        before = tuple(f"PRAGMA {setting}" for setting in settings)
        after = ("PRAGMA journal_mode=WAL",)
        words = {
            "time": "{}",
            "json": "{}",
            "last32": "substr({}, -32)",
            "digest": "lower(hex(randomblob(32)))",
            "scattered": "abs(random()) || substr('0000000000000000000' || abs(random()), -19)",
        }
    else:
        before = ("SET session_replication_role = replica", "SET synchronous_commit = off")
        after = ("VACUUM ANALYZE", "CHECKPOINT")
        words = {
            "time": "CAST({} AS TIMESTAMP)",
            "json": "CAST({} AS JSON)",
            "last32": "right({}, 32)",
            "digest": "encode(sha256(CAST(CAST(n AS TEXT) AS BYTEA)), 'hex')",
            "scattered": "replace(CAST(random() AS TEXT) || CAST(random() AS TEXT), '0.', '')",
        }
    # A connection of its own, because the settings stay with it; and for SQLite the only one.
    engine.dispose()
    pooled = engine.raw_connection()
    pooled.detach()
    with contextlib.closing(pooled):
        if engine.dialect.name == "postgresql":
            pooled.dbapi_connection.autocommit = True  # type: ignore[union-attr]
        cursor = pooled.cursor()
        for statement in (*before, *_filling(size, uids, words), *after):
            cursor.execute(statement)


def _filling(size: int, uids: Uids, words: Mapping[str, str]) -> Iterator[str]:
    """Statements of the same identifiers as below; both databases take them."""
    at = words["time"].format("'2025-01-01 00:00:00.000000'")
    study_of = f"n / {IMAGES_PER_STUDY}"
    association, association_of = (
        words["last32"].format(f"'{'0' * 32}' || CAST({number} AS TEXT)") for number in ("n", study_of)
    )
    root = f"'{ROOT}.' || CAST({FIRST_SCANNER} + {{}} % {SCANNERS} AS TEXT) || '.' || CAST({{}} AS TEXT)"
    study, study_at = root.format("n", f"{FIRST_STUDY} + n"), root.format(study_of, f"{FIRST_STUDY} + {study_of}")
    first = f"n * {IMAGES_PER_SERIES} / {IMAGES_PER_STUDY}"
    series = root.format(first, f"{FIRST_SERIES} + n")
    series_at = root.format(study_of, f"{FIRST_SERIES} + n / {IMAGES_PER_SERIES}")
    image = root.format(study_of, f"{FIRST_IMAGE} + n") if uids is Uids.SCANNER else f"'2.25.' || {words['scattered']}"

    def rows(table: str, columns: str, values: str, count: int) -> str:
        numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count})"
        return f"INSERT INTO {table} ({columns}) {numbers} SELECT {values} FROM numbers"

    nothing = words["json"].format("'{}'")
    studies = -(-size // IMAGES_PER_STUDY)
    yield rows(
        "association",
        "id, receiver, calling_ae_title, called_ae_title, address, opened_at, closed_at, outcome",
        f"{association}, 'NODE:11112/receiver-0', 'MR1', 'NODE', '10.0.0.9', {at}, {at}, 'released'",
        studies,
    )
    yield rows(
        "study",
        "study_instance_uid, version, instances, first_received_at, last_received_at, last_association_id",
        f"{study}, 1, {IMAGES_PER_STUDY}, {at}, {at}, {association}",
        studies,
    )
    yield rows("association_study", "association_id, study_id", f"{association}, n + 1", studies)
    for kind in ("reception started", "study complete", "job queued", "job succeeded"):
        yield rows(
            "event",
            "at, correlation_id, study_id, kind, subject, detail",
            f"{at}, {association}, n + 1, '{kind}', {study}, {nothing}",
            studies,
        )
    yield rows(
        "series",
        "study_id, series_instance_uid, calling_ae_title, modality, series_description, study_description, "
        "manufacturer, body_part_examined",
        f"{first} + 1, {series}, {', '.join(map(repr, SERIES))}",
        -(-size // IMAGES_PER_SERIES),
    )
    facts = "'" + json.dumps(_facts("IMAGE", "SERIES", "STUDY.1", 12.5, 31.5)) + "'"
    for name, value in (("IMAGE", image), ("SERIES", series_at), ("STUDY", study_at)):
        facts = facts.replace(name, f"' || {value} || '")
    yield rows(
        "instance",
        "series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, digest, path, size, association_id, "
        "received_at, facts, study_version",
        f"n / {IMAGES_PER_SERIES} + 1, {image}, '{MR_IMAGE_STORAGE}', '{EXPLICIT_VR_LITTLE_ENDIAN}', "
        f"{words['digest']}, 'instances/00/' || {words['digest']} || '.dcm', {SIZE}, {association_of}, {at}, "
        f"{words['json'].format(facts)}, 1",
        size,
    )


def _size_mb(engine: Engine) -> float:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            pages, page = (connection.scalar(text(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
            return float(pages * page) / 1e6
        return float(connection.scalar(text("SELECT pg_database_size(current_database())"))) / 1e6


def _round(ledgers: Sequence[Filled], batch: int, uids: Uids) -> list[tuple[float, float]]:
    """Images a second and CPU microseconds an image of each ledger, which take turns commit by commit.

    So whatever slows the machine or its disk for a while slows all of them.
    """
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(contextlib.closing(_commits(one, batch, uids))) for one in ledgers]
        wall, cpu = [0.0] * len(senders), [0.0] * len(senders)
        for turn in range(COMMITS_PER_ROUND):
            for place in range(len(senders)):
                index = (turn + place) % len(senders)
                took, used = next(senders[index])
                wall[index] += took
                cpu[index] += used
    images = COMMITS_PER_ROUND * batch
    return [(images / took, used / images * 1e6) for took, used in zip(wall, cpu, strict=True)]


def _commits(filled: Filled, batch: int, uids: Uids) -> Generator[tuple[float, float]]:
    """Send study after study over one association; gives the seconds and the CPU seconds of each commit."""
    association = open_association(
        filled.ledger,
        calling_ae_title="MR1",
        called_ae_title="NODE",
        address="10.0.0.9",
        at=utc_now(),
        receiver="bench",
    )
    try:
        while True:
            numbers = range(filled.next_image, filled.next_image + batch)
            filled.next_image += batch
            part = [_received(n, uids, association) for n in numbers]
            began, began_cpu = time.perf_counter(), time.process_time()
            receptions = record_instances(filled.ledger, part, at=utc_now())
            took = time.perf_counter() - began, time.process_time() - began_cpu
            if any(one is not Reception.NEW for one in receptions):
                raise SystemExit("an image of the benchmark was in the ledger already")
            yield took
    finally:
        close_association(filled.ledger, association, outcome="released", at=utc_now())


def _received(n: int, uids: Uids, association: str) -> ReceivedInstance:
    digest = secrets.token_hex(32)
    calling_ae_title, modality, series_description, study_description, manufacturer, body_part_examined = SERIES
    number = n // IMAGES_PER_STUDY
    root = f"{ROOT}.{FIRST_SCANNER + number % SCANNERS}"
    study = f"{root}.{FIRST_STUDY + number}"
    series = f"{root}.{FIRST_SERIES + n // IMAGES_PER_SERIES}"
    image = f"{root}.{FIRST_IMAGE + n}" if uids is Uids.SCANNER else f"2.25.{secrets.randbits(127)}"
    return ReceivedInstance(
        sop_class_uid=MR_IMAGE_STORAGE,
        sop_instance_uid=image,
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        digest=digest,
        path=f"instances/{digest[:2]}/{digest}.dcm",
        size=SIZE,
        association_id=association,
        calling_ae_title=calling_ae_title,
        modality=modality,
        series_description=series_description,
        study_description=study_description,
        manufacturer=manufacturer,
        body_part_examined=body_part_examined,
        facts=_facts(image, series, f"{study}.1", n // IMAGES_PER_SERIES % 12 * 9.3, n % IMAGES_PER_SERIES * 31.5),
    )


def _facts(image: str, series: str, frame_of_reference: str, along_mm: float, phase: float) -> dict[str, Any]:
    """As long as those of a cine frame."""
    return {
        "modality": "MR",
        "sop_class_uid": MR_IMAGE_STORAGE,
        "sop_instance_uid": image,
        "series_instance_uid": series,
        "frame_of_reference_uid": frame_of_reference,
        "rows": 256,
        "columns": 208,
        "frames": 1,
        "planes": [{"along_mm": along_mm, "normal": [0.5931, -0.3147, 0.7411], "phases": [phase]}],
        "phases_declared": IMAGES_PER_SERIES,
        "slices_declared": None,
        "own_output": False,
    }


def _show(measured: Sequence[Measurement]) -> None:
    table(
        "Images recorded, each commit flushed",
        ["database", "UIDs", "instances>", "images a commit>", "images/s>", "of empty>", "CPU µs an image>", "MB>"],
        (
            (
                one.database,
                one.uids,
                f"{one.instances:,}",
                one.batch,
                f"{one.images_per_s:,.0f}",
                f"{one.ratio_to_empty:.0%}",
                f"{one.cpu_us_per_image:.0f}",
                f"{one.database_mb:,.0f}",
            )
            for one in measured
        ),
    )


if __name__ == "__main__":
    typer.run(main)
