"""When two numbers of a patient, and two issuers, are one, and when neither can be told."""

from __future__ import annotations

import pytest

from storage.identifiers import (
    NOBODY,
    Issuer,
    KeptIdentity,
    OrderIdentity,
    PatientIdentifier,
    same_issuer,
)


def patient(number: str, namespace: str = "", universal_id: str = "") -> PatientIdentifier:
    return PatientIdentifier(number, Issuer(namespace, universal_id))


IN_MARY = (patient("0071", "ST MARY", "1.2.3"), patient("N9", "NATION"))


@pytest.mark.parametrize(
    ("patients", "same"),
    [
        ([patient("0071")], True),
        ([patient(" 0071 ", "st  mary")], True),
        ([patient("0071", "ST MARY")], True),
        ([patient("0071", "", "1.2.3")], True),
        # As one system writes it where the other belongs.
        ([patient("0071", "1.2.3")], True),
        # Universal IDs decide where both have one.
        ([patient("0071", "PAS", "1.2.3")], True),
        ([patient("0071", "ST MARY", "1.2.4")], False),
        ([patient("0071", "ST JOHN")], False),
        # Zeros at the beginning and capital letters are of the number.
        ([patient("71", "ST MARY")], False),
        ([patient("n9", "NATION")], False),
        # Any number of one may be any of the other.
        ([patient("4", "ST JOHN"), patient("N9", "NATION")], True),
        ([patient("4", "ST JOHN"), patient("5", "NATION")], False),
        ([], None),
    ],
)
def test_any_number_of_an_order_may_be_any_of_its_patient(patients: list[PatientIdentifier], same: bool | None) -> None:
    kept = KeptIdentity.of(OrderIdentity(tuple(patients)))
    assert KeptIdentity.from_json(kept.to_json()) == kept
    assert kept.same_patient(IN_MARY) is same
    assert kept.same_patient(()) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (NOBODY, NOBODY, None),
        (NOBODY, Issuer("A", "1.2"), None),
        (Issuer("A"), Issuer("", "1.2"), None),
        (Issuer("A", "1.2"), Issuer("A"), True),
        (Issuer("A", "1.2"), Issuer("B", "1.2"), True),
        (Issuer("A", "1.2"), Issuer("A", "1.3"), False),
        (Issuer("A", "1.2"), Issuer("B"), False),
        (Issuer("a "), Issuer("A"), True),
        (Issuer("1.2"), Issuer("B", "1.2"), True),
    ],
)
def test_two_issuers_are_one_differ_or_cannot_be_compared(one: Issuer, other: Issuer, same: bool | None) -> None:
    assert same_issuer(one, other) is same
    assert same_issuer(other, one) is same


def test_issuers_are_one_where_a_person_says_so() -> None:
    together = [("Z", "zz"), ("a", "B", "1.3")]
    assert same_issuer(Issuer("A", "1.2"), Issuer("b"), together)
    assert same_issuer(Issuer("A"), Issuer("", "1.3"), together)
    assert same_issuer(Issuer("A", "1.2"), Issuer("A", "1.3"), together) is False
    assert same_issuer(Issuer("A"), Issuer("C"), together) is False
    assert same_issuer(NOBODY, Issuer("A"), together) is None


def test_what_a_later_message_does_not_state_stays() -> None:
    kept = KeptIdentity.of(OrderIdentity((patient("1"),), Issuer("HIS"), Issuer("RIS")))
    assert kept.with_all_of(OrderIdentity()) == kept
    later = kept.with_all_of(OrderIdentity((patient("2"),), Issuer("PAS")))
    assert (later.same_patient([patient("1")]), later.same_patient([patient("2")])) == (False, True)
    assert (later.accession_issuer, later.number_issuer) == (Issuer("PAS"), Issuer("RIS"))
    assert KeptIdentity.from_json({}) == KeptIdentity()
    assert KeptIdentity().may_be(OrderIdentity((patient("2"),), Issuer("PAS")))


@pytest.mark.parametrize(
    ("number", "alone"),
    [
        (patient("71", "ST MARY"), True),
        (patient("071"), True),
        (patient("00000000000000000071"), True),
        (patient("71", "ST JOHN"), False),
        (patient("710", "ST MARY"), False),
        (patient("007N", "NATION"), False),
    ],
)
def test_numbers_that_differ_by_leading_zeros_alone_differ_and_are_recognised(
    number: PatientIdentifier, alone: bool
) -> None:
    kept = KeptIdentity.of(OrderIdentity((number,)))
    assert kept.same_patient(IN_MARY) is False
    assert kept.same_but_for_zeros(IN_MARY) is alone
