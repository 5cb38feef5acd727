"""Bad input from a strategy: a clear error each, nothing written, nothing lost."""

from __future__ import annotations

import errno
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, batch_of, eventually, order, take
from handshake_support import NEGOTIATE, Client

import rdmaorder as ro
from rdmaorder.gateway.protocol import encode_frame
from rdmaorder.messages import NEW_ORDER, ORDER_RECORD, REPORT_RECORD, SLOT, Records

# -- connecting --------------------------------------------------------------------------------

SECONDS = "must be 0 .. 86400 seconds, not"
BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"on_event": 5}, "on_event must be a function of one SessionEvent, not 5"),
    ({"resume": "no"}, "resume must be True or False, not 'no'"),
    ({"debug": 1}, "debug must be True or False, not 1"),
    ({"url": 7}, "url must be a string, not 7"),
    ({"session": None}, "session must be a string, not None"),
    ({"order_slots": 7}, "order_slots must be 8 .. 1048576, not 7"),
    ({"order_slots": 1 << 21}, "order_slots must be 8 .. 1048576, not 2097152"),
    ({"order_slots": 100}, "order_slots must be a power of two, such as 64 or 128, not 100"),
    ({"report_slots": 2.0}, "report_slots must be an integer, not 2.0"),
    ({"report_slots": 9}, "report_slots must be a power of two, such as 8 or 16, not 9"),
    ({"slot_bytes": "64"}, "slot_bytes must be an integer, not '64'"),
    ({"slot_bytes": 8192}, "slot_bytes must be 64 .. 4096, not 8192"),
    ({"next_sequence": -1}, "next_sequence must be 0 .. 9223372036854775807, not -1"),
    ({"next_sequence": 2**63}, f"next_sequence must be 0 .. 9223372036854775807, not {2**63}"),
    ({"connect_timeout_s": -1}, f"connect_timeout_s {SECONDS} -1"),
    ({"send_timeout_s": math.nan}, f"send_timeout_s {SECONDS} nan"),
    ({"suspect_after_s": math.inf}, f"suspect_after_s {SECONDS} inf"),
    ({"dead_after_s": "1"}, f"dead_after_s {SECONDS} '1'"),
    ({"huge_pages": True}, "huge_pages must be a string, not True"),
    (
        {"huge_pages": "maybe"},
        'huge_pages must be "off", "try" or "require", not "maybe"',
    ),
    (
        {"suspect_after_s": 2, "dead_after_s": 1},
        "suspect_after and dead_after must be positive and in this order, "
        "not 2000000000 ns and 1000000000 ns",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_a_bad_setting_is_named_with_its_value(
    connect: Connect, settings: dict[str, Any], message: str
) -> None:
    arguments = {"to": "shm:///nowhere", "session": "alpha"}
    settings = dict(settings)
    if "url" in settings:
        with pytest.raises(ro.ConfigError) as raised:
            ro.connect(settings["url"], "alpha")
    else:
        with pytest.raises(ro.ConfigError) as raised:
            connect(**arguments | settings)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"session": ""}, "session"),
        ({"session": "al pha"}, "al pha"),
        ({"session": "x" * 65}, "64"),
        ({"slot_bytes": 96}, "96"),
        ({"to": "rdma://host:1?mtu=9"}, "mtu"),
        ({"to": "tcp://host:1"}, "shm:///absolute/path.sock"),
        ({"to": "gw.sock"}, "shm:///absolute/path.sock"),
        ({"to": "shm://"}, "names no socket file"),
        ({"to": "shm:///" + 120 * "x"}, "107 bytes"),
    ],
)
def test_a_name_or_address_that_cannot_be_is_refused_before_anything_is_opened(
    connect: Connect, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ro.RdmaOrderError, match=told) as raised:
        connect(**{"to": "shm:///nowhere", "session": "alpha"} | settings)
    assert not isinstance(raised.value, ro.SystemFailure)


