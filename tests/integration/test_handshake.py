"""The control server against strategies that behave, are refused, or die."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from handshake_support import (
    ESTABLISH,
    NEGOTIATE,
    TERMINATE,
    Client,
    Running,
    Start,
    eventually,
    gateways,
    memfd,
)

from rdmaorder.errors import ConfigError, HandshakeError, Refused
from rdmaorder.gateway import server
from rdmaorder.gateway.protocol import encode_frame
from rdmaorder.gateway.server import HALF_OPEN_MAX


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with gateways(tmp_path) as begin:
        yield begin


@pytest.fixture
def gateway(start: Start) -> Running:
    return start()


# -- a good link -------------------------------------------------------------------------------


def test_a_session_is_negotiated_established_and_terminated(gateway: Running) -> None:
    with gateway.client() as client:
        granted = client.negotiate()
        assert granted["type"] == "NegotiationResponse"
        assert granted["pid"] == os.getpid()
        assert (granted["next_order_sequence"], granted["cancel_reserve_count"]) == (7, 8)
        ack = client.establish(next_order_sequence=9)
        assert ack["type"] == "EstablishmentAck"
        assert (ack["next_order_sequence"], ack["not_applied_count"]) == (9, 2)
        assert gateway.core.live == {0}
        assert client.ask(TERMINATE) == TERMINATE | {"last_sequence": 40}
        assert client.is_closed()
    assert gateway.core.detached == [(0, ack["epoch"], True)]
    assert (gateway.count("established"), gateway.count("terminated")) == (1, 1)


def test_both_windows_are_the_same_memory_on_both_sides(gateway: Running) -> None:
    with gateway.client() as client:
        client.negotiate()
        own = memfd()
        client.send(ESTABLISH, (own,))
        _, (theirs,) = client.receive()
        with mmap.mmap(theirs, 8192) as orders, mmap.mmap(own, 8192) as reports:
            orders[4096:4100] = b"ORDR"
            assert os.pread(gateway.core.windows[0], 4, 4096) == b"ORDR"
            os.pwrite(gateway.core.report_fds[0], b"REPT", 4096)
            assert reports[4096:4100] == b"REPT"
        os.close(own)
        os.close(theirs)


def test_a_strategy_that_dies_is_detached_with_its_ring_drained(gateway: Running) -> None:
    with gateway.client() as client:
        epoch = client.connect()["epoch"]
    eventually(lambda: gateway.core.detached, "detach")
    assert gateway.core.detached == [(0, epoch, True)]
    assert gateway.count("lost") == 1


def test_a_strategy_that_comes_back_at_once_waits_for_its_own_old_link(gateway: Running) -> None:
    gateway.core.may_detach.clear()
    with gateway.client() as client:
        client.connect()
    with gateway.client() as client:
        client.send(NEGOTIATE)
        eventually(lambda: gateway.count("lost") == 1, "end of file seen")
        gateway.core.may_detach.set()
        assert client.receive()[0]["type"] == "NegotiationResponse"
        assert client.establish()["type"] == "EstablishmentAck"


def test_a_draining_ring_holds_up_no_other_session(gateway: Running) -> None:
    gateway.core.may_detach.clear()
    with gateway.client() as client:
        client.connect("slow")
    eventually(lambda: gateway.count("lost") == 1, "end of file seen")
    with gateway.client() as client:
        client.connect("other")
    assert gateway.core.detached == []


def test_frames_that_arrive_byte_by_byte_are_frames(gateway: Running) -> None:
    with gateway.client() as client:
        for byte in encode_frame(NEGOTIATE):
            client.socket.send(bytes([byte]))
        assert client.receive()[0]["type"] == "NegotiationResponse"


def test_two_frames_sent_at_once_are_read_one_after_the_other(gateway: Running) -> None:
    with gateway.client() as client:
        own = memfd()
        client.socket.send(encode_frame(NEGOTIATE))
        client.send(ESTABLISH, (own,))
        os.close(own)
        answers = [client.receive()[0]["type"] for _ in range(2)]
        assert answers == ["NegotiationResponse", "EstablishmentAck"]


# -- refusals ----------------------------------------------------------------------------------


def test_a_second_connection_for_a_live_session_is_refused(gateway: Running) -> None:
    with gateway.client() as first, gateway.client() as second:
        first.connect()
        answer = second.negotiate()
        assert (answer["type"], answer["code"]) == ("NegotiationReject", "DuplicateId")
        assert str(os.getpid()) in answer["text"]
        assert second.is_closed()
        assert first.ask(TERMINATE)["type"] == "Terminate"


def test_of_two_that_negotiated_the_same_session_one_gets_it(gateway: Running) -> None:
    with gateway.client() as first, gateway.client() as second:
        first.negotiate()
        second.negotiate()
        assert first.establish()["type"] == "EstablishmentAck"
        assert second.establish()["code"] == "AlreadyEstablished"
        assert first.ask(TERMINATE)["type"] == "Terminate"


def test_a_session_the_core_says_is_live_is_refused(gateway: Running) -> None:
    gateway.core.indices["alpha"] = 0
    gateway.core.live.add(0)
    with gateway.client() as client:
        assert client.negotiate()["code"] == "DuplicateId"


def test_another_version_is_told_both_versions(gateway: Running) -> None:
    with gateway.client() as client:
        answer = client.negotiate(protocol_version=9, client_version="7.7.7")
    assert answer["code"] == "VersionMismatch"
    assert "7.7.7" in answer["text"]
    assert answer["gateway_version"] in answer["text"]
    assert (answer["protocol_version"], answer["layout_version"]) == (1, 1)


def test_a_name_outside_the_configured_list_is_refused(start: Start) -> None:
    gateway = start(sessions=("alpha", "beta"))
    with gateway.client() as client:
        assert client.negotiate(session="gamma")["code"] == "UnknownSession"
    with gateway.client() as client:
        client.connect("beta")


def test_more_sessions_than_allowed_are_refused_but_known_ones_are_not(start: Start) -> None:
    gateway = start(max_sessions=1)
    with gateway.client() as client:
        client.connect("alpha")
    with gateway.client() as client:
        assert client.negotiate(session="beta")["code"] == "TooManySessions"
    with gateway.client() as client:
        client.connect("alpha")


def test_a_uid_that_is_not_allowed_is_refused(start: Start) -> None:
    gateway = start(allowed_uids=(os.geteuid() + 4321,))
    with gateway.client() as client:
        assert client.negotiate()["code"] == "Credentials"


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Refused("another slot size", code="BadRequest"), "BadRequest"),
        (Refused("full", code="TooManySessions"), "TooManySessions"),
        (Refused("odd", code="NoSuchCode"), "Unspecified"),
        (ConfigError("slot_bytes"), "BadRequest"),
        (OSError("memory"), "Unspecified"),
    ],
    ids=repr,
)
def test_what_the_core_refuses_at_negotiate_reaches_the_strategy(
    gateway: Running, raised: BaseException, code: str
) -> None:
    gateway.core.refuse_open = raised
    with gateway.client() as client:
        answer = client.negotiate()
    assert (answer["type"], answer["code"]) == ("NegotiationReject", code)
    assert str(raised) in answer["text"]


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Refused("blocked", code="SessionBlocked"), "SessionBlocked"),
        (HandshakeError("cannot map it"), "BadWindow"),
    ],
    ids=repr,
)
def test_a_refused_attach_leaves_the_session_free(
    gateway: Running, raised: BaseException, code: str
) -> None:
    gateway.core.refuse_attach = raised
    with gateway.client() as client:
        client.negotiate()
        assert client.establish()["code"] == code
    gateway.core.refuse_attach = None
    with gateway.client() as client:
        client.connect()


def test_an_error_inside_the_core_ends_that_connection_only(gateway: Running) -> None:
    with gateway.client() as live:
        live.connect("live")
        gateway.core.refuse_open = RuntimeError("a defect")
        with gateway.client() as client:
            assert client.negotiate() == {}
        gateway.core.refuse_open = None
        assert gateway.count("failed") == 1
        assert live.ask(TERMINATE)["type"] == "Terminate"


def test_a_detach_that_fails_frees_the_session(gateway: Running) -> None:
    gateway.core.refuse_detach = RuntimeError("a defect")
    with gateway.client() as client:
        client.connect()
        assert client.ask(TERMINATE)["type"] == "Terminate"
    with gateway.client() as client:
        client.connect()


# -- a live link -------------------------------------------------------------------------------


def test_a_strategy_that_left_before_the_ack_is_detached(gateway: Running) -> None:
    gateway.core.may_attach.clear()
    with gateway.client() as client:
        client.negotiate()
        own = memfd()
        client.send(ESTABLISH, (own,))
        os.close(own)
        eventually(gateway.core.attaching.is_set, "attach under way")
    gateway.core.may_attach.set()
    eventually(lambda: gateway.core.detached, "detach")
    with gateway.client() as client:
        client.connect()


def test_a_second_establish_is_refused_and_the_link_lives_on(gateway: Running) -> None:
    with gateway.client() as client:
        client.connect()
        assert client.establish()["code"] == "AlreadyEstablished"
        assert client.ask(TERMINATE)["code"] == "Finished"


def test_a_link_the_core_gives_up_is_ended_with_its_reason(gateway: Running) -> None:
    with gateway.client() as client, gateway.client() as other:
        epoch = client.connect("alpha")["epoch"]
        other.connect("beta")
        end = gateway.server.end_link
        gateway.loop.call_soon_threadsafe(end, 0, epoch - 1, "a link before this one")
        gateway.loop.call_soon_threadsafe(end, 0, epoch, "corrupt slot 17")
        answer, _ = client.receive()
        assert (answer["code"], answer["text"]) == ("LinkFailed", "corrupt slot 17")
        assert client.is_closed()
        assert gateway.core.detached == [(0, epoch, False)]
        assert other.ask(TERMINATE)["code"] == "Finished"
    with gateway.client() as client:
        client.connect("alpha")


def test_configured_ring_sizes_win_over_what_the_strategy_asks(start: Start) -> None:
    gateway = start(order_slots=512, report_slots=2048)
    with gateway.client() as client:
        granted = client.negotiate()
    assert (granted["order_slot_count"], granted["report_slot_count"]) == (512, 2048)


# -- many at once ------------------------------------------------------------------------------


def test_a_burst_of_strategies_all_get_in(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LAGGARD_AGE_S", 600.0)  # a slow machine makes no laggards
    clients: list[Client] = []
    try:
        for number in range(3 * HALF_OPEN_MAX):
            clients.append(gateway.client())
            clients[-1].send(NEGOTIATE | {"session": f"s{number}"})
        for number, client in enumerate(clients):
            assert client.receive()[0]["type"] == "NegotiationResponse"
            assert client.establish(session=f"s{number}")["type"] == "EstablishmentAck"
    finally:
        for client in clients:
            client.socket.close()
    eventually(lambda: gateway.count("established") == 3 * HALF_OPEN_MAX, "all established")
