"""Bytes that must never change, and bytes that others can read.

Golden files, an SBE decoder that knows only the schema, and the worked example of
docs/wire-format.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import sbe

import rdmaorder
from rdmaorder import _core, messages
from rdmaorder.messages import TemplateId

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "wire-format.md"
GOLDEN = ROOT / "tests" / "golden"
SCHEMA = Path(rdmaorder.__file__).parent / "schema" / "orders.xml"

GOLDEN_EPOCH = 0x0123456789ABCDEF
GOLDEN_SEQUENCE = 0x0000000500000007


def camel(upper_snake: str) -> str:
    return "".join(word.capitalize() for word in upper_snake.split("_"))


def snake(camel_case: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", camel_case).lower()


# --- golden bytes -------------------------------------------------------------------------------

GOLDEN_VALUES: dict[str, dict[str, int]] = {
    "NewOrder": dict(
        cl_ord_id=0x0102030405060708, price=101_250_000_000, quantity=2500,
        stale_after_ns=1_700_000_000_123_456_789, instrument=0x11121314, account=0x21222324,
        smp_id=0x31323334, side=2, ord_type=2, time_in_force=3, flags=1,
    ),
    "ReplaceOrder": dict(
        cl_ord_id=0x0102030405060708, orig_cl_ord_id=0x1112131415161718, price=-5,
        quantity=0x2122232425262728, stale_after_ns=1_700_000_000_123_456_789,
        instrument=0x31323334, side=1, ord_type=2, time_in_force=1, flags=0,
    ),
    "CancelOrder": dict(
        cl_ord_id=0x0102030405060708, orig_cl_ord_id=0x1112131415161718,
        quantity=0x2122232425262728, stale_after_ns=1_700_000_000_123_456_789,
        instrument=0x31323334, account=0x41424344, side=2, flags=1,
    ),
    "MassCancel": dict(
        cl_ord_id=0x0102030405060708, instrument=0x31323334, account=0x41424344, side=2,
        scope=3, flags=1,
    ),
    "ExecutionReport": dict(
        cl_ord_id=0x0102030405060708, order_id=0x1112131415161718, price=messages.NO_PRICE,
        quantity=0x2122232425262728, leaves_quantity=0x3132333435363738,
        order_sequence_low=0x41424344, exec_type=ord("F"), ord_status=ord("1"), reason=25, flags=1,
    ),
    "SessionEvent": dict(
        from_sequence=0x0102030405060708, count=0x1112131415161718,
        time_ns=1_700_000_000_123_456_789, kind=1, reason=14,
    ),
    "StatusLine": dict(
        consumed=0x0102030405060708, applied=0x0102030405060707, durable=0x0102030405060706,
        next_sequence=0x1112131415161718, heartbeat=0x2122232425262728,
        time_ns=1_700_000_000_123_456_789, state=3, reason=17,
    ),
}  # fmt: skip


def golden_bytes(name: str) -> bytes:
    return (GOLDEN / f"wire-{snake(name).replace('_', '-')}.bin").read_bytes()


def dtype_of(name: str) -> np.dtype[np.void]:
    if name == "StatusLine":
        return messages.STATUS_LINE
    return messages.MESSAGE_DTYPES[TemplateId[snake(name).upper()]]


def encode_in_numpy(name: str) -> bytes:
    record = np.zeros(1, dtype_of(name))
    if name != "StatusLine":
        header = (48, TemplateId[snake(name).upper()], 1, 0)
        for field, value in zip(record.dtype.names or (), header, strict=False):
            record[field] = value
    for field, number in GOLDEN_VALUES[name].items():
        record[field] = number
    sealed = _core.seal_slot(record, GOLDEN_EPOCH, GOLDEN_SEQUENCE)
    assert isinstance(sealed, bytes)
    return sealed


@pytest.mark.parametrize("name", GOLDEN_VALUES)
def test_golden_bytes_decode_to_the_values_they_were_made_of(name: str) -> None:
    assert _core.verify_slot(golden_bytes(name), GOLDEN_EPOCH, GOLDEN_SEQUENCE)
    (record,) = np.frombuffer(golden_bytes(name), dtype_of(name))
    for field, number in GOLDEN_VALUES[name].items():
        assert int(record[field]) == number, field


@pytest.mark.parametrize("name", GOLDEN_VALUES)
def test_golden_bytes_are_what_numpy_and_cpp_encode_today(name: str) -> None:
    assert encode_in_numpy(name) == golden_bytes(name)
    assert _core.encode_samples(GOLDEN_EPOCH, GOLDEN_SEQUENCE)[name] == golden_bytes(name)


def test_every_golden_file_is_used() -> None:
    assert len(list(GOLDEN.glob("wire-*.bin"))) == len(GOLDEN_VALUES)


# --- an independent SBE decoder -----------------------------------------------------------------


SCHEMA_ROOT = ElementTree.parse(SCHEMA).getroot()
SBE_ENUMS = {element.attrib["name"] for element in SCHEMA_ROOT.iter("enum")}
FIELD_TYPES = {
    message.attrib["name"]: {field.attrib["name"]: field.attrib["type"] for field in message}
    for message in SCHEMA_ROOT.iter("{http://fixprotocol.io/2016/sbe}message")
}


def as_sbe_shows(message: str, field: str, value: int) -> Any:
    """What a generic SBE decoder gives for a stored number, after the schema's types."""
    type_name = FIELD_TYPES[message][field]
    if type_name == "Price":
        return {"mantissa": None if value == messages.NO_PRICE else value}
    if type_name == "Flags":
        return ["PossResend"] if value & messages.FLAG_POSS_RESEND else []
    if type_name in SBE_ENUMS:
        return camel(getattr(messages, type_name)(value).name)
    return value


