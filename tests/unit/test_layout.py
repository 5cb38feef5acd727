"""Four descriptions of the same bytes, held to each other.

C++ structs (through ``rdmaorder._core``), numpy dtypes, the SBE schema and the tables of
docs/wire-format.md. Layouts are compared as ``(offset, size, name, code)`` rows, enumerations as
``{CamelCaseName: value}``.
"""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import rdmaorder
from rdmaorder import _core, messages
from rdmaorder.messages import TemplateId

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "wire-format.md"
SCHEMA = Path(rdmaorder.__file__).parent / "schema" / "orders.xml"

Row = tuple[int, int, str, str]

TEMPLATES = list(TemplateId)
ENUMS: dict[str, type[IntEnum]] = {
    enum.__name__: enum
    for enum in (
        messages.TemplateId,
        messages.Side,
        messages.OrdType,
        messages.TimeInForce,
        messages.ExecType,
        messages.OrdStatus,
        messages.Reason,
        messages.MassCancelScope,
        messages.PeerState,
        messages.SessionEventKind,
        messages.Status,
    )
}
#: not in the schema: TemplateId is the messages' ids, the others are no message fields
NOT_IN_SCHEMA = {"TemplateId", "PeerState", "Status"}
#: never on the wire
NOT_IN_DOCS = {"Status"}


def camel(upper_snake: str) -> str:
    return "".join(word.capitalize() for word in upper_snake.split("_"))


