"""The control server against peers that send garbage, dawdle or pass odd descriptors."""

from __future__ import annotations

import logging
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handshake_support import (
    ESTABLISH,
    F_SEAL_GROW,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    NEGOTIATE,
    TERMINATE,
    WINDOW,
    Running,
    Start,
    eventually,
    gateways,
    memfd,
    open_descriptors,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdmaorder.gateway.protocol import encode_frame
from rdmaorder.gateway.server import HALF_OPEN_MAX


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with gateways(tmp_path) as begin:
        yield begin


@pytest.fixture
def gateway(start: Start) -> Running:
    return start()


# -- garbage -----------------------------------------------------------------------------------

GARBAGE: dict[str, bytes] = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length of zero": struct.pack("<I", 0),
    "a huge length": struct.pack("<I", 65537) + b"x",
    "no msgpack": struct.pack("<I", 3) + b"\xc1\xc1\xc1",
    "an array": struct.pack("<I", 2) + b"\x91\x01",
    "a key twice": struct.pack("<I", 9) + b"\x82\xa1a\x01\xa1a\x02\xc0\xc0"[:9],
    "another type": encode_frame({"type": "Hello"}),
    "no type": encode_frame({"session": "alpha"}),
    "a map for its type": encode_frame({"type": {"a": 1}}),
    "the other step's answer": encode_frame({"type": "NegotiationResponse"}),
}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("step", ["Negotiate", "Establish"])
def test_garbage_gets_a_reject_and_a_close_and_disturbs_nobody(
    gateway: Running, step: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with gateway.client() as live:
        live.connect("live")
        with gateway.client() as client:
            if step == "Establish":
                client.negotiate()
            answer = client.ask(GARBAGE[kind])
            expected = "NegotiationReject" if step == "Negotiate" else "EstablishmentReject"
            assert (answer["type"], answer["code"]) == (expected, "BadRequest")
            assert answer["text"]
            assert client.is_closed()
        with gateway.client() as client:
            client.connect()
        assert live.ask(TERMINATE)["type"] == "Terminate"
    assert gateway.count("refused.BadRequest") == 1
    assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1


def test_establish_before_negotiate_is_refused(gateway: Running) -> None:
    with gateway.client() as client:
        answer = client.establish()
        assert (answer["type"], answer["code"]) == ("NegotiationReject", "BadRequest")


def test_establish_for_another_session_is_unnegotiated(gateway: Running) -> None:
    with gateway.client() as client:
        client.negotiate(session="alpha")
        assert client.establish(session="beta")["code"] == "Unnegotiated"


@pytest.mark.parametrize("part", [1, 4, 5, 40])
def test_a_connection_that_breaks_off_within_a_frame_is_counted(
    gateway: Running, part: int
) -> None:
    with gateway.client() as client:
        client.send(encode_frame(NEGOTIATE)[:part])
    eventually(lambda: gateway.count("abandoned") == 1, "abandoned")


def test_a_connection_that_says_nothing_and_leaves_is_only_a_look(gateway: Running) -> None:
    gateway.client().socket.close()
    eventually(lambda: gateway.count("looked") == 1, "looked")


@pytest.mark.parametrize("step", ["Negotiate", "Establish"])
def test_a_silent_peer_is_told_that_its_time_is_up(start: Start, step: str) -> None:
    gateway = start(handshake_timeout_ms=50)
    with gateway.client() as client:
        if step == "Establish":
            client.negotiate()
        answer, _ = client.receive()
        assert answer["code"] == "TooSlow"
        assert "50 ms" in answer["text"]
        assert step in answer["text"]
        assert client.is_closed()
    assert gateway.count("timed_out") == 1


def test_a_peer_that_trickles_bytes_gains_no_time(start: Start) -> None:
    gateway = start(handshake_timeout_ms=100)
    stop = threading.Event()
    with gateway.client() as client:
        client.send(struct.pack("<I", 60_000))

        def trickle() -> None:
            while not stop.wait(0.005):
                try:
                    client.socket.send(b"\x81")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert "100 ms" in client.receive()[0]["text"]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("kind", [kind for kind in GARBAGE if kind != "the other step's answer"])
def test_garbage_on_a_live_link_ends_it_with_the_ring_drained(gateway: Running, kind: str) -> None:
    with gateway.client() as client:
        epoch = client.connect()["epoch"]
        answer = client.ask(GARBAGE[kind])
        assert (answer["type"], answer["code"]) == ("Terminate", "BadRequest")
        assert answer["last_sequence"] == 40
    assert gateway.core.detached == [(0, epoch, True)]
    assert gateway.count("violated") == 1


# -- descriptors -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2, 4, 5, 60])
def test_a_wrong_number_of_descriptors_is_refused_and_none_leaks(
    gateway: Running, count: int
) -> None:
    with gateway.client() as client:
        client.negotiate()
        before = open_descriptors()
        own = [memfd() for _ in range(count)]
        answer = client.ask(ESTABLISH, tuple(own))
        for descriptor in own:
            os.close(descriptor)
        assert (answer["code"], "exactly one" in answer["text"]) == ("BadRequest", True)
        assert client.is_closed()
        eventually(lambda: open_descriptors() <= before, "every descriptor closed")


def test_descriptors_with_every_byte_of_a_frame_are_closed(gateway: Running) -> None:
    before = open_descriptors()
    own = memfd()
    with gateway.client() as client:
        for byte in encode_frame(NEGOTIATE):
            client.send(bytes([byte]), (own, own))
        assert client.receive()[0]["code"] == "BadRequest"
    os.close(own)
    eventually(lambda: open_descriptors() == before, "every descriptor closed")


def test_a_descriptor_of_a_frame_never_finished_is_closed(gateway: Running) -> None:
    before = open_descriptors()
    own = memfd()
    with gateway.client() as client:
        client.negotiate()
        client.send(encode_frame(ESTABLISH)[:20], (own,))
        eventually(lambda: open_descriptors() > before + 2, "descriptor received")
    os.close(own)
    eventually(lambda: open_descriptors() == before, "every descriptor closed")


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        (lambda: memfd(seals=0), "not sealed"),
        (lambda: memfd(seals=F_SEAL_SHRINK), "not sealed"),
        (lambda: memfd(seals=F_SEAL_GROW), "not sealed"),
        (lambda: memfd(seals=F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "against writing"),
        (lambda: memfd(size_bytes=4096), "4096 bytes"),
        (lambda: os.open("/dev/null", os.O_RDWR), "not a memfd"),
        (lambda: os.dup(0), "not a memfd"),
    ],
    ids=["no seals", "may grow", "may shrink", "read only", "too small", "a device", "a stream"],
)
def test_a_descriptor_that_cannot_be_a_window_is_refused(
    gateway: Running, descriptor: Callable[[], int], reason: str
) -> None:
    with gateway.client() as client:
        client.negotiate()
        answer = client.establish(descriptor())
        assert (answer["code"], reason in answer["text"]) == ("BadWindow", True)
    assert not gateway.core.attaching.is_set()


