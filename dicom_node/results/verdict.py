"""What a package came to on a study, in the words that the ledger keeps and the front page says."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pipelines.package import packages

__all__ = ["Verdict", "VerdictKind", "headline", "package_headline"]


class VerdictKind(enum.StrEnum):
    """How a package ended on a study version."""

    DELIVERED = "delivered"
    """Its results passed the gate, all of them."""
    DECLINED = "declined"
    """The study is the obstacle; trying again on the same images cannot help."""
    PARTIAL = "partial"
    """Some of its results were kept back by the gate: in ledgers of earlier versions; now a set leaves whole or not."""
    FAILED = "failed"
    """This software or its surroundings are the obstacle: a defect, a missing model, a timeout, a crash."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one package.

    Attributes
    ----------
    package : str
        Its name.
    kind : VerdictKind
    sentences : tuple of str
        Why it was declined or failed, or what was kept back; empty where all went well. No patient data.
    key_numbers : tuple of str
        What was found, in sentences for the front page; empty unless something is delivered.
    """

    package: str
    kind: VerdictKind
    sentences: tuple[str, ...] = ()
    key_numbers: tuple[str, ...] = ()


def headline(title: str) -> str:
    """A title as it stands at the head of a page."""
    return f"{title[:1].upper()}{title[1:]}"


def package_headline(package: str) -> str:
    """Title of a package as it stands at the head of what is said of it; also of one that is not installed any more."""
    known = packages().get(package)
    return headline(known.title if known is not None else package.replace("_", " "))
