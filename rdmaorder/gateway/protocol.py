"""Messages of the control plane: checked maps to values and back, no sockets.

docs/control-plane.md lists every message and key; cpp/src/control is the client half;
tests/golden/control-*.bin hold one frame of each message for both. fields.py has frames and the
kinds of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rdmaorder.gateway.fields import (
    FRAME_HEADER_BYTES,
    LAYOUT_VERSION,
    MAX_FRAME_BYTES,
    MAX_TEXT_CHARS,
    PROTOCOL,
    PROTOCOL_VERSION,
    RING_OFFSET_MAX_BYTES,
    RING_OFFSET_MIN_BYTES,
    SEQUENCE_MAX,
    SLOT_BYTES_MAX,
    SLOT_BYTES_STEP,
    SLOT_COUNT_MAX,
    SLOT_COUNT_MIN,
    U16_MAX,
    U24_MAX,
    U32_MAX,
    U64_MAX,
    WINDOW_BYTES_MAX,
    ProtocolError,
    binary_of,
    body_length_bytes,
    decode_body,
    encode_frame,
    expect_type,
    integer_of,
    is_session_name,
    map_of,
    message_type,
    refuse_bad,
    session_of,
    slot_bytes_of,
    slot_count_of,
    text_of,
)

__all__ = [
    "ESTABLISHMENT_REJECT_CODES",
    "FRAME_HEADER_BYTES",
    "LAYOUT_VERSION",
    "MAC_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_TEXT_CHARS",
    "NEGOTIATION_REJECT_CODES",
    "NONCE_BYTES",
    "PROTOCOL",
    "PROTOCOL_VERSION",
    "SEQUENCE_MAX",
    "SLOT_BYTES_MAX",
    "SLOT_BYTES_STEP",
    "SLOT_COUNT_MAX",
    "SLOT_COUNT_MIN",
    "Authenticate",
    "Endpoint",
    "Establish",
    "Established",
    "Negotiate",
    "ProtocolError",
    "RemoteWindow",
    "Terminate",
    "WindowGeometry",
    "body_length_bytes",
    "decode_body",
    "encode_frame",
    "is_session_name",
    "message_type",
]

NONCE_BYTES = 32
MAC_BYTES = 32
GID_BYTES = 16

NEGOTIATION_REJECT_CODES = frozenset(
    {
        "BadRequest",
        "Credentials",
        "Draining",
        "DuplicateId",
        "FlowTypeNotSupported",
        "TooManySessions",
        "TooSlow",
        "UnknownSession",
        "Unspecified",
        "VersionMismatch",
    }
)
ESTABLISHMENT_REJECT_CODES = frozenset(
    {
        "AlreadyEstablished",
        "BadEndpoint",
        "BadRequest",
        "BadWindow",
        "Draining",
        "SessionBlocked",
        "TooSlow",
        "Unnegotiated",
        "Unspecified",
    }
)


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
    def from_message(
        cls, message: Mapping[str, Any], gateway_version: str, carried: str = "shm"
    ) -> Negotiate:
        """Checks the versions first: of another version no further key has to make sense.
        ``carried``: the transport that goes with the kind of connection."""
        expect_type(message, "Negotiate", "BadRequest")
        protocol = text_of(message, "protocol", MAX_TEXT_CHARS)
        if protocol != PROTOCOL:
            refuse_bad(f"protocol {protocol[:40]!r}; this gateway speaks {PROTOCOL!r}")
        versions = (
            integer_of(message, "protocol_version", 0, U32_MAX),
            integer_of(message, "layout_version", 0, U32_MAX),
        )
        if versions != (PROTOCOL_VERSION, LAYOUT_VERSION):
            client = str(message.get("client_version", "unknown"))[:64]
            raise ProtocolError(
                "VersionMismatch",
                f"client {client!r} speaks protocol {versions[0]} layout {versions[1]}, gateway "
                f"{gateway_version!r} speaks protocol {PROTOCOL_VERSION} layout {LAYOUT_VERSION}; "
                "install the same rdmaorder version on both sides",
            )
        transport = text_of(message, "transport", MAX_TEXT_CHARS)
        if transport != carried:
            kind = "a Unix socket" if carried == "shm" else "TCP"
            refuse_bad(f"transport {transport[:40]!r}; {kind} carries {carried!r} only")
        flow = text_of(message, "flow", MAX_TEXT_CHARS)
        if flow != "Idempotent":
            raise ProtocolError(
                "FlowTypeNotSupported", f"flow {flow[:40]!r}; orders flow 'Idempotent' only"
            )
        return cls(
            session=session_of(message),
            client_version=text_of(message, "client_version", 64),
            slot_bytes=slot_bytes_of(message),
            order_slot_count=slot_count_of(message, "order_slot_count"),
            report_slot_count=slot_count_of(message, "report_slot_count"),
            schema_id=integer_of(message, "schema_id", 0, U16_MAX),
            schema_version=integer_of(message, "schema_version", 0, U16_MAX),
            timestamp_ns=integer_of(message, "timestamp_ns", 0, U64_MAX),
            pid=integer_of(message, "pid", 0, U32_MAX),
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
        window = map_of(message, "window")
        geometry = cls(
            bytes=integer_of(window, "bytes", 1, WINDOW_BYTES_MAX),
            offset_bytes=integer_of(
                window, "offset_bytes", RING_OFFSET_MIN_BYTES, RING_OFFSET_MAX_BYTES
            ),
            slot_bytes=slot_bytes_of(window),
            slot_count=slot_count_of(window, "slot_count"),
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
class RemoteWindow:
    """A window that is reached over RDMA."""

    geometry: WindowGeometry
    #: Virtual address of the window in its owner's memory.
    address: int
    #: Remote key of its memory region.
    key: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> RemoteWindow:
        geometry = WindowGeometry.from_message(message)
        window = map_of(message, "window")
        return cls(
            geometry=geometry,
            address=integer_of(window, "address", 0, U64_MAX - geometry.bytes),
            key=integer_of(window, "key", 0, U32_MAX),
        )

    @classmethod
    def from_map(cls, window: Mapping[str, Any]) -> RemoteWindow:
        """What the core gave."""
        return cls.from_message({"window": dict(window)})

    def as_map(self) -> dict[str, int]:
        return self.geometry.as_map() | {"address": self.address, "key": self.key}


@dataclass(frozen=True)
class Endpoint:
    """What a peer needs to reach a queue pair."""

    qp_number: int
    #: Number of the first packet this end sends.
    packet_sequence: int
    gid: bytes
    lid: int
    #: Largest path MTU this end takes.
    mtu_bytes: int

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Endpoint:
        endpoint = map_of(message, "endpoint")
        mtu_bytes = integer_of(endpoint, "mtu_bytes", 256, 4096)
        if mtu_bytes & (mtu_bytes - 1):
            refuse_bad(f"mtu_bytes = {mtu_bytes} is not a power of two")
        return cls(
            qp_number=integer_of(endpoint, "qp_number", 2, U24_MAX),
            packet_sequence=integer_of(endpoint, "packet_sequence", 0, U24_MAX),
            gid=binary_of(endpoint, "gid", GID_BYTES),
            lid=integer_of(endpoint, "lid", 0, U16_MAX),
            mtu_bytes=mtu_bytes,
        )

    @classmethod
    def from_map(cls, endpoint: Mapping[str, Any]) -> Endpoint:
        """What the core gave."""
        return cls.from_message({"endpoint": dict(endpoint)})

    def as_map(self) -> dict[str, int | bytes]:
        return asdict(self)


@dataclass(frozen=True)
class Establish:
    """Where the strategy stands (0: take up where the gateway stands); its window is beside it."""

    session: str
    next_order_sequence: int
    next_report_sequence: int
    window: WindowGeometry
    #: Only over RDMA.
    remote_window: RemoteWindow | None = None
    endpoint: Endpoint | None = None

    @classmethod
    def from_message(cls, message: Mapping[str, Any], carried: str = "shm") -> Establish:
        expect_type(message, "Establish", "BadRequest")
        remote = carried == "rdma"
        return cls(
            session=session_of(message),
            next_order_sequence=integer_of(message, "next_order_sequence", 0, SEQUENCE_MAX),
            next_report_sequence=integer_of(message, "next_report_sequence", 0, SEQUENCE_MAX),
            window=WindowGeometry.from_message(message),
            remote_window=RemoteWindow.from_message(message) if remote else None,
            endpoint=Endpoint.from_message(message) if remote else None,
        )


@dataclass(frozen=True)
class Authenticate:
    """The strategy's proof that it has the session's key; authenticate.py has the sum."""

    client_nonce: bytes
    mac: bytes

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Authenticate:
        expect_type(message, "Authenticate", "BadRequest")
        return cls(
            client_nonce=binary_of(message, "client_nonce", NONCE_BYTES),
            mac=binary_of(message, "mac", MAC_BYTES),
        )


@dataclass(frozen=True)
class Established:
    """The strategy is ready to be written to on the link of ``epoch``."""

    epoch: int
    #: Its device makes the bytes of a WRITE visible in ascending order.
    data_in_order: bool

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Established:
        expect_type(message, "Established", "BadRequest")
        in_order = "data_in_order" in message and integer_of(message, "data_in_order", 0, 1) == 1
        return cls(epoch=integer_of(message, "epoch", 1, U64_MAX), data_in_order=in_order)


@dataclass(frozen=True)
class Terminate:
    """Ends a link. ``last_sequence``: last order sequence written (strategy) or applied."""

    code: str
    last_sequence: int
    text: str

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Terminate:
        expect_type(message, "Terminate", "BadRequest")
        return cls(
            code=text_of(message, "code", 64),
            last_sequence=integer_of(message, "last_sequence", 0, SEQUENCE_MAX),
            text=text_of(message, "text", MAX_TEXT_CHARS),
        )

    def as_message(self) -> dict[str, Any]:
        return {"type": "Terminate", **asdict(self)}
