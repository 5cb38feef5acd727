"""Control frames: golden bytes, and every way a peer can get one wrong.

``python tests/unit/test_protocol.py DIRECTORY`` writes the golden frames of this version.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmaorder.gateway import protocol
from rdmaorder.gateway.authenticate import ProofInput, client_proof, gateway_proof, is_same
from rdmaorder.gateway.protocol import (
    Authenticate,
    Endpoint,
    Establish,
    Negotiate,
    ProtocolError,
    Terminate,
    WindowGeometry,
)

WINDOW = {"bytes": 69632, "offset_bytes": 4096, "slot_bytes": 64, "slot_count": 1024}
NEGOTIATE: dict[str, Any] = {
    "type": "Negotiate",
    "protocol": "rdmaorder",
    "protocol_version": 1,
    "layout_version": 1,
    "client_version": "1.2.3",
    "session": "alpha",
    "transport": "shm",
    "schema_id": 1,
    "schema_version": 0,
    "slot_bytes": 64,
    "order_slot_count": 256,
    "report_slot_count": 1024,
    "flow": "Idempotent",
    "timestamp_ns": 1_700_000_000_123_456_789,
    "pid": 4242,
}
ESTABLISH: dict[str, Any] = {
    "type": "Establish",
    "session": "alpha",
    "next_order_sequence": 0,
    "next_report_sequence": 1,
    "window": WINDOW,
}
ENDPOINT: dict[str, Any] = {
    "qp_number": 17,
    "packet_sequence": 0xAB_CDEF,
    "gid": bytes.fromhex("00000000000000000000ffff0a010001"),
    "lid": 0,
    "mtu_bytes": 1024,
}
ESTABLISH_RDMA = ESTABLISH | {
    "window": WINDOW | {"address": 0x7F00_1234_5000, "key": 0x1020_3040},
    "endpoint": ENDPOINT,
}
KEY = bytes(range(100, 132))
OVER = ProofInput("alpha", bytes(range(32)), bytes(range(32, 64)), bytes(range(200, 232)))
TERMINATE: dict[str, Any] = {
    "type": "Terminate",
    "code": "Finished",
    "last_sequence": 5_000_000_000,
    "text": "",
}
# One frame of each message. The C++ half reads and writes the same files.
GOLDEN: dict[str, dict[str, Any]] = {
    "control-negotiate.bin": NEGOTIATE,
    "control-negotiation-response.bin": {
        "type": "NegotiationResponse",
        "gateway_version": "1.2.3",
        "session_index": 3,
        "next_order_sequence": 1,
        "next_report_sequence": 1,
        "slot_bytes": 64,
        "order_slot_count": 256,
        "report_slot_count": 1024,
        "cancel_reserve_count": 16,
        "heartbeat_interval_ns": 1_000_000,
        "pid": 1717,
    },
    "control-negotiation-reject.bin": {
        "type": "NegotiationReject",
        "code": "DuplicateId",
        "text": "session 'alpha' is live on another connection (pid 4242)",
        "protocol_version": 1,
        "layout_version": 1,
        "gateway_version": "1.2.3",
    },
    "control-establish.bin": ESTABLISH,
    "control-establishment-ack.bin": {
        "type": "EstablishmentAck",
        "epoch": 81_985_529_216_486_895,
        "next_order_sequence": 11,
        "next_report_sequence": 1,
        "not_applied_count": 4,
        "window": {"bytes": 20480, "offset_bytes": 4096, "slot_bytes": 64, "slot_count": 256},
    },
    "control-establishment-reject.bin": {
        "type": "EstablishmentReject",
        "code": "BadWindow",
        "text": "the memfd is sealed against writing",
    },
    "control-terminate.bin": TERMINATE,
    "control-challenge.bin": {"type": "Challenge", "nonce": bytes(range(32))},
    "control-authenticate.bin": {
        "type": "Authenticate",
        "client_nonce": bytes(range(32, 64)),
        "mac": client_proof(KEY, OVER),
    },
    "control-establish-rdma.bin": ESTABLISH_RDMA,
    "control-establishment-ack-rdma.bin": {
        "type": "EstablishmentAck",
        "epoch": 81_985_529_216_486_895,
        "next_order_sequence": 11,
        "next_report_sequence": 1,
        "not_applied_count": 4,
        "window": {
            "bytes": 20480,
            "offset_bytes": 4096,
            "slot_bytes": 64,
            "slot_count": 256,
            "address": 0x7FEE_DDCC_B000,
            "key": 0xFFFF_FFFE,
        },
        "endpoint": ENDPOINT | {"qp_number": 0xFF_FFFF},
    },
    "control-established.bin": {"type": "Established", "epoch": 81_985_529_216_486_895},
}
# Questions on a live link and their answers.
GOLDEN |= {
    "control-clock-question.bin": {"type": "Clock", "request": 1},
    "control-clock.bin": {"type": "Clock", "time_ns": 1_700_000_000_123_456_789, "request": 1},
    "control-resolve.bin": {
        "type": "Resolve",
        "what": "fates",
        "from_sequence": 11,
        "count": 1,
        "request": 1,
    },
    "control-resolved.bin": {
        "type": "Resolved",
        "next_order_sequence": 12,
        "fates": struct.pack("<QQQqqQIIHBBBBBx", 11, 7, 9, -5, 10, 3, 4, 1, 1, 4, 0, 0, 0, 1),
        "request": 1,
    },
    "control-kill.bin": {"type": "Kill", "request": 1},
    "control-killed.bin": {
        "type": "Killed",
        "sessions": 1,
        "canceled": 2,
        "fence_ns": 12_345,
        "recorded": 1,
        "request": 1,
    },
    "control-refused.bin": {
        "type": "Refused",
        "code": "NoJournal",
        "text": "this gateway has no journal",
        "request": 1,
    },
}
# What an end on a device that keeps the order of bytes adds.
GOLDEN["control-established-in-order.bin"] = GOLDEN["control-established.bin"] | {
    "data_in_order": 1
}
GOLDEN["control-establishment-ack-in-order.bin"] = GOLDEN["control-establishment-ack-rdma.bin"] | {
    "data_in_order": 1
}


def code_of(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    return caught.value.code, str(caught.value)


def negotiate(**changes: Any) -> Any:
    return Negotiate.from_message(NEGOTIATE | changes, "9.9.9")


CODES = protocol.NEGOTIATION_REJECT_CODES | protocol.ESTABLISHMENT_REJECT_CODES


def read_or_code(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or the code of its refusal; anything else it raises is a failure."""
    try:
        return read()
    except ProtocolError as error:
        return error.code if str(error) and len(str(error)) < 1024 else f"text {error}"


