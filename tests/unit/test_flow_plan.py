"""Which session sends which message, under which ClOrdID, with which bytes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from flow_support import read_csv
from hypothesis import given
from hypothesis import strategies as st

from rdmaorder.errors import InputError
from rdmaorder.flow.plan import make_plan
from rdmaorder.messages import (
    NEW_ORDER,
    NO_PRICE,
    OrdType,
    Side,
    TemplateId,
    as_cancels,
    as_new_orders,
    as_replaces,
    price,
)


def one_session(tmp_path: Path, body: str) -> Any:
    return make_plan(read_csv(tmp_path, body), 1)[0]


def test_each_message_gets_the_bytes_its_row_says(tmp_path: Path) -> None:
    plan = one_session(
        tmp_path, "0,N,a,B,1.5,10,X\n1,M,a,B,1.25,8,X\n2,C,a,B,,3,X\n3,D,a,B,,5,X\n4,N,b,S,,4,Y\n"
    )
    new, replace, cancel = (view(plan.slots) for view in (as_new_orders, as_replaces, as_cancels))
    assert plan.slots["template_id"].tolist() == [1, 2, 3, 3, 1]
    assert new["cl_ord_id"].tolist() == [1, 2, 3, 4, 5]
    assert (new["price"][0], new["quantity"][0], new["instrument"][0]) == (price("1.5"), 10, 1)
    assert (replace["orig_cl_ord_id"][1], replace["price"][1]) == (1, price("1.25"))
    assert (replace["quantity"][1], replace["instrument"][1]) == (8, 1)
    assert (cancel["orig_cl_ord_id"][2], cancel["quantity"][2]) == (2, 3)
    assert (cancel["orig_cl_ord_id"][3], cancel["quantity"][3]) == (2, 0)
    assert (new["ord_type"][4], new["price"][4]) == (OrdType.MARKET, NO_PRICE)
    assert (new["side"][4], new["instrument"][4]) == (Side.SELL, 2)


def test_an_order_id_that_comes_back_gets_a_new_cl_ord_id(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,a,B,1,1,\n1,D,a,B,1,1,\n2,N,a,B,1,1,\n3,D,a,B,1,1,\n")
    assert as_cancels(plan.slots)["orig_cl_ord_id"][[1, 3]].tolist() == [1, 3]


def test_a_message_on_an_order_never_new_names_an_id_no_order_has(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,D,x,B,1,1,\n1,M,y,B,1,1,\n2,D,y,B,1,1,\n3,N,x,B,1,1,\n")
    numbered = plan.numbered(1000)
    named = [int(as_cancels(numbered)["orig_cl_ord_id"][0])]
    named += as_replaces(numbered)["orig_cl_ord_id"][[1]].tolist()
    named += as_cancels(numbered)["orig_cl_ord_id"][[2]].tolist()
    assert all(cl_ord_id >= 1 << 63 for cl_ord_id in named)
    assert named[1] == named[2] != named[0]


def test_a_replace_of_a_finished_order_does_not_move_its_cl_ord_id(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,a,B,1,4,\n1,C,a,B,1,4,\n2,M,a,B,1,9,\n3,D,a,B,1,1,\n")
    assert as_replaces(plan.slots)["orig_cl_ord_id"][2] == 1
    assert as_cancels(plan.slots)["orig_cl_ord_id"][3] == 1


def test_side_and_price_left_empty_are_taken_from_the_order(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,a,S,1.5,4,\n1,M,a,,,2,\n2,D,a,,,,\n")
    replace = as_replaces(plan.slots)[1]
    assert (replace["side"], replace["price"]) == (Side.SELL, price("1.5"))
    assert as_cancels(plan.slots)["side"][2] == Side.SELL


def test_the_same_order_id_under_two_symbols_is_two_orders(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,1,B,1,1,X\n1,N,1,B,1,1,Y\n2,D,1,B,1,1,X\n3,D,1,B,,,\n")
    cancels = as_cancels(plan.slots)
    assert cancels["orig_cl_ord_id"][2:].tolist() == [1, 1]
    assert cancels["instrument"][2:].tolist() == [1, 1]  # no symbol: the last one with this id


def test_numbering_follows_the_sequence_at_which_a_session_stands(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,a,B,1,1,\n1,D,a,B,1,1,\n")
    assert as_new_orders(plan.numbered(501))["cl_ord_id"].tolist() == [501, 502]
    assert as_cancels(plan.numbered(501))["orig_cl_ord_id"][1] == 501
    assert as_cancels(plan.slots)["orig_cl_ord_id"][1] == 1


@given(
    st.lists(
        st.tuples(st.sampled_from("NMCD"), st.sampled_from(["a", "b", "17", "x9", "0"])),
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_sessions_together_send_every_message_once_and_orders_stay_in_theirs(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[str, str]], count: int
) -> None:
    body = "".join(f"{i},{kind},{order},B,1,{i + 1},\n" for i, (kind, order) in enumerate(messages))
    flow = read_csv(tmp_path_factory.mktemp("flow"), body)
    plans = make_plan(flow, count)
    assert sum(len(plan.slots) for plan in plans) == len(messages)
    for number, plan in enumerate(plans):
        mine = [i for i, (_, o) in enumerate(messages) if zlib.crc32(o.encode()) % count == number]
        assert plan.due_ns.tolist() == [i - 0 for i in mine]
        assert as_new_orders(plan.slots)["cl_ord_id"].tolist() == list(range(1, len(mine) + 1))


def test_limit_and_session_count_are_checked(tmp_path: Path) -> None:
    flow = read_csv(tmp_path, "0,N,a,B,1,1,\n1,D,a,B,1,1,\n")
    assert sum(len(plan.slots) for plan in make_plan(flow, 2, limit=1)) == 1
    for arguments, words in (((0, 1), "session count 0"), ((1, 0), "limit 0")):
        with pytest.raises(InputError, match=words):
            make_plan(flow, arguments[0], limit=arguments[1])


def test_slots_are_whole_messages_of_64_bytes(tmp_path: Path) -> None:
    plan = one_session(tmp_path, "0,N,a,B,1,1,\n")
    assert plan.slots.dtype.itemsize == NEW_ORDER.itemsize == 64
    assert plan.slots["template_id"][0] == TemplateId.NEW_ORDER
    assert memoryview(plan.slots).c_contiguous
