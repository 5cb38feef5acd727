"""What holds a session back: a kill that outlives the gateway, mass cancels, the throttle."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gateway_support import (
    PATIENCE_S,
    Connect,
    GatewayProcess,
    StartGateway,
    batch_of,
    eventually,
    order,
    take,
)
from rights_support import NOBODY, without_rights

import rdmaorder as ro
from rdmaorder import cli, journal
from rdmaorder.messages import PeerState, SessionEventKind

Start = Callable[..., GatewayProcess]

#: instrument, side, account of the orders that are live, and which of them a scope names
TERMS = ((7, ro.BUY, 1), (7, ro.SELL, 2), (8, ro.BUY, 2), (8, ro.SELL, 1))
SCOPES: tuple[tuple[ro.MassCancelScope, dict[str, int], list[int]], ...] = (
    (ro.MassCancelScope.SESSION, {}, [0, 1, 2, 3]),
    (ro.MassCancelScope.INSTRUMENT, {"instrument": 7}, [0, 1]),
    (ro.MassCancelScope.SIDE, {"side": ro.SELL}, [1, 3]),
    (ro.MassCancelScope.ACCOUNT, {"account": 2}, [1, 2]),
)


def test_a_kill_outlives_the_gateway_until_the_operator_lifts_it(
    start_process: Start, connect: Connect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    by_operator, by_itself, other = (connect(gateway, name) for name in ("alpha", "beta", "gamma"))
    for each in (by_operator, by_itself, other):
        each.send_batch(batch_of(3))
        take(each, 3)
    assert cli.main(["kill", gateway.operator_url, "--session", "alpha"]) == 0
    assert by_itself.kill() == 3
    assert "not written down" not in capsys.readouterr().err
    gateway.end(signal.SIGKILL)
    gateway = start_process(*arguments)
    other.reconnect(PATIENCE_S)
    for session in (by_operator, by_itself):
        with pytest.raises(ro.Refused, match="was killed; an operator has to release it"):
            session.reconnect(PATIENCE_S)
    kept = journal.Journal(tmp_path / "journal").records
    assert (kept["kind"] == journal.RecordKind.KILL).sum() == 2
    assert cli.main(["kill", gateway.operator_url, "--all", "--release"]) == 0
    gateway.end(signal.SIGKILL)
    start_process(*arguments)
    for session in (by_operator, by_itself):
        session.reconnect(PATIENCE_S)
        assert (take(session, 3)["reason"] == ro.Reason.KILL).all()
        assert session.orders().size == 0
    assert len(other.resolve()) == 0


def test_a_kill_of_all_holds_for_sessions_that_come_later(
    start_process: Start, connect: Connect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--handler", "venue", "--journal", str(tmp_path / "journal"))
    gateway = start_process(*arguments)
    assert cli.main(["kill", gateway.operator_url, "--all"]) == 0
    with pytest.raises(ro.Refused, match="session later was killed"):
        connect(gateway, "later")
    gateway.end(signal.SIGKILL)
    gateway = start_process(*arguments)
    for name in ("later", "latest"):
        with pytest.raises(ro.Refused, match=f"session {name} was killed"):
            connect(gateway, name)
    assert cli.main(["kill", gateway.operator_url, "--session", "later", "--release"]) == 0
    connect(gateway, "later")
    with pytest.raises(ro.Refused, match="session latest was killed"):
        connect(gateway, "latest")
    capsys.readouterr()
    assert cli.main(["kill", gateway.operator_url, "--all", "--release"]) == 0
    assert capsys.readouterr() == ("released 2 sessions\n", "")
    connect(gateway, "another")
    assert journal.verify(tmp_path / "journal").ok
    assert cli.main(["journal", "cat", str(tmp_path / "journal"), "--kind", "kill"]) == 0
    shown = [line.split()[2:] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["*", "kill", "seq=0", "killed=1"],
        ["later", "kill", "seq=1", "killed=0"],
        ["*", "kill", "seq=0", "killed=0"],
    ]


def test_a_kill_that_no_journal_keeps_says_so(
    start_process: Start, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start_process()
    connect(gateway)
    assert cli.main(["kill", gateway.operator_url, "--session", "alpha"]) == 0
    assert "not written down" in capsys.readouterr().err
    assert cli.main(["kill", gateway.operator_url, "--session", "alpha", "--release"]) == 0
    assert "not written down" in capsys.readouterr().err


@pytest.mark.shm_only
@pytest.mark.parametrize("release", [[], ["--release"]])
@pytest.mark.parametrize("name", ["", "al pha"])
def test_a_kill_of_what_is_no_session_name_reaches_no_session(
    start_gateway: StartGateway,
    connect: Connect,
    capsys: pytest.CaptureFixture[str],
    name: str,
    release: list[str],
) -> None:
    """An unset variable of a shell is "", which is the request's word for every session."""
    gateway = start_gateway()
    session = connect(gateway)
    if release:
        gateway.kill()
    assert cli.main(["kill", gateway.url, "--session", name, *release]) == 2
    said = f'rdmaorder: error: --session "{name}": is no session name; --all for every session\n'
    assert capsys.readouterr() == ("", said)
    assert gateway.sessions()[0]["killed"] is bool(release)
    if not release:
        order(session, 1)
        take(session, 1)