# -- frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_every_message_is_the_golden_frame_in_both_directions(name: str, golden: Path) -> None:
    frame = (golden / name).read_bytes()
    assert protocol.encode_frame(GOLDEN[name]) == frame
    assert protocol.body_length_bytes(frame[:4]) == len(frame) - 4
    assert protocol.decode_body(frame[4:]) == GOLDEN[name]


@pytest.mark.parametrize("length", [0, protocol.MAX_FRAME_BYTES + 1, 0xFFFF_FFFF, 0x54455047])
def test_a_length_outside_the_limits_is_refused_before_anything_is_read(length: int) -> None:
    code, text = code_of(protocol.body_length_bytes, struct.pack("<I", length))
    assert code == "BadRequest"
    assert str(length) in text


def test_a_frame_of_the_greatest_length_is_accepted() -> None:
    assert protocol.body_length_bytes(struct.pack("<I", protocol.MAX_FRAME_BYTES)) == 65536


def test_a_message_above_the_frame_limit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="limit is 65536"):
        protocol.encode_frame({"type": "x" * 70_000})


BROKEN_BODIES = {
    "not msgpack": b"\xc1",
    "truncated": protocol.encode_frame(NEGOTIATE)[4:-1],
    "something after the map": protocol.encode_frame(NEGOTIATE)[4:] + b"\x00",
    "a string": msgpack.packb("Negotiate"),
    "an array": msgpack.packb(["Negotiate"]),
    "an integer key": b"\x81\x01\x02",
    "a binary key": b"\x81\xc4\x01a\x02",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a key twice in an inner map": b"\x81\xa1w\x82\xa1a\x01\xa1a\x02",
    "a float": msgpack.packb({"type": 1.5}),
    "a boolean": msgpack.packb({"type": True}),
    "nil": msgpack.packb({"type": None}),
    "a binary too long": msgpack.packb({"type": "x", "b": bytes(65)}),
    "an array value": msgpack.packb({"type": [1]}),
    "an extension": msgpack.packb({"type": msgpack.ExtType(5, b"x")}),
    "a timestamp": b"\x81\xa1t\xd6\xff\x00\x00\x00\x00",
    "text that is not UTF-8": b"\x81\xa1t\xa2\xff\xfe",
    "an overlong string": msgpack.packb({"type": "x" * 5000}),
    "too many keys": msgpack.packb({str(n): n for n in range(65)}),
    "a map of four thousand million keys": b"\xdf\xff\xff\xff\xff",
    "a string of four thousand million bytes": b"\x81\xa1t\xdb\xff\xff\xff\xff",
    "maps nested to the end of the frame": b"\x81\xa1w" * 20_000,
    "empty": b"",
}


