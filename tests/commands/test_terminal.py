"""What commands print is whole at any width: no word is broken, nothing is taken for markup."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.commands import terminal
from dicom_node.commands.terminal import console, table

UID = "1.2.840.113619.2.55.3.604688119.971.1449756284.467.1234567890.12"
Printed = Callable[..., str]
BORDERS = str.maketrans(dict.fromkeys("┃│┏┳┓┡╇┩├┼┤└┴┘━─", " "))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """What `table` prints at a width."""

    def printed(width: int, *arguments: object, **named: object) -> str:
        monkeypatch.setattr(console, "_width", width)
        capsys.readouterr()
        table(*arguments, **named)  # type: ignore[arg-type]
        return capsys.readouterr().out

    return printed


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_a_uid_is_whole_at_any_width(printed: Printed, width: int) -> None:
    columns = ["job>", "StudyInstanceUID", "state", "created", "why"]
    out = printed(width, "Jobs", columns, [(7, UID, "succeeded", "2026-03-01 12:00:00+00:00", "no short-axis cine")])
    assert UID in out
    assert "succeeded" in out
    assert "short-axis" in out


def test_what_fits_is_a_table_and_what_does_not_is_a_paragraph_a_row(printed: Printed) -> None:
    assert "┃" in printed(80, "Short", ["a", "b"], [("one", "two")])
    out = printed(80, "Studies", ["StudyInstanceUID", "from", "jobs"], [(UID, "MR1", ""), (f"{UID}3", "MR2", "1")])
    assert out.splitlines() == [
        "Studies",
        "StudyInstanceUID",
        f"  {UID} · from MR1",
        "StudyInstanceUID",
        f"  {UID}3 · from MR2 ·",
        "  jobs 1",
    ]


def test_an_empty_list_says_so_where_it_is_no_table(printed: Printed) -> None:
    assert printed(20, "Jobs", ["StudyInstanceUID", "state"], [], caption="3 more") == "Jobs\nnone\n3 more\n"


def test_columns_in_exclamation_marks_are_never_wrapped(printed: Printed) -> None:
    sentence = "of several words"
    assert sentence in printed(40, "T", ["what!", "why"], [(sentence, "because " * 9)])
    assert sentence in printed(300, "T", ["what!", "why"], [(sentence, "because " * 9)])


def test_brackets_are_no_markup(printed: Printed) -> None:
    for width in (80, 10):
        assert "[receive]" in printed(width, "Mistakes", ["sentence"], [("write [receive]",)])


@given(
    width=st.integers(20, 200),
    rows=st.lists(st.tuples(*[st.text("ab .1-[]", max_size=30)] * 3), max_size=3),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_word_is_broken(capsys: pytest.CaptureFixture[str], width: int, rows: list[tuple[str, str, str]]) -> None:
    before = terminal.console._width
    terminal.console._width = width
    try:
        capsys.readouterr()
        table("Title", ["one", "two>", "three"], rows)
    finally:
        terminal.console._width = before
    shown = capsys.readouterr().out.translate(BORDERS).split()
    for row in rows:
        for word in " ".join(row).split():
            assert word in shown
