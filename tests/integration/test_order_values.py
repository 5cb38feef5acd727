"""What a call is given is what the gateway sees, for integers of every size."""

from __future__ import annotations

import pytest
from gateway_support import Connect, StartGateway, take

import rdmaorder as ro

# Around the ends of Python's digits (2^15, 2^30, 2^60) and of the wire's field (2^63).
SIZES = [0, 1, 2**15 - 1, 2**15, 2**30 - 1, 2**30, 2**45 + 3, 2**60 - 1, 2**60, 2**63 - 1]
PRICES = [*SIZES, *(-size for size in SIZES), -(2**63)]


@pytest.mark.parametrize("kind", [int, lambda number: type("Int", (int,), {})(number)])
def test_prices_arrive_as_they_were_given(
    start_gateway: StartGateway, connect: Connect, kind: type[int]
) -> None:
    session = connect(start_gateway(), order_slots=64)
    for n, price in enumerate(PRICES, start=1):
        ord_type = ro.OrdType.MARKET if price == ro.NO_PRICE else ro.OrdType.LIMIT
        session.new_order(n, 7, ro.BUY, kind(price), 100, ord_type=ord_type)
    assert [int(report["price"]) for report in take(session, len(PRICES))] == PRICES


def test_ids_arrive_as_they_were_given(start_gateway: StartGateway, connect: Connect) -> None:
    session = connect(start_gateway(), order_slots=64)
    ids = SIZES[1:]
    for cl_ord_id in ids:
        session.new_order(cl_ord_id, 7, ro.BUY, 5, 100)
    assert [int(report["cl_ord_id"]) for report in take(session, len(ids))] == ids
