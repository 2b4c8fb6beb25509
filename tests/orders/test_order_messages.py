"""What a message says of orders, how it is answered, and that no bytes at all do anything else."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import hl7
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicom_node.config import OrderSettings
from dicom_node.errors import OrderRefusedError
from dicom_node.orders.acknowledgement import acknowledgement
from dicom_node.orders.message import MessageHeader, OrderMessage, read_header, read_orders
from orders.order_messages import cancelled, infarct_order, order_message
from storage.identifiers import NOBODY, UNSTATED, Issuer, PatientIdentifier
from storage.orders import CancelledOrder, Order

SETTINGS = OrderSettings(port=2575, senders=("127.0.0.1",))
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def read(message: str | bytes, settings: OrderSettings = SETTINGS) -> OrderMessage:
    block = message if isinstance(message, bytes) else message.encode()
    header = read_header(block)
    assert header is not None
    return read_orders(header, block, settings)


def said(message: str | bytes, settings: OrderSettings = SETTINGS) -> tuple[Order | CancelledOrder, ...]:
    """What a message says of orders, but for whose they are."""
    return tuple(replace(one, identity=UNSTATED) for one in read(message, settings).changes)


def test_an_imaging_order_is_read_without_its_patient() -> None:
    (order,) = said(infarct_order())
    assert order == Order(
        "A1",
        "4711",
        procedures=("MRHEART", "MR heart"),
        reasons=("Chest pain", "STEMI, day 4"),
        diagnoses=("I21.0", "Acute transmural infarct of anterior wall"),
    )
    assert "Müller" not in repr(order)


@pytest.mark.parametrize("kind", ["ORM^O01", "OMG^O19^OMG_O19", "ORM"])
def test_a_general_order_has_its_accession_number_in_the_placer_field_or_the_filler_number(kind: str) -> None:
    placed = "OBR|1|4711|F9|MRHEART|||||||||STEMI|||||A7"
    for obr, accession in ((placed, "A7"), ("OBR|1|4711|F9|MRHEART|||||||||STEMI", "F9")):
        (order,) = said(order_message("ORC|NW|4711|F8", obr, "DG1|1||I21^^I10|Infarct", kind=kind))
        assert order == Order(accession, "4711", ("MRHEART",), ("STEMI",), ("I21", "Infarct"), "F9")
    elsewhere = SETTINGS.model_copy(update={"accession_number": ("ORC-3", "OBR-18")})
    (order,) = read(order_message("ORC|NW|4711|F8", placed, kind=kind), elsewhere).changes
    assert order.accession_number == "F8"


def test_each_order_of_a_message_is_its_own_and_a_diagnosis_before_all_is_of_all() -> None:
    message = order_message(
        "DG1|1||I21",
        *("ORC|NW|1", "OBR|1|1||A", "DG1|2||I50", "IPC|A1"),
        *("ORC|NW|2", "OBR|2|2||B", "IPC|A2", "IPC|A3"),
        "ORC|CA|3",
    )
    first, second, third, last = said(message)
    assert first == Order("A1", "1", ("A",), (), ("I21", "I50"))
    assert (second, third) == (Order("A2", "2", ("B",), (), ("I21",)), Order("A3", "2", ("B",), (), ("I21",)))
    assert last == CancelledOrder("", "3")


@pytest.mark.parametrize(
    ("control", "status"), [("CA", ""), ("OC", ""), ("DC", ""), ("SC", "CA"), ("XO", "DC"), ("SC", "RP")]
)
def test_a_cancelled_order_needs_no_more_than_its_number(control: str, status: str) -> None:
    assert said(order_message(f"ORC|{control}|4711^RIS|||{status}")) == (CancelledOrder("", "4711"),)


def test_an_order_that_is_cancelled_with_all_that_it_said_is_named_by_both_numbers() -> None:
    assert said(infarct_order(control="CA")) == (CancelledOrder("A1", "4711"),)
    assert said(cancelled()) == (CancelledOrder("", "4711"),)


@pytest.mark.parametrize(
    ("pid3", "patients"),
    [
        ("P1", [PatientIdentifier("P1")]),
        ("P1^^^HOSPITAL^MR", [PatientIdentifier("P1", Issuer("HOSPITAL"))]),
        (
            " 007 ^4^M11^ST MARY&1.2.3&ISO^MR~X 9^^^&1.2.4&ISO^PI",
            [PatientIdentifier("007", Issuer("ST MARY", "1.2.3")), PatientIdentifier("X 9", Issuer("", "1.2.4"))],
        ),
        ("P\\T\\1^^^A\\T\\B&1.2", [PatientIdentifier("P&1", Issuer("A&B", "1.2"))]),
        ('""', []),
        ("^^^HOSPITAL", []),
        ("", []),
    ],
)
def test_of_a_patient_the_numbers_are_read_with_who_gave_them(pid3: str, patients: list[PatientIdentifier]) -> None:
    message = infarct_order().replace("P1^^^HOSPITAL^MR", pid3)
    (order,) = read(message).changes
    assert order.identity.patients == tuple(patients)
    assert "Müller" not in repr(order)
    without = "".join(f"{line}\r" for line in message.split("\r") if line and not line.startswith("PID"))
    assert read(without).changes[0].identity.patients == ()


@pytest.mark.parametrize(
    ("pid2", "pid3", "pid4", "numbers"),
    [
        ("P2", "P3", "P4", ["P3"]),
        ("P2^^^HIS", "", "", ["P2"]),
        ("P2", '""', "P4~P5", ["P2", "P4", "P5"]),
        ("", "^^^HOSPITAL", "P4", ["P4"]),
        ("P2", "", "P2", ["P2"]),
    ],
)
def test_a_patient_has_the_numbers_that_old_systems_give_where_the_list_is_empty(
    pid2: str, pid3: str, pid4: str, numbers: list[str]
) -> None:
    message = infarct_order().replace("|P1^^^HOSPITAL^MR|", f"{pid2}|{pid3}|{pid4}")
    assert f"PID|1|{pid2}|{pid3}|{pid4}|" in message
    (order,) = read(message).changes
    assert [one.number for one in order.identity.patients] == numbers
    assert "Müller" not in repr(order)


def test_who_gave_an_accession_number_is_read_from_a_field_that_can_tell() -> None:
    orders = ("ORC|NW|4711^RIS^1.2.9^ISO|F8^MOD", "OBR|1|||MR|||||||||STEMI|||||A1^X")
    (order,) = read(order_message(*orders, "IPC|A1^HIS^1.2.3^ISO")).changes
    assert order.identity.accession_issuer == Issuer("HIS", "1.2.3")
    assert order.identity.number_issuer == Issuer("RIS", "1.2.9")
    (order,) = read(order_message(*orders)).changes
    assert (order.accession_number, order.identity.accession_issuer) == ("A1", NOBODY)
    (order,) = read(order_message(*orders), SETTINGS.model_copy(update={"accession_number": ("ORC-3",)})).changes
    assert (order.accession_number, order.identity.accession_issuer) == ("F8", Issuer("MOD"))


def test_what_was_examined_before_is_no_order_of_the_message() -> None:
    message = order_message(
        *("ORC|NW|1", "OBR|1|1||A|||||||||now|||||A1"),
        *("PID|1||OLD7", "OBR|1|0||B|||||||||STEMI|||||A0", "DG1|1||I21"),
        *("ORC|PR|2", "OBR|1|2||B|||||||||STEMI|||||A2"),
        *("ORC|NW|3", "OBR|1|3||C|||||||||after|||||A3"),
        kind="OMG^O19",
    )
    first, last = read(message).changes
    assert isinstance(first, Order)
    assert isinstance(last, Order)
    assert (first.accession_number, first.reasons, first.diagnoses) == ("A1", ("now",), ())
    assert first.identity.patients == (PatientIdentifier("P1", Issuer("HOSPITAL")),)
    assert (last.accession_number, last.reasons) == ("A3", ("after",))
    assert last.identity.patients == (PatientIdentifier("OLD7"),)


def test_an_order_is_replaced_by_others_of_its_message() -> None:
    old, new = ("ORC|RP|1", "OBR|1|1||A", "IPC|A1"), ("ORC|RO|2", "OBR|1|2||B", "IPC|A1")
    assert said(order_message(*old, *new)) == (CancelledOrder("A1", "1"), Order("A1", "2", ("B",)))
    # Without one it can only be what some senders call a change.
    assert said(order_message(*old)) == (Order("A1", "1", ("A",)),)


def test_what_tells_how_an_order_stands_is_not_all_that_there_is_to_it() -> None:
    (order,) = said(order_message("ORC|SC|4711|F8||IP", "OBR|1|4711", "IPC|A1"))
    assert order == Order("A1", "4711", filler_number="F8", whole=False)
    assert said(order_message("ORC|SC|4711|||IP")) == ()
    with pytest.raises(OrderRefusedError, match="no accession number"):
        read(order_message("ORC|SC||||IP"))


def test_one_order_in_several_parts_says_what_all_of_them_say_and_a_deleted_diagnosis_is_none() -> None:
    parts = ("OBR|1|||A|||||||||STEMI", "IPC|A1", "OBR|2||F9|B", "DG1|1||I21", "IPC|A1", f"DG1|2||I50{'|' * 18}D")
    assert said(order_message("ORC|NW|4711", *parts)) == (Order("A1", "4711", ("A", "B"), ("STEMI",), ("I21",)),)
    # Another ORC of the same number is the next thing that the message says of it.
    assert len(read(order_message("ORC|NW|4711", *parts[:2], "ORC|XO|4711", *parts[2:5])).changes) == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("STEMI\\T\\CABG \\F\\ 3 \\E\\ \\R\\ \\S\\", "STEMI&CABG | 3 \\ ~ ^"),
        ("a & b", "a & b"),
        ("line\\.br\\line\\X0D\\line", "line line line"),
        ("half an \\escape", "half an escape"),
        ("\\.sp999999999\\much", "much"),
        ("a\tb\0c\x1c d", "a b c d"),
        ('""', None),
    ],
)
def test_escape_sequences_and_control_characters_end_as_text_on_one_line(written: str, meant: str | None) -> None:
    (order,) = read(order_message("ORC|NW|1", f"OBR|1|1||M|||||||||{written}", "IPC|A1")).changes
    assert isinstance(order, Order)
    assert order.reasons == (() if meant is None else (meant,))


@pytest.mark.parametrize(
    ("stated", "codec"),
    [
        ("UNICODE UTF-8", "utf-8"),
        ("Unicode UTF-8", "utf-8"),
        ("8859/1", "iso8859-1"),
        ("8859/15", "iso8859-15"),
        ("", "utf-8"),
        ("", "iso8859-1"),
    ],
)
def test_text_is_read_in_the_character_set_that_the_message_states(stated: str, codec: str) -> None:
    header = f"MSH|^~\\&|RIS|WARD|||20260301||ORM^O01|1|P|2.3||||||{stated}"
    message = order_message("ORC|NW|1", "OBR|1|1|A1|M|||||||||Zustand nach Größe", header=header)
    (order,) = read(message.encode(codec)).changes
    assert isinstance(order, Order)
    assert order.reasons == ("Zustand nach Größe",)


def test_segments_may_end_with_line_feeds_and_other_separators_may_stand() -> None:
    expected = read(infarct_order()).changes
    assert read(infarct_order().replace("\r", "\n")).changes == expected
    assert read(infarct_order().replace("\r", "\r\n")).changes == expected
    assert read(infarct_order().replace("|", "!").replace("^", "$")).changes == expected


def test_a_message_that_comes_again_has_the_same_digest_and_one_of_other_content_has_not() -> None:
    first = read(infarct_order()).digest
    again = infarct_order().replace("20260301113000", "20260301113059")
    assert read(again).digest == first
    assert read(infarct_order(control_id="2")).digest != first
    assert read(infarct_order(reasons=("STEMI, day 5",))).digest != first
    assert read(infarct_order().replace("|RIS|WARD|", "|RIS|OTHER|")).digest != first


@pytest.mark.parametrize(
    ("message", "code", "why"),
    [
        (order_message("ORC|NW|1", kind="ADT^A01"), "AR", "MSH-9 is none of ORM O01, OMI O23, OMG O19"),
        (order_message("ORC|NW|1", kind="ORM^O02"), "AR", "event that is not taken"),
        (infarct_order().replace("|P|2.5.1", "|T|2.5.1"), "AR", "MSH-11 is not P"),
        (infarct_order().replace("|P|2.5.1", "|P|3.0"), "AR", "MSH-12 is no version 2"),
        (infarct_order(control_id=""), "AE", "MSH-10 is missing"),
        (infarct_order(control_id="9" * 200), "AE", "MSH-10 is too long"),
        (infarct_order().replace("UNICODE UTF-8", "ISO IR87"), "AE", "MSH-18 names a character set"),
        (infarct_order().encode("iso8859-1"), "AE", "not in the character set of MSH-18"),
        (order_message(), "AE", "there is no ORC"),
        (order_message("OBR|1|1||M"), "AE", "OBR comes before any ORC"),
        (order_message("ORC||1", "IPC|A1"), "AE", "ORC-1 is missing"),
        (infarct_order(control="ZZ"), "AE", "ORC-1 is missing, or says what this node does not understand"),
        (order_message("ORC|NW|1", "OBR|1|1||M"), "AE", "no accession number in IPC-1, OBR-18, OBR-3, ORC-3"),
        (order_message("ORC|CA"), "AE", "a cancelled order has no number"),
        (infarct_order("A" * 65), "AE", "the accession number in IPC-1 is too long"),
        (infarct_order(number="4" * 201), "AE", "an order number is too long"),
        (infarct_order().replace("P1^", f"{'P' * 201}^"), "AE", "a number of the patient is too long"),
        (infarct_order().replace("HOSPITAL", "H" * 201), "AE", "the issuer of a number is too long"),
        (order_message("ORC|NW|1", "OBR|1|1||M|" + "x" * 70_000, "IPC|A1"), "AE", "longer than 65536 characters"),
    ],
)
def test_what_is_wrong_is_said_in_words_that_quote_nothing(message: str | bytes, code: str, why: str) -> None:
    with pytest.raises(OrderRefusedError, match=why) as refused:
        read(message)
    block = message if isinstance(message, bytes) else message.encode()
    header = read_header(block)
    answer = hl7.parse(acknowledgement(header, refused.value, NOW).decode())
    said = answer.segment("MSA")
    assert str(said[1]) == code
    assert str(said[3]) == str(answer.segment("ERR")[8]) == refused.value.what
    assert header is not None
    assert str(said[2]) == header.control_id
    for secret in ("Müller", "STEMI", "4711", "A1", "P1", "PPP"):
        assert secret not in str(said) + str(answer.segment("ERR"))


def test_an_acknowledgement_turns_the_header_round_and_keeps_the_separators() -> None:
    message = infarct_order().replace("|", "!")
    answer = acknowledgement(read_header(message.encode()), None, NOW).decode()
    header, accepted, end = answer.split("\r")
    assert header.startswith("MSH!^~\\&!DICOMNODE!MR!RIS!WARD!20260301120000+0000!!ACK^O23^ACK!")
    assert header.endswith("!P!2.5.1")
    assert (accepted, end) == ("MSA!AA!1", "")
    unknown = acknowledgement(None, OrderRefusedError("no header", condition="100", rejects=True), NOW).decode()
    assert "MSA|AR||no header\r" in unknown


def test_a_control_id_does_not_break_the_frame_of_the_acknowledgement() -> None:
    message = infarct_order(control_id="7\x1c")
    header = read_header(message.encode())
    assert header is not None
    assert header.control_id == "7"
    assert b"\x1c" not in acknowledgement(header, None, NOW)


def outcome(block: bytes) -> OrderMessage | OrderRefusedError | None:
    """What becomes of any bytes: orders, a refusal, or no header; nothing else may be raised."""
    header = read_header(block)
    try:
        found = None if header is None else read_orders(header, block, SETTINGS)
    except OrderRefusedError as error:
        found_or_refused: OrderMessage | OrderRefusedError | None = error
    else:
        found_or_refused = found
    refusal = found_or_refused if isinstance(found_or_refused, OrderRefusedError) else None
    answer = acknowledgement(header, refusal, NOW)
    separator = (header or MessageHeader()).separators[0].encode()
    assert b"\x1c" not in answer
    assert b"\x0b" not in answer
    assert answer.startswith(b"MSH" + separator)
    assert answer.split(b"\r")[1].split(separator)[:2] in ([b"MSA", b"AA"], [b"MSA", b"AE"], [b"MSA", b"AR"])
    return found_or_refused


@given(st.binary(max_size=400))
@example(b"MSH")
@example(b"MSH|^~\\&")
@example(b"MSH|^~\\&|")
@example(b"MSH||||||")
def test_any_bytes_end_in_an_acknowledgement(block: bytes) -> None:
    outcome(block)


FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["\r", "\n", "|", "^", "~", "\\", "&", "ORC", "OBR", "DG1", "IPC", "NW", "CA", "A1", "MSH", '""']
        ),
        st.text(max_size=6),
    ),
    max_size=40,
).map("".join)


@given(FRAGMENTS, st.sampled_from(["ORM^O01", "OMI^O23", "OMG^O19"]), st.sampled_from(["", "8859/1", "GB 18030-2000"]))
def test_any_segments_end_in_orders_that_fit_or_in_an_acknowledgement(body: str, kind: str, characters: str) -> None:
    header = f"MSH|^~\\&|RIS|WARD|||20260301||{kind}|1|P|2.5||||||{characters}\r"
    found = outcome(header.encode() + body.encode("utf-8", "replace"))
    for one in found.changes if isinstance(found, OrderMessage) else ():
        assert len(one.accession_number) <= 64
        assert len(one.order_number) <= 200
        assert one.accession_number or one.order_number
        values = (*one.procedures, *one.reasons, *one.diagnoses) if isinstance(one, Order) else ()
        assert all(value.isprintable() and value == value.strip() and value for value in values)


@given(st.data())
def test_a_damaged_order_ends_in_an_acknowledgement(data: st.DataObject) -> None:
    block = bytearray(infarct_order().encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(block) - 1))
        block[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    outcome(bytes(block))
