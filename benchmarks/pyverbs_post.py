"""Prints what RDMA WRITEs of 64 bytes from Python with pyverbs cost, as JSON: see doorbell.py.

"post": as cheap as pyverbs can be used. Work request and piece made once, the same bytes written
into the region and sent inline to the same place. "order": what new_order does, by the same means:
six fields packed into a message, sealed with a checksum (zlib's, for want of a CRC-32C in C), sent
to the next slot of a ring. "built": the same, piece and work request made for each order, as
pyverbs' own examples and tests do. A completion for every 32nd, reaped outside the time taken.

For Debian's Python (/usr/bin/python3), which has pyverbs; shares nothing with the library.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pyverbs.enums as e
from doorbell import median_us, skip_doorbells, skipped_count
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

COUNT, EVERY = 1500, 32
DEPTH, SLOT, SLOTS = 4096, 64, 1024
MESSAGE = struct.Struct("<HHHHQqqQIIIBBBB")  # header and block of a NewOrder
COMMIT = struct.Struct("<II")


class End:
    """One device's end of a link."""

    def __init__(self, device: str, address: str) -> None:
        gids = Path(f"/sys/class/infiniband/{device}/ports/1/gids")
        found = [path for path in gids.iterdir() if path.read_text().strip().endswith(address)]
        self.gid, self.gid_index = found[0].read_text().strip(), int(found[0].name)
        self.context = Context(name=device)
        self.domain = PD(self.context)
        self.queue = CQ(self.context, DEPTH)
        access = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
        self.region = MR(self.domain, SLOT * SLOTS, access)
        capacity = QPCap(max_send_wr=DEPTH, max_recv_wr=1, max_inline_data=64)
        self.pair = QP(
            self.domain,
            QPInitAttr(
                qp_type=e.IBV_QPT_RC, scq=self.queue, rcq=self.queue, cap=capacity, sq_sig_all=0
            ),
        )

    def connect(self, peer: "End") -> None:
        attributes = QPAttr(port_num=1)
        attributes.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
        attributes.path_mtu = e.IBV_MTU_1024
        attributes.dest_qp_num = peer.pair.qp_num
        attributes.rq_psn = attributes.sq_psn = 1
        attributes.max_rd_atomic = attributes.max_dest_rd_atomic = 1
        attributes.min_rnr_timer, attributes.timeout = 12, 18
        attributes.retry_cnt = attributes.rnr_retry = 6
        route = GlobalRoute(dgid=GID(peer.gid), sgid_index=self.gid_index, hop_limit=64)
        attributes.ah_attr = AHAttr(port_num=1, is_global=1, gr=route)
        self.pair.to_rts(attributes)


class Poster:
    """WRITEs from one end to the other."""

    def __init__(self, near: End, far: End) -> None:
        self.near, self.far, self.sequence = near, far, 0
        piece = SGE(near.region.buf, SLOT, near.region.lkey)
        self.requests = []
        for flags in (e.IBV_SEND_INLINE, e.IBV_SEND_INLINE | e.IBV_SEND_SIGNALED):
            request = SendWR(
                wr_id=1, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[piece], send_flags=flags
            )
            request.set_wr_rdma(far.region.rkey, far.region.buf)
            self.requests.append(request)
        self.same = b"\x01" * SLOT

    def post(self, request: SendWR) -> None:
        self.near.region.write(self.same, SLOT)
        self.near.pair.post_send(request)

    def seal_next(self) -> int:
        """The next order into the region; where it goes in the peer's."""
        self.sequence = sequence = self.sequence + 1
        message = MESSAGE.pack(48, 1, 1, 0, sequence, 5, 0, 42, 7, 10, 0, 1, 1, 0, 0)
        sealed = message + COMMIT.pack(zlib.crc32(message), sequence & 0xFFFFFFFF)
        self.near.region.write(sealed, SLOT)
        return self.far.region.buf + sequence % SLOTS * SLOT

    def order(self, request: SendWR) -> None:
        address = self.seal_next()
        request.set_wr_rdma(self.far.region.rkey, address)
        self.near.pair.post_send(request)

    def built(self, request: SendWR) -> None:
        address = self.seal_next()
        signalled = e.IBV_SEND_SIGNALED if request is self.requests[1] else 0
        own = SendWR(
            wr_id=1,
            opcode=e.IBV_WR_RDMA_WRITE,
            num_sge=1,
            sg=[SGE(self.near.region.buf, SLOT, self.near.region.lkey)],
            send_flags=e.IBV_SEND_INLINE | signalled,
        )
        own.set_wr_rdma(self.far.region.rkey, address)
        self.near.pair.post_send(own)

    def timed(self, call: Callable[[SendWR], None], reap: bool) -> list[int]:
        clock, times = time.perf_counter_ns, []
        for n in range(1, COUNT + 1):
            request = self.requests[n % EVERY == 0 and reap]
            before = clock()
            call(request)
            times.append(clock() - before)
            if n % EVERY == 0 and reap:
                while self.near.queue.poll(1)[0] == 0:
                    pass
        return times


def main() -> None:
    near, far = End("rxe1", "0a01:0002"), End("rxe0", "0a01:0001")
    near.connect(far)
    far.connect(near)
    poster = Poster(near, far)
    calls = {"post": poster.post, "order": poster.order, "built": poster.built}
    found = {f"_{name}": median_us(poster.timed(call, True)) for name, call in calls.items()}
    skip_doorbells()
    for name, call in calls.items():
        found[f"_{name}_user"] = median_us(poster.timed(call, False))
    assert skipped_count() == len(calls) * COUNT, "the doorbells were not left out"
    print(json.dumps(found), flush=True)
    os._exit(0)  # what was posted and never sent cannot be waited for


main()
