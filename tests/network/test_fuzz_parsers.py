"""Anything at all is parsed in this process, as the receiver does before it answers, and in the same code.

No socket, no file and no ledger, so many more inputs than ``test_fuzz.py`` sends. ``DICOM_NODE_FUZZ_PARSED`` is how
many, ``DICOM_NODE_FUZZ_SEED`` where they begin, ``DICOM_NODE_FUZZ_CORPUS`` the folder of what is kept.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicom_node.errors import CannotUnderstandError, DataSetMismatchError
from dicom_node.network.data_set import read_header
from dicom_node.network.direct import CommandError, read_command
from dicom_node.network.file_meta import encode_file_meta
from dicom_node.network.identity import IDENTIFYING, identify
from dicom_node.network.negotiation import cleaned
from network.corpus import ITEM, Corpus, damaged_bytes
from network.mutations import PLACEHOLDER, REQUEST, TEMPLATES
from network.objects import MR
from network.wire import store_request
from pipelines.cine.facts import instance_facts

INPUTS = int(os.environ.get("DICOM_NODE_FUZZ_PARSED", "3000"))
SEED = int(os.environ.get("DICOM_NODE_FUZZ_SEED", "1"))
CORPUS = os.environ.get("DICOM_NODE_FUZZ_CORPUS")
READ = 50
"""One in so many data sets that are taken is also read as the scheduler reads it, by pydicom."""


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.timeout(120 + INPUTS // 100)
def test_whatever_is_parsed_is_taken_or_refused(tmp_path: Path) -> None:
    corpus = Corpus(Path(CORPUS or tmp_path / "corpus"))
    draw = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    deepest, started = 0, time.monotonic()
    for _ in range(INPUTS):
        which = draw.random()
        if which < 0.1:
            outcomes[command_set(draw)] += 1
        elif which < 0.2:
            outcomes[request(draw)] += 1
        else:
            context_id, data = corpus.data_set(draw)
            deepest = max(deepest, data.count(ITEM))
            outcome = data_set(context_id, data)
            corpus.consider_data_set(context_id, data, outcome)
            outcomes[outcome[:4]] += 1
            if outcome == "0000" and outcomes["0000"] % READ == 1:
                outcomes["read"] += 1
                is_read(tmp_path, context_id, data)
    seconds = time.monotonic() - started
    print(
        f"\n{INPUTS} inputs parsed in {seconds:.0f} s, seed {SEED}: {dict(outcomes)}, up to {deepest} items of "
        f"sequences, {len(corpus)} kept"
    )
    assert min(outcomes[one] for one in ("0000", "C000", "A900", "command set", "request", "no request")) > 0


def data_set(context_id: int, data: bytes) -> str:
    """What is done with it: status, and why."""
    try:
        header = read_header(data, TEMPLATES[context_id][0], IDENTIFYING)
        identify(header, affected_sop_class_uid=MR, affected_sop_instance_uid=PLACEHOLDER.decode())
    except (CannotUnderstandError, DataSetMismatchError) as error:
        return f"{error.dimse_status:04X} {error.what}"
    return "0000"


def is_read(folder: Path, context_id: int, data: bytes) -> None:
    """What the receiver takes is an image, or none, to those who come after it: never an exception."""
    syntax = TEMPLATES[context_id][0]
    path = folder / "taken.dcm"
    path.write_bytes(encode_file_meta(MR, PLACEHOLDER.decode(), syntax, "MR1") + data)
    instance_facts(path).to_json()


def command_set(draw: random.Random) -> str:
    damaged = damaged_bytes(draw, store_request(1, MR, "1.2.3"))
    try:
        read_command(damaged)
    except CommandError:
        return "no command set"
    return "command set"


def request(draw: random.Random) -> str:
    damaged = damaged_bytes(draw, REQUEST)
    # Its length has been looked at before.
    damaged = b"\1\0" + max(len(damaged) - 6, 0).to_bytes(4, "big") + damaged[6:]
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(cleaned(damaged))
        pdu.to_primitive()
    except ValueError:
        # MalformedPduError, or a value that nobody can take for another: a title, the identifier of a context.
        return "no request"
    return "request"