@pytest.mark.parametrize("kind", BROKEN_BODIES)
def test_a_body_that_is_no_map_of_the_protocol_is_a_bad_request(kind: str) -> None:
    assert code_of(protocol.decode_body, BROKEN_BODIES[kind])[0] == "BadRequest"


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_a_map_or_a_bad_request(body: bytes) -> None:
    outcome = read_or_code(lambda: protocol.decode_body(body))
    assert outcome == "BadRequest" or all(isinstance(key, str) for key in outcome)


VALUES = st.integers(-(2**63), 2**64 - 1) | st.text(max_size=80)
MAPS = st.dictionaries(
    st.sampled_from([*NEGOTIATE, *ESTABLISH, *TERMINATE]),
    VALUES | st.dictionaries(st.sampled_from([*WINDOW]), VALUES),
)


@settings(max_examples=500, deadline=None)
@given(MAPS, st.sampled_from([NEGOTIATE, ESTABLISH, TERMINATE]))
def test_a_message_with_random_values_is_read_or_refused(
    changes: dict[str, Any], message: dict[str, Any]
) -> None:
    mixed = protocol.decode_body(protocol.encode_frame(message | changes)[4:])
    for read in (
        lambda: Negotiate.from_message(mixed, "9.9.9"),
        lambda: Establish.from_message(mixed),
        lambda: Terminate.from_message(mixed),
    ):
        outcome = read_or_code(read)
        assert isinstance(outcome, (Negotiate, Establish, Terminate)) or outcome in CODES


# -- Negotiate ---------------------------------------------------------------------------------


def test_a_good_negotiate_is_read_key_by_key() -> None:
    assert negotiate() == Negotiate(
        session="alpha",
        client_version="1.2.3",
        slot_bytes=64,
        order_slot_count=256,
        report_slot_count=1024,
        schema_id=1,
        schema_version=0,
        timestamp_ns=1_700_000_000_123_456_789,
        pid=4242,
    )


def test_keys_nobody_knows_are_ignored() -> None:
    assert negotiate(colour="blue") == negotiate()


@pytest.mark.parametrize("key", ["protocol_version", "layout_version"])
def test_another_version_is_refused_with_both_versions_named(key: str) -> None:
    code, text = code_of(lambda: negotiate(**{key: 7}))
    assert code == "VersionMismatch"
    assert "'1.2.3'" in text
    assert "'9.9.9'" in text
    assert "7" in text


