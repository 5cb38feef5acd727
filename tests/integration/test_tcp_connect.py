"""Connecting over TCP to what does not answer at once."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

import pytest

import rdmaorder as ro


def test_a_host_that_answers_late_is_waited_for_as_long_as_was_asked() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as late, contextlib.ExitStack() as held:
        where = late.getsockname()
        while True:  # until the queue is full and what comes is dropped, as by a path that is cut
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(where)
            if not select.select([], [waiting], [], 0.3)[1]:
                break

        def answer() -> None:
            time.sleep(5)  # the kernel gives an attempt up after four
            with contextlib.suppress(OSError):
                while True:
                    late.accept()[0].close()

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(ro.RdmaOrderError) as refused:
            ro.connect(f"rdma://127.0.0.1:{where[1]}?tls=off", "alpha", connect_timeout_s=20)
        late.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert not isinstance(refused.value, ro.ConnectTimeout), refused.value
