"""Whatever a peer writes into its ring, it hurts nobody but itself.

The peer is a client of its own that was written from the documentation alone, so these tests also
show that the documentation is enough to send valid orders.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from gateway_support import Connect, StartGateway, eventually, order, take
from independent_client import HEADER, IndependentClient, crc32c, new_order, seal

import rdmaorder as ro


@pytest.fixture
def gateway(start_gateway: StartGateway) -> ro.Gateway:
    return start_gateway()


@pytest.fixture
def bystander(gateway: ro.Gateway, connect: Connect) -> Iterator[ro.Session]:
    """Another session of the same gateway; whatever happens, it works."""
    session = connect(gateway, "bystander")
    order(session, 1)
    take(session, 1)
    yield session
    order(session, 2)
    assert take(session, 1)["exec_type"][0] == ro.ExecType.NEW
    assert session.status()["state"] == "live"


def client(gateway: ro.Gateway) -> IndependentClient:
    return IndependentClient(gateway.url.removeprefix("shm://"))


def report(stranger: IndependentClient) -> tuple[int, ...]:
    read: Callable[[], tuple[int, ...] | None] = stranger.read
    got: tuple[int, ...] = eventually(read, "a report comes")
    return got


def test_the_documented_checksum_is_the_usual_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_the_documentation_is_enough_to_trade(gateway: ro.Gateway, bystander: ro.Session) -> None:
    with client(gateway) as stranger:
        for n in range(1, 201):  # three times around both rings
            assert stranger.write(new_order(n)) == n
            fields = report(stranger)
            cl_ord_id, _, price, quantity, leaves, sequence_low, kind, status = fields[:8]
            assert (cl_ord_id, price, quantity, leaves) == (n, 1_250_000_000, 10, 10)
            assert (sequence_low, kind, status) == (n, ord("0"), ord("0"))
            stranger.write_line(consumed=n)
            eventually(lambda: stranger.consumed() == stranger.next_order - 1, "credit is back")
        heartbeat = stranger.peer_line()[4]
        eventually(lambda: stranger.peer_line()[4] > heartbeat, "the heartbeat goes on")
        ended = stranger.ask(
            {"type": "Terminate", "code": "Finished", "last_sequence": 200, "text": ""}
        )
        assert (ended["code"], ended["last_sequence"]) == ("Finished", 200)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (new_order(1, quantity=0), ro.Reason.INVALID_QUANTITY),
        (new_order(1, quantity=-5), ro.Reason.INVALID_QUANTITY),
        (new_order(1, side=9), ro.Reason.INVALID_SIDE),
        (new_order(1, template_id=77), ro.Reason.UNKNOWN_TEMPLATE),
        (HEADER.pack(40, 1, 1, 0) + new_order(1)[8:], ro.Reason.UNKNOWN_TEMPLATE),
        (HEADER.pack(48, 1, 2, 0) + new_order(1)[8:], ro.Reason.UNKNOWN_TEMPLATE),
        (HEADER.pack(48, 1, 1, 9) + new_order(1)[8:], ro.Reason.UNKNOWN_TEMPLATE),
        (bytes(56), ro.Reason.UNKNOWN_TEMPLATE),
    ],
)
def test_a_bad_message_in_a_good_slot_is_rejected_and_the_link_goes_on(
    gateway: ro.Gateway, bystander: ro.Session, message: bytes, reason: ro.Reason
) -> None:
    with client(gateway) as stranger:
        stranger.write(message)
        fields = report(stranger)
        assert (fields[5], fields[6], fields[8]) == (1, ro.ExecType.REJECTED, reason)
        stranger.write(new_order(2))
        assert report(stranger)[6] == ro.ExecType.NEW


def expect_end(gateway: ro.Gateway, stranger: IndependentClient, text: str) -> None:
    """The gateway ends the link and says why; the session can be taken up where it stands."""
    ended = stranger.hear()
    assert (ended["type"], ended["code"]) == ("Terminate", "LinkFailed")
    assert text in ended["text"]
    assert ended["last_sequence"] == stranger.next_order - 1
    assert stranger.hear() == {}
    with client(gateway) as again:
        assert again.next_order == stranger.next_order
        assert again.epoch != stranger.epoch
        again.write(new_order(99))
        assert report(again)[6] == ro.ExecType.NEW


def test_a_slot_whose_checksum_is_wrong_ends_the_link_with_that_reason(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    with client(gateway) as stranger:
        stranger.write(new_order(1))
        report(stranger)
        slot = bytearray(seal(stranger.epoch, 2, new_order(2)))
        slot[20] ^= 1
        stranger.put(2, bytes(slot))
        expect_end(gateway, stranger, "order slot 2 stayed torn: its CRC does not match")


def test_a_slot_of_another_epoch_ends_the_link_with_that_reason(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    with client(gateway) as stranger:
        stranger.put(1, seal(stranger.epoch + 1, 1, new_order(1)))
        expect_end(gateway, stranger, "order slot 1 stayed torn")


def test_overrunning_the_ring_ends_the_link_with_that_reason(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    with client(gateway) as stranger:
        ahead = 1 + stranger.slot_count
        stranger.put(ahead, seal(stranger.epoch, ahead, new_order(1)))
        expect_end(
            gateway, stranger, "the strategy overran its order ring: order 1 was overwritten"
        )


def test_bytes_that_belong_to_no_sequence_are_counted_and_passed_over(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    with client(gateway) as stranger:
        noise = random.Random(20251122)
        for index in range(stranger.slot_count):
            slot = noise.randbytes(60) + b"\xee\xee\xee\xee"  # far from any sequence here
            stranger.put(index + 1, slot)
        stranger.peer[:64] = noise.randbytes(64)  # the status line too
        for n in range(1, 6):
            stranger.write(new_order(n))
            assert report(stranger)[:1] == (n,)
        ended = stranger.ask(
            {"type": "Terminate", "code": "Finished", "last_sequence": 5, "text": ""}
        )
        assert ended["last_sequence"] == 5
    eventually(lambda: gateway.counters()["slots_garbage"] > 0, "garbage is counted")


def test_a_slot_written_again_is_not_applied_again(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    with client(gateway) as stranger:
        stranger.write(new_order(1))
        report(stranger)
        stranger.put(1, seal(stranger.epoch, 1, new_order(2)))
        stranger.write(new_order(3))
        assert report(stranger)[0] == 3


def test_a_credit_for_reports_never_sent_ends_the_link(
    gateway: ro.Gateway, bystander: ro.Session
) -> None:
    """However much room the owner of a full ring claims, nothing in it is overwritten."""
    with client(gateway) as stranger:
        stranger.write_line(consumed=1 << 40)
        for n in range(1, stranger.slot_count + 2):
            eventually(lambda: stranger.consumed() + 1 >= stranger.next_order, "credit")
            stranger.write(new_order(n))
        heard = stranger.hear()
        assert heard["code"] == "LinkFailed"
        assert str(1 << 40) in heard["text"]
        for n in range(1, stranger.slot_count + 1):
            assert report(stranger)[0] == n  # whole and verified: none was overwritten
        assert stranger.read() is None


def test_a_torn_session_holds_up_no_other(gateway: ro.Gateway, connect: Connect) -> None:
    """While one ring is stuck on a torn slot, another keeps its pace."""
    with client(gateway) as stranger:
        slot = bytearray(seal(stranger.epoch, 1, new_order(1)))
        slot[9] ^= 0xFF
        stranger.put(1, bytes(slot))
        session = connect(gateway, "busy")
        for n in range(1, 101):
            order(session, n)
            assert take(session, 1)["exec_type"][0] == ro.ExecType.NEW
        assert stranger.hear()["code"] == "LinkFailed"
