"""Where objects that should be the same bytes differ: by digest first, and then by object and attribute.

A comparison of the bytes themselves, of megabytes each, takes minutes to say that they differ, and says not where.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.results.objects import ResultObject


def differences(first: Sequence[ResultObject], again: Sequence[ResultObject]) -> list[str]:
    """One line for each object whose bytes differ; empty where all are the same, in the same order."""
    roles = [[each.role.value for each in objects] for objects in (first, again)]
    if roles[0] != roles[1]:
        return [f"other objects: {roles[0]} and {roles[1]}"]
    found = []
    for one, other in zip(first, again, strict=True):
        digests = [hashlib.sha256(each.content).hexdigest() for each in (one, other)]
        if digests[0] != digests[1]:
            attributes = [*_attributes(_read(one), _read(other))] or ["how it is written"]
            found.append(f"{one.role.value} {one.sop_instance_uid}: {'; '.join(attributes)}")
    return found


def _read(each: ResultObject) -> Dataset:
    dataset = dcmread(io.BytesIO(each.content))
    dataset.update(dataset.file_meta)
    return dataset


def _attributes(one: Dataset, other: Dataset, within: str = "") -> Iterator[str]:
    for tag in sorted({*one.keys(), *other.keys()}):
        if tag not in one or tag not in other:
            yield f"{within}{(one if tag in one else other)[tag].keyword or tag} is in one of both"
            continue
        here, there = one[tag], other[tag]
        name = f"{within}{here.keyword or tag}"
        if here.VR == there.VR == "SQ" and len(here.value) == len(there.value):
            for number, items in enumerate(zip(here.value, there.value, strict=True)):
                yield from _attributes(*items, f"{name}[{number}].")
        elif here.value != there.value:
            yield f"{name} {_told(here.value, there.value)}"


def _told(here: Any, there: Any) -> str:
    if isinstance(here, bytes) and isinstance(there, bytes):
        at = next((at for at, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(here), len(there)) if at is None else at
        begin = max(0, at - 20)
        return (
            f"of {len(here)} and {len(there)} bytes from {at}: {here[begin : at + 20]!r} and {there[begin : at + 20]!r}"
        )
    return f"{str(here)[:80]!r} and {str(there)[:80]!r}"
