"""What a call that rings a device's doorbell costs: as a whole, and without the doorbell.

Shared by the library's side and by pyverbs' (Debian's Python), so nothing but the standard library
is imported. Needs doorbell.c preloaded.
"""

import ctypes
import statistics
import time


def skip_doorbells() -> None:
    """From here on the device hears of nothing that is posted."""
    ctypes.c_int.in_dll(ctypes.CDLL(None), "doorbell_skip").value = 1


def skipped_count() -> int:
    """Doorbells left out so far."""
    return ctypes.c_ulong.in_dll(ctypes.CDLL(None), "doorbell_skipped_count").value


def median_us(times_ns: list[int]) -> float:
    """Of calls timed one by one, less what such a loop costs with nothing in it."""
    clock = time.perf_counter_ns
    empty = []
    for _ in times_ns:
        before = clock()
        empty.append(clock() - before)
    return (statistics.median(times_ns) - statistics.median(empty)) / 1000