def test_a_later_version_may_lack_keys_of_this_one() -> None:
    later = {"type": "Negotiate", "protocol": "rdmaorder", "protocol_version": 2}
    code, text = code_of(Negotiate.from_message, later | {"layout_version": 1}, "9.9.9")
    assert code == "VersionMismatch"
    assert "unknown" in text


@pytest.mark.parametrize("key", [key for key in NEGOTIATE if key != "type"])
def test_a_missing_key_is_named(key: str) -> None:
    message = {k: v for k, v in NEGOTIATE.items() if k != key}
    code, text = code_of(Negotiate.from_message, message, "9.9.9")
    assert code == "BadRequest"
    assert key in text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "Establish"}, "BadRequest"),
        ({"type": 3}, "BadRequest"),
        ({"protocol": "http"}, "BadRequest"),
        ({"protocol_version": "1"}, "BadRequest"),
        ({"transport": "verbs"}, "BadRequest"),
        ({"flow": "Recoverable"}, "FlowTypeNotSupported"),
        ({"session": ""}, "BadRequest"),
        ({"session": "a" * 65}, "BadRequest"),
        ({"session": "alpha\n"}, "BadRequest"),
        ({"session": "a/b"}, "BadRequest"),
        ({"session": "älpha"}, "BadRequest"),
        ({"session": "٣"}, "BadRequest"),
        ({"slot_bytes": 0}, "BadRequest"),
        ({"slot_bytes": 96}, "BadRequest"),
        ({"slot_bytes": 4160}, "BadRequest"),
        ({"order_slot_count": 4}, "BadRequest"),
        ({"order_slot_count": 100}, "BadRequest"),
        ({"report_slot_count": 1 << 21}, "BadRequest"),
        ({"schema_id": 65536}, "BadRequest"),
        ({"pid": -1}, "BadRequest"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_negotiate_with_a_wrong_value_is_refused(change: dict[str, Any], code: str) -> None:
    found, text = code_of(lambda: negotiate(**change))
    assert found == code
    assert text


@pytest.mark.parametrize("name", ["a", "A-Z_0.9:x", "a" * 64])
def test_session_names_of_the_allowed_characters_are_taken(name: str) -> None:
    assert negotiate(session=name).session == name


# -- Establish, Terminate ----------------------------------------------------------------------


def test_a_good_establish_is_read_key_by_key() -> None:
    assert Establish.from_message(ESTABLISH) == Establish(
        "alpha", 0, 1, WindowGeometry(69632, 4096, 64, 1024)
    )


@pytest.mark.parametrize(
    ("window", "code"),
    [
        ({"bytes": 69631}, "BadWindow"),
        ({"offset_bytes": 4097}, "BadWindow"),
        ({"offset_bytes": 0}, "BadRequest"),
        ({"offset_bytes": (2 << 20) + 64}, "BadRequest"),
        ({"slot_bytes": 65}, "BadRequest"),
        ({"slot_count": 1000}, "BadRequest"),
        ({"slot_count": 2048}, "BadWindow"),
        ({"bytes": 1 << 50}, "BadRequest"),
        ({"bytes": "many"}, "BadRequest"),
    ],
    ids=str,
)
def test_an_impossible_window_is_refused(window: dict[str, Any], code: str) -> None:
    message = ESTABLISH | {"window": WINDOW | window}
    assert code_of(Establish.from_message, message)[0] == code


@pytest.mark.parametrize("window", [7, "w", {}])
def test_an_establish_without_a_window_is_refused(window: Any) -> None:
    message = ESTABLISH | {"window": window}
    assert code_of(Establish.from_message, message)[0] == "BadRequest"


def test_sequences_stop_where_sums_could_wrap() -> None:
    message = ESTABLISH | {"next_order_sequence": 1 << 63}
    assert "next_order_sequence" in code_of(Establish.from_message, message)[1]


def test_a_terminate_is_read_and_written_the_same() -> None:
    assert Terminate.from_message(TERMINATE).as_message() == TERMINATE


# -- RDMA and authentication -------------------------------------------------------------------


def test_an_endpoint_and_its_window_survive_both_ways() -> None:
    asked = Establish.from_message(ESTABLISH_RDMA, "rdma")
    assert asked.endpoint is not None
    assert asked.remote_window is not None
    assert asked.endpoint.as_map() == ENDPOINT
    assert asked.remote_window.as_map() == ESTABLISH_RDMA["window"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qp_number", 1 << 24),
        ("qp_number", 1),
        ("qp_number", 0),
        ("packet_sequence", 1 << 24),
        ("gid", bytes(15)),
        ("gid", bytes(17)),
        ("gid", "0" * 16),
        ("gid", None),
        ("lid", 1 << 16),
        ("mtu_bytes", 128),
        ("mtu_bytes", 1000),
        ("mtu_bytes", 8192),
    ],
)
def test_an_endpoint_out_of_its_limits_is_refused(key: str, value: Any) -> None:
    changed = {name: each for name, each in (ENDPOINT | {key: value}).items() if each is not None}
    code, text = code_of(Endpoint.from_message, {"endpoint": changed})
    assert (code, key in text) == ("BadRequest", True)


