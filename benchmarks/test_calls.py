"""What each Python call costs, beside calls whose price is known (pytest-benchmark).

Every benchmarked function makes CALLS calls in a plain loop, so that pytest-benchmark's own call
weighs nothing; ``extra_info["calls"]`` says by what to divide. The loop itself is the reference
``empty_loop`` and is not taken off.
"""

from __future__ import annotations

import math
import mmap
import operator
import os
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rdmaorder as ro
from benchmarks.programs import GatewayProcess
from benchmarks.python_paths import connect, orders
from rdmaorder import _core

CALLS = 200
ROUNDS = 400
RING = 4096
_PRICE = ro.price("187.25")
_LOOP = range(CALLS)
#: What a strategy does between two orders, some hundred nanoseconds: longer than a cache line takes
#: from the gateway's processor to this one.
_OTHER_WORK = range(60)

Benchmark = Any  # pytest_benchmark.fixture.BenchmarkFixture, which has no types


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ro.Session]:
    """A session whose ring a gateway on the other processor drains without answering."""
    folder = tmp_path_factory.mktemp("calls")
    with GatewayProcess(folder, "null", "null", cpu=1) as gateway:
        os.sched_setaffinity(0, {0})
        with connect(gateway, RING) as made:
            yield made


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ro.Session]:
    """A session whose gateway accepts every order."""
    folder = tmp_path_factory.mktemp("answered")
    with GatewayProcess(folder, "accept", "accept", cpu=1) as gateway:
        os.sched_setaffinity(0, {0})
        with connect(gateway, RING) as made:
            yield made


def measure(
    benchmark: Benchmark,
    block: Callable[[], object],
    setup: Callable[[], None] | None = None,
    calls: int = CALLS,
) -> None:
    """Runs ``block``, which makes ``calls`` calls, ROUNDS times; ``setup`` before each is free."""
    benchmark.extra_info["calls"] = calls
    benchmark.pedantic(block, setup=setup, rounds=ROUNDS, iterations=1, warmup_rounds=20)


def drained(session: ro.Session) -> Callable[[], None]:
    """Waits until the gateway has taken everything, so that no block meets a full ring."""

    def wait() -> None:
        if session.next_sequence > 1:
            assert session.wait_applied(session.next_sequence - 1)

    return wait


# --- references -----------------------------------------------------------------------------------


def test_empty_loop(benchmark: Benchmark) -> None:
    def block() -> None:
        for _ in _LOOP:
            pass

    measure(benchmark, block)


def test_builtin_of_two_arguments(benchmark: Benchmark) -> None:
    call, one, two = operator.is_, 1, 2

    def block() -> None:
        for _ in _LOOP:
            call(one, two)

    measure(benchmark, block)


def test_pybind11_function_of_one_argument(benchmark: Benchmark, session: ro.Session) -> None:
    call = _core.session_next_sequence

    def block() -> None:
        for _ in _LOOP:
            call(session)

    measure(benchmark, block)


def test_struct_pack_into_mmap(benchmark: Benchmark) -> None:
    """A 64-byte message posted into shared memory by the standard library alone."""
    pack = struct.Struct("<QqqQIIIBBBBQ").pack_into
    with mmap.mmap(-1, 4096) as memory:

        def block() -> None:
            for i in _LOOP:
                pack(memory, 0, i, _PRICE, 100, 0, 7, 0, 0, 1, 2, 0, 0, i)

        measure(benchmark, block)


# --- sending --------------------------------------------------------------------------------------


