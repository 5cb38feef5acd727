"""What is asked of a gateway on its control sockets besides sessions and links: fates of orders and
the clock by a strategy, the kill switch by a strategy or an operator, and the cancels that follow
when a link ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from rdmaorder.errors import RdmaOrderError, Refused
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.fields import (
    MAX_TEXT_CHARS,
    SEQUENCE_MAX,
    U64_MAX,
    ProtocolError,
    integer_of,
    refuse_bad,
    text_of,
)
from rdmaorder.messages import FATE_RECORD, Reason

__all__ = ["FATES_MAX", "OPERATOR_REQUESTS", "Operations", "OperatorRequestError", "sum_of_kills"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_KILL_THREADS = 8
_FATE_BYTES = FATE_RECORD.itemsize
_SEQUENCE_BYTES = 8  # its first field
_CANCEL_RETRY_S = 0.05

#: Fates in one answer, so that it fits a frame.
FATES_MAX = 1000
OPERATOR_REQUESTS = frozenset({"OperatorKill", "OperatorRelease"})


def sum_of_kills(results: list[dict[str, Any]]) -> dict[str, int]:
    """What became of the sessions in all, logged one by one. Raises Refused when there are some
    that could not be killed; all others are."""
    failed = []
    for each in results:
        if each["refusal"]:
            failed.append(each["refusal"])
            continue
        _log.warning(
            "session %s killed: fenced in %d ns, %d orders cancelled%s",
            each["name"],
            each["fence_ns"],
            each["canceled"],
            "" if each["recorded"] else "; NOT WRITTEN DOWN: a restart of this gateway releases it",
        )
    if failed:
        text = f"{len(results) - len(failed)} sessions killed, but {'; '.join(failed)}"
        raise Refused(text, code="UnknownSession")
    return {
        "sessions": len(results),
        "canceled": sum(each["canceled"] for each in results),
        "fence_ns": max((each["fence_ns"] for each in results), default=0),
        "recorded": int(all(each["recorded"] for each in results)),
    }


class OperatorRequestError(Exception):
    """A connection asks as an operator instead of negotiating a session."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(message["type"])
        self.message = message


class OperationsCore(Protocol):
    """What this needs of the core; each method may block."""

    def fates(self, session_index: int, from_sequence: int, count: int) -> bytes: ...
    def open_orders(self, session_index: int, from_sequence: int) -> bytes: ...
    def cancel_gone(self, session_index: int, gone_for_ns: int, reason: int) -> int | None: ...

    #: None: every session, those to come included; so with release().
    def kill(self, session_indices: list[int] | None, since_ns: int) -> list[dict[str, Any]]: ...
    def release(self, session_indices: list[int] | None) -> bool: ...
    def sessions(self) -> list[dict[str, Any]]: ...


