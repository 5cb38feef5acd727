"""Message arrays, their views, and exact decimal prices."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmaorder import errors, messages
from rdmaorder.errors import InputError
from rdmaorder.messages import (
    CANCEL_ORDER,
    NO_PRICE,
    ORDER_RECORD,
    SLOT,
    TemplateId,
    format_price,
    price,
    scale_decimal,
)

INT64_MAX = 2**63 - 1

# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "template"),
    [
        (messages.new_orders, TemplateId.NEW_ORDER),
        (messages.replace_orders, TemplateId.REPLACE_ORDER),
        (messages.cancel_orders, TemplateId.CANCEL_ORDER),
        (messages.mass_cancels, TemplateId.MASS_CANCEL),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_made_messages_have_a_header_and_are_zero_elsewhere(
    make: Callable[[int], Any], template: TemplateId
) -> None:
    made = make(3)
    assert made.dtype == messages.MESSAGE_DTYPES[template]
    assert (
        made.tobytes()
        == b"".join(number.to_bytes(2, "little") for number in (48, template, 1, 0)).ljust(
            64, b"\0"
        )
        * 3
    )
    assert len(make(0)) == 0


def test_made_reports_are_zero_and_of_64_bytes() -> None:
    made = messages.execution_reports(2)
    assert made.dtype == messages.HANDLER_REPORT
    assert made.tobytes() == bytes(128)


def test_templates_mix_in_one_array_of_slots() -> None:
    orders, cancels = messages.new_orders(2), messages.cancel_orders(1)
    orders["cl_ord_id"] = [1, 2]
    cancels["orig_cl_ord_id"] = 1
    batch = np.concatenate([orders.view(SLOT), cancels.view(SLOT)])
    assert batch["template_id"].tolist() == [1, 1, 3]
    assert messages.as_new_orders(batch)["cl_ord_id"][:2].tolist() == [1, 2]
    assert messages.as_cancels(batch)["orig_cl_ord_id"][2] == 1


def test_an_order_record_shows_the_fields_of_a_new_order() -> None:
    record = np.zeros(1, ORDER_RECORD)
    record["cl_ord_id"], record["price"], record["sequence"] = 7, price("1.5"), 9
    raw = record.tobytes()
    assert raw[8:16] == (7).to_bytes(8, "little")
    assert raw[16:24] == (1_500_000_000).to_bytes(8, "little")
    assert raw[56:] == (9).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("view", "field", "offset"),
    [
        (messages.as_new_orders, "smp_id", 48),
        (messages.as_replaces, "orig_cl_ord_id", 16),
        (messages.as_cancels, "quantity", 24),
        (messages.as_mass_cancels, "scope", 53),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_views_share_the_bytes_and_keep_the_frame(
    view: Callable[[Any], Any], field: str, offset: int
) -> None:
    records = np.zeros(4, ORDER_RECORD)
    records["session_index"], records["sequence"] = 3, [10, 11, 12, 13]
    seen = view(records)
    assert np.shares_memory(seen, records)
    assert seen["session_index"].tolist() == [3] * 4
    assert seen["sequence"].tolist() == [10, 11, 12, 13]
    seen[field][2] = 5
    assert records.tobytes()[2 * 64 + offset] == 5
    assert np.shares_memory(view(seen), records), "a view of a view"
    assert np.shares_memory(view(records[::2]), records), "a view of a stride"


def test_views_of_wire_slots_keep_the_commit_word() -> None:
    seen = messages.as_cancels(messages.new_orders(1))
    assert seen.dtype == CANCEL_ORDER


def test_a_view_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="ORDER_RECORD"):
        messages.as_cancels(np.zeros(2, messages.REPORT_RECORD))
    with pytest.raises(TypeError, match="float64"):
        messages.as_new_orders(np.zeros(8))  # type: ignore[arg-type]


# --- prices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "mantissa"),
    [
        ("101.25", 101_250_000_000),
        ("0", 0),
        ("-0", 0),
        ("0.000000001", 1),
        ("-0.000000001", -1),
        ("+1.5", 1_500_000_000),
        (".5", 500_000_000),
        ("5.", 5_000_000_000),
        (" 1 ", 1_000_000_000),
        ("1.50000000000000", 1_500_000_000),
        ("1e-9", 1),
        ("1.5E+2", 150_000_000_000),
        ("0e9999", 0),
        ("9223372036.854775807", INT64_MAX),
        ("-9223372036.854775807", -INT64_MAX),
        (101, 101_000_000_000),
        (np.int64(3), 3_000_000_000),
        (Decimal("101.25"), 101_250_000_000),
        (Decimal("1E+2"), 100_000_000_000),
        (Decimal("-0.1"), -100_000_000),
    ],
)
def test_a_price_is_its_exact_mantissa(given: Any, mantissa: int) -> None:
    assert price(given) == mantissa
    assert type(price(given)) is int


@pytest.mark.parametrize("given", [101.25, 1.0, float("nan"), np.float64(1.5), np.float32(1.5)])
def test_a_float_is_refused_with_advice_to_pass_a_string(given: Any) -> None:
    with pytest.raises(TypeError, match="pass a string"):
        price(given)


@pytest.mark.parametrize("given", [True, None, b"1", [1], 1j])
def test_what_is_no_number_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="pass a string"):
        price(given)


@pytest.mark.parametrize(
    "given",
    [
        "", " ", "x", "1,5", "1_000", "1.2.3", "--1", "0x10", "nan", "inf", "-Infinity", ".", "1e",
        "1e99999", "1 2", "٣", "1" * 200, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"),
    ],
)  # fmt: skip
def test_text_that_is_no_decimal_number_is_refused_with_the_value(given: Any) -> None:
    with pytest.raises(InputError) as caught:
        price(given)
    assert str(given)[:40] in str(caught.value)


@pytest.mark.parametrize(
    "given", ["0.0000000001", "1.2345678901", "1e-10", "1e-9999", Decimal("1E-10")]
)
def test_more_than_nine_decimals_are_refused_and_never_rounded(given: Any) -> None:
    with pytest.raises(InputError, match=r"multiple of 1e-9.*round it"):
        price(given)


@pytest.mark.parametrize(
    "given",
    ["9223372036.854775808", "-9223372036.854775808", "1e10", "1e9999", 10**10, -(10**30)],
)
def test_a_price_beyond_64_bits_is_refused_with_the_range(given: Any) -> None:
    with pytest.raises(InputError, match=r"outside -9223372036\.854775807 \.\. "):
        price(given)


def test_the_least_int64_is_no_price_and_cannot_be_written_as_one() -> None:
    assert format_price(NO_PRICE) == "none"
    with pytest.raises(ValueError, match="none"):
        price("none")


@pytest.mark.parametrize(
    ("mantissa", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (100_000_000_000, "100"),
        (101_250_000_000, "101.25"),
        (-1_500_000_000, "-1.5"),
        (INT64_MAX, "9223372036.854775807"),
        (np.int64(-INT64_MAX), "-9223372036.854775807"),
    ],
)
def test_a_mantissa_prints_as_the_shortest_exact_text(mantissa: Any, text: str) -> None:
    assert format_price(mantissa) == text


@pytest.mark.parametrize("mantissa", [INT64_MAX + 1, -INT64_MAX - 2])
def test_a_mantissa_beyond_64_bits_is_refused(mantissa: int) -> None:
    with pytest.raises(InputError, match=str(mantissa)):
        format_price(mantissa)


@given(st.integers(-INT64_MAX, INT64_MAX))
def test_printing_and_reading_a_mantissa_gives_it_back(mantissa: int) -> None:
    assert price(format_price(mantissa)) == mantissa
    assert price(Decimal(format_price(mantissa))) == mantissa


@given(st.decimals(min_value=-9_000_000_000, max_value=9_000_000_000, places=9))
def test_every_way_to_write_a_decimal_gives_the_same_mantissa(value: Decimal) -> None:
    expected = int(value.scaleb(9).to_integral_exact())
    assert price(value) == expected
    assert price(str(value)) == expected
    assert price(f"{value:f}") == expected
    assert price(f"{value:E}") == expected


@pytest.mark.parametrize(
    ("text", "exponent", "scaled"),
    [("0.5", -8, 50_000_000), ("0.00000001", -8, 1), ("12", 0, 12), ("1200", 2, 12), (3, -2, 300)],
)
def test_quantities_scale_by_any_exponent(text: Any, exponent: int, scaled: int) -> None:
    assert scale_decimal(text, exponent) == scaled


def test_quantities_that_do_not_fit_the_exponent_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 1e-8"):
        scale_decimal("0.000000001", -8)
    with pytest.raises(InputError, match="multiple of 1e2"):
        scale_decimal("1250", 2)
    with pytest.raises(InputError, match="outside"):
        scale_decimal("92233720368.54775808", -8)
    with pytest.raises(InputError, match="exponent 40"):
        scale_decimal("1", 40)
    with pytest.raises(TypeError, match="exponent must be an integer such as -8, not 'x'"):
        scale_decimal("1.5", "x")  # type: ignore[arg-type]


# --- errors -------------------------------------------------------------------------------------


def test_every_error_is_listed_and_has_the_common_base() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert classes == set(errors.__all__)
    for name in classes:
        assert issubclass(getattr(errors, name), errors.RdmaOrderError)
        assert getattr(errors, name).__doc__


@pytest.mark.parametrize(
    ("error", "attribute", "value"),
    [
        (errors.SystemFailure("open x", error_number=2), "errno", 2),
        (errors.JournalError("write x", error_number=28), "errno", 28),
        (errors.Refused("no", code="DuplicateId"), "code", "DuplicateId"),
        (errors.BackPressure("full", sent=5), "sent", 5),
        (errors.InputError("bad", path="a.csv", line=3), "line", 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_facts_travel_with_an_error_also_between_processes(
    error: Exception, attribute: str, value: Any
) -> None:
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert type(each) is type(error)
        assert getattr(each, attribute) == value
        assert str(each) == str(error)


def test_errors_are_also_the_builtin_ones_callers_expect() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.SystemFailure, OSError)
    assert issubclass(errors.ConnectTimeout, TimeoutError)
    assert issubclass(errors.Refused, errors.HandshakeError)


def test_an_input_error_starts_with_where_it_stood() -> None:
    assert str(InputError("bad price", path="a.csv", line=3)) == "a.csv:3: bad price"
    assert str(InputError("empty", path="a.csv")) == "a.csv: empty"
    assert str(InputError("bad price")) == "bad price"
