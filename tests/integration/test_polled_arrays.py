"""Arrays that poll gave: whose they are, and when one is used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gateway_support import PATIENCE_S, Connect, StartGateway, batch_of, eventually, order

from rdmaorder.messages import REPORT_RECORD, SLOT, Records

HOLDERS: dict[str, Callable[[Records], Any]] = {
    "the array": lambda array: array,
    "a slice": lambda array: array[1:],
    "a field": lambda array: array["cl_ord_id"],
    "a record": lambda array: array[-1],
    "a view": lambda array: array.view(np.uint64),
    "a memoryview": lambda array: memoryview(array),
    "a view of a view": lambda array: array["cl_ord_id"][::-1][:1],
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_kept_of_a_polled_array_never_changes(
    start_gateway: StartGateway, connect: Connect, holder: str
) -> None:
    session = connect(start_gateway())
    kept = []
    for start in range(1, 60, 3):
        session.send_batch(batch_of(3, first_id=start))
        eventually(lambda: session.status()["applied"] == session.next_sequence - 1, "applied")
        reports = session.poll()
        assert list(reports["cl_ord_id"]) == list(range(start, start + 3))
        kept.append((HOLDERS[holder](reports), bytes(HOLDERS[holder](reports).tobytes())))
        del reports
    for what, contents in kept:
        assert bytes(what.tobytes()) == contents


@pytest.mark.parametrize(
    "keep", [lambda array: None, lambda array: array[-1]], ids=["nothing", "the last record"]
)
def test_an_array_that_was_dropped_is_used_again(
    start_gateway: StartGateway, connect: Connect, keep: Callable[[Records], Any]
) -> None:
    """Of two in turn, where a loop variable goes on holding a record of the poll before."""
    session = connect(start_gateway())
    ended: list[int] = []
    held: list[Any] = [None]
    for n in range(1, 21):
        order(session, n)
        session.wait(PATIENCE_S)
        reports = session.poll(1)
        weakref.finalize(reports, ended.append, n)
        held[0] = keep(reports)
        del reports
    assert ended == []


CHANGES: dict[str, Callable[[Any], Any]] = {
    "made read-only": lambda array: array.setflags(write=False),
    "reshaped": lambda array: setattr(array, "shape", (2, 1)),
    "shrunk": lambda array: array.resize(1, refcheck=False),
    "retyped": lambda array: setattr(array, "dtype", SLOT),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_array_that_was_changed_in_place_is_not_used_again(
    start_gateway: StartGateway, connect: Connect, change: str
) -> None:
    session = connect(start_gateway())
    for start in (1, 3, 5):
        session.send_batch(batch_of(2, first_id=start))
        eventually(lambda: session.status()["applied"] == session.next_sequence - 1, "applied")
        reports = session.poll()
        assert (reports.dtype, reports.shape) == (REPORT_RECORD, (2,))
        assert reports.flags.writeable
        assert list(reports["cl_ord_id"]) == [start, start + 1]
        CHANGES[change](reports)
        del reports


def test_an_empty_poll_stays_empty_whatever_is_done_to_its_array(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    empty = session.poll()
    empty.resize(4, refcheck=False)
    assert len(session.poll()) == 0


def test_empty_polls_hand_out_one_array_again_and_again(
    start_gateway: StartGateway, connect: Connect
) -> None:
    session = connect(start_gateway())
    assert session.poll() is session.poll()
