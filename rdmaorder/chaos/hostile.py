"""A strategy that writes what it should not into the windows it has mapped (shared memory only).

Needs nothing of the library: the windows are found in /proc/self/maps, as any process could.
"""

from __future__ import annotations

import ctypes
import random
import re
from enum import IntEnum
from pathlib import Path
from typing import Final

from rdmaorder import _core
from rdmaorder.errors import SystemFailure
from rdmaorder.session import Session

__all__ = ["Act", "perform"]

_SLOT_BYTES: Final = 64
_STATUS_LINE_BYTES: Final = 64
#: The ring begins somewhere from here on, a whole number of slots away.
_RING_OFFSETS: Final = range(128, 8192, _SLOT_BYTES)


class Act(IntEnum):
    """What is written, and where."""

    TORN = 1  #: the next slot: the right sequence, half of the contents
    REPEATED = 2  #: the next slot: the message before, whole
    STALE = 3  #: the next slot: a whole order that carries another link's epoch
    GARBAGE = 4  #: every slot there is credit for: random bytes
    CREDIT = 5  #: the gateway's status line, as this strategy sees it: random bytes
    DEAF = 6  #: nothing is written: the strategy does not poll for a while


def _window(name: str) -> int:
    """Address of a mapped window, by the name of its memfd."""
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        if re.search(rf"/memfd:rdmaorder-{re.escape(name)}( |$)", line):
            return int(line.split("-", 1)[0], 16)
    raise SystemFailure(f"no window {name} is mapped: is this a shm:// session?")


def _read(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def _write(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def _find_ring(window: int, sequence: int, slot_count: int) -> int | None:
    """Address of slot 0: known by the place where message ``sequence`` was written."""
    place = (sequence - 1) % slot_count * _SLOT_BYTES
    for offset in _RING_OFFSETS:
        commit = _read(window + offset + place + _SLOT_BYTES - 4, 4)
        if int.from_bytes(commit, "little") == sequence & 0xFFFFFFFF:
            return window + offset
    return None


def perform(session: Session, name: str, act: Act, dice: random.Random) -> bool:
    """Does it once, in the gap between two sends. ``name``: of the session.

    False, and nothing done, while this link has not carried a message yet.
    """
    if act is Act.CREDIT:
        _write(_window(f"reports:{name}"), dice.randbytes(_STATUS_LINE_BYTES))
        return True
    slot_count = int(session.status()["order_slots"])
    sequence = session.next_sequence
    ring = _find_ring(_window(name), sequence - 1, slot_count)
    if ring is None:
        return False

    def slot(number: int) -> int:
        return ring + (number - 1) % slot_count * _SLOT_BYTES

    before = _read(slot(sequence - 1), _SLOT_BYTES)
    if act is Act.TORN:
        whole = _core.seal_slot(before, dice.getrandbits(64), sequence)
        _write(slot(sequence), before[:16] + dice.randbytes(16) + whole[32:])
    elif act is Act.REPEATED:
        _write(slot(sequence), before)
    elif act is Act.STALE:
        _write(slot(sequence), _core.seal_slot(before, dice.getrandbits(64) | 1, sequence))
    else:
        free = session.status()["credits"]
        for number in range(sequence, sequence + free):
            _write(slot(number), dice.randbytes(_SLOT_BYTES))
    return True
