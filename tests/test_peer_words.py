"""Words of peers that are kept: what is wrong, and nobody's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.peer_words import LONGEST, in_few_words


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Patient ID in received C-STORE does not match", "Patient ID in received C-STORE does not match"),
        ("Unable to store: no space left on device", "Unable to store no space left on device"),
        ("Missing attribute (0010,0020) PatientID", "Missing attribute PatientID"),
        ("UID 1.2.840.9 already stored for Meier^Hans, born 19500102", "UID already stored for …"),
        ("Patient MEIER^HANS*19500102 (4711) unknown", "Patient … unknown"),
        ("Müller-Lüdenscheid: Auftrag nicht gefunden", "… Auftrag nicht gefunden"),
        ("no order for John Fitzgerald Smith in the worklist", "no order for … in the worklist"),
        ("o'Neill", ""),
        ("山田^太郎", ""),
        ("McDonald", ""),
        ("Das, Ian", ""),
        ("", ""),
        ("4711", ""),
    ],
)
def test_what_is_wrong_is_kept_and_no_name(said: str, kept: str) -> None:
    assert in_few_words(said) == kept


def test_words_are_not_cut_in_the_middle() -> None:
    said = in_few_words("the database cannot be written " * 5)
    assert said == "the database cannot be written the database cannot be"
    assert len(said) <= LONGEST


@given(st.text(max_size=200))
def test_whatever_is_said_no_figure_is_kept(said: str) -> None:
    kept = in_few_words(said)
    assert len(kept) <= LONGEST
    assert not any(sign.isdecimal() for sign in kept)
    # What was kept is kept again.
    assert in_few_words(kept).replace("… ", "").replace(" …", "") == kept.replace("… ", "").replace(" …", "")
