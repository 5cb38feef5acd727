"""A full disk under the journal, with a real file system that really is full."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gateway_support import (
    PATIENCE_S,
    Connect,
    GatewayProcess,
    batch_of,
    eventually,
    order,
    take,
)

import rdmaorder as ro
from rdmaorder import journal
from rdmaorder.messages import SessionEventKind

#: Room for three segments of 1 MiB and a little more.
DISK_BYTES = 3 * (1 << 20) + (1 << 18)


@dataclass
class SmallDisk:
    """A small file system that only processes in a mount namespace of its own see by its path."""

    mounted_at: Path
    holder: subprocess.Popen[str]

    @property
    def from_here(self) -> Path:
        return Path(f"/proc/{self.holder.pid}/root{self.mounted_at}")

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Put before a command, runs it where the disk is."""
        enter = ("nsenter", f"--target={self.holder.pid}", "--mount")
        return enter if os.geteuid() == 0 else (*enter, "--user", "--preserve-credentials")

    def fill(self) -> None:
        """Leaves no room for another segment."""
        free = os.statvfs(self.from_here)
        with (self.from_here / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize)

    def free(self) -> None:
        (self.from_here / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={DISK_BYTES},mode=0777 tmpfs {folder} && echo ready && cat"
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    with subprocess.Popen(
        ["unshare", "--mount", *rights, "sh", "-c", mount],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        line = holder.stdout.readline()
        if line != "ready\n":
            pytest.skip(f"no file system of our own can be mounted here: {line.strip()}")
        yield SmallDisk(folder, holder)
        holder.stdin.close()  # ends cat, and with the last process the mount


@pytest.fixture
def gateway(
    disk: SmallDisk, tmp_path: Path, start_process: Callable[..., GatewayProcess]
) -> GatewayProcess:
    config = tmp_path / "gw.toml"
    config.write_text("[gateway]\nsegment_mib = 1\n")
    arguments = ("--config", str(config), "--journal", f"{disk.mounted_at}/journal")
    return start_process(*arguments, wrapper=disk.wrapper)


def send_and_take(session: ro.Session, first_id: int, count: int) -> list[int]:
    """Reasons of the answers to ``count`` orders; every one is answered, in order."""
    batch = batch_of(count, first_id)
    first = session.next_sequence
    session.send_batch(batch)
    reports = take(session, count)
    assert list(reports["order_sequence"]) == list(range(first, first + count))
    assert list(reports["cl_ord_id"]) == list(batch["cl_ord_id"])
    reasons: list[int] = reports["reason"].tolist()
    return reasons


def use_up(disk: SmallDisk, session: ro.Session) -> None:
    """Until the journal takes no order any more."""
    disk.fill()
    answers = [0]
    while answers[-1] == ro.Reason.NONE:
        answers = send_and_take(session, session.next_sequence, 200)


def test_a_full_disk_rejects_orders_loses_none_and_resumes(
    disk: SmallDisk, gateway: GatewayProcess, connect: Connect
) -> None:
    session = connect(gateway)
    answers = send_and_take(session, 1, 100)
    assert set(answers) == {ro.Reason.NONE}
    disk.fill()
    while answers[-1] == ro.Reason.NONE:  # until the segments made so far are full too
        assert len(answers) < 60_000, "the disk never filled"
        answers += send_and_take(session, len(answers) + 1, 200)
    rejected_from = answers.index(ro.Reason.JOURNAL_UNAVAILABLE)
    assert set(answers[:rejected_from]) == {ro.Reason.NONE}
    answers += send_and_take(session, len(answers) + 1, 200)
    assert set(answers[rejected_from:]) == {ro.Reason.JOURNAL_UNAVAILABLE}

    assert session.status()["state"] == "live"
    session.cancel_order(10**9, 1)  # a cancel passes: here the handler accepts it
    assert take(session, 1)["reason"][0] == ro.Reason.NONE

    disk.free()

    def accepted_again() -> bool:
        order(session, session.next_sequence + 10**9)
        return bool(take(session, 1)["reason"][0] == ro.Reason.NONE)

    eventually(accepted_again, "the journal takes orders again")
    resumed_at = session.next_sequence - 1
    assert set(send_and_take(session, 2 * 10**9, 100)) == {ro.Reason.NONE}
    last = session.next_sequence - 1
    assert session.wait_applied(last, PATIENCE_S, durable=True)

    status, _ = gateway.end(signal.SIGTERM)
    assert status == 0
    # What was accepted is in the journal, what was rejected for want of it is not.
    kept = journal.Journal(disk.from_here / "journal")
    assert kept.result.clean, kept.result
    accepted = [*range(1, rejected_from + 1), *range(resumed_at, last + 1)]
    assert list(kept.orders("alpha")["sequence"]) == accepted
    assert np.unique(kept.reports("alpha")["sequence"]).size == len(kept.reports("alpha"))


def test_a_strategy_that_knows_its_sequence_repeats_none_after_a_restart(
    disk: SmallDisk,
    gateway: GatewayProcess,
    connect: Connect,
    start_process: Callable[..., GatewayProcess],
) -> None:
    """Orders rejected for want of the journal are not in it; their numbers are still used up."""
    session = connect(gateway)
    disk.fill()
    answers = [0]
    while answers[-1] == ro.Reason.NONE:
        first = session.next_sequence
        answers = send_and_take(session, first, 200)
    rejected_from = first + answers.index(ro.Reason.JOURNAL_UNAVAILABLE)
    following = session.next_sequence
    assert gateway.end(signal.SIGTERM)[0] == 0
    disk.free()
    again = connect(
        start_process(*gateway.arguments, wrapper=disk.wrapper), next_sequence=following
    )
    (event,) = again.events()
    assert (event.kind, event.from_sequence) == (SessionEventKind.NOT_APPLIED, rejected_from)
    assert event.count == following - rejected_from
    assert order(again, 10**9) == following


def test_answers_after_a_death_with_a_full_disk_take_no_number_that_was_used(
    disk: SmallDisk,
    gateway: GatewayProcess,
    connect: Connect,
    start_process: Callable[..., GatewayProcess],
) -> None:
    """Orders that are journalled and whose report is not are in doubt after the death. The answers
    they get then are new to the strategy, although it has seen numbers that no record tells of."""
    session = connect(gateway)
    use_up(disk, session)
    sent, seen = session.next_sequence - 1, session.status()["next_report_sequence"]
    gateway.end(signal.SIGKILL)
    kept = journal.Journal(disk.from_here / "journal")
    answered = kept.reports("alpha")["order_sequence"].tolist()
    in_doubt = set(kept.orders("alpha")["sequence"].tolist()) - set(answered)
    assert in_doubt, "the disk was full between orders and their reports"
    disk.free()
    gateway = start_process(*gateway.arguments, wrapper=disk.wrapper)
    session = connect(gateway, next_sequence=sent + 1, next_report_sequence=seen)
    reports = take(session, len(in_doubt))
    assert set(reports["order_sequence"].tolist()) == in_doubt
    assert reports["sequence"].min() >= seen
    order(session, 10**9)
    assert take(session, 1)["cl_ord_id"] == [10**9]
    gateway.end(signal.SIGTERM)
    again = journal.Journal(disk.from_here / "journal").reports("alpha")["sequence"]
    assert np.unique(again).size == len(again)


@pytest.mark.parametrize("on_gap", ["report", "resend"])
def test_what_was_answered_is_not_sent_again(
    disk: SmallDisk,
    gateway: GatewayProcess,
    connect: Connect,
    start_process: Callable[..., GatewayProcess],
    on_gap: str,
) -> None:
    """The restarted gateway knows nothing of orders that were rejected for want of the journal, and
    says so; the strategy that had the reports may have sent others in their place."""
    session = connect(gateway, on_gap=on_gap)
    use_up(disk, session)
    rejected = range(session.next_sequence, session.next_sequence + 50)
    assert set(send_and_take(session, rejected[0], 50)) == {ro.Reason.JOURNAL_UNAVAILABLE}
    os.kill(gateway.process.pid, signal.SIGSTOP)
    untaken = [order(session, n) for n in range(rejected[-1] + 1, rejected[-1] + 4)]
    gateway.end(signal.SIGKILL)
    disk.free()
    start_process(*gateway.arguments, wrapper=disk.wrapper)
    session.reconnect(PATIENCE_S)
    told = {e.kind: (e.from_sequence, e.count) for e in session.events()}
    first, count = told[SessionEventKind.NOT_APPLIED]
    assert first <= rejected[0] and first + count == untaken[-1] + 1
    if on_gap == "resend":
        assert told[SessionEventKind.RESENT] == (untaken[-1] + 1, 3)
    assert order(session, 10**9) == session.next_sequence - 1
    assert session.wait_applied(session.next_sequence - 1, PATIENCE_S, durable=True)
    taken = journal.Journal(disk.from_here / "journal").orders("alpha")["cl_ord_id"].tolist()
    assert not set(rejected) & set(taken)
    assert taken[-1] == 10**9
    assert taken[-4:-1] == untaken if on_gap == "resend" else not set(untaken) & set(taken)


def test_a_run_of_lost_reports_is_one_event_and_drops_no_other(
    disk: SmallDisk, gateway: GatewayProcess, connect: Connect
) -> None:
    """More of them than the strategy keeps events: what came before stays to be read."""
    count = 600
    session = connect(gateway, report_slots=1024)
    use_up(disk, session)
    first = session.status()["next_report_sequence"]
    session.send_batch(batch_of(count, session.next_sequence))
    assert session.wait_applied(session.next_sequence - 1, PATIENCE_S)
    session.reconnect(PATIENCE_S)
    assert [e.kind for e in session.events()][-1:] == [SessionEventKind.ESTABLISHED]
    while session.status()["next_report_sequence"] < first + count:
        assert session.wait(PATIENCE_S)
        assert len(session.poll()) == 0
    told = [(e.kind, e.from_sequence, e.count) for e in session.events()]
    assert told == [(SessionEventKind.REPORTS_LOST, first, count)]


def test_only_what_this_link_sent_is_sent_again(
    disk: SmallDisk,
    gateway: GatewayProcess,
    connect: Connect,
    start_process: Callable[..., GatewayProcess],
) -> None:
    """Of messages two links ago no copy is left; they are told, and nothing is made up."""
    session = connect(gateway, on_gap="resend")
    use_up(disk, session)
    first = session.next_sequence
    session.send_batch(batch_of(5, first))
    assert session.wait_applied(first + 4, PATIENCE_S)
    session.reconnect(PATIENCE_S)  # and their reports are lost
    gateway.end(signal.SIGKILL)
    disk.free()
    start_process(*gateway.arguments, wrapper=disk.wrapper)
    session.reconnect(PATIENCE_S)
    told = {e.kind: (e.from_sequence, e.count) for e in session.events()}
    from_sequence, count = told[SessionEventKind.NOT_APPLIED]
    assert from_sequence <= first and from_sequence + count == first + 5
    assert SessionEventKind.RESENT not in told
    assert order(session, 10**9) == first + 5
    while take(session, 1)["cl_ord_id"] != 10**9:
        pass  # of before, marked