def test_a_window_whose_ring_does_not_fit_is_refused(gateway: Running) -> None:
    with gateway.client() as client:
        client.negotiate()
        answer = client.establish(window=WINDOW | {"slot_count": 128})
        assert (answer["code"], "too small" in answer["text"]) == ("BadWindow", True)


def test_a_hundred_links_later_no_descriptor_is_left(gateway: Running) -> None:
    with gateway.client() as client:
        client.connect()
    eventually(lambda: len(gateway.core.detached) == 1, "first detach")
    before = open_descriptors()
    for _ in range(100):
        with gateway.client() as client:
            client.connect()
    eventually(lambda: len(gateway.core.detached) == 101, "every detach")
    eventually(lambda: open_descriptors() == before, "every descriptor closed")


# -- crowds and fuzz ------------------------------------------------------------


def test_silent_connections_in_every_place_do_not_keep_a_strategy_out(start: Start) -> None:
    gateway = start(handshake_timeout_ms=600_000)
    silent = [gateway.client() for _ in range(HALF_OPEN_MAX)]
    try:
        eventually(lambda: gateway.count("connections") == HALF_OPEN_MAX, "all places taken")
        with gateway.client() as client:
            client.connect()
        assert gateway.count("evicted") == 1
        assert silent[0].receive()[0]["code"] == "TooSlow"
    finally:
        for client in silent:
            client.socket.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prefix=st.sampled_from([b"", encode_frame(NEGOTIATE | {"session": "fuzz"})]),
    framed=st.booleans(),
    data=st.binary(min_size=1, max_size=200),
)
def test_random_bytes_never_keep_the_next_strategy_out(
    gateway: Running, prefix: bytes, framed: bool, data: bytes
) -> None:
    with gateway.client() as fuzz:
        fuzz.send(prefix + (struct.pack("<I", len(data)) if framed else b"") + data)
        fuzz.socket.shutdown(socket.SHUT_WR)
        while not fuzz.is_closed():
            pass
    with gateway.client() as client:
        client.connect()
        assert client.ask(TERMINATE)["type"] == "Terminate"
    assert gateway.count("failed") == 0


def test_good_frames_with_flipped_bits_never_keep_the_next_strategy_out(gateway: Running) -> None:
    chance = random.Random(20240711)
    for _ in range(300):
        frame = bytearray(encode_frame(NEGOTIATE | {"session": "fuzz"}))
        for _ in range(chance.randint(1, 4)):
            frame[chance.randrange(4, len(frame))] ^= 1 << chance.randrange(8)
        with gateway.client() as fuzz:
            assert fuzz.ask(bytes(frame))["type"].startswith("Negotiation")
    with gateway.client() as client:
        client.connect()
    assert gateway.count("failed") == 0
