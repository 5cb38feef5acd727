"""The native half of rdmaorder. Use the package; these are its private entries."""

from typing import Any, Final, SupportsIndex, TypeAlias, final, type_check_only

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, Self, disjoint_base

from rdmaorder.gateway.embedded import OrderHandler, PythonHandler
from rdmaorder.messages import Records

__version__: Final[str]

_Bytes: TypeAlias = Buffer | npt.NDArray[Any]

@type_check_only
class _BoundType(type):
    """The metaclass that pybind11 gives the classes it binds."""

# --- a session --------------------------------------------------------------------------------
# Every argument of an order call is an integer (IntEnum members and numpy integers are), given by
# position or by keyword; ranges are checked and named in the ValueError.

@disjoint_base
class SessionCore:
    """Native half of rdmaorder.Session; one thread at a time."""

    def new_order(
        self,
        cl_ord_id: SupportsIndex,
        instrument: SupportsIndex,
        side: SupportsIndex,
        price: SupportsIndex,
        quantity: SupportsIndex,
        account: SupportsIndex = 0,
        ord_type: SupportsIndex = 2,
        time_in_force: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        smp_id: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def replace_order(
        self,
        cl_ord_id: SupportsIndex,
        orig_cl_ord_id: SupportsIndex,
        instrument: SupportsIndex,
        side: SupportsIndex,
        price: SupportsIndex,
        quantity: SupportsIndex,
        ord_type: SupportsIndex = 2,
        time_in_force: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def cancel_order(
        self,
        cl_ord_id: SupportsIndex,
        orig_cl_ord_id: SupportsIndex,
        instrument: SupportsIndex = 0,
        quantity: SupportsIndex = 0,
        side: SupportsIndex = 0,
        account: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def mass_cancel(
        self,
        cl_ord_id: SupportsIndex,
        scope: SupportsIndex = 1,
        instrument: SupportsIndex = 0,
        side: SupportsIndex = 0,
        account: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def try_new_order(
        self,
        cl_ord_id: SupportsIndex,
        instrument: SupportsIndex,
        side: SupportsIndex,
        price: SupportsIndex,
        quantity: SupportsIndex,
        account: SupportsIndex = 0,
        ord_type: SupportsIndex = 2,
        time_in_force: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        smp_id: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def try_replace_order(
        self,
        cl_ord_id: SupportsIndex,
        orig_cl_ord_id: SupportsIndex,
        instrument: SupportsIndex,
        side: SupportsIndex,
        price: SupportsIndex,
        quantity: SupportsIndex,
        ord_type: SupportsIndex = 2,
        time_in_force: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def try_cancel_order(
        self,
        cl_ord_id: SupportsIndex,
        orig_cl_ord_id: SupportsIndex,
        instrument: SupportsIndex = 0,
        quantity: SupportsIndex = 0,
        side: SupportsIndex = 0,
        account: SupportsIndex = 0,
        ttl_ns: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def try_mass_cancel(
        self,
        cl_ord_id: SupportsIndex,
        scope: SupportsIndex = 1,
        instrument: SupportsIndex = 0,
        side: SupportsIndex = 0,
        account: SupportsIndex = 0,
        flags: SupportsIndex = 0,
    ) -> int: ...
    def send_batch(self, slots: Records, /) -> int: ...
    def try_send_batch(self, slots: Records, /) -> int: ...
    def poll(self, max: SupportsIndex = 256) -> Records: ...  # noqa: A002 - runtime name

def session_connect(
    core: SessionCore,
    *,
    url: str,
    session: str,
    order_slots: int,
    report_slots: int,
    slot_bytes: int,
    schema_id: int,
    schema_version: int,
    next_sequence: int,
    next_report_sequence: int,
    undelivered_reports: bool,
    connect_timeout_ns: int,
    send_timeout_ns: int,
    suspect_after_ns: int,
    dead_after_ns: int,
    huge_pages: str,
    session_key: str,
    tls_ca: str,
    tls_certificate: str,
    tls_key: str,
    tls_name: str,
    resend_on_gap: bool,
) -> None: ...
def session_status(core: SessionCore) -> dict[str, Any]: ...
def session_events(core: SessionCore) -> list[tuple[int, int, int, int, int]]: ...
def session_positions(core: SessionCore) -> tuple[int, int, int]: ...
def session_wait_applied(
    core: SessionCore, sequence: int, timeout_ns: int, durable: bool
) -> bool: ...
def session_wait_readable(core: SessionCore, timeout_ns: int) -> bool: ...
def session_close(core: SessionCore, timeout_ns: int) -> bool: ...
def session_reconnect(core: SessionCore, timeout_ns: int) -> None: ...
def session_resolve(core: SessionCore, timeout_ns: int) -> bytes: ...
def session_open_orders(core: SessionCore, timeout_ns: int) -> bytes: ...
def session_unknown(core: SessionCore) -> list[int]: ...
def session_measure_clock(core: SessionCore, timeout_ns: int) -> tuple[int, int]: ...
def session_kill(core: SessionCore, timeout_ns: int) -> int: ...
def session_latency(core: SessionCore, reset: bool) -> Histogram: ...
def session_next_sequence(core: SessionCore) -> int: ...

# --- a gateway --------------------------------------------------------------------------------

@final
class Order:
    """A request, for a handler's on_order."""

    @property
    def template_id(self) -> int: ...
    @property
    def session_index(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def cl_ord_id(self) -> int: ...
    @property
    def orig_cl_ord_id(self) -> int: ...
    @property
    def price(self) -> int: ...
    @property
    def quantity(self) -> int: ...
    @property
    def stale_after_ns(self) -> int: ...
    @property
    def instrument(self) -> int: ...
    @property
    def account(self) -> int: ...
    @property
    def smp_id(self) -> int: ...
    @property
    def side(self) -> int: ...
    @property
    def ord_type(self) -> int: ...
    @property
    def time_in_force(self) -> int: ...
    @property
    def scope(self) -> int: ...
    @property
    def flags(self) -> int: ...
    def accept(self, order_id: SupportsIndex = 0) -> None: ...
    def reject(self, reason: SupportsIndex) -> None: ...
    def report(
        self,
        exec_type: SupportsIndex,
        ord_status: SupportsIndex,
        price: SupportsIndex = ...,
        quantity: SupportsIndex = 0,
        leaves_quantity: SupportsIndex = 0,
        order_id: SupportsIndex = 0,
        reason: SupportsIndex = 0,
    ) -> None: ...

@final
class GatewayCore(metaclass=_BoundType):
    """The gateway's native half; rdmaorder.Gateway is the public one."""

    def __init__(
        self, settings: dict[str, Any], handler: str | PythonHandler | OrderHandler
    ) -> None: ...
    def open_session(
        self,
        name: str,
        slot_bytes: int,
        order_slot_count: int,
        report_slot_count: int,
        schema_id: int,
        schema_version: int,
    ) -> dict[str, Any]: ...
    def attach_shm(
        self,
        session_index: int,
        report_fd: int,
        report_window: dict[str, int],
        next_order_sequence: int,
        next_report_sequence: int,
    ) -> dict[str, Any]: ...
    def attach_rdma(
        self,
        session_index: int,
        endpoint: dict[str, Any],
        window: dict[str, int],
        next_order_sequence: int,
        next_report_sequence: int,
        local_address: str,
        options: dict[str, Any],
    ) -> dict[str, Any]: ...
    def activate(self, session_index: int, epoch: int, data_in_order: bool) -> None: ...
    def detach(self, session_index: int, epoch: int, drain: bool) -> dict[str, Any]: ...
    def fates(self, session_index: int, from_sequence: int, count: int) -> bytes: ...
    def open_orders(self, session_index: int, from_sequence: int) -> bytes: ...
    def cancel_orders(
        self,
        session_index: int,
        scope: int,
        instrument: int,
        side: int,
        account: int,
        reason: int,
    ) -> int: ...
    def cancel_gone(self, session_index: int, gone_for_ns: int, reason: int) -> int | None: ...
    def kill(self, session_indices: list[int] | None, since_ns: int) -> list[dict[str, Any]]: ...
    def release(self, session_indices: list[int] | None) -> bool: ...
    def sessions(self) -> list[dict[str, Any]]: ...
    def counters(self) -> dict[str, int]: ...
    def links_failed(self) -> int: ...
    def journal_state(self) -> dict[str, Any]: ...
    def halt(self, reason: int) -> None: ...
    def resume(self) -> None: ...
    def stamp_orders(self, rows: npt.NDArray[np.uint64]) -> None: ...
    def start(self) -> None: ...
    def announce_closing(self) -> None: ...
    def stop(self) -> None: ...
    def handler_error(self) -> str: ...

# --- journal ----------------------------------------------------------------------------------

@final
class JournalReader(metaclass=_BoundType):
    """Reads a journal in batches. Use rdmaorder.journal. One thread at a time."""

    def __init__(self, directory: str) -> None: ...
    def next_batch(self, max_records: int) -> Records: ...
    @property
    def result(self) -> dict[str, Any]: ...

@final
class JournalWriter(metaclass=_BoundType):
    """Appends to a journal: the gateway's own writer. One thread at a time."""

    def __init__(
        self,
        directory: str,
        *,
        segment_bytes: int = 67108864,
        sync: str = "interval",
        sync_interval_ns: int = 10000000,
    ) -> None: ...
    def append(
        self,
        kind: int,
        payload: bytes,
        *,
        session_index: int = 0,
        sequence: int = 0,
        time_ns: int = 0,
        detail: int = 0,
    ) -> int: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    @property
    def last_position(self) -> int: ...
    @property
    def durable_position(self) -> int: ...
    @property
    def last_error(self) -> str: ...
    @property
    def recovered(self) -> dict[str, Any]: ...

# --- monitor ----------------------------------------------------------------------------------

@final
class Histogram(metaclass=_BoundType):
    """Log-linear histogram of unsigned 64-bit values: exact below 256, then within 1/128."""

    def __init__(self, other: Histogram = ...) -> None: ...
    def record(self, value: int) -> None: ...
    def record_all(self, values: npt.NDArray[np.uint64]) -> None: ...
    def value_at(self, q: float) -> int: ...
    def values_at(self, quantiles: npt.ArrayLike) -> npt.NDArray[np.uint64]: ...
    def merge(self, other: Histogram) -> None: ...
    def clear(self) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def min(self) -> int: ...
    @property
    def max(self) -> int: ...
    @property
    def counts(self) -> npt.NDArray[np.uint64]: ...
    @staticmethod
    def bucket_uppers() -> npt.NDArray[np.uint64]: ...

# --- wire, for tests and tools ----------------------------------------------------------------

def layout_tables() -> dict[str, list[tuple[int, int, str, str]]]: ...
def enum_tables() -> dict[str, dict[str, int]]: ...
def wire_constants() -> dict[str, int]: ...
def encode_samples(epoch: int, sequence: int) -> dict[str, bytes]: ...
def crc32c(data: _Bytes) -> int: ...
def has_crc32_instruction() -> bool: ...
def seal_slot(slot: _Bytes, epoch: int, sequence: int) -> bytes: ...
def verify_slot(slot: _Bytes, epoch: int, sequence: int) -> bool: ...
def status_name(value: int) -> str: ...
def reason_name(value: int) -> str: ...
def exec_type_name(value: int) -> str: ...

# --- measuring loops (rdmaorder/pingpong) -----------------------------------------------------------
# `samples`: (n, 6) uint64, a row an order: pingpong::Sample (pingpong.hpp).

_Samples: TypeAlias = npt.NDArray[np.uint64]

def ticks() -> int: ...
def pingpong_clock() -> dict[str, float]: ...
def pingpong_build() -> dict[str, Any]: ...
def pingpong_floor(own_cpu: int, peer_cpu: int, count: int) -> npt.NDArray[np.uint64]: ...
def pingpong_session(
    session: SessionCore,
    samples: _Samples,
    warm_up: int,
    duration_ns: int,
    due_ns: _Samples | None,
    answer_timeout_ns: int,
    stamps_written: bool,
) -> dict[str, Any]: ...

@final
class PingPongRaw(metaclass=_BoundType):
    """One end of a bare transport."""

    def __init__(
        self, payload_bytes: int, paced: bool, options: dict[str, str] | None, local_address: str
    ) -> None: ...
    def window(self) -> tuple[int, int, int]: ...
    def address(self) -> dict[str, Any]: ...
    def connect_shm(self, pid: int, fd: int, bytes: int) -> None: ...  # noqa: A002 - runtime name
    def connect_rdma(self, peer: dict[str, Any]) -> None: ...
    def connect_inproc(self, other: PingPongRaw) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def run(
        self,
        samples: _Samples,
        warm_up: int,
        duration_ns: int,
        due_ns: _Samples | None,
        answer_timeout_ns: int,
    ) -> dict[str, Any]: ...
    def serve(self, until_signal: bool) -> int: ...
    def request_stop(self) -> None: ...

def pingpong_descriptor(
    fd: int,
    datagrams: bool,
    payload_bytes: int,
    samples: _Samples,
    warm_up: int,
    duration_ns: int,
) -> dict[str, Any]: ...
def pingpong_serve_descriptor(fd: int, datagrams: bool, payload_bytes: int) -> None: ...
def pingpong_zeromq(
    library: str,
    endpoint: str,
    blocking: bool,
    payload_bytes: int,
    samples: _Samples,
    warm_up: int,
    duration_ns: int,
) -> dict[str, Any]: ...
def pingpong_serve_zeromq(
    library: str, endpoint: str, blocking: bool, payload_bytes: int
) -> None: ...

# --- devices (rdmaorder/devices.py) -------------------------------------------------------------------

def rdma_devices() -> list[dict[str, Any]]: ...
def rdma_choice(local_address: str, options: dict[str, str]) -> dict[str, Any]: ...
def local_address_towards(host: str) -> str: ...
