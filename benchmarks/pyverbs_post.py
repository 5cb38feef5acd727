"""Prints the median time, in microseconds, of one RDMA WRITE of 64 bytes from Python with pyverbs.

As cheap as pyverbs can be used: work request and piece made once, contents written into the region
and sent inline, a completion for every 32nd only, reaped outside the time taken. For Debian's
Python (/usr/bin/python3), which has pyverbs; shares nothing with the library.
"""

import statistics
import time
from pathlib import Path

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, SendWR

COUNT, EVERY = 2000, 32


class End:
    """One device's end of a link."""

    def __init__(self, device: str, address: str) -> None:
        gids = Path(f"/sys/class/infiniband/{device}/ports/1/gids")
        found = [path for path in gids.iterdir() if path.read_text().strip().endswith(address)]
        self.gid, self.gid_index = found[0].read_text().strip(), int(found[0].name)
        self.context = Context(name=device)
        self.domain = PD(self.context)
        self.queue = CQ(self.context, 256)
        access = e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE
        self.region = MR(self.domain, 4096, access)
        capacity = QPCap(max_send_wr=128, max_recv_wr=1, max_inline_data=64)
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


def main() -> None:
    near, far = End("rxe1", "0a01:0002"), End("rxe0", "0a01:0001")
    near.connect(far)
    far.connect(near)
    piece = SGE(near.region.buf, 64, near.region.lkey)
    requests = []
    for flags in (e.IBV_SEND_INLINE, e.IBV_SEND_INLINE | e.IBV_SEND_SIGNALED):
        request = SendWR(
            wr_id=1, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[piece], send_flags=flags
        )
        request.set_wr_rdma(far.region.rkey, far.region.buf)
        requests.append(request)
    order, times = b"\x01" * 64, []
    for n in range(1, COUNT + 1):
        request = requests[n % EVERY == 0]
        before = time.perf_counter_ns()
        near.region.write(order, 64)
        near.pair.post_send(request)
        times.append(time.perf_counter_ns() - before)
        if n % EVERY == 0:
            while near.queue.poll(1)[0] == 0:
                pass
    print(statistics.median(times) / 1000)


main()
