"""Prints the median cost of one new_order over rdma://, six arguments, as JSON: see doorbell.py.

Started with the gateway's URL by benchmarks/rdma_inside.py.
"""

from __future__ import annotations

import json
import os
import sys
import time

import rdmaorder as ro
from benchmarks.doorbell import median_us, skip_doorbells, skipped_count

#: Less than half of the link's depth, so that no call looks for completions that cannot come.
COUNT = 1500


def timed(session: ro.Session, first: int) -> list[int]:
    """Each of COUNT calls."""
    new_order, clock, times = session.new_order, time.perf_counter_ns, []
    for n in range(first, first + COUNT):
        before = clock()
        new_order(n, 7, ro.BUY, 5, 10, 42)
        times.append(clock() - before)
    return times


def main(url: str) -> None:
    session = ro.connect(url, "bench", order_slots=4096, suspect_after_s=30, dead_after_s=60)
    whole = timed(session, 1)
    session.wait_applied(COUNT, 30)
    skip_doorbells()
    user = timed(session, COUNT + 1)
    assert skipped_count() >= COUNT, "the doorbells were not left out"
    print(json.dumps({"": median_us(whole), "_user": median_us(user)}), flush=True)
    os._exit(0)  # what was posted and never sent cannot be waited for


if __name__ == "__main__":
    main(sys.argv[1])