@pytest.mark.shm_only
def test_a_socket_that_is_not_there_is_named(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(ro.SystemFailure) as raised:
        connect(f"shm://{tmp_path}/none.sock")
    assert raised.value.errno == errno.ENOENT
    assert f"{tmp_path}/none.sock" in str(raised.value)


@pytest.mark.shm_only
def test_a_socket_nobody_listens_to_is_named(connect: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(ro.SystemFailure) as raised:
        connect(f"shm:{path}")
    assert raised.value.errno == errno.ECONNREFUSED
    assert path in str(raised.value)


@pytest.mark.shm_only
def test_a_file_that_is_no_socket_is_named(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.touch()
    with pytest.raises(ro.SystemFailure, match=str(path)):
        connect(f"shm:{path}")


@contextmanager
def fake_gateway(path: Path, answer: bytes) -> Iterator[str]:
    """Answers the first frame it gets with these bytes, and says nothing more."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket() as nobody:
        connection = nobody
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            nonlocal connection
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"shm:{path}"
        thread.join()
        connection.close()


@pytest.mark.shm_only
def test_a_gateway_of_another_version_is_refused_with_both_versions(
    connect: Connect, tmp_path: Path
) -> None:
    reject = {
        "type": "NegotiationReject",
        "code": "VersionMismatch",
        "text": "client speaks protocol 1 layout 1, gateway '9.9.9' speaks protocol 2 layout 7",
        "protocol_version": 2,
        "layout_version": 7,
        "gateway_version": "9.9.9",
    }
    with (
        fake_gateway(tmp_path / "gw.sock", encode_frame(reject)) as url,
        pytest.raises(ro.Refused, match=r"VersionMismatch: .*layout 1, .*layout 7") as raised,
    ):
        connect(url)
    assert raised.value.code == "VersionMismatch"


@pytest.mark.shm_only
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\x04\0\0\0\xc1\xc1\xc1\xc1",
        encode_frame({"type": "NegotiationResponse"}),
    ],
    ids=["http", "huge", "empty", "no msgpack", "keys missing"],
)
def test_a_peer_that_is_no_gateway_is_told_apart(
    connect: Connect, tmp_path: Path, answer: bytes
) -> None:
    with fake_gateway(tmp_path / "gw.sock", answer) as url, pytest.raises(ro.HandshakeError):
        connect(url)


@pytest.mark.shm_only
def test_a_gateway_that_never_answers_costs_the_time_given(
    connect: Connect, tmp_path: Path
) -> None:
    with (
        fake_gateway(tmp_path / "gw.sock", b"") as url,
        pytest.raises(ro.ConnectTimeout, match=r"gw\.sock"),
    ):
        connect(url, connect_timeout_s=0.1)


@pytest.mark.shm_only
def test_a_strategy_of_another_version_is_refused_by_the_gateway(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway()
    with Client(gateway.url.removeprefix("shm://")) as stranger:
        answer = stranger.ask(NEGOTIATE | {"layout_version": 2})
    assert answer["code"] == "VersionMismatch"
    assert "layout 2" in answer["text"]
    assert "layout 1" in answer["text"]


def test_a_second_connection_for_a_live_session_changes_nothing_for_the_first(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway()
    first = connect(gateway)
    order(first, 1)
    for _ in range(3):
        with pytest.raises(ro.Refused, match=r"alpha.*live on another connection") as raised:
            connect(gateway)
        assert raised.value.code == "DuplicateId"
    order(first, 2)
    assert list(take(first, 2)["cl_ord_id"]) == [1, 2]
    assert first.status()["state"] == "live"
    assert first.close(PATIENCE_S)
    assert connect(gateway).next_sequence == 3


# -- a full ring -------------------------------------------------------------------------------


#: How long a send into a full ring waits below.
SHORT_S = 0.05


class Blocking:
    """Holds the receiver in its first batch until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.seen: list[int] = []

    def on_orders(self, orders: Records) -> None:
        self.seen += orders["sequence"].tolist()
        self.entered.set()
        assert self.go.wait(PATIENCE_S)


@pytest.fixture
def blocked(start_gateway: StartGateway, connect: Connect) -> Iterator[tuple[Blocking, ro.Session]]:
    """A ring of 32 with 4 kept for cancels, of which one slot is taken and none is given back."""
    handler = Blocking()
    gateway = start_gateway(handler=handler, cancel_reserve=4)
    session = connect(gateway, order_slots=32, send_timeout_s=SHORT_S)
    order(session, 1)
    assert handler.entered.wait(PATIENCE_S)
    yield handler, session
    handler.go.set()
    assert session.wait_applied(session.next_sequence - 1, PATIENCE_S)
    eventually(lambda: len(handler.seen) == session.next_sequence - 1, "all are handed on")
    assert handler.seen == list(range(1, session.next_sequence))  # each once, in order
    order(session, 1000)


def test_a_full_ring_refuses_orders_then_cancels_and_writes_nothing(
    blocked: tuple[Blocking, ro.Session],
) -> None:
    _, session = blocked
    assert [session.try_new_order(n, 7, 1, 5, 1) for n in range(2, 29)] == list(range(2, 29))
    for _ in range(3):
        assert session.try_new_order(29, 7, 1, 5, 1) == ro.Status.FULL
        assert session.try_replace_order(29, 1, 7, 1, 5, 1) == ro.Status.FULL
        assert session.try_send_batch(batch_of(3)) == 0
    assert session.next_sequence == 29
    assert session.try_cancel_order(29, 1) == 29
    assert session.try_mass_cancel(30) == 30
    assert session.cancel_order(31, 1) == 31
    assert session.try_send_batch(ro.cancel_orders(3)) == 1
    assert session.try_cancel_order(33, 1) == ro.Status.FULL
    assert session.try_mass_cancel(33) == ro.Status.FULL
    assert session.next_sequence == 33
    assert session.status()["state"] == "live"


def test_sends_into_a_full_ring_raise_after_their_time_and_say_how_much_went(
    blocked: tuple[Blocking, ro.Session],
) -> None:
    _, session = blocked
    with pytest.raises(ro.BackPressure) as raised:
        session.send_batch(batch_of(100, first_id=2))
    assert raised.value.sent == 27
    assert session.next_sequence == 29
    message = (
        "the order ring stayed full for 50 ms; poll reports, send slower, or ask for more "
        "order_slots"
    )
    assert str(raised.value) == f"send_batch: full: {message}"
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("new_order", lambda: order(session, 30)),
        ("replace_order", lambda: session.replace_order(30, 1, 7, 1, 5, 1)),
    ]
    for name, call in calls:
        with pytest.raises(ro.BackPressure) as raised:
            call()
        assert str(raised.value) == f"{name}: full: {message}"
        assert raised.value.sent == 0
    for n in range(4):
        session.cancel_order(40 + n, 1)
    with pytest.raises(ro.BackPressure, match=r"^cancel_order: full"):
        session.cancel_order(44, 1)
    with pytest.raises(ro.BackPressure, match=r"^mass_cancel: full"):
        session.mass_cancel(44)
    assert session.next_sequence == 33


def test_a_send_that_waits_goes_on_when_there_is_room(
    start_gateway: StartGateway, connect: Connect
) -> None:
    handler = Blocking()
    session = connect(start_gateway(handler=handler, cancel_reserve=4), order_slots=32)
    order(session, 1)
    assert handler.entered.wait(PATIENCE_S)
    assert session.try_send_batch(batch_of(100, first_id=2)) == 27
    timer = threading.Timer(SHORT_S, handler.go.set)
    timer.start()
    assert order(session, 500) == 29
    timer.join()


# -- batches -----------------------------------------------------------------------------------


@pytest.fixture
def session(start_gateway: StartGateway, connect: Connect) -> ro.Session:
    return connect(start_gateway(instruments=[7, "100-200"], max_quantity=1000))


def misaligned() -> Records:
    raw = bytearray(64 * 3 + 8)
    start = next(n for n in range(1, 9) if np.frombuffer(raw, np.uint8)[n:].ctypes.data % 8 == 1)
    return np.frombuffer(raw, SLOT, 2, start)


BAD_BATCHES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a list": (
        lambda: [1, 2],
        TypeError,
        "a batch is an array of slot records (rdmaorder.new_orders(n) makes one), "
        "not <class 'list'>",
    ),
    "none": (lambda: None, TypeError, "a batch is an array of slot records"),
    "numbers": (
        lambda: np.zeros(16, np.uint64),
        TypeError,
        "a batch has the dtype NEW_ORDER, REPLACE_ORDER, CANCEL_ORDER, MASS_CANCEL or SLOT of "
        "rdmaorder.messages (rdmaorder.new_orders(n) makes one), or V64, not uint64",
    ),
    "texts of a slot's size": (lambda: np.zeros(2, "S64"), TypeError, "or V64, not |S64"),
    "prices of a slot's size": (lambda: np.zeros(2, ("f8", 8)), TypeError, "not float64"),
    "reports": (lambda: np.zeros(2, REPORT_RECORD), TypeError, "not [('order_sequence'"),
    "records of a handler": (lambda: np.zeros(2, ORDER_RECORD), TypeError, "not [('block_length'"),
    "big-endian orders": (
        lambda: batch_of(2).astype(NEW_ORDER.newbyteorder(">")),
        TypeError,
        "('cl_ord_id', '>u8')",
    ),
    "bytes": (lambda: bytes(128), ValueError, "this buffer has items of 1"),
    "wide records": (lambda: np.zeros(2, "V128"), TypeError, "or V64, not |V128"),
    "every second": (
        lambda: batch_of(8)[::2],
        ValueError,
        "the batch is not contiguous; numpy.ascontiguousarray(batch) copies it",
    ),
    "backwards": (lambda: batch_of(8)[::-1], ValueError, "the batch is not contiguous"),
    "a field": (lambda: batch_of(8)["price"], TypeError, "not int64"),
    "misaligned": (
        misaligned,
        ValueError,
        "the batch does not start on a multiple of 8 bytes; batch.copy() does",
    ),
}


