"""The arguments of the order calls: what is taken, and the words for what is not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rdmaorder as ro
from rdmaorder import _core

# Arguments are looked at before the session, so that one never connected serves here: a call whose
# arguments are all good ends with this.
GOOD = "this session was never connected; use rdmaorder.connect"

NEW = {"cl_ord_id": 1, "instrument": 7, "side": 1, "price": 5, "quantity": 1}
REPLACE = {"cl_ord_id": 2, "orig_cl_ord_id": 1, "instrument": 7, "side": 1, "price": 5}
REPLACE |= {"quantity": 1}
CALLS = {
    "new_order": NEW,
    "replace_order": REPLACE,
    "cancel_order": {"cl_ord_id": 2, "orig_cl_ord_id": 1},
    "mass_cancel": {"cl_ord_id": 3},
}
EVERY_CALL = [*CALLS, *(f"try_{name}" for name in CALLS)]
U32 = 0xFFFF_FFFF
I64 = 0x7FFF_FFFF_FFFF_FFFF

LIMITS = {
    "cl_ord_id": (1, I64),
    "orig_cl_ord_id": (1, I64),
    "instrument": (0, U32),
    "account": (0, U32),
    "smp_id": (0, U32),
    "ord_type": (1, 2),
    "time_in_force": (0, 4),
    "ttl_ns": (0, I64),
    "flags": (0, 1),
    "scope": (1, 4),
    "side": (1, 2),
    "quantity": (1, I64),
    "price": (-I64 - 1, I64),
}
# A cancel names a side or none, and a part or all of an order.
CANCEL_LIMITS = {"side": (0, 2), "quantity": (0, I64)}


def call(name: str) -> Callable[..., Any]:
    bound: Callable[..., Any] = getattr(_core.SessionCore(), name)
    return bound


def good_values(name: str) -> dict[str, int]:
    return CALLS[name.removeprefix("try_")]


def limits(name: str, argument: str) -> tuple[int, int]:
    return {**LIMITS, **(CANCEL_LIMITS if "cancel" in name else {})}[argument]


EVERY_ARGUMENT = [
    (name, argument)
    for name in EVERY_CALL
    for argument in list(inspect.signature(getattr(_core.SessionCore, name)).parameters)[1:]
]


@pytest.mark.parametrize("name", EVERY_CALL)
def test_arguments_go_by_position_by_keyword_and_mixed(name: str) -> None:
    values = good_values(name)
    for count in range(len(values) + 1):
        keywords = dict(reversed(list(values.items())[count:]))
        with pytest.raises(RuntimeError, match=f"^{GOOD}$"):
            call(name)(*list(values.values())[:count], **keywords)


@pytest.mark.parametrize("name", EVERY_CALL)
def test_a_keyword_whose_name_was_made_at_run_time_is_found(name: str) -> None:
    # Not interned, so comparing pointers does not find it.
    values = {"".join(list(key)): value for key, value in good_values(name).items()}
    with pytest.raises(RuntimeError, match=GOOD):
        call(name)(**values)


@pytest.mark.parametrize(("name", "argument"), EVERY_ARGUMENT)
def test_every_argument_takes_its_limits_and_nothing_beyond(name: str, argument: str) -> None:
    low, high = limits(name, argument)
    for value in (low, high):
        values = good_values(name) | {argument: value}
        if values.get("ord_type") == ro.OrdType.MARKET:
            values["price"] = ro.NO_PRICE
        elif values.get("price") == ro.NO_PRICE:
            values["ord_type"] = ro.OrdType.MARKET
        with pytest.raises(RuntimeError, match=GOOD):
            call(name)(**values)
    for value in (low - 1, high + 1, 2**64, -(2**70)):
        with pytest.raises(ValueError, match=argument) as raised:
            call(name)(**good_values(name) | {argument: value})
        function = name.removeprefix("try_")
        expected = f"{function}: {argument} must be {low} .. {high}, not {value}"
        assert str(raised.value) == expected


@pytest.mark.parametrize("name", ["new_order", "try_new_order", "replace_order"])
def test_a_market_order_has_no_price_and_a_limit_order_has_one(name: str) -> None:
    values = good_values(name)
    with pytest.raises(ValueError, match=r": price of a MARKET order must be rdmaorder\.NO_PRICE$"):
        call(name)(**values, ord_type=ro.OrdType.MARKET)
    with pytest.raises(ValueError, match=r": price of a LIMIT order must be given; NO_PRICE is"):
        call(name)(**values | {"price": ro.NO_PRICE})


@pytest.mark.parametrize("bad", [1.0, "1", None, b"1", np.float64(1), [1]], ids=repr)
@pytest.mark.parametrize(("name", "argument"), EVERY_ARGUMENT)
def test_every_argument_is_an_integer(name: str, argument: str, bad: object) -> None:
    with pytest.raises(TypeError) as raised:
        call(name)(**good_values(name) | {argument: bad})
    function = name.removeprefix("try_")
    assert str(raised.value) == (
        f'{function}: {argument} must be an integer, not {bad!r} (prices: rdmaorder.price("1.25"))'
    )


@pytest.mark.parametrize("one", [1, True, ro.BUY, np.int64(1), np.uint8(1), np.array(1)], ids=repr)
def test_whatever_is_an_integer_to_python_is_taken(one: Any) -> None:
    with pytest.raises(RuntimeError, match=GOOD):
        call("new_order")(one, one, one, one, one)


@pytest.mark.parametrize("name", EVERY_CALL)
def test_a_missing_an_unknown_and_a_doubled_argument_are_named(name: str) -> None:
    values = good_values(name)
    function = name.removeprefix("try_")
    for missing in values:
        rest = {key: value for key, value in values.items() if key != missing}
        with pytest.raises(TypeError, match=rf"^{function}\(\) needs {missing}$"):
            call(name)(**rest)
    with pytest.raises(TypeError, match=rf"^{function}\(\) has no argument 'qty'$"):
        call(name)(**values, qty=1)
    with pytest.raises(TypeError, match=rf"^{function}\(\) got 'cl_ord_id' twice$"):
        call(name)(*values.values(), cl_ord_id=1)


@pytest.mark.parametrize("name", EVERY_CALL)
def test_one_argument_too_many_is_counted(name: str) -> None:
    most = len([argument for call_name, argument in EVERY_ARGUMENT if call_name == name])
    function = name.removeprefix("try_")
    expected = rf"^{function}\(\) takes at most {most} arguments, got {most + 1}$"
    with pytest.raises(TypeError, match=expected):
        call(name)(*[1] * (most + 1))


def test_an_exception_of_an_index_method_comes_through() -> None:
    class Broken:
        def __index__(self) -> int:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        call("new_order")(Broken(), 7, 1, 5, 1)


@pytest.mark.parametrize("bad", [0, -1, (1 << 20) + 1, 2**70])
def test_poll_takes_a_bounded_number_of_reports(bad: int) -> None:
    for arguments, keywords in (((bad,), {}), ((), {"max": bad})):
        with pytest.raises(ValueError, match=rf"^poll: max must be 1 \.\. 1048576, not {bad}$"):
            call("poll")(*arguments, **keywords)
    with pytest.raises(RuntimeError, match=GOOD):
        call("poll")(max=np.int32(1))


def test_poll_takes_one_argument_and_an_integer() -> None:
    with pytest.raises(TypeError, match=r"^poll: max must be an integer, not 1\.5$"):
        call("poll")(1.5)
    for arguments, keywords in (((1, 2), {}), ((1,), {"max": 2}), ((), {"count": 1})):
        with pytest.raises(TypeError, match=r"^poll\(\) takes one argument, max$"):
            call("poll")(*arguments, **keywords)
