"""Frames of the control plane and the values in them: bytes to checked maps and back, no sockets.

A frame is a little-endian u32 length (of what follows, 1 .. ``MAX_FRAME_BYTES``) and one msgpack
map with string keys. protocol.py has the messages.

Everything here comes from a peer that may be broken or hostile: limits are checked before memory is
spent, a key given twice or a value of another kind is an error, and keys nobody knows are ignored.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped]

from rdmaorder.errors import HandshakeError

__all__ = [
    "FRAME_HEADER_BYTES",
    "LAYOUT_VERSION",
    "MAX_FRAME_BYTES",
    "PROTOCOL",
    "PROTOCOL_VERSION",
    "ProtocolError",
    "binary_of",
    "body_length_bytes",
    "decode_body",
    "encode_frame",
    "expect_type",
    "integer_of",
    "is_session_name",
    "map_of",
    "message_type",
    "refuse_bad",
    "session_of",
    "slot_bytes_of",
    "slot_count_of",
    "text_of",
]

PROTOCOL = "rdmaorder"
PROTOCOL_VERSION = 1
LAYOUT_VERSION = 1

MAX_FRAME_BYTES = 64 * 1024
FRAME_HEADER_BYTES = 4
MAX_TEXT_CHARS = 1024
_MAX_MAP_KEYS = 64
_MAX_STRING_BYTES = 4096
_MAX_BINARY_BYTES = 64

U16_MAX = (1 << 16) - 1
U24_MAX = (1 << 24) - 1
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1
#: Sequences stay below this, so that no sum of two of them wraps.
SEQUENCE_MAX = (1 << 63) - 1

# The same bounds as cpp/include/rdmaorder/ring/geometry.hpp and wire/slot.hpp.
SLOT_BYTES_STEP = 64
SLOT_BYTES_MAX = 4096
SLOT_COUNT_MIN = 8
SLOT_COUNT_MAX = 1 << 20
RING_OFFSET_MIN_BYTES = 128
RING_OFFSET_MAX_BYTES = 2 << 20
WINDOW_BYTES_MAX = 1 << 40

_SESSION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


class ProtocolError(HandshakeError):
    """What the peer sent cannot be answered with a yes. ``code`` is the reject code for it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def refuse_bad(text: str) -> NoReturn:
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
        refuse_bad(f"frame of {length} bytes; a control frame has 1 to {MAX_FRAME_BYTES}")
    return int(length)


def _checked_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Object hook of the unpacker: no key twice, values are integers, strings, binaries, maps."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            refuse_bad(f"map key {str(key)[:40]!r} is not a string")
        if key in result:
            refuse_bad(f"key {key[:40]!r} is given twice")
        if isinstance(value, bool) or not isinstance(value, (int, str, bytes, dict)):
            refuse_bad(f"value of {key[:40]!r} is no integer, string, binary or map")
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
            max_bin_len=_MAX_BINARY_BYTES,
            max_array_len=0,
            max_map_len=_MAX_MAP_KEYS,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        refuse_bad(f"frame is not one msgpack map within the limits ({type(error).__name__})")
    if not isinstance(message, dict):
        refuse_bad("frame is not a msgpack map")
    return message


def message_type(message: Mapping[str, Any]) -> str:
    """The value of ``type``, for example "Negotiate"."""
    return text_of(message, "type", MAX_TEXT_CHARS)


def integer_of(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = message.get(key)
    if value is None:
        refuse_bad(f"key {key!r} is missing")
    if not isinstance(value, int):
        refuse_bad(f"{key} is not an integer")
    if not low <= value <= high:
        refuse_bad(f"{key} = {value} is outside {low} .. {high}")
    return value


def text_of(message: Mapping[str, Any], key: str, max_chars: int) -> str:
    value = message.get(key)
    if value is None:
        refuse_bad(f"key {key!r} is missing")
    if not isinstance(value, str):
        refuse_bad(f"{key} is not a string")
    if len(value) > max_chars:
        refuse_bad(f"{key} has {len(value)} characters; the limit is {max_chars}")
    return value


def binary_of(message: Mapping[str, Any], key: str, count: int) -> bytes:
    """Exactly ``count`` bytes."""
    value = message.get(key)
    if value is None:
        refuse_bad(f"key {key!r} is missing")
    if not isinstance(value, bytes):
        refuse_bad(f"{key} is not a binary")
    if len(value) != count:
        refuse_bad(f"{key} has {len(value)} bytes instead of {count}")
    return value


def map_of(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = message.get(key)
    if not isinstance(value, dict):
        refuse_bad(f"key {key!r} is missing or not a map")
    return value


def session_of(message: Mapping[str, Any]) -> str:
    name = text_of(message, "session", MAX_TEXT_CHARS)
    if not is_session_name(name):
        refuse_bad(f"session {name[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return name


def slot_bytes_of(message: Mapping[str, Any]) -> int:
    value = integer_of(message, "slot_bytes", SLOT_BYTES_STEP, SLOT_BYTES_MAX)
    if value % SLOT_BYTES_STEP:
        refuse_bad(f"slot_bytes = {value} is not a multiple of {SLOT_BYTES_STEP}")
    return value


def slot_count_of(message: Mapping[str, Any], key: str) -> int:
    value = integer_of(message, key, SLOT_COUNT_MIN, SLOT_COUNT_MAX)
    if value & (value - 1):
        refuse_bad(f"{key} = {value} is not a power of two")
    return value


def expect_type(message: Mapping[str, Any], expected: str, code: str) -> None:
    found = message_type(message)
    if found != expected:
        raise ProtocolError(code, f"expected {expected}, got {found[:40]!r}")