def snake(camel_case: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", camel_case).lower()


# --- the readers --------------------------------------------------------------------------------


def numpy_rows(dtype: np.dtype[Any]) -> list[Row]:
    rows = []
    assert dtype.names is not None and dtype.fields is not None
    for name in dtype.names:
        kind, offset = dtype.fields[name][:2]
        assert kind.base.byteorder in "<|" or (np.little_endian and kind.base.byteorder == "=")
        code = f"{kind.base.kind}{kind.base.itemsize}"
        count = f"*{kind.shape[0]}" if kind.shape else ""
        rows.append((offset, kind.itemsize, name, code + count))
    return rows


def block_rows(dtype: np.dtype[Any]) -> list[Row]:
    """The rows between header and commit word, counted from the start of the block."""
    return [
        (offset - 8, size, name, code)
        for offset, size, name, code in numpy_rows(dtype)
        if 8 <= offset < 56
    ]


def split_commit_word(rows: list[Row], low_name: str) -> list[Row]:
    """C++ has the commit word whole, the other descriptions its two halves."""
    *fields, (offset, size, name, code) = rows
    assert (size, name, code) == (8, "commit_word", "u8")
    return [*fields, (offset, 4, "crc32c", "u4"), (offset + 4, 4, low_name, "u4")]


def cpp_rows() -> dict[str, list[Row]]:
    return {name: [tuple(row) for row in rows] for name, rows in _core.layout_tables().items()}


class Schema:
    """orders.xml as far as a layout goes."""

    def __init__(self) -> None:
        self.root = ElementTree.parse(SCHEMA).getroot()
        self.types = {
            element.attrib["name"]: element
            for types in self.root.iter("types")
            for element in types
        }
        self.messages = {
            message.attrib["name"]: message
            for message in self.root.iter("{http://fixprotocol.io/2016/sbe}message")
        }

    def code(self, type_name: str) -> tuple[int, str]:
        """(size, numpy code of one element) of a type; a char array counts as bytes."""
        primitive = re.fullmatch(r"(u?)int(8|16|32|64)", type_name)
        if primitive:
            size = int(primitive[2]) // 8
            return size, f"{'u' if primitive[1] else 'i'}{size}"
        if type_name == "char":
            return 1, "u1"
        element = self.types[type_name]
        if element.tag in ("enum", "set"):
            return self.code(element.attrib["encodingType"])
        if element.tag == "composite":
            stored = [part for part in element if part.get("presence") != "constant"]
            assert len(stored) == 1, "a composite field here has one stored part"
            return self.code(stored[0].attrib["primitiveType"])
        size, code = self.code(element.attrib["primitiveType"])
        length = int(element.get("length", "1"))
        return size * length, code if length == 1 else f"u1*{length}"

    def rows(self, message: str) -> list[Row]:
        rows = []
        for field in self.messages[message]:
            size, code = self.code(field.attrib["type"])
            rows.append((int(field.attrib["offset"]), size, field.attrib["name"], code))
        return rows

    def enum(self, name: str) -> dict[str, int]:
        element = self.types[name]
        is_char = element.attrib["encodingType"] == "char"
        return {
            value.attrib["name"]: ord(value.text or "") if is_char else int(value.text or "")
            for value in element
        }


def docs_tables() -> dict[str, list[dict[str, str]]]:
    """Heading -> rows of the first table below it, as {column: cell}."""
    tables: dict[str, list[dict[str, str]]] = {}
    heading = ""
    columns: list[str] = []
    for line in DOCS.read_text().splitlines():
        if line.startswith("#"):
            heading, columns = line.lstrip("# "), []
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not columns:
                assert heading not in tables, f"{heading} has two tables"
                columns, tables[heading] = cells, []
            elif not set(line) <= set("|- "):
                assert len(cells) == len(columns), line
                tables[heading].append(dict(zip(columns, cells, strict=True)))
    return tables


def docs_rows(name: str) -> list[Row]:
    return [
        (int(row["offset"]), int(row["size"]), row["field"], row["type"])
        for row in docs_tables()[name]
    ]


def bytes_of(rows: list[Row]) -> list[Row]:
    """Rows with reserved arrays as plain bytes (SBE has no arrays of wide reserved words)."""
    return [
        (offset, size, name, f"u1*{size}" if "*" in code else code)
        for offset, size, name, code in rows
    ]


SBE_SCHEMA = Schema()

# --- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_every_description_of_a_message_block_is_the_same(template: TemplateId) -> None:
    name = camel(template.name)
    rows = cpp_rows()[name]
    assert block_rows(messages.MESSAGE_DTYPES[template]) == rows
    assert docs_rows(name) == rows
    assert SBE_SCHEMA.rows(name) == bytes_of(rows)


@pytest.mark.parametrize(
    "name", [*(camel(t.name) for t in TEMPLATES), "StatusLine", "OrderRecord", "ReportRecord"]
)
def test_fields_follow_each_other_without_holes(name: str) -> None:
    end = 0
    for offset, size, field, _ in cpp_rows()[name]:
        assert offset == end, field
        end += size
    assert end == (48 if name in map(camel, TemplateId.__members__) else 64)


def test_messages_are_all_there_and_no_others() -> None:
    names = {camel(template.name) for template in TEMPLATES}
    assert set(SBE_SCHEMA.messages) == names
    assert set(messages.MESSAGE_DTYPES) == set(TEMPLATES)
    ids = {name: int(message.attrib["id"]) for name, message in SBE_SCHEMA.messages.items()}
    assert ids == {camel(template.name): template.value for template in TEMPLATES}
    for message in SBE_SCHEMA.messages.values():
        assert message.attrib["blockLength"] == str(messages.BLOCK_BYTES)


def test_header_and_commit_word_frame_every_slot() -> None:
    header = cpp_rows()["MessageHeader"]
    documented = {row["field"]: row for row in docs_tables()["Slots"]}
    for dtype in [*messages.MESSAGE_DTYPES.values(), messages.SLOT]:
        rows = numpy_rows(dtype)
        assert dtype.itemsize == messages.SLOT_BYTES
        assert rows[:4] == header
        assert rows[-2:] == [(56, 4, "crc32c", "u4"), (60, 4, "sequence_low", "u4")]
    for offset, size, name, code in header:
        row = documented[name]
        assert (int(row["offset"]), int(row["size"]), row["type"]) == (offset, size, code)
    assert (documented["crc32c"]["offset"], documented["sequence_low"]["offset"]) == ("n−8", "n−4")
    assert [snake(part.attrib["name"]) for part in SBE_SCHEMA.types["messageHeader"]] == [
        name for _, _, name, _ in header
    ]


def test_status_line_is_the_same_everywhere() -> None:
    rows = split_commit_word(cpp_rows()["StatusLine"], "version_low")
    assert numpy_rows(messages.STATUS_LINE) == rows
    assert docs_rows("StatusLine") == rows


def test_order_record_is_the_cpp_struct() -> None:
    frame = [row for row in cpp_rows()["OrderRecord"] if row[2] != "block_words"]
    for record, name in [
        (messages.ORDER_RECORD, "NewOrder"),
        (messages.REPLACE_RECORD, "ReplaceOrder"),
        (messages.CANCEL_RECORD, "CancelOrder"),
        (messages.MASS_CANCEL_RECORD, "MassCancel"),
    ]:
        rows = numpy_rows(record)
        assert [row for row in rows if not 8 <= row[0] < 56] == frame
        assert block_rows(record) == cpp_rows()[name]


def test_report_record_is_the_cpp_struct() -> None:
    frame = [row for row in cpp_rows()["ReportRecord"] if row[2] != "report"]
    rows = numpy_rows(messages.REPORT_RECORD)
    assert [row for row in rows if not 8 <= row[0] < 56] == frame
    assert block_rows(messages.REPORT_RECORD) == cpp_rows()["ExecutionReport"]
    assert block_rows(messages.HANDLER_REPORT) == cpp_rows()["ExecutionReport"]
    assert numpy_rows(messages.HANDLER_REPORT)[0] == frame[0]


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENUMS)
def test_every_description_of_an_enumeration_is_the_same(name: str) -> None:
    values = {camel(member.name): member.value for member in ENUMS[name]}
    cpp = {member.removeprefix("k"): value for member, value in _core.enum_tables()[name].items()}
    assert values == cpp
    if name not in NOT_IN_SCHEMA:
        assert SBE_SCHEMA.enum(name) == values
    if name not in NOT_IN_DOCS:
        rows = docs_tables()[name]
        assert {row["name"]: int(row["value"].split()[0]) for row in rows} == values


