"""Frames and messages of the control plane: bytes to checked values and back, no sockets.

A frame is a little-endian u32 length (of what follows, 1 .. ``MAX_FRAME_BYTES``) and one msgpack
map with string keys. docs/control-plane.md lists every message and key; cpp/src/control is the
client half; tests/golden/control-*.bin hold one frame of each message for both.

Everything here comes from a peer that may be broken or hostile: limits are checked before memory is
spent, a key given twice or a value of another kind is an error, and keys nobody knows are ignored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped]

from rdmaorder.errors import HandshakeError

__all__ = [
    "ESTABLISHMENT_REJECT_CODES",
    "FRAME_HEADER_BYTES",
    "LAYOUT_VERSION",
    "MAX_FRAME_BYTES",
    "NEGOTIATION_REJECT_CODES",
    "PROTOCOL",
    "PROTOCOL_VERSION",
    "Establish",
    "Negotiate",
    "ProtocolError",
    "Terminate",
    "WindowGeometry",
    "body_length_bytes",
    "decode_body",
    "encode_frame",
    "is_session_name",
    "message_type",
]

PROTOCOL = "rdmaorder"
PROTOCOL_VERSION = 1
LAYOUT_VERSION = 1

MAX_FRAME_BYTES = 64 * 1024
FRAME_HEADER_BYTES = 4
MAX_TEXT_CHARS = 1024
_MAX_MAP_KEYS = 64
_MAX_STRING_BYTES = 4096

_U16_MAX = (1 << 16) - 1
_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1
#: Sequences stay below this, so that no sum of two of them wraps.
SEQUENCE_MAX = (1 << 63) - 1

# The same bounds as cpp/include/rdmaorder/ring/geometry.hpp and wire/slot.hpp.
SLOT_BYTES_STEP = 64
SLOT_BYTES_MAX = 4096
SLOT_COUNT_MIN = 8
SLOT_COUNT_MAX = 1 << 20
RING_OFFSET_MIN_BYTES = 128
RING_OFFSET_MAX_BYTES = 1 << 32
WINDOW_BYTES_MAX = 1 << 40

NEGOTIATION_REJECT_CODES = frozenset(
    {
        "BadRequest",
        "Credentials",
        "Draining",
        "DuplicateId",
        "FlowTypeNotSupported",
        "TooManySessions",
        "UnknownSession",
        "Unspecified",
        "VersionMismatch",
    }
)
ESTABLISHMENT_REJECT_CODES = frozenset(
    {
        "AlreadyEstablished",
        "BadRequest",
        "BadWindow",
        "Draining",
        "SessionBlocked",
        "Unnegotiated",
        "Unspecified",
    }
)

_SESSION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


class ProtocolError(HandshakeError):
    """What the peer sent cannot be answered with a yes. ``code`` is the reject code for it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _bad(text: str) -> NoReturn:
    raise ProtocolError("BadRequest", text)


def is_session_name(name: str) -> bool:
    """True for 1 .. 64 characters of ``A-Za-z0-9_.:-``."""
    return _SESSION_NAME.fullmatch(name) is not None


def encode_frame(message: Mapping[str, Any]) -> bytes:
    """The whole frame of ``message``, keys in the order of the mapping."""
    body: bytes = msgpack.packb(dict(message), use_bin_type=True)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"control frame of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return struct.pack("<I", len(body)) + body


def body_length_bytes(header: bytes) -> int:
    """Length that a frame's first ``FRAME_HEADER_BYTES`` announce; ProtocolError out of limits."""
    (length,) = struct.unpack("<I", header)
    if not 1 <= length <= MAX_FRAME_BYTES:
        _bad(f"frame of {length} bytes; a control frame has 1 to {MAX_FRAME_BYTES}")
    return int(length)


def _checked_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Object hook of the unpacker: no key twice, values are integers, strings and maps only."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            _bad(f"map key {str(key)[:40]!r} is not a string")
        if key in result:
            _bad(f"key {key[:40]!r} is given twice")
        if isinstance(value, bool) or not isinstance(value, (int, str, dict)):
            _bad(f"value of {key[:40]!r} is neither an integer nor a string nor a map")
        result[key] = value
    return result


def decode_body(body: bytes) -> dict[str, Any]:
    """The map that a frame's body holds. Raises ProtocolError("BadRequest") for all else."""
    try:
        message = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_checked_map,
            max_str_len=_MAX_STRING_BYTES,
            max_bin_len=0,
            max_array_len=0,
            max_map_len=_MAX_MAP_KEYS,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        _bad(f"frame is not one msgpack map within the limits ({type(error).__name__})")
    if not isinstance(message, dict):
        _bad("frame is not a msgpack map")
    return message


def message_type(message: Mapping[str, Any]) -> str:
    """The value of ``type``, for example "Negotiate"."""
    return _text(message, "type", MAX_TEXT_CHARS)


