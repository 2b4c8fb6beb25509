"""Whose an order and a study are, and who gave the accession number: what both state must agree.

An accession number alone names no study where two hospitals send to one node, or where a system has begun to count from
the beginning again. Of the numbers of patients the ledger keeps with an order salted digests alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "NOBODY",
    "UNSTATED",
    "Issuer",
    "KeptIdentity",
    "OrderIdentity",
    "PatientIdentifier",
    "SameIssuers",
    "StudyIdentity",
    "same_issuer",
]

_LONGEST_PADDED = 64
"""Characters."""

SameIssuers = Collection[Collection[str]]
"""Groups of names of one issuer, as a person says."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who gave a number: an HL7 hierarchic designator, or what DICOM says in its place; empty where not stated.

    Attributes
    ----------
    namespace
        HD-1, EI-2; IssuerOfPatientID (0010,0021), LocalNamespaceEntityID (0040,0031).
    universal_id
        HD-2, EI-3; UniversalEntityID (0040,0032).
    """

    namespace: str = ""
    universal_id: str = ""


NOBODY = Issuer()


@dataclass(frozen=True, slots=True)
class PatientIdentifier:
    """A number of a patient, as it is written: zeros at its beginning, and capital letters, count. Patient data."""

    number: str
    issuer: Issuer = NOBODY


@dataclass(frozen=True, slots=True)
class OrderIdentity:
    """What a message states of whose an order is.

    Attributes
    ----------
    patients
        All that name the one patient.
    accession_issuer, number_issuer
        Of the accession number, and of the number of the order.
    """

    patients: tuple[PatientIdentifier, ...] = ()
    accession_issuer: Issuer = NOBODY
    number_issuer: Issuer = NOBODY


UNSTATED = OrderIdentity()


@dataclass(frozen=True, slots=True)
class StudyIdentity:
    """What the header of a study states of whose it is: patient data."""

    patients: tuple[PatientIdentifier, ...] = ()
    accession_issuer: Issuer = NOBODY


def same_issuer(one: Issuer, other: Issuer, same: SameIssuers = ()) -> bool | None:
    """Whether two issuers are one; ``None`` where they state nothing that can be compared.

    Universal IDs decide where both have one, else namespaces; case does not count, as no two hospitals differ by it.
    Some systems put the one where the other belongs, so that the same word in either place is the same issuer.
    """
    (namespace, universal), (other_namespace, other_universal) = _names(one, same), _names(other, same)
    if universal and other_universal:
        return universal == other_universal
    if {namespace, universal} & {other_namespace, other_universal} - {""}:
        return True
    return namespace == other_namespace if namespace and other_namespace else None


def _names(one: Issuer, same: SameIssuers) -> tuple[str, str]:
    return _name(one.namespace, same), _name(one.universal_id, same)


def _name(word: str, same: SameIssuers) -> str:
    plain = _plain(word).casefold()
    for group in same:
        known = sorted(_plain(one).casefold() for one in group)
        if plain in known:
            return known[0]
    return plain


def _plain(word: str) -> str:
    return " ".join(word.split())


@dataclass(frozen=True, slots=True)
class KeptIdentity:
    """What the ledger keeps of an :class:`OrderIdentity`.

    Attributes
    ----------
    salt
        Drawn for each order. It keeps digests of one number from being alike; it does not keep somebody who has the
        ledger from trying all numbers that a hospital can have given.
    patients
        HMAC-SHA256 of each number by the salt, and its issuer.
    """

    salt: str = ""
    patients: tuple[tuple[str, Issuer], ...] = ()
    accession_issuer: Issuer = NOBODY
    number_issuer: Issuer = NOBODY

    @classmethod
    def of(cls, stated: OrderIdentity) -> KeptIdentity:
        """Draw a salt and digest what a message states."""
        salt = secrets.token_hex(16)
        patients = tuple((_digest(salt, one.number), one.issuer) for one in stated.patients)
        return cls(salt, patients, stated.accession_issuer, stated.number_issuer)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> KeptIdentity:
        """Read what :meth:`to_json` gave; nothing is stated where it is empty."""
        if not kept:
            return cls()
        patients = tuple((digest, Issuer(*issuer)) for digest, *issuer in kept["patients"])
        return cls(kept["salt"], patients, Issuer(*kept["accession_issuer"]), Issuer(*kept["number_issuer"]))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "salt": self.salt,
            "patients": [[digest, one.namespace, one.universal_id] for digest, one in self.patients],
            "accession_issuer": [self.accession_issuer.namespace, self.accession_issuer.universal_id],
            "number_issuer": [self.number_issuer.namespace, self.number_issuer.universal_id],
        }

    def with_all_of(self, stated: OrderIdentity) -> KeptIdentity:
        """This, with what a later message states in place of what it states of the same."""
        later = KeptIdentity.of(stated)
        salt, patients = (later.salt, later.patients) if later.patients else (self.salt, self.patients)
        return KeptIdentity(
            salt,
            patients,
            self.accession_issuer if stated.accession_issuer == NOBODY else stated.accession_issuer,
            self.number_issuer if stated.number_issuer == NOBODY else stated.number_issuer,
        )

    def same_patient(self, patients: Sequence[PatientIdentifier], same: SameIssuers = ()) -> bool | None:
        """Whether any number of the order and any of a patient are one; ``None`` where either states none."""
        if not self.patients or not patients:
            return None
        return any(
            hmac.compare_digest(digest, _digest(self.salt, one.number))
            and same_issuer(issuer, one.issuer, same) is not False
            for one in patients
            for digest, issuer in self.patients
        )

    def same_but_for_zeros(self, patients: Sequence[PatientIdentifier], same: SameIssuers = ()) -> bool:
        """Whether a number of the order and one of a patient were one without the zeros that either begins with.

        Such numbers differ (:meth:`same_patient`): a hospital may give both. Often one system pads and another does
        not, and then a person has to know.
        """
        return any(
            hmac.compare_digest(digest, _digest(self.salt, padded))
            and same_issuer(issuer, one.issuer, same) is not False
            for one in patients
            for padded in _padded(one.number)
            for digest, issuer in self.patients
        )

    def may_be(self, stated: OrderIdentity, same: SameIssuers = ()) -> bool:
        """Whether a message that names the same numbers can mean this order: nothing that both state contradicts."""
        return False not in (
            self.same_patient(stated.patients, same),
            same_issuer(self.accession_issuer, stated.accession_issuer, same),
            same_issuer(self.number_issuer, stated.number_issuer, same),
        )


def _padded(number: str) -> Iterator[str]:
    """A number with no zero at its beginning, one, and so on, up to the length that DICOM allows (VR LO)."""
    bare = _plain(number).lstrip("0")
    for length in range(len(bare), _LONGEST_PADDED + 1):
        yield bare.rjust(length, "0")


def _digest(salt: str, number: str) -> str:
    return hmac.new(bytes.fromhex(salt), _plain(number).encode(), hashlib.sha256).hexdigest()
