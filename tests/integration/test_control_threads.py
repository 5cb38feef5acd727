"""What may wait for what on the gateway's control side: kills, inquiries, links being made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handshake_support import (
    ESTABLISH,
    TERMINATE,
    Client,
    Running,
    Start,
    eventually,
    gateways,
    memfd,
)

from rdmaorder.messages import FATE_RECORD

RESOLVE: dict[str, Any] = {
    "type": "Resolve",
    "request": 1,
    "what": "open",
    "from_sequence": 1,
    "count": 10,
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with gateways(tmp_path) as begin:
        yield begin


@pytest.fixture
def gateway(start: Start) -> Iterator[Running]:
    running = start()
    yield running
    running.core.may_answer.set()


def operate(gateway: Running, kind: str, session: str) -> dict[str, Any]:
    with gateway.client() as client:
        return client.ask({"type": kind, "session": session})


def asking(gateway: Running, *sessions: str) -> list[Client]:
    """Strategies that wait for an answer out of a long journal."""
    gateway.core.may_answer.clear()
    clients = []
    for name in sessions:
        clients.append(gateway.client())
        clients[-1].connect(name)
        clients[-1].send(RESOLVE)
    return clients


# -- inquiries ---------------------------------------------------------------------------------


def test_a_kill_waits_for_no_inquiry(gateway: Running) -> None:
    clients = asking(gateway, "a", "b", "c")
    with gateway.client() as victim:
        victim.connect("victim")
        eventually(lambda: len(gateway.core.inquiries) == 2, "all threads for inquiries are busy")
        assert operate(gateway, "OperatorKill", "victim")["type"] == "Killed"
        assert operate(gateway, "OperatorRelease", "victim")["type"] == "Released"
        assert victim.receive()[0]["code"] == "LinkFailed"
    with gateway.client() as victim:
        victim.connect("victim")
        assert victim.ask({"type": "Kill", "request": 1})["type"] == "Killed", "its own neither"
    gateway.core.may_answer.set()
    for client in clients:
        assert client.receive()[0]["type"] == "Resolved"
        client.socket.close()


def test_a_strategy_that_dies_amid_its_inquiry_is_noticed(gateway: Running) -> None:
    (client,) = asking(gateway, "alpha")
    eventually(lambda: gateway.core.inquiries == [0], "the inquiry is under way")
    client.socket.close()
    eventually(lambda: len(gateway.core.detached) == 1, "its link is ended")
    assert gateway.count("lost") == 1
    with gateway.client() as again:
        again.connect()


def test_a_strategy_ends_its_link_amid_its_inquiry(gateway: Running) -> None:
    (client,) = asking(gateway, "alpha")
    assert client.ask(TERMINATE)["code"] == "Finished"
    client.socket.close()


def test_no_session_takes_all_threads_for_inquiries(gateway: Running) -> None:
    for _ in range(3):  # asks, dies, comes back and asks again
        (client,) = asking(gateway, "greedy")
        client.socket.close()
        eventually(lambda: not gateway.core.live, "gone")
    (client,) = asking(gateway, "other")
    eventually(lambda: gateway.core.inquiries == [0, 1], "the other's has begun, and no third")
    gateway.core.may_answer.set()
    assert client.receive()[0]["type"] == "Resolved"
    client.socket.close()


def test_who_asks_again_gets_one_answer(gateway: Running) -> None:
    (client,) = asking(gateway, "alpha")
    eventually(lambda: gateway.core.inquiries == [0], "the first is under way")
    client.send(RESOLVE)
    assert client.ask({"type": "Clock", "request": 2})["type"] == "Clock"
    gateway.core.may_answer.set()
    assert client.receive()[0]["type"] == "Resolved"
    assert client.ask({"type": "Clock", "request": 2})["type"] == "Clock"
    client.socket.close()


def test_a_wrong_question_is_refused_and_the_link_goes_on(gateway: Running) -> None:
    with gateway.client() as client:
        client.connect()
        assert client.ask(RESOLVE | {"count": 0})["type"] == "Refused"
        refused = client.ask(RESOLVE | {"what": "Open"})
        assert (refused["type"], refused["code"]) == ("Refused", "BadRequest")
        assert "what = 'Open'" in refused["text"]
        assert client.ask(RESOLVE)["type"] == "Resolved"


def test_pages_of_open_orders_are_of_one_reading_of_the_journal(gateway: Running) -> None:
    gateway.core.open_sequences = np.array([3, 5, 7])

    def page(client: Client, start: int) -> list[int]:
        asked = client.ask(RESOLVE | {"what": "open", "from_sequence": start, "count": 1})
        return [int(n) for n in np.frombuffer(asked["fates"], FATE_RECORD)["sequence"]]

    with gateway.client() as client:
        client.connect()
        assert page(client, 1) == [3]
        gateway.core.open_sequences = np.array([9, 11])
        assert page(client, 4) == [5]
        assert page(client, 6) == [7], "as it was when it was read"
        assert gateway.core.scans == [1]
        assert page(client, 8) == [9], "nothing was left"
        assert page(client, 1) == [9], "from the beginning is anew"
        assert page(client, 1) == [9]
        assert page(client, 11) == [11], "so is elsewhere"
        assert gateway.core.scans == [1, 8, 1, 1, 11]


# -- links being made --------------------------------------------------------------------------


def test_an_attach_that_takes_its_time_holds_up_nobody_else(gateway: Running) -> None:
    gateway.core.slow = {0}
    gateway.core.may_attach.clear()
    with gateway.client() as slow, gateway.client() as other:
        slow.negotiate(session="slow")
        own = memfd()
        slow.send(ESTABLISH | {"session": "slow"}, (own,))
        assert gateway.core.attaching.wait(20)
        other.connect("other")
        gateway.core.may_attach.set()
        answer, descriptors = slow.receive()
        assert answer["type"] == "EstablishmentAck"
        for descriptor in (own, *descriptors):
            os.close(descriptor)


def test_a_link_that_fails_before_its_connection_is_live_is_ended(gateway: Running) -> None:
    attach = gateway.core.attach_shm

    def fail_at_once(session_index: int, *arguments: Any) -> dict[str, Any]:
        attached = attach(session_index, *arguments)
        # In the loop before the answer of this thread is.
        end = (session_index, attached["epoch"], "torn")
        gateway.loop.call_soon_threadsafe(gateway.server.end_link, *end)
        return attached

    gateway.core.attach_shm = fail_at_once  # type: ignore[method-assign]
    with gateway.client() as client:
        client.connect()
        ended = client.receive()[0]
        assert (ended["code"], ended["text"]) == ("LinkFailed", "torn")
    gateway.core.attach_shm = attach  # type: ignore[method-assign]
    with gateway.client() as client:
        client.connect()
        answer = client.ask({"type": "Clock", "request": 2})
        assert answer["type"] == "Clock", "the next link is another"


# -- kills and cancels -------------------------------------------------------------------------


def test_a_kill_of_all_is_one_call_and_a_refusal_keeps_nobody_alive(gateway: Running) -> None:
    gateway.core.refuse_kill[0] = "a lives"
    clients = [gateway.client() for _ in range(3)]
    for name, client in zip(("a", "b", "c"), clients, strict=True):
        client.connect(name)
    answer = operate(gateway, "OperatorKill", "")
    assert gateway.core.kills == [None]
    assert (answer["type"], answer["text"]) == ("Refused", "2 sessions killed, but a lives")
    for client in clients[1:]:
        assert client.receive()[0]["text"] == "killed by the operator"
    gateway.core.refuse_kill.clear()
    answer = operate(gateway, "OperatorKill", "")
    assert (answer["sessions"], answer["canceled"], answer["recorded"]) == (3, 6, 1)
    for client in clients:
        client.socket.close()


def test_an_operators_kill_waits_for_no_strategys(gateway: Running) -> None:
    gateway.core.may_answer.clear()
    names = [f"s{n}" for n in range(20)]
    gateway.core.slow_kills = set(range(len(names)))
    clients = [gateway.client() for _ in names]
    for name, client in zip(names, clients, strict=True):
        client.connect(name)
        client.send({"type": "Kill", "request": 1})
    with gateway.client() as victim:
        victim.connect("victim")
        assert operate(gateway, "OperatorKill", "victim")["type"] == "Killed"
    gateway.core.may_answer.set()
    for client in clients:
        assert client.receive()[0]["type"] == "Killed"
        client.socket.close()


def test_orders_of_a_gone_session_are_cancelled_when_the_core_says_it_is_gone(
    start: Start,
) -> None:
    gateway = start(cancel_on="both", cancel_grace_ms=1)
    gateway.core.cancelled = [None, None, 3]  # a link is being made, and comes to nothing
    with gateway.client() as client:
        client.connect()
        client.ask(TERMINATE)
    eventually(lambda: len(gateway.core.cancels) == 3, "asked until it is decided")
    assert gateway.core.cancels == [(0, 1_000_000)] * 3
    gateway.core.cancelled = [None] * 1000
    with gateway.client() as client:
        client.connect()
        client.ask(TERMINATE)
    eventually(lambda: len(gateway.core.cancels) > 3, "asked for the second link")
    with gateway.client() as client:
        client.connect()  # back: nobody asks any more
        asked = len(gateway.core.cancels)
        eventually(lambda: not gateway.server._operations._grace, "the grace time is over")
        assert len(gateway.core.cancels) <= asked + 1