@pytest.mark.parametrize("bad", BAD_BATCHES)
def test_what_is_no_batch_is_told_and_nothing_is_written(session: ro.Session, bad: str) -> None:
    make, error, message = BAD_BATCHES[bad]
    for name in ("send_batch", "try_send_batch"):
        with pytest.raises(error) as raised:
            getattr(session, name)(make())
        assert str(raised.value).startswith(f"{name}: ")
        assert message in str(raised.value)
    assert session.next_sequence == 1


def test_a_batch_may_be_read_only_empty_mixed_and_is_never_changed(session: ro.Session) -> None:
    assert session.send_batch(batch_of(0)) == session.try_send_batch(batch_of(0)) == 0
    cancels = ro.cancel_orders(2)
    cancels["cl_ord_id"], cancels["orig_cl_ord_id"] = (10, 11), (1, 2)
    mixed = np.concatenate([batch_of(3).view(SLOT), cancels.view(SLOT)])
    mixed.setflags(write=False)
    before = mixed.tobytes()
    assert session.send_batch(mixed) == 5
    assert session.send_batch(memoryview(mixed.copy())) == 5
    assert session.send_batch(mixed.view("V64")) == 5
    equal = np.dtype(SLOT.descr)
    assert equal is not SLOT
    assert session.try_send_batch(mixed.astype(equal)) == 5
    reports = take(session, 20)
    assert mixed.tobytes() == before
    assert list(reports["cl_ord_id"]) == [1, 2, 3, 10, 11] * 4


