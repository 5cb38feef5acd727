"""Open loops of ``rdmaorder pingpong`` that have long to wait: for the next order, or for ever."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from gateway_support import eventually
from pingpong_support import FEW, ending, is_running, measured, measuring, pingpong, recorded

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="two spinning ends need two processors"
)
LEVELS = ("raw", "session", "python")
ONE = ("--repeats", "1")
#: The second order is due long after any test has given up.
SELDOM = ("--rate", "0.001", "-n", "10")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_the_next_order_ends_at_a_signal(
    tmp_path: Path, level: str, number: signal.Signals
) -> None:
    with measuring(tmp_path, *ONE, *SELDOM, "--level", level) as (client, _):
        client.send_signal(number)
        _, result = ending(client, tmp_path, 130)
    assert result["levels"][level]["runs"][0]["answered"] == 1


@pytest.mark.parametrize("level", LEVELS)
def test_a_run_is_over_when_no_order_is_due_in_its_time(tmp_path: Path, level: str) -> None:
    result = measured(tmp_path, "--rate", "0.001", "-D", "1", "--level", level)
    run = result["levels"][level]["runs"][0]
    assert (run["complete"], run["sent"], run["answered"]) == (True, 1, 1)


def test_the_rate_asked_for_is_that_of_what_there_was_time_for(tmp_path: Path) -> None:
    """A burst, and what would have come when the run is over."""
    times = [*range(0, 1_000_000_000, 10_000_000), *range(10_000_000_000, 10**11, 10**9)]
    result = measured(tmp_path, "--replay", recorded(tmp_path, times), "-D", "2")
    run = result["levels"]["session"]["runs"][0]
    assert (run["sent"], run["rate_asked_per_s"]) == (100, 100.0)


def test_a_replay_that_is_limited_by_time_has_as_many_orders_as_come_in_it(tmp_path: Path) -> None:
    recording = recorded(tmp_path, range(0, 2_000_000_000, 1_000_000))
    result = measured(tmp_path, "--replay", recording, "-n", "10", "-D", "1", "--level", "raw")
    (run,) = result["levels"]["raw"]["runs"]
    assert run["sent"] == 1000 and "limited" not in run


def test_a_recording_that_is_over_before_its_time_is_told(tmp_path: Path) -> None:
    out, recording = tmp_path / "out.json", recorded(tmp_path, range(0, 100_000_000, 1_000_000))
    limits = ("--replay", recording, "-D", "3")
    text = pingpong(*FEW, *limits, "--level", "raw", "--json", str(out))
    why = r"over after 0\.\d+ s of 3: the recording has no more orders"
    assert re.search(f"raw: 1 of 1 runs ended early, the first was {why}", text)
    (run,) = json.loads(out.read_text())["levels"]["raw"]["runs"]
    assert run["sent"] == 100 and re.fullmatch(why, run["limited"])


@pytest.mark.parametrize("level", ["session", "python"])
def test_a_peer_that_ends_while_nothing_is_under_way_is_noticed(tmp_path: Path, level: str) -> None:
    with measuring(tmp_path, *ONE, *SELDOM, "--level", level) as (client, worker):
        os.kill(worker, signal.SIGKILL)
        _, result = ending(client, tmp_path, 1)
    assert result["ending"] == "peer lost" and result["cause"]


@pytest.mark.parametrize("pace", [(), ("--rate", "1000")], ids=["closed", "paced"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_peer_that_falls_silent_is_given_up(
    tmp_path: Path, level: str, pace: tuple[str, ...]
) -> None:
    with measuring(tmp_path, *ONE, "-D", "60", "--level", level, *pace) as (client, worker):
        os.kill(worker, signal.SIGSTOP)
        _, result = ending(client, tmp_path, 1)
    assert result["ending"] == "peer lost"
    assert re.search("no answer within 2000 ms|no heartbeat from the gateway", result["cause"])
    eventually(lambda: not is_running(worker), "the worker has ended all the same")


@pytest.mark.parametrize("level", LEVELS)
def test_an_order_that_waited_for_the_other_side_shows_that_the_sender_looked(
    tmp_path: Path, level: str
) -> None:
    with measuring(tmp_path, *ONE, "--rate", "1000", "-D", "3", "--level", level) as (
        client,
        worker,
    ):
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(worker, signal.SIGCONT)
        _, result = ending(client, tmp_path, 0)
    slowest = result["levels"][level]["worst"][0]
    assert slowest["rtt_ns"] > 1e8
    assert slowest["polls"] > 1000
    assert slowest["longest_gap_ns"] > 0 or level == "python"  # which notes long ones alone


@pytest.mark.parametrize("pace", [(), ("--rate", "1000")], ids=["closed", "paced"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_sender_that_was_held_up_while_it_waited_is_told(
    tmp_path: Path, level: str, pace: tuple[str, ...]
) -> None:
    """It looked often enough before and after. It was moved, too."""
    run = (*ONE, *pace, "-D", "3", "--worst", "500", "--level", level)
    with measuring(tmp_path, *run) as (client, worker):
        here = os.sched_getaffinity(client.pid)
        there = os.sched_getaffinity(0) - here
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.15)
        client.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        os.sched_setaffinity(client.pid, there)
        client.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.2)
        os.sched_setaffinity(client.pid, here)
        _, result = ending(client, tmp_path, 0)
    # Paced, others were due while it was away: sent late, they did not wait for the other side.
    slowest = next(o for o in result["levels"][level]["worst"] if not o["late_ns"] > 1e8)
    assert slowest["rtt_ns"] > 5e8 and slowest["longest_gap_ns"] > 2.5e8
    assert {"migrated", "voluntary"} <= set(slowest["kernel"])
    assert "the sending thread was moved to another processor" in slowest["causes"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--rate", "1e-300"), "hours; 24 are the most"),
        (("--rate", "1e-300", "-D", "1"), "hours; 24 are the most"),
        (("--rate", "5e6", "-D", "3600"), "at most 5000000 a run"),
        (("--rate", "inf", "-D", "1"), "no clock of this host"),
        (("--rate", "nan", "-D", "1"), "--rate nan"),
        (("--worst", "-1"), "--worst -1: give 0 to 1000"),
        (("--worst", "20000"), "--worst 20000: give 0 to 1000"),
    ],
)
def test_what_would_not_end_is_refused(arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in pingpong(*FEW, *arguments, status=2)


@pytest.mark.parametrize(
    ("times", "speed", "complaint"),
    [
        ((0, 10, 20), "inf", "--speed inf: give a number"),
        ((0, 10, 20), "1e-300", "hours; 24 are the most"),
        ((0, 10, 20), "1e9", "due at once"),
        ((7, 7, 7), "1", "due at once"),
    ],
)
def test_a_recording_without_a_pace_is_refused(
    tmp_path: Path, times: tuple[int, ...], speed: str, complaint: str
) -> None:
    recording = tmp_path / "flow.csv"
    rows = [f"{t_ns},N,{n},X,B,10.5,1\n" for n, t_ns in enumerate(times)]
    recording.write_text("t_ns,msg,order_id,symbol,side,price,qty\n" + "".join(rows))
    text = pingpong(*FEW, "--replay", str(recording), "--speed", speed, status=2)
    assert complaint in text
