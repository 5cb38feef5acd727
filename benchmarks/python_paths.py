"""Python strategies against gateways in processes of their own: round trips and numpy batches.

Prints one JSON object a run, as the C++ programs do. Started by benchmarks.run; by hand:
``python -m benchmarks.python_paths --build build/release``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import rdmaorder as ro
from benchmarks.programs import GatewayProcess, Probe
from rdmaorder.messages import Records

#: Round trips timed together: perf_counter_ns alone costs a third of one.
BLOCK = 16
DAY_S = 86_400.0
Measure = Callable[[ro.Session, float], dict[str, Any]]
BATCH = 2048
_PRICE = ro.price("187.25")


def connect(gateway: GatewayProcess, order_slots: int = 256) -> ro.Session:
    """A session that does not give up on a gateway which is stopped between two runs."""
    return ro.connect(
        gateway.url, "bench", order_slots=order_slots, suspect_after_s=DAY_S, dead_after_s=DAY_S
    )


def round_trips(session: ro.Session, duration_s: float) -> dict[str, Any]:
    """new_order, then poll until the report is here; the loop as a strategy would write it.

    ``p50_ns`` … are one way (half a round trip) and take in everything, the Python loop included;
    ``native_p50_ns`` is the session's own histogram: from the send call's inside to the poll's.
    """
    new_order, poll = session.new_order, session.poll
    clock = time.perf_counter_ns
    blocks: list[int] = []
    order_id = session.next_sequence
    session.latency(reset=True)
    end = clock() + int(duration_s * 1e9)
    before = clock()
    while before < end:
        for _ in range(BLOCK):
            order_id += 1
            new_order(order_id, 7, 1, _PRICE, 100, 0)
            while not len(poll()):
                pass
        now = clock()
        blocks.append(now - before)
        before = now
    one_way = np.asarray(blocks) / (2 * BLOCK)
    native = session.latency()
    return {
        "n": len(blocks) * BLOCK,
        "p50_ns": float(np.percentile(one_way, 50)),
        "p99_of_blocks_ns": float(np.percentile(one_way, 99)),
        "native_p50_ns": native.value_at(0.5) / 2,
        "native_p99_ns": native.value_at(0.99) / 2,
    }


def orders(count: int) -> Records:
    """A batch ready to send."""
    batch = ro.new_orders(count)
    batch["cl_ord_id"] = np.arange(1, count + 1)
    batch["instrument"] = 7
    batch["side"] = ro.BUY
    batch["ord_type"] = ro.OrdType.LIMIT
    batch["price"] = _PRICE
    batch["quantity"] = 100
    return batch


def batches(session: ro.Session, duration_s: float) -> dict[str, Any]:
    """send_batch of one array again and again, until the gateway has taken the last order."""
    batch = orders(BATCH)
    sent = 0
    started = time.perf_counter_ns()
    end = started + int(duration_s * 1e9)
    while time.perf_counter_ns() < end:
        sent += session.send_batch(batch)
    while session.positions.applied < session.next_sequence - 1:
        session.wait_applied(session.next_sequence - 1, 1.0)
    elapsed = time.perf_counter_ns() - started
    return {"n": sent, "million_per_s": sent / elapsed * 1e3}


def run(build: Path, cpus: tuple[int, int], repeats: int, run_s: float) -> None:
    """Every scenario in turn, ``repeats`` times."""
    scenarios: list[tuple[str, str, tuple[str, ...], int, Measure]] = [
        ("python_to_cpp", "accept", (), 256, round_trips),
        ("python_to_cpp_journal", "accept", ("--journal", "J", "--sync", "none"), 256, round_trips),
        ("python_both_ends", "rdmaorder.pingpong.handler:Accept", (), 256, round_trips),
        ("python_batches", "null", (), 4096, batches),
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdmaorder-bench-")))
        probe = stack.enter_context(Probe(build, cpus))
        prepared = []
        for name, handler, more, slots, measure in scenarios:
            flags = [str(folder / name) if each == "J" else each for each in more]
            gateway = stack.enter_context(GatewayProcess(folder, name, handler, cpus[1], *flags))
            prepared.append((name, gateway, connect(gateway, slots), measure))
            gateway.stop()
        os.sched_setaffinity(0, {cpus[0]})
        gc.disable()
        for repeat in range(repeats):
            for name, gateway, session, measure in prepared:
                before = probe.floor_ns()
                gateway.go_on()
                measure(session, 0.005)
                measured = measure(session, run_s)
                gateway.stop()
                row = {
                    "scenario": name,
                    "repeat": repeat,
                    "floor_before_ns": before,
                    "floor_after_ns": probe.floor_ns(),
                    **measured,
                }
                print(json.dumps(row), flush=True)
        for _, gateway, session, _ in prepared:
            gateway.go_on()
            session.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--cpus", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-ms", type=int, default=50)
    arguments = parser.parse_args()
    cpus = (arguments.cpus[0], arguments.cpus[1])
    run(arguments.build, cpus, arguments.repeats, arguments.run_ms / 1e3)


if __name__ == "__main__":
    main()