def test_a_batch_of_wide_slots_is_of_their_size(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(), slot_bytes=128)
    with pytest.raises(TypeError, match=r"whole slots of 128 bytes \(numpy.zeros\(n, 'V128'\)"):
        session.send_batch(batch_of(3))
    slots = np.zeros((3, 128), np.uint8)
    slots[:, :56] = batch_of(3).view(np.uint8).reshape(3, 64)[:, :56]
    assert session.send_batch(slots.view("V128").ravel()) == 3
    assert list(take(session, 3)["cl_ord_id"]) == [1, 2, 3]


REFUSED: list[tuple[str, Any, ro.Reason]] = [
    ("quantity", 0, ro.Reason.INVALID_QUANTITY),
    ("quantity", -1, ro.Reason.INVALID_QUANTITY),
    ("quantity", 1001, ro.Reason.MAX_QUANTITY),
    ("instrument", 8, ro.Reason.UNKNOWN_INSTRUMENT),
    ("instrument", 99, ro.Reason.UNKNOWN_INSTRUMENT),
    ("instrument", 201, ro.Reason.UNKNOWN_INSTRUMENT),
    ("instrument", 0xFFFFFFFF, ro.Reason.UNKNOWN_INSTRUMENT),
    ("side", 0, ro.Reason.INVALID_SIDE),
    ("side", 3, ro.Reason.INVALID_SIDE),
    ("price", ro.NO_PRICE, ro.Reason.INVALID_PRICE),
    ("ord_type", 0, ro.Reason.INVALID_ORD_TYPE),
    ("ord_type", 9, ro.Reason.INVALID_ORD_TYPE),
    ("time_in_force", 2, ro.Reason.INVALID_TIME_IN_FORCE),
    ("time_in_force", 9, ro.Reason.INVALID_TIME_IN_FORCE),
    ("template_id", 9, ro.Reason.UNKNOWN_TEMPLATE),
    ("block_length", 0, ro.Reason.UNKNOWN_TEMPLATE),
    ("stale_after_ns", 1, ro.Reason.STALE),
]