def test_an_operator_asks_through_a_unix_socket(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kill", "rdma://gw.example:9000", "--all"]) == 2
    said = capsys.readouterr().err
    assert "rdma://gw.example:9000: an operator asks on the gateway's own host" in said
    assert "--listen shm:///run/gw.sock" in said


@pytest.mark.shm_only
def test_an_operator_needs_no_place_among_the_allowed_users_and_gets_no_session_by_it(
    start_gateway: StartGateway, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start_gateway(allowed_uids=(os.geteuid() + 4321,))
    assert cli.main(["kill", gateway.url, "--all"]) == 0
    assert capsys.readouterr().out.startswith("killed 0 sessions")
    with pytest.raises(ro.Refused, match=f"uid {os.geteuid()} is not allowed here"):
        connect(gateway)
    assert gateway.sessions() == []


@pytest.mark.shm_only
@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user to ask as: root")
def test_a_kill_by_another_user_is_told_as_refused(
    start_process: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's, which is closed to others
        Path(folder).chmod(0o755)
        config = tmp_path / "gw.toml"
        config.write_text("[gateway]\nallowed_uids = [1]\n")
        url = f"shm://{folder}/gw.sock"
        start_process("--config", str(config), "--listen", url)
        with without_rights():
            assert cli.main(["kill", url, "--all"]) == 2
    assert capsys.readouterr().err == (
        f"rdmaorder: error: the gateway refused, Credentials: uid {NOBODY} is not allowed here\n"
    )


@pytest.mark.shm_only
def test_a_kill_that_reaches_nobody_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gw.sock"

    def told() -> str:
        assert cli.main(["kill", f"shm://{path}", "--all"]) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        return errors.removeprefix(f"rdmaorder: error: ask the gateway at {path}: ")

    assert told() == (
        "No such file or directory; no such socket: is the gateway running, and with this address "
        "in listen?\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        nobody = "Connection refused; nobody listens: the gateway that made this socket has ended\n"
        assert told() == nobody
        listener.listen()
        path.chmod(0o600)
        with without_rights():
            assert told() == "Permission denied; ask as the gateway's user, or as root\n"
        monkeypatch.setattr("rdmaorder.cli.kill._PATIENCE_S", 0.01)
        assert told() == (
            "no answer in 0.01 s; it is stopped or stuck, and may still do it when it goes on\n"
        )


def test_a_mass_cancel_takes_what_its_scope_names_and_nothing_else(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    gateway = start_gateway(handler="venue", journal=str(tmp_path / "journal"))
    session, other = connect(gateway), connect(gateway, "beta")
    price = ro.price("1")

    def live() -> set[int]:
        return set(session.orders()["cl_ord_id"].tolist())

    def put(first: int) -> None:
        for n, (instrument, side, account) in enumerate(TERMS):
            session.new_order(first + n, instrument, side, price, 10, account=account)
        take(session, len(TERMS))

    order(other, 1)
    for n, (scope, values, cancelled) in enumerate(SCOPES):
        first = 1000 * (n + 1)
        put(first)
        session.mass_cancel(first + 500, scope, **values)
        reports = take(session, 1 + len(cancelled))
        told = reports["cl_ord_id"][reports["cl_ord_id"] != first + 500].tolist()
        assert sorted(told) == [first + each for each in cancelled], scope
        assert live() == {first + n for n in range(len(TERMS)) if n not in cancelled}
        gateway.cancel_orders("alpha", scope=scope, **values)  # the operator's finds no more
        assert live() == {first + n for n in range(len(TERMS)) if n not in cancelled}
        assert gateway.cancel_orders("alpha") == len(TERMS) - len(cancelled)
        take(session, len(TERMS) - len(cancelled))
    assert len(other.orders()) == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda g: g.cancel_orders("alpha", scope=9), "scope = 9: is none of its values"),
        (
            lambda g: g.cancel_orders("alpha", scope=257),
            "use a member of rdmaorder.MassCancelScope",
        ),
        (lambda g: g.cancel_orders("alpha", instrument=-1), "instrument = -1: is out of range"),
        (lambda g: g.cancel_orders("alpha", instrument=1 << 32), "use 0 to 4294967295"),
        (lambda g: g.cancel_orders("alpha", account="a"), "account = 'a': is not an integer"),
        (lambda g: g.cancel_orders("alpha", side=3), "side = 3: is none of its values"),
        (lambda g: g.cancel_orders("alpha", scope=3), "side = 0: is none of its values"),
        (lambda g: g.cancel_orders("alpha", reason=999), "reason = 999: is none of its values"),
        (
            lambda g: g.halt(999),
            "reason = 999: is none of its values; use a member of rdmaorder.Re",
        ),
        (lambda g: g.halt("now"), "reason = 'now': is none of its values"),
    ],
)
def test_an_operators_value_that_cannot_be_is_named_and_does_nothing(
    start_gateway: StartGateway,
    connect: Connect,
    call: Callable[[ro.Gateway], object],
    told: str,
) -> None:
    gateway = start_gateway(handler="venue")
    session = connect(gateway)
    order(session, 1)
    take(session, 1)
    with pytest.raises(ro.ConfigError) as raised:
        call(gateway)
    assert told in str(raised.value)
    order(session, 2)  # nothing was halted
    take(session, 1)
    numbers = {"instrument": np.uint32(7), "side": 2, "account": np.int64(3)}
    assert gateway.cancel_orders("alpha", scope=2, **numbers) == 2


def test_a_throttled_session_sees_it_in_its_status_and_is_told_when_it_is_over(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(max_orders_per_s=5, orders_burst=1))
    session.send_batch(batch_of(2))
    take(session, 2)
    told = eventually(session.events, "throttling is told")
    assert [e.kind for e in told] == [SessionEventKind.THROTTLED]
    assert told[0].count == 5
    eventually(lambda: session.try_new_order(10, 7, ro.BUY, 5, 1) > 0, "there is room again")
    take(session, 1)
    told = eventually(session.events, "its end is told")
    assert [e.kind for e in told] == [SessionEventKind.RESUMED]


def test_orders_are_not_even_sent_while_the_line_says_throttled_and_cancels_are(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway(max_orders_per_s=1, orders_burst=1))

    def refused() -> bool:
        """A second is soon over on a busy machine, so this may take several."""
        session.poll()
        before = session.next_sequence
        result = session.try_new_order(before, 7, ro.BUY, 5, 1)
        cancelled = session.try_cancel_order(10**6 + before, 1)
        state = session.status()
        if result > 0 or state["gateway_state"] != PeerState.THROTTLED:
            return False
        assert result == ro.Status.THROTTLED
        assert state["gateway_reason"] == "throttled"
        assert cancelled == before
        return True

    eventually(refused, "the line says throttled")
    assert session.status()["state"] == "live"


def test_a_gateway_that_shuts_down_cancels_nothing(
    start_gateway: StartGateway, connect: Connect, tmp_path: Path
) -> None:
    folder = str(tmp_path / "journal")
    gateway = start_gateway(handler="venue", journal=folder, cancel_on="both", cancel_grace_ms=0)
    session = connect(gateway)
    session.send_batch(batch_of(3))
    take(session, 3)
    gateway.stop()
    assert (journal.Journal(folder).reports("alpha")["exec_type"] == ro.ExecType.NEW).all()