@pytest.mark.parametrize("template", list(TemplateId), ids=lambda t: t.name)
def test_an_sbe_tool_decodes_what_cpp_encoded(template: TemplateId) -> None:
    name = camel(template.name)
    with SCHEMA.open("rb") as file:
        schema = sbe.Schema.parse(file)
    slot = _core.encode_samples(GOLDEN_EPOCH, GOLDEN_SEQUENCE)[name]
    decoded = schema.decode(slot)
    assert decoded.message_name == name
    assert decoded.header == {
        "blockLength": 48,
        "templateId": template.value,
        "schemaId": messages.SCHEMA_ID,
        "version": messages.SCHEMA_VERSION,
    }
    for field, value in GOLDEN_VALUES[name].items():
        assert decoded.value[field] == as_sbe_shows(name, field, value), field
    assert set(decoded.value) - set(GOLDEN_VALUES[name]) == {
        field for field in FIELD_TYPES[name] if field.startswith("reserved")
    }


# --- the worked example and slots ---------------------------------------------------------------


def worked_example() -> bytes:
    (block,) = re.findall(r"```hex\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return bytes.fromhex(block)


def test_the_worked_example_is_a_valid_order() -> None:
    slot = worked_example()
    assert _core.verify_slot(slot, 0x0123456789ABCDEF, 1)
    (order,) = np.frombuffer(slot, messages.NEW_ORDER)
    assert (order["cl_ord_id"], order["instrument"], order["account"]) == (1001, 7, 42)
    assert (order["side"], order["quantity"]) == (messages.BUY, 500)
    assert messages.format_price(order["price"]) == "101.25"
    assert order["ord_type"] == messages.OrdType.LIMIT
    assert (order["time_in_force"], order["stale_after_ns"]) == (messages.TimeInForce.DAY, 0)


def test_the_numbers_in_the_worked_example_are_those_of_its_bytes() -> None:
    slot, text = worked_example(), DOCS.read_text()
    epoch, sequence = (0x0123456789ABCDEF).to_bytes(8, "little"), (1).to_bytes(8, "little")
    assert f"= {epoch.hex(' ')}         epoch" in text
    assert f"{sequence.hex(' ')}         sequence" in text
    crc = _core.crc32c(epoch + sequence + slot[:56])
    assert f"= 0x{crc:08X}\n" in text
    assert f"= 0x{int.from_bytes(slot[56:], 'little'):016X}\n" in text
    assert f"0x{int.from_bytes(slot[16:24], 'little'):016X}" in text
    assert int.from_bytes(slot[56:60], "little") == crc


def test_the_documented_check_value_is_that_of_the_checksum() -> None:
    assert f"0x{_core.crc32c(b'123456789'):08X}" in DOCS.read_text()


@pytest.mark.parametrize("size", [64, 128, 4096])
def test_a_sealed_slot_verifies_only_as_it_is(size: int) -> None:
    slot = _core.seal_slot(bytes(range(64)) * (size // 64), 5, 6)
    assert len(slot) == size
    assert slot[: size - 8] == (bytes(range(64)) * (size // 64))[: size - 8]
    assert _core.verify_slot(slot, 5, 6)
    assert not _core.verify_slot(slot, 4, 6)
    assert not _core.verify_slot(slot, 5, 6 + 2**32)
    assert not _core.verify_slot(b"\xff" + slot[1:], 5, 6)


@pytest.mark.parametrize("size", [0, 8, 63, 65, 4160])
def test_a_slot_of_another_size_is_refused_by_name(size: int) -> None:
    with pytest.raises(ValueError, match=f"a slot of {size} bytes"):
        _core.seal_slot(bytes(size), 1, 1)
    with pytest.raises(ValueError, match=f"a slot of {size} bytes"):
        _core.verify_slot(bytes(size), 1, 1)