@pytest.mark.parametrize(
    ("key", "value"), [("address", (1 << 64) - 1), ("address", -1), ("key", 1 << 32), ("key", "x")]
)
def test_a_window_out_of_the_address_space_is_refused(key: str, value: Any) -> None:
    window = ESTABLISH_RDMA["window"] | {key: value}
    code, text = code_of(Establish.from_message, ESTABLISH_RDMA | {"window": window}, "rdma")
    assert (code, key in text) == ("BadRequest", True)


def test_each_kind_of_connection_carries_its_own_transport_only() -> None:
    assert "TCP carries 'rdma'" in code_of(Negotiate.from_message, NEGOTIATE, "9", "rdma")[1]
    assert "'shm' only" in code_of(negotiate_as_rdma)[1]
    assert "endpoint" in code_of(Establish.from_message, without_endpoint(), "rdma")[1]


def negotiate_as_rdma() -> Negotiate:
    return Negotiate.from_message(NEGOTIATE | {"transport": "rdma"}, "9.9.9")


def without_endpoint() -> dict[str, Any]:
    return {key: value for key, value in ESTABLISH_RDMA.items() if key != "endpoint"}


def test_a_proof_depends_on_every_input_and_on_who_proves() -> None:
    other = bytes(32)
    proofs = [
        client_proof(KEY, OVER),
        gateway_proof(KEY, OVER),
        client_proof(other, OVER),
        client_proof(KEY, dataclasses.replace(OVER, session="alphb")),
        client_proof(KEY, dataclasses.replace(OVER, gateway_nonce=other)),
        client_proof(KEY, dataclasses.replace(OVER, client_nonce=other)),
        client_proof(KEY, dataclasses.replace(OVER, binding=b"")),
    ]
    assert len(set(proofs)) == len(proofs)
    assert is_same(client_proof(KEY, OVER), proofs[0])
    assert not is_same(proofs[0], proofs[0][:-1])


def test_authenticate_takes_exactly_32_bytes_of_each() -> None:
    good = {"type": "Authenticate", "client_nonce": bytes(32), "mac": bytes(32)}
    assert Authenticate.from_message(good).mac == bytes(32)
    assert "31 bytes" in code_of(Authenticate.from_message, good | {"mac": bytes(31)})[1]
    assert "not a binary" in code_of(Authenticate.from_message, good | {"mac": "m" * 32})[1]


if __name__ == "__main__":
    for file_name, content in GOLDEN.items():
        (Path(sys.argv[1]) / file_name).write_bytes(protocol.encode_frame(content))