class Operations:
    """One event loop's. ``end_link(session_index, epoch, reason)`` ends a control connection."""

    def __init__(
        self,
        core: Any,
        config: GatewayConfig,
        end_link: Callable[[int, int, str], None],
    ) -> None:
        self._core: OperationsCore = core
        self._config = config
        self._end_link = end_link
        # An operator's kill waits for nobody: neither for the reading of a long journal nor for the
        # disk that the kills of however many strategies are written to.
        self._operator_pool = ThreadPoolExecutor(_KILL_THREADS, "rdmaorder-operator")
        self._kill_pool = ThreadPoolExecutor(_KILL_THREADS, "rdmaorder-kill")
        self._cancel_pool = ThreadPoolExecutor(1, "rdmaorder-cancel")
        self._inquiry_pool = ThreadPoolExecutor(2, "rdmaorder-inquiry")
        self._inquiring: dict[int, asyncio.Lock] = {}
        #: By session: open orders not yet asked for, and the sequence to ask for them from.
        self._open_left: dict[int, tuple[int, memoryview]] = {}
        self._grace: dict[str, asyncio.Task[None]] = {}

    def close(self) -> None:
        for task in self._grace.values():
            task.cancel()
        self._grace.clear()
        pools = (self._operator_pool, self._kill_pool, self._cancel_pool, self._inquiry_pool)
        for pool in pools:
            pool.shutdown(wait=False)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    async def _inquire(self, session_index: int, call: Callable[[], _T]) -> _T:
        """One at a time of a session, so that none takes all threads. A cancelled one keeps its
        turn as long as its thread is at it."""
        async with self._inquiring.setdefault(session_index, asyncio.Lock()):
            under_way = self._inquiry_pool.submit(call)
            try:
                return await asyncio.wrap_future(under_way)
            finally:
                if not under_way.done():
                    abandoned = asyncio.wrap_future(under_way)
                    await asyncio.wait([abandoned])
                    abandoned.exception()  # nobody's

    # -- a strategy, on its live link ----------------------------------------------------------

    async def answer(self, session_index: int, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a question of a live link, None when it is none. Raises ProtocolError."""
        kind = message["type"]
        if kind not in ("Clock", "Resolve", "Kill"):
            return None
        # Repeated, so that an answer the strategy gave up is not taken for that to its next.
        request = {"request": integer_of(message, "request", 1, U64_MAX)}
        if kind == "Clock":
            return {"type": "Clock", "time_ns": time.time_ns()} | request
        if kind == "Resolve":
            resolve = partial(self._resolve, session_index, message)
            answer = await self._refusable(self._inquire(session_index, resolve))
        else:
            kill = partial(self._kill, [session_index], time.monotonic_ns(), {})
            answer = await self._refusable(self._run(self._kill_pool, kill))
        return answer | request

    @staticmethod
    async def _refusable(asked: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        try:
            answer = await asked
        except (Refused, ProtocolError) as error:
            return {"type": "Refused", "code": error.code, "text": str(error)}
        except (RdmaOrderError, OSError) as error:
            return {"type": "Refused", "code": "Unspecified", "text": str(error)}
        return answer

    def _resolve(self, session_index: int, message: dict[str, Any]) -> dict[str, Any]:
        what = text_of(message, "what", MAX_TEXT_CHARS)
        if what not in ("fates", "open"):
            refuse_bad(f"what = {what[:40]!r} is neither 'fates' nor 'open'")
        start = integer_of(message, "from_sequence", 1, SEQUENCE_MAX)
        count = integer_of(message, "count", 1, FATES_MAX)
        next_order = self._core.sessions()[session_index]["next_order_sequence"]
        if what == "open":
            fates = self._open_page(session_index, start, count)
        else:
            fates = self._core.fates(session_index, start, count)
        return {"type": "Resolved", "next_order_sequence": next_order, "fates": fates}

    def _open_page(self, session_index: int, start: int, count: int) -> bytes:
        """The journal is read once for all pages: what one leaves is kept for the next."""
        begin, left = self._open_left.pop(session_index, (0, memoryview(b"")))
        if begin != start:
            left = memoryview(self._core.open_orders(session_index, start))
        page, left = left[: count * _FATE_BYTES], left[count * _FATE_BYTES :]
        if left:
            last = int.from_bytes(page[-_FATE_BYTES:][:_SEQUENCE_BYTES], "little")
            self._open_left[session_index] = (last + 1, left)
        return bytes(page)

    def _kill(
        self, session_indices: list[int] | None, since_ns: int, epochs: dict[int, int]
    ) -> dict[str, Any]:
        """Kills the sessions of these indices. Fills in the ``epochs`` of the links that ended."""
        results = self._core.kill(session_indices, since_ns)
        epochs.update((each["session_index"], each["epoch"]) for each in results)
        return {"type": "Killed", **sum_of_kills(results)}

    # -- an operator ---------------------------------------------------------------------------

    async def operate(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answers an operator's request for the session it names, or for all (""), those that
        come later included."""
        since_ns = time.monotonic_ns()
        name = text_of(message, "session", 64)
        sessions = await self._run(self._operator_pool, self._core.sessions)
        chosen = [each["session_index"] for each in sessions if name in ("", each["name"])]
        if not chosen and name:
            return {
                "type": "Refused",
                "code": "UnknownSession",
                "text": f"there is no session {name!r} here",
            }
        if message["type"] == "OperatorRelease":
            release = partial(self._core.release, chosen if name else None)
            recorded = await self._run(self._operator_pool, release)
            return {"type": "Released", "sessions": len(chosen), "recorded": int(recorded)}
        epochs: dict[int, int] = {}
        kill = partial(self._kill, chosen if name else None, since_ns, epochs)
        answer = await self._refusable(self._run(self._operator_pool, kill))
        for index, epoch in epochs.items():
            if epoch:
                self._end_link(index, epoch, "killed by the operator")
        return answer

    # -- cancel on disconnect ------------------------------------------------------------------

    async def gateway_started(self) -> None:
        """No strategy has come back yet: for sessions of an earlier run that is a disconnect."""
        if self._config.cancel_on == "never" and not self._config.session_cancel:
            return
        for each in await self._run(self._cancel_pool, self._core.sessions):
            self.link_ended(each["name"], each["session_index"], "disconnect")

    def link_began(self, name: str) -> None:
        task = self._grace.pop(name, None)
        if task is not None:
            task.cancel()

    def link_ended(self, name: str, session_index: int, how: str) -> None:
        """``how``: "logout", "disconnect", or "shutdown" (the gateway's own: cancels nothing)."""
        self._open_left.pop(session_index, None)
        cancel_on, grace_ms = self._config.cancel_of(name)
        if how == "shutdown" or cancel_on not in (how, "both"):
            return
        self.link_began(name)  # an earlier grace time is over
        self._grace[name] = asyncio.get_running_loop().create_task(
            self._cancel_after(name, session_index, grace_ms)
        )

    async def _cancel_after(self, name: str, session_index: int, grace_ms: int) -> None:
        cancel = partial(
            self._core.cancel_gone, session_index, grace_ms * 1_000_000, Reason.DISCONNECT
        )
        await asyncio.sleep(grace_ms / 1000)
        # None: the session is back, which link_began() tells in a moment, or a link is being made,
        # which may come to nothing. Only the core knows when its turn comes.
        while (count := await self._run(self._cancel_pool, cancel)) is None:
            await asyncio.sleep(_CANCEL_RETRY_S)
        self._grace.pop(name, None)
        if count:
            _log.warning("session %s is gone: %d orders cancelled", name, count)