def test_no_enumeration_is_left_out() -> None:
    assert set(_core.enum_tables()) == set(ENUMS)
    in_schema = {name for name, element in SBE_SCHEMA.types.items() if element.tag == "enum"}
    assert in_schema == set(ENUMS) - NOT_IN_SCHEMA


@pytest.mark.parametrize("name", ["ExecType", "OrdStatus"])
def test_documented_characters_are_those_of_the_codes(name: str) -> None:
    for row in docs_tables()[name]:
        code, character = row["value"].split()
        assert character == f"`{chr(int(code))}`"


def test_flags_are_the_same_everywhere() -> None:
    (choice,) = SBE_SCHEMA.types["Flags"]
    (row,) = docs_tables()["Flags"]
    assert choice.attrib["name"] == row["name"] == "PossResend"
    assert 1 << int(choice.text or "") == 1 << int(row["bit"]) == messages.FLAG_POSS_RESEND


def test_constants_are_the_same_everywhere() -> None:
    assert {name: getattr(messages, name) for name in _core.wire_constants()} == (
        _core.wire_constants()
    )
    assert int(SBE_SCHEMA.root.attrib["id"]) == messages.SCHEMA_ID
    assert int(SBE_SCHEMA.root.attrib["version"]) == messages.SCHEMA_VERSION
    assert SBE_SCHEMA.root.attrib["byteOrder"] == "littleEndian"
    mantissa, exponent = SBE_SCHEMA.types["Price"]
    assert int(exponent.text or "") == messages.PRICE_EXPONENT
    assert int(mantissa.attrib["nullValue"]) == messages.NO_PRICE
    assert 10**-messages.PRICE_EXPONENT == messages.PRICE_SCALE


@pytest.mark.parametrize(
    ("enum", "name_of"),
    [
        (messages.Status, _core.status_name),
        (messages.Reason, _core.reason_name),
        (messages.ExecType, _core.exec_type_name),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_cpp_names_are_the_python_names_in_lower_case(enum: type[IntEnum], name_of: Any) -> None:
    for member in enum:
        assert name_of(member.value) == member.name.lower()
