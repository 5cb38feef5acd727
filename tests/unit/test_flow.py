"""Recordings become exact numbers, whatever form they come in; what is wrong is named."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tracemalloc
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flow_support import HEADER, read_csv, write
from hypothesis import given
from hypothesis import strategies as st

from rdmaorder.errors import InputError
from rdmaorder.flow import formats, sample
from rdmaorder.flow.decimals import BadValue, prices, quantities
from rdmaorder.flow.formats import read_flow
from rdmaorder.messages import (
    MAX_QUANTITY,
    NO_PRICE,
    Side,
    price,
)


def complaint(tmp_path: Path, body: str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read_csv(tmp_path, body, **options)
    return caught.value


# --- reading ------------------------------------------------------------------------------------


def test_columns_are_found_by_name_in_any_order_and_further_ones_ignored(tmp_path: Path) -> None:
    text = "venue,qty,price,side,order_id,msg,t_ns\nX,3,1.5,S,ab,N,17\n"
    flow = read_flow(write(tmp_path / "f.csv", text))
    assert (flow.t_ns[0], chr(flow.kind[0]), flow.order_ids[0]) == (17, "N", "ab")
    assert (flow.side[0], flow.price[0], flow.quantity[0]) == (Side.SELL, price("1.5"), 3)
    assert flow.symbols == [""]


def test_prices_and_quantities_are_scaled_without_floating_point(tmp_path: Path) -> None:
    flow = read_csv(
        tmp_path,
        "1,N,1,B,0.1,0.00000001,\n2,N,2,B,9223372036.854775807,92233720368.54775807,\n"
        "3,N,3,B,-0.25,7.18e-06,\n4,N,4,S,,2,\n",
    )
    assert flow.quantity_exponent == -8
    assert flow.price.tolist() == [100_000_000, 2**63 - 1, -250_000_000, NO_PRICE]
    assert flow.quantity.tolist() == [1, MAX_QUANTITY, 718, 200_000_000]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-9e9, max_value=9e9))
def test_any_price_of_nine_decimals_becomes_its_mantissa(value: Decimal) -> None:
    text = f"{value:f}"
    assert prices([text]).tolist() == [int(value.scaleb(9))]


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "0x10", "1,5", "١", "--1", "1e99999", ""])
def test_text_that_is_no_amount_is_refused_or_counts_as_none(text: str) -> None:
    if text == "":
        assert quantities([text], None)[0].tolist() == [0]
        return
    with pytest.raises(BadValue):
        quantities(["1", text], None)


def test_the_quantity_exponent_is_the_greatest_that_is_exact(tmp_path: Path) -> None:
    assert read_csv(tmp_path, "1,N,1,B,1,100,\n2,N,2,B,1,7.000,\n").quantity_exponent == 0
    assert read_csv(tmp_path, "1,N,1,B,1,100,\n2,N,2,B,1,7.250,\n").quantity_exponent == -2


def test_a_given_quantity_exponent_must_represent_every_quantity(tmp_path: Path) -> None:
    assert read_csv(tmp_path, "1,N,1,B,1,5,\n", quantity_exponent=-8).quantity[0] == 500_000_000
    error = complaint(tmp_path, "1,N,1,B,1,5,\n2,N,1,B,1,0.125,\n", quantity_exponent=-2)
    assert error.line == 3
    assert "0.125" in str(error)


@pytest.mark.parametrize("name", ["flow.csv", "flow.gz", "flow"])
def test_gzip_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path, name: str) -> None:
    packed = gzip.compress((HEADER + "1,N,1,B,1,1,\n").encode())
    assert len(read_flow(write(tmp_path / name, packed))) == 1


def test_crlf_a_byte_order_mark_quotes_and_blank_lines_are_read(tmp_path: Path) -> None:
    text = HEADER.strip() + '\r\n\r\n1,N,"a,b",B,1,1,\r\n'
    flow = read_flow(write(tmp_path / "f.csv", b"\xef\xbb\xbf" + text.encode()))
    assert flow.order_ids == ["a,b"]
    assert flow.line.tolist() == [3]


def test_an_empty_file_and_one_with_other_columns_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: expected a header line with t_ns,msg"):
        read_flow(write(tmp_path / "f.csv", ""))
    with pytest.raises(InputError, match=r"lacks the columns t_ns, qty; .*'time', 'msg'"):
        read_flow(write(tmp_path / "f.csv", "time,msg,order_id,side,price\n"))
    assert len(read_flow(write(tmp_path / "f.csv", HEADER))) == 0


@pytest.mark.parametrize(
    ("first", "remedy"),
    [
        ("id,timestamp,exchange_timestamp,price,volume,action,direction", "--format ob-analytics$"),
        ("34200.0189,1,16113575,18,5853300,-1", "a row of --format lobster,"),
        ("34200.0189,1,16113575,18,5853300,x", "'x'$"),
    ],
)
def test_a_file_of_another_format_is_told_which(tmp_path: Path, first: str, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        read_flow(write(tmp_path / "f.csv", f"{first}\n"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x,N,1,B,1,1,", "t_ns 'x' is not an integer"),
        ("1.5,N,1,B,1,1,", "t_ns '1.5' is not an integer"),
        ("99999999999999999999,N,1,B,1,1,", "does not fit 64 bits"),
        ("1,Q,1,B,1,1,", "msg 'Q' is none of N, M, C, D, E, T"),
        ("1,N,1,X,1,1,", "side 'X' is none of B, S, empty"),
        ("1,N,1,,1,1,", "a new order needs a side"),
        ("1,N,,B,1,1,", "order_id is empty"),
        ("1,N,1,B,1,0,", "quantity '0' is not above 0"),
        ("1,N,1,B,1,-3,", "quantity '-3' is not above 0"),
        ("1,D,1,B,1,-3,", "quantity '-3' is not above 0"),
        ("1,C,1,B,1,,", "quantity is empty"),
        ("1,N,1,B,1,much,", "quantity 'much' is not a decimal number"),
        ("1,N,1,B,9223372036.854775808,1,", "price '9223372036.854775808' is outside"),
        ("1,N,1,B,0.0000000001,1,", "price '0.0000000001' is not a whole multiple of 1e-9"),
        ("1,N,1,B,cheap,1,", "price 'cheap' is not a decimal number"),
        ("1,N,1,B,1", "has 5 fields where 7 columns are expected"),
        ('1,N,"1,B,1,1,', "is not valid CSV"),
        ('1,N,"1"2,B,1,1,', "is not valid CSV"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_value(tmp_path: Path, row: str, words: str) -> None:
    error = complaint(tmp_path, f"1,N,7,B,1,1,\n\n2,N,8,B,1,1,\n{row}\n")
    assert words in str(error)
    assert error.line == 5
    assert str(error).startswith(f"{tmp_path / 'flow.csv'}:5: ")


def test_of_several_bad_rows_the_first_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path, "1,N,1,B,1,1,\n2,N,2,B,1,0,\nx,N,3,Q,?,1,\n").line == 3


def test_a_truncated_gzip_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress((HEADER + "1,N,1,B,1,1,\n" * 1000).encode())
    with pytest.raises(InputError, match="damaged or truncated gzip"):
        read_flow(write(tmp_path / "f.gz", packed[:-20]))
    with pytest.raises(InputError, match="not UTF-8") as caught:
        read_flow(write(tmp_path / "f.csv", HEADER.encode() + b"1,N,\xff,B,1,1,\n"))
    assert caught.value.line == 2


def test_a_line_without_an_end_is_refused_before_memory_is_spent(tmp_path: Path) -> None:
    """A gzip file of 300 KB may hold one of gigabytes, a device one of any length."""
    path = write(tmp_path / "flow.gz", gzip.compress(HEADER.encode() + bytes(300 << 20), 1))
    tracemalloc.start()
    for endless in (path, Path("/dev/zero")):
        with pytest.raises(InputError, match="has a line of 1048576 bytes or more"):
            read_flow(endless)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_flow(path)


def test_rows_of_the_venue_are_counted_and_their_fields_not_judged(tmp_path: Path) -> None:
    flow = read_csv(tmp_path, "1,T,,,x,0,\n2,E,9,B,1,,\n3,D,9,B,1,,\n4,E,9,B,1,1,\n")
    assert flow.kinds() == {"N": 0, "M": 0, "C": 0, "D": 1}
    assert flow.skipped == {"execution": 2, "trade print": 1}
    assert flow.row_count == 4


def test_a_clock_that_steps_back_is_sorted_stably(tmp_path: Path) -> None:
    flow = read_csv(tmp_path, "5,N,a,B,1,1,\n7,N,b,B,1,1,\n5,N,c,B,1,1,\n7,N,d,B,1,1,\n")
    assert [flow.order_ids[i] for i in flow.order] == ["a", "c", "b", "d"]
    assert flow.steps_back == 1


def test_quantities_of_chunks_with_different_decimals_get_one_exponent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdmaorder.flow.source._CHUNK_ROWS", 1)
    flow = read_csv(tmp_path, "1,N,1,B,1,3,\n2,N,1,B,1,0.25,\n3,N,2,B,1,0.5,\n")
    assert (flow.quantity.tolist(), flow.quantity_exponent) == ([300, 25, 50], -2)
    error = complaint(tmp_path, f"1,N,1,B,1,{2**62},\n2,N,1,B,1,0.25,\n")
    assert error.line == 2
    assert str(2**62) in str(error)


# --- LOBSTER and ob-analytics -------------------------------------------------------------------


def test_lobster_messages_are_read_with_their_units(tmp_path: Path) -> None:
    text = (
        "34200.004241176,1,16113575,18,5853300,1\n34200.1,2,16113575,5,5853300,1\n"
        "34200.2,4,16113575,3,5853300,1\n34200.3,7,0,0,-1,-1\n34200.4,5,0,7,5853300,-1\n"
        "34200.5,3,16113575,10,5853300,1\n"
    )
    flow = read_flow(write(tmp_path / "f.csv", text), file_format="lobster")
    assert flow.kinds() == {"N": 1, "M": 0, "C": 1, "D": 1}
    assert flow.t_ns[0] == 34200_004241176
    assert flow.price[0] == price("585.33")
    assert flow.side.tolist() == [Side.BUY] * 3
    assert flow.skipped == {"execution": 1, "trade print": 1, "trading halt": 1}
    assert flow.row_count == 6


OB_HEADER = "id,timestamp,exchange_timestamp,price,volume,action,direction\n"


def write_ob(tmp_path: Path, rows: str, trades: str = "") -> Path:
    write(tmp_path / "trades.csv", "trade_id,buy_order_id,sell_order_id\n" + trades)
    return write(tmp_path / "orders.csv", OB_HEADER + rows)


def test_ob_analytics_rows_of_traded_orders_are_told_apart(tmp_path: Path) -> None:
    rows = (
        "1,12,10,100.0,0.5,created,bid\n"
        "1,13,11,100.0,0.3,changed,bid\n"  # traded: an execution
        "1,14,12,100.0,0.3,deleted,bid\n"  # of what was left: a cancel
        "2,14,12,100.5,0.2,created,ask\n"
        "2,15,13,100.5,0.0,deleted,ask\n"  # traded to nothing: an execution
        "3,15,13,99.0,1e-08,created,bid\n"
        "3,16,14,98.0,2.0,changed,bid\n"  # never traded: a replace
        "3,17,15,98.0,2.0,deleted,bid\n"
        "4,17,15,999.0,0.0,created,bid\n"  # for an amount of money: no quantity to send
    )
    path = write_ob(tmp_path, rows, "1,1,2\n2,4,9\n")
    flow = read_flow(path, file_format="ob-analytics")
    assert "".join(map(chr, flow.kind)) == "NDNNMD"
    assert flow.skipped == {"execution": 2, "order by value, without a quantity": 1}
    assert flow.t_ns[0] == 10_000_000
    assert flow.quantity_exponent == -8
    assert flow.quantity[3] == 1


def test_ob_analytics_snapshots_of_the_recorder_are_left_out(tmp_path: Path) -> None:
    opening = "".join(f"s{i},9,5,100,1,created,bid\n" for i in range(300))
    closing = "".join(f"s{i},90,90,100,1,deleted,bid\n" for i in range(300))
    live = "a,20,18,100,1,created,ask\ns7,30,28,100,1,deleted,bid\na,90,88,100,1,deleted,ask\n"
    flow = read_flow(write_ob(tmp_path, opening + live + closing), file_format="ob-analytics")
    assert flow.skipped == {"snapshot row": 600}
    assert [flow.order_ids[i] for i in flow.order] == ["a", "s7", "a"]


def test_ob_analytics_without_its_trades_says_which_file_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "orders.csv", OB_HEADER)
    with pytest.raises(InputError, match=r"trades\.csv: cannot be read"):
        read_flow(path, file_format="ob-analytics")
    with pytest.raises(InputError, match="for the ob-analytics format"):
        read_flow(path, trades=path)


def test_a_row_of_a_converted_file_keeps_its_line(tmp_path: Path) -> None:
    path = write_ob(tmp_path, "1,12,10,100,1,created,bid\n1,12,10,100,1,melted,bid\n")
    with pytest.raises(InputError, match=r"orders\.csv:3: action 'melted' is none of created"):
        read_flow(path, file_format="ob-analytics")
    assert formats.FORMATS == ("csv", "ob-analytics", "lobster")


# --- the demo's recording -----------------------------------------------------------------------


def test_an_archive_without_the_right_data_is_refused_and_nothing_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(scratch: Path) -> Path:
        with zipfile.ZipFile(scratch / "package.whl", "w") as package:
            package.writestr("ob_analytics/_sample_data/orders.csv.gz", b"something else")
        return scratch / "package.whl"

    monkeypatch.setattr(sample, "_download", download)
    with pytest.raises(InputError, match=r"orders\.csv\.gz has sha256 [0-9a-f]{64}, not "):
        sample.fetch_sample(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_recording_is_had_whatever_python_its_package_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in sample._FILES}
    info = "ob_analytics-0.1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: ob-analytics\nVersion: 0.1.0\nRequires-Python: >=99\n"
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    index = tmp_path / "index"
    (index / "ob-analytics").mkdir(parents=True)
    archive = "ob_analytics-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / "ob-analytics" / archive, "w") as package:
        for name in digests:
            package.writestr(f"ob_analytics/_sample_data/{name}", name)
        package.writestr(f"{info}/METADATA", metadata)
        package.writestr(f"{info}/WHEEL", wheel)
        package.writestr(f"{info}/RECORD", "")
    link = f'<a href="{archive}" data-requires-python="&gt;=99">{archive}</a>'
    (index / "ob-analytics" / "index.html").write_text(f"<!DOCTYPE html><html>{link}</html>")
    monkeypatch.setattr(sample, "_FILES", digests)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    assert sample.fetch_sample(tmp_path / "cache").read_text() == "orders.csv.gz"


def test_a_download_that_fails_says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no route to host\n")
    monkeypatch.setattr(sample.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"no route to host\. Check the network and pip"):
        sample.fetch_sample(tmp_path)


def test_what_is_in_the_cache_is_used_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in sample._FILES}
    monkeypatch.setattr(sample, "_FILES", digests)
    monkeypatch.setattr(sample, "_download", lambda _: pytest.fail("downloaded"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "rdmaorder" / "ob-analytics-0.1.0"
    folder.mkdir(parents=True)
    for name in digests:
        write(folder / name, name)
    assert sample.fetch_sample() == folder / "orders.csv.gz"
