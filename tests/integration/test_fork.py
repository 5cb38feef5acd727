"""A forked child: sessions and gateways it inherits are its parent's, which go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_support import (
    LENIENT,
    PATIENCE_S,
    Connect,
    GatewayProcess,
    StartGateway,
    batch_of,
    order,
    strategy_url,
    take,
)

import rdmaorder as ro


def in_child(run: Callable[[], str]) -> str:
    """What ``run`` gives in a forked child, or how it ended there."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE_S))  # its default ends the child
        try:
            text = run()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child hung"
    return text


@pytest.fixture
def gateway(start_process: Callable[..., GatewayProcess], tmp_path: Path) -> GatewayProcess:
    config = tmp_path / "gw.toml"
    config.write_text('[gateway]\ncancel_on = "both"\ncancel_grace_ms = 0\n')
    return start_process(
        "--config", str(config), "--handler", "venue", "--journal", str(tmp_path / "journal")
    )


def test_a_child_cannot_use_a_session_and_is_told_whose_it_is(
    gateway: GatewayProcess, connect: Connect
) -> None:
    session = connect(gateway)
    order(session, 1)
    take(session, 1)
    order(session, 2)
    calls: dict[str, Callable[[], object]] = {
        "new_order": lambda: order(session, 3),
        "cancel_order": lambda: session.cancel_order(3, 1),
        "send_batch": lambda: session.send_batch(batch_of(2)),
        "poll": session.poll,
        "maintain": session.maintain,
        "reconnect": session.reconnect,
        "resolve": session.resolve,
        "orders": session.orders,
        "measure_clock": session.measure_clock,
        "kill": session.kill,
    }

    def use_all() -> str:
        outcomes = []
        for name, call in calls.items():
            try:
                outcomes.append(f"{name} gave {call()!r}")
            except ro.SessionClosed as error:
                outcomes.append(f"{name} {str(error).removeprefix(f'{name}: closed: ')}")
        status = session.status()
        outcomes.append(f"{status['state']} {status['cause']}")
        return "\n".join(outcomes)

    why = f"this session belongs to process {os.getpid()}; connect in this one"
    assert in_child(use_all).split("\n") == [f"{name} {why}" for name in calls] + [f"dead {why}"]
    assert list(take(session, 1)["cl_ord_id"]) == [2], "the child took nothing"
    assert order(session, 3) == 3
    assert session.wait_applied(3, PATIENCE_S)
    assert len(session.orders(PATIENCE_S)) == 3


@pytest.mark.parametrize("how", ["close", "drop", "leave"])
def test_the_end_of_a_childs_copy_leaves_the_link_alone(gateway: GatewayProcess, how: str) -> None:
    made = [ro.connect(strategy_url(gateway.url), "alpha", **LENIENT)]
    order(made[0], 1)
    take(made[0], 1)

    def end() -> str:
        if how == "close":
            return str(made[0].close(PATIENCE_S))
        if how == "leave":
            with made[0]:
                pass
        made.clear()
        return "ended"

    assert in_child(end) == ("False" if how == "close" else "ended")
    session = made[0]
    assert session.measure_clock(PATIENCE_S)
    assert order(session, 2) == 2
    assert list(take(session, 1)["cl_ord_id"]) == [2]
    live = session.orders(PATIENCE_S)
    assert list(live["cl_ord_id"]) == [1, 2], "no logout, which would have cancelled them"
    assert session.close(PATIENCE_S)


def test_a_child_may_connect_on_its_own(gateway: GatewayProcess, connect: Connect) -> None:
    session = connect(gateway)

    def trade() -> str:
        with ro.connect(strategy_url(gateway.url), "child", **LENIENT) as own:
            order(own, 1)
            return f"{len(take(own, 1))} {own.close(PATIENCE_S)}"

    assert in_child(trade) == "1 True"
    assert order(session, 1) == 1
    take(session, 1)


@pytest.mark.shm_only
def test_a_gateway_in_the_parent_outlives_its_copy_in_a_child(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    held = {"gateway": start_gateway(journal=str(tmp_path / "journal"))}
    session = connect(held["gateway"])
    order(session, 1)
    take(session, 1)

    def stop() -> str:
        held["gateway"].stop()
        return "stopped"

    assert in_child(stop) == "stopped"
    gateway = held["gateway"]
    assert Path(gateway.counters_path).exists()
    assert Path(gateway.url.removeprefix("shm://")).exists()
    assert order(session, 2) == 2
    take(session, 1)
