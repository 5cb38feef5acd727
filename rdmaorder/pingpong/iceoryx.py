"""iceoryx2's publish/subscribe through its Python wheel, there and back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from rdmaorder import _core
from rdmaorder.errors import SystemFailure
from rdmaorder.pingpong.runs import Words

__all__ = ["run", "serve"]

_POLLS_MAX = 50_000_000


def _payload_type(size: int) -> Any:
    fields = [("words", ctypes.c_uint64 * (size // 8))]
    return type("PingPongPayload", (ctypes.Structure,), {"_fields_": fields})


class _Ports:
    """A publisher and a subscriber on the two services of a ping-pong."""

    def __init__(self, name: str, size: int, *, answers: bool) -> None:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        self.payload = _payload_type(size)
        self._node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        there, back = (self._service(iox2, f"{name}/{way}") for way in ("there", "back"))
        out, into = (back, there) if answers else (there, back)
        self.subscriber = into.subscriber_builder().create()
        self.publisher = out.publisher_builder().create()

    def _service(self, iox2: Any, name: str) -> Any:
        builder = self._node.service_builder(iox2.ServiceName.new(name))
        return builder.publish_subscribe(self.payload).open_or_create()

    def send(self, sequence: int) -> None:
        message = self.payload()
        message.words[0] = sequence
        message.words[len(message.words) - 1] = ~sequence & 0xFFFF_FFFF_FFFF_FFFF
        self.publisher.loan_uninit().write_payload(message).send()


def serve(name: str, size: int, ready: Callable[[], None]) -> None:
    """Answers until killed."""
    ports = _Ports(name, size, answers=True)
    ready()
    receive = ports.subscriber.receive
    while True:
        sample = receive()
        if sample is not None:
            ports.send(sample.payload().contents.words[0])


def run(name: str, size: int, samples: Words, warm_up: int) -> dict[str, Any]:
    """A closed loop, stamped as the Python levels are."""
    ports = _Ports(name, size, answers=False)
    ticks, receive = _core.ticks, ports.subscriber.receive
    bad = 0
    for index in range(-warm_up, len(samples)):
        sequence = index + warm_up + 1
        before = ticks()
        ports.send(sequence)
        for _ in range(_POLLS_MAX):
            sample = receive()
            if sample is not None:
                break
        else:
            raise SystemFailure("iceoryx2 gave no answer")
        after = ticks()
        words = sample.payload().contents.words
        bad += words[0] != sequence or words[len(words) - 1] != ~sequence & 0xFFFF_FFFF_FFFF_FFFF
        if index >= 0:
            samples[index, 0] = samples[index, 1] = before
            samples[index, 2] = after
    return {"sent": len(samples), "answered": len(samples), "ending": "done", "bad_payloads": bad}