def test_the_gateway_refuses_what_a_batch_may_hold_each_with_its_reason(
    session: ro.Session,
) -> None:
    """Batches are not looked at on the way out; good and bad orders alternate in this one."""
    batch = batch_of(2 * len(REFUSED))
    for index, (field, value, _) in enumerate(REFUSED):
        batch[field][2 * index + 1] = value
    session.send_batch(batch)
    reports = take(session, len(batch))
    assert list(reports["order_sequence"]) == list(range(1, len(batch) + 1))
    assert list(reports["cl_ord_id"]) == list(batch["cl_ord_id"])
    assert (reports["exec_type"][::2] == ro.ExecType.NEW).all()
    assert list(reports["reason"][1::2]) == [reason for _, _, reason in REFUSED]
    bad = reports[1::2]
    stale = bad["reason"] == ro.Reason.STALE
    assert (bad["exec_type"][~stale] == ro.ExecType.REJECTED).all()
    assert (bad["exec_type"][stale] == ro.ExecType.EXPIRED).all()


def test_the_limits_themselves_are_good(session: ro.Session) -> None:
    batch = batch_of(5)
    batch["instrument"] = (7, 100, 200, 150, 7)
    batch["quantity"] = (1, 1000, 1000, 1, 1000)
    session.send_batch(batch)
    assert (take(session, 5)["exec_type"] == ro.ExecType.NEW).all()


def test_without_a_list_every_instrument_is_accepted(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    batch = batch_of(3)
    batch["instrument"] = (0, 1 << 31, 0xFFFFFFFF)
    session.send_batch(batch)
    assert (take(session, 3)["exec_type"] == ro.ExecType.NEW).all()


def test_wrong_waits_are_told(session: ro.Session) -> None:
    with pytest.raises(ro.ConfigError, match=r"^timeout_s must be 0 \.\. 86400 seconds, not -1$"):
        session.wait(-1)
    with pytest.raises(ro.ConfigError, match=r"^sequence must be 0 \.\. 9223372036854775807"):
        session.wait_applied(-1)
    with pytest.raises(ro.ConfigError, match=r"^sequence must be an integer, not 1\.0$"):
        session.wait_applied(1.0)  # type: ignore[arg-type]
    with pytest.raises(ro.ConfigError, match="timeout_s"):
        session.close(math.nan)
    assert session.status()["state"] == "live"