def _integer(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = message.get(key)
    if value is None:
        _bad(f"key {key!r} is missing")
    if not isinstance(value, int):
        _bad(f"{key} is not an integer")
    if not low <= value <= high:
        _bad(f"{key} = {value} is outside {low} .. {high}")
    return value


def _text(message: Mapping[str, Any], key: str, max_chars: int) -> str:
    value = message.get(key)
    if value is None:
        _bad(f"key {key!r} is missing")
    if not isinstance(value, str):
        _bad(f"{key} is not a string")
    if len(value) > max_chars:
        _bad(f"{key} has {len(value)} characters; the limit is {max_chars}")
    return value


def _session(message: Mapping[str, Any]) -> str:
    name = _text(message, "session", MAX_TEXT_CHARS)
    if not is_session_name(name):
        _bad(f"session {name[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return name


def _slot_bytes(message: Mapping[str, Any]) -> int:
    value = _integer(message, "slot_bytes", SLOT_BYTES_STEP, SLOT_BYTES_MAX)
    if value % SLOT_BYTES_STEP:
        _bad(f"slot_bytes = {value} is not a multiple of {SLOT_BYTES_STEP}")
    return value


def _slot_count(message: Mapping[str, Any], key: str) -> int:
    value = _integer(message, key, SLOT_COUNT_MIN, SLOT_COUNT_MAX)
    if value & (value - 1):
        _bad(f"{key} = {value} is not a power of two")
    return value


def _expect(message: Mapping[str, Any], expected: str, code: str) -> None:
    found = message_type(message)
    if found != expected:
        raise ProtocolError(code, f"expected {expected}, got {found[:40]!r}")


@dataclass(frozen=True)
class Negotiate:
    """What a strategy asks for. Sizes in bytes, counts in slots, times in CLOCK_REALTIME ns."""

    session: str
    client_version: str
    slot_bytes: int
    order_slot_count: int
    report_slot_count: int
    schema_id: int
    schema_version: int
    timestamp_ns: int
    pid: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any], gateway_version: str) -> Negotiate:
        """Checks the versions first: of another version no further key has to make sense."""
        _expect(message, "Negotiate", "BadRequest")
        protocol = _text(message, "protocol", MAX_TEXT_CHARS)
        if protocol != PROTOCOL:
            _bad(f"protocol {protocol[:40]!r}; this gateway speaks {PROTOCOL!r}")
        versions = (
            _integer(message, "protocol_version", 0, _U32_MAX),
            _integer(message, "layout_version", 0, _U32_MAX),
        )
        if versions != (PROTOCOL_VERSION, LAYOUT_VERSION):
            client = str(message.get("client_version", "unknown"))[:64]
            raise ProtocolError(
                "VersionMismatch",
                f"client {client!r} speaks protocol {versions[0]} layout {versions[1]}, gateway "
                f"{gateway_version!r} speaks protocol {PROTOCOL_VERSION} layout {LAYOUT_VERSION}; "
                "install the same rdmaorder version on both sides",
            )
        transport = _text(message, "transport", MAX_TEXT_CHARS)
        if transport != "shm":
            _bad(f"transport {transport[:40]!r}; a Unix socket carries 'shm' only")
        flow = _text(message, "flow", MAX_TEXT_CHARS)
        if flow != "Idempotent":
            raise ProtocolError(
                "FlowTypeNotSupported", f"flow {flow[:40]!r}; orders flow 'Idempotent' only"
            )
        return cls(
            session=_session(message),
            client_version=_text(message, "client_version", 64),
            slot_bytes=_slot_bytes(message),
            order_slot_count=_slot_count(message, "order_slot_count"),
            report_slot_count=_slot_count(message, "report_slot_count"),
            schema_id=_integer(message, "schema_id", 0, _U16_MAX),
            schema_version=_integer(message, "schema_version", 0, _U16_MAX),
            timestamp_ns=_integer(message, "timestamp_ns", 0, _U64_MAX),
            pid=_integer(message, "pid", 0, _U32_MAX),
        )


@dataclass(frozen=True)
class WindowGeometry:
    """A ring inside a window: status line at 0, slot 0 at ``offset_bytes``."""

    bytes: int
    offset_bytes: int
    slot_bytes: int
    slot_count: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> WindowGeometry:
        window = message.get("window")
        if not isinstance(window, dict):
            _bad("key 'window' is missing or not a map")
        geometry = cls(
            bytes=_integer(window, "bytes", 1, WINDOW_BYTES_MAX),
            offset_bytes=_integer(
                window, "offset_bytes", RING_OFFSET_MIN_BYTES, RING_OFFSET_MAX_BYTES
            ),
            slot_bytes=_slot_bytes(window),
            slot_count=_slot_count(window, "slot_count"),
        )
        if geometry.offset_bytes % SLOT_BYTES_STEP:
            raise ProtocolError(
                "BadWindow",
                f"offset_bytes = {geometry.offset_bytes} is not a multiple of {SLOT_BYTES_STEP}",
            )
        if geometry.needed_bytes > geometry.bytes:
            raise ProtocolError(
                "BadWindow",
                f"window of {geometry.bytes} bytes is too small: {geometry.slot_count} slots of "
                f"{geometry.slot_bytes} bytes at {geometry.offset_bytes} end at "
                f"{geometry.needed_bytes}",
            )
        return geometry

    @property
    def needed_bytes(self) -> int:
        """Smallest window that holds status line and ring."""
        return self.offset_bytes + self.slot_bytes * self.slot_count

    def as_map(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Establish:
    """The strategy's window and where it stands (0: take up where the gateway stands)."""

    session: str
    next_order_sequence: int
    next_report_sequence: int
    window: WindowGeometry

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Establish:
        _expect(message, "Establish", "BadRequest")
        return cls(
            session=_session(message),
            next_order_sequence=_integer(message, "next_order_sequence", 0, SEQUENCE_MAX),
            next_report_sequence=_integer(message, "next_report_sequence", 0, SEQUENCE_MAX),
            window=WindowGeometry.from_message(message),
        )


@dataclass(frozen=True)
class Terminate:
    """Ends a link. ``last_sequence``: last order sequence written (strategy) or applied."""

    code: str
    last_sequence: int
    text: str

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Terminate:
        _expect(message, "Terminate", "BadRequest")
        return cls(
            code=_text(message, "code", 64),
            last_sequence=_integer(message, "last_sequence", 0, SEQUENCE_MAX),
            text=_text(message, "text", MAX_TEXT_CHARS),
        )

    def as_message(self) -> dict[str, Any]:
        return {"type": "Terminate", **asdict(self)}