def test_new_order_positional(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.new_order

    def block() -> None:
        for i in _LOOP:
            call(i + 1, 7, 1, _PRICE, 100, 0)

    measure(benchmark, block, drained(session))


def test_new_order_amid_other_work(benchmark: Benchmark, session: ro.Session) -> None:
    """Back to back, every call waits until the slot of the one before has come over from the
    processor that polls it (stores leave in order); other work hides some of that wait, as long as
    its own stores find room behind the slot's.

    ``added_ns``: what the order adds to that work, the median of each round's difference to the
    same work done just before it, for an interpreter is now faster, now slower on shared hosts.
    """
    call = session.new_order
    drain = drained(session)
    work_alone_s: list[float] = []

    def setup() -> None:
        drain()
        started = time.perf_counter()
        for _ in _LOOP:
            for _ in _OTHER_WORK:
                pass
        work_alone_s.append(time.perf_counter() - started)

    def block() -> None:
        for i in _LOOP:
            call(i + 1, 7, 1, _PRICE, 100, 0)
            for _ in _OTHER_WORK:
                pass

    measure(benchmark, block, setup)
    with_orders_s = benchmark.stats.stats.data
    pairs = zip(with_orders_s, work_alone_s[-len(with_orders_s) :], strict=True)
    added_s = statistics.median(together - alone for together, alone in pairs)
    benchmark.extra_info["added_ns"] = added_s * 1e9 / CALLS


def test_new_order_keywords(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.new_order

    def block() -> None:
        for i in _LOOP:
            call(cl_ord_id=i + 1, instrument=7, side=1, price=_PRICE, quantity=100, account=0)

    measure(benchmark, block, drained(session))


def test_try_new_order_positional(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.try_new_order

    def block() -> None:
        for i in _LOOP:
            call(i + 1, 7, 1, _PRICE, 100, 0)

    measure(benchmark, block, drained(session))


def test_cancel_order_positional(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.cancel_order

    def block() -> None:
        for i in _LOOP:
            call(i + 1, 5, 7, 0, 1, 0)

    measure(benchmark, block, drained(session))


def test_replace_order_positional(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.replace_order

    def block() -> None:
        for i in _LOOP:
            call(i + 1, 5, 7, 1, _PRICE, 100)

    measure(benchmark, block, drained(session))


def test_send_batch_each_order(benchmark: Benchmark, session: ro.Session) -> None:
    batch = orders(1024)
    measure(benchmark, lambda: session.send_batch(batch), drained(session), calls=len(batch))


# --- receiving ------------------------------------------------------------------------------------


def test_poll_empty(benchmark: Benchmark, session: ro.Session) -> None:
    call = session.poll

    def block() -> None:
        for _ in _LOOP:
            call()

    measure(benchmark, block)


def test_poll_one_report(benchmark: Benchmark, answered: ro.Session) -> None:
    poll = answered.poll

    def fill() -> None:
        while len(poll(RING)):
            pass
        for i in _LOOP:
            answered.new_order(i + 1, 7, 1, _PRICE, 100)
        assert answered.wait_applied(answered.next_sequence - 1)

    def block() -> None:
        for _ in _LOOP:
            poll(1)

    measure(benchmark, block, fill)


def test_poll_many_each_report(benchmark: Benchmark, answered: ro.Session) -> None:
    poll = answered.poll

    def fill() -> None:
        while len(poll(RING)):
            pass
        for i in _LOOP:
            answered.new_order(i + 1, 7, 1, _PRICE, 100)
        assert answered.wait_applied(answered.next_sequence - 1)

    measure(benchmark, lambda: poll(CALLS), fill)


# --- prices ---------------------------------------------------------------------------------------


def test_price_from_text(benchmark: Benchmark) -> None:
    call = ro.price

    def block() -> None:
        for _ in _LOOP:
            call("187.25")

    measure(benchmark, block)


def test_every_result_is_a_number(tmp_path: Path) -> None:
    """The blocks above must have sent something: a session that refuses would be very fast."""
    with GatewayProcess(tmp_path, "check", "null", cpu=1) as gateway, connect(gateway) as made:
        first = made.next_sequence
        assert made.new_order(1, 7, 1, _PRICE, 100, 0) == first
        assert made.send_batch(orders(10)) == 10
        assert made.wait_applied(first + 10)
        assert math.isfinite(made.latency().value_at(0.5))
