"""A gateway inside this process: the native receiver and the control server beside it."""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
import operator
import os
import threading
import time
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rdmaorder import _core
from rdmaorder._core import Order
from rdmaorder.errors import ConfigError, SystemFailure, TransportError
from rdmaorder.gateway import counters_file
from rdmaorder.gateway.config import GatewayConfig
from rdmaorder.gateway.operations import sum_of_kills
from rdmaorder.gateway.server import ControlServer
from rdmaorder.messages import MassCancelScope, Reason, Records, Side

__all__ = ["Gateway", "OrderHandler", "PythonHandler"]

_log = logging.getLogger(__name__)

_BUILT_IN_HANDLERS = ("accept", "venue", "null")
_FAILURE_CHECK_S = 0.02
_ID_MAX = (1 << 32) - 1


class OrderHandler(Protocol):
    """A handler written in Python that takes orders one by one: the shorter way for a lone order.

    It may have the other methods of :class:`PythonHandler` too. With both ``on_order`` and
    ``on_orders`` a lone order goes to the first, several picked up together to the second.
    """

    def on_order(self, order: Order) -> None:
        """Takes one request, which is in the journal, and answers it by its methods
        (``order.accept()``, ``order.reject(reason)``, ``order.report(…)``; each sends its report at
        once) or leaves that to a later call.

        ``order`` may be kept, and answered in any later call of the handler. An exception rejects
        the order (Reason.HANDLER_FAILED) unless it was answered before.
        """


class PythonHandler(Protocol):
    """What a handler written in Python has. Called in the receiver's thread, one call at a time.

    An optional method ``on_idle() -> Records | None`` is called about every millisecond in which no
    order came, for reports that answer no order just received (fills).

    A mass cancel with sequence 0 comes from the gateway itself (cancel on disconnect, kill switch):
    cancel what its scope names and report each order; the request needs no answer.

    An optional method ``recover(orders: Records) -> Records | None`` is called once when the
    gateway starts on a journal, with the orders in doubt: handed to the handler by an earlier run
    and without a report. Their ``flags`` have ``FLAG_POSS_RESEND``: ask the venue what became of
    each before sending it anew, and do not send one whose ``stale_after_ns`` has passed meanwhile.
    Without this method they stay without an outcome.
    """

    def on_orders(self, orders: Records) -> Records | None:
        """Takes orders of one session (ORDER_RECORD array, in sequence order, journalled) and gives
        their reports (``execution_reports(n)``: HANDLER_REPORT array) or None.

        An exception rejects every order of the batch (Reason.HANDLER_FAILED): raise only if none
        was acted upon.
        """


class Gateway:
    """Receives orders of many sessions. ``rdmaorder gateway`` is this class with a command line.

    ``handler``: ``"accept"``, ``"venue"``, ``"null"`` (takes and says nothing),
    ``"package.module:Class"`` or an object with ``on_order`` (:class:`OrderHandler`) or
    ``on_orders`` (:class:`PythonHandler`). Further keywords are settings of
    :class:`GatewayConfig` and override those of ``config``.

    The receiver is a native thread; the control server an asyncio loop in a thread of its own. A
    context manager: ``with Gateway(listen="shm:///run/user/0/gw.sock") as gateway: …``.
    """

    def __init__(
        self,
        config: GatewayConfig | None = None,
        *,
        handler: str | PythonHandler | OrderHandler | None = None,
        **settings: Any,
    ) -> None:
        self.config = (config or GatewayConfig()).with_overrides(**settings)
        if self.config.listen is None:
            raise ConfigError('[gateway] listen is not set; give listen="shm:///path/gw.sock"')
        self.counters_path = self.config.counters or counters_file.default_path(
            self.config.listen_path
        )
        chosen = handler if handler is not None else self.config.handler
        self.handler_name = chosen if isinstance(chosen, str) else type(chosen).__name__
        if isinstance(chosen, str):
            if chosen not in _BUILT_IN_HANDLERS:
                chosen = _load_handler(chosen)
        else:
            _check_handler(chosen, f"handler: {self.handler_name}")
        self._core = _core.GatewayCore(_core_settings(self.config, self.counters_path), chosen)
        self._counters_file = counters_file.file_at(self.counters_path)
        self._tell_in_doubt(chosen)
        self._server: ControlServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._process = os.getpid()

    def _tell_in_doubt(self, handler: object) -> None:
        in_doubt = self._core.journal_state().get("in_doubt", 0)
        if not in_doubt:
            return
        settled = handler in ("accept", "venue") or hasattr(handler, "recover")
        _log.warning(
            "%d orders were handed to the handler before the restart and have no report; %s",
            in_doubt,
            "they were given to it again to recover"
            if settled
            else f"handler {self.handler_name} has no recover(), so they stay without an outcome",
        )

    @property
    def url(self) -> str:
        """What strategies connect to."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address listened on; once started, with the real port in place of 0."""
        if self._server is not None and self._server.urls:
            return self._server.urls
        return tuple(address.url for address in self.config.addresses)

    def stamp_orders(self, rows: Any) -> None:
        """Has every order's stages stamped into ``rows`` (uint64, a power of two × 8; columns as
        OrderStamps in gateway.hpp), for measuring. Before start()."""
        self._core.stamp_orders(rows)

    def start(self) -> Gateway:
        """Starts receiver and control server; returns when strategies can connect."""
        if self._thread is not None:
            raise RuntimeError("a Gateway is started once")
        self._warn_without_device()
        try:
            self._core.start()
            failure = self._start_server()
        except SystemFailure as error:  # no thread
            failure = error
        if failure is not None:
            self._stopped = True
            self._end_core()
            raise failure
        return self

    def _start_server(self) -> BaseException | None:
        """Why the control server does not listen, None when it does."""
        started: list[BaseException | None] = []
        ready = threading.Event()
        thread = threading.Thread(
            target=self._run_server, args=(started, ready), name="ro-control", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise SystemFailure(
                f"start the control server's thread: {error}; raise the limit of threads: "
                "ulimit -u, TasksMax= in the systemd unit, pids.max of the cgroup",
                error_number=errno.EAGAIN,
            ) from None
        self._thread = thread
        ready.wait()
        if started[0] is not None:
            thread.join()
        return started[0]

    def _warn_without_device(self) -> None:
        """A device may come later, so it is no reason not to start."""
        remote = [each for each in self.config.addresses if each.scheme == "rdma"]
        if not remote:
            return
        try:
            devices = {str(each["name"]) for each in _core.rdma_devices()}
        except TransportError as error:
            _log.warning("no link to %s can be made: %s", remote[0].url, error)
            return
        for address in remote:
            name = str(address.options.get("device", ""))
            if not devices or (name and name not in devices):
                _log.warning(
                    "no link to %s can be made: there is no RDMA device%s here; rdmaorder devices "
                    "lists them",
                    address.url,
                    f" {name}" if name else "",
                )

    def stop(self) -> None:
        """Drains: takes every order already written, tells the strategies, ends both threads, syncs
        the journal. Idempotent. In a forked child nothing: the gateway is the parent's."""
        if self._stopped or os.getpid() != self._process:
            return
        self._stopped = True
        self._core.announce_closing()
        if self._loop is not None and self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.close(drain=True), self._loop).result()
        if self._thread is not None:
            self._thread.join()
        self._end_core()

    def _end_core(self) -> None:
        self._core.stop()
        if counters_file.file_at(self.counters_path) == self._counters_file:
            Path(self.counters_path).unlink(missing_ok=True)

    def halt(self, reason: Reason = Reason.HALTED) -> None:
        """Refuses new orders of every session with ``reason`` until resume(); cancels pass."""
        self._core.halt(_member(Reason, reason, "reason"))

    def resume(self) -> None:
        """Takes new orders again."""
        self._core.resume()

    def kill(self, session: str | None = None) -> dict[str, int]:
        """Kill switch: fences the link of ``session`` (None: of every session, those that come
        later included), takes no new one until :meth:`release`, and cancels its orders with
        Reason.KILL. Gives the number of
        ``sessions`` and of orders ``canceled``, the longest ``fence_ns``, and in ``recorded``
        whether a gateway started again on the journal will know (1) or not (0)."""
        since_ns = time.monotonic_ns()
        results = self._core.kill(self._chosen_or_all(session), since_ns)
        for done in results:
            if self._loop is not None and self._server is not None and done["epoch"]:
                self._loop.call_soon_threadsafe(
                    self._server.end_link,
                    done["session_index"],
                    done["epoch"],
                    "killed by the operator",
                )
        return sum_of_kills(results)

    def release(self, session: str | None = None) -> None:
        """Lets ``session`` (None: every session) have links again after a kill."""
        self._core.release(self._chosen_or_all(session))

    def cancel_orders(
        self,
        session: str,
        *,
        scope: MassCancelScope = MassCancelScope.SESSION,
        instrument: int = 0,
        side: int = 0,
        account: int = 0,
        reason: Reason = Reason.MASS_CANCEL,
    ) -> int:
        """Cancels live orders of a session on the operator's behalf. Returns how many."""
        named = (
            _member(MassCancelScope, scope, "scope"),
            _id(instrument, "instrument"),
            _member(Side, side, "side") if side or scope == MassCancelScope.SIDE else 0,
            _id(account, "account"),
            _member(Reason, reason, "reason"),
        )
        return sum(
            self._core.cancel_orders(each["session_index"], *named)
            for each in self._chosen(session)
        )

    def _chosen_or_all(self, session: str | None) -> list[int] | None:
        if session is None:
            return None
        return [each["session_index"] for each in self._chosen(session)]

    def _chosen(self, session: str | None) -> list[dict[str, Any]]:
        chosen = [each for each in self._core.sessions() if session in (None, each["name"])]
        if session is not None and not chosen:
            raise ConfigError(f"there is no session {session!r} here")
        return chosen

    def sessions(self) -> list[dict[str, Any]]:
        """Every session this gateway knows: name, index, live, positions, failure."""
        return self._core.sessions()

    def counters(self) -> dict[str, int]:
        """Counters by name (docs/counters.md)."""
        return self._core.counters()

    def journal_state(self) -> dict[str, Any]:
        """Positions and the last error of the journal; empty without one."""
        return self._core.journal_state()

    def handler_error(self) -> str:
        """Traceback of the last exception of a Python handler, empty if there was none."""
        return self._core.handler_error()

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run_server(self, started: list[BaseException | None], ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(started, ready))
        except BaseException as error:
            if ready.is_set():
                raise
            started.append(error)  # start() waits, and raises it
            ready.set()

    async def _serve(self, started: list[BaseException | None], ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = ControlServer(self._core, self.config)
        await self._server.start()
        started.append(None)
        ready.set()
        watcher = asyncio.create_task(self._watch_core(self._server))
        await self._server.serve()
        watcher.cancel()

    async def _watch_core(self, server: ControlServer) -> None:
        """Ends the control connection of a link that the receiver gave up, and logs handler errors.

        Looks at counters, which costs the receiver nothing; asks it only when one has moved.
        """
        seen_failures = 0
        seen_error = ""
        while True:
            await asyncio.sleep(_FAILURE_CHECK_S)
            failures = self._core.links_failed()
            if failures != seen_failures:
                seen_failures = failures
                for session in await asyncio.to_thread(self._core.sessions):
                    # Without an epoch the link is gone already; a later one keeps its own.
                    if session["failure"] and session["epoch"]:
                        _log.error("session %s: %s", session["name"], session["failure"])
                        server.end_link(
                            session["session_index"], session["epoch"], session["failure"]
                        )
            error = self._core.handler_error()
            if error != seen_error:
                seen_error = error
                _log.error(
                    "handler %s raised; what it had not answered was rejected:\n%s",
                    self.handler_name,
                    error,
                )


def _core_settings(config: GatewayConfig, counters_path: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_sessions": config.max_sessions,
        "cancel_reserve": config.cancel_reserve,
        "heartbeat_interval_ns": config.heartbeat_us * 1_000,
        "idle": config.idle,
        "huge_pages": config.huge_pages,
        "counters": counters_path,
        "venue_max_orders": config.venue_max_orders,
        "sync": config.sync,
        "sync_interval_ns": config.sync_interval_ms * 1_000_000,
        "segment_bytes": config.segment_mib << 20,
        "instruments": list(config.instruments or ()),
    }
    if config.instruments == ():
        raise ConfigError("[gateway] instruments = []: no instrument could be traded; leave it out")
    if config.max_orders_per_s is not None:
        settings["max_orders_per_s"] = config.max_orders_per_s
        settings["orders_burst"] = config.orders_burst or max(1, config.max_orders_per_s // 10)
    if config.throttle_disconnect is not None:
        settings["throttle_disconnect"] = config.throttle_disconnect
    if config.journal is not None:
        settings["journal"] = config.journal
    if config.cpu is not None:
        settings["cpu"] = config.cpu
    if config.max_quantity is not None:
        settings["max_quantity"] = config.max_quantity
    return settings


def _member(kind: type[IntEnum], value: int, name: str) -> int:
    try:
        return int(kind(value))
    except ValueError:
        raise ConfigError(
            f"{name} = {value!r}: is none of its values; use a member of rdmaorder.{kind.__name__}"
        ) from None


def _id(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} = {value!r}: is not an integer; use 0 to {_ID_MAX}") from None
    if not 0 <= number <= _ID_MAX:
        raise ConfigError(f"{name} = {value!r}: is out of range; use 0 to {_ID_MAX}")
    return number


def _check_handler(handler: object, name: str) -> None:
    if not any(callable(getattr(handler, method, None)) for method in ("on_order", "on_orders")):
        raise ConfigError(f"{name} has no method on_order or on_orders")


def _load_handler(text: str) -> PythonHandler | OrderHandler:
    module_name, _, class_name = text.partition(":")
    if not module_name or not class_name:
        raise ConfigError(
            f"[gateway] handler = {text!r}: give accept, venue, null or package.module:Class"
        )
    try:
        made: PythonHandler | OrderHandler = getattr(
            importlib.import_module(module_name), class_name
        )()
    except Exception as error:  # the user's code may raise anything
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"[gateway] handler = {text!r}: {what}") from error
    _check_handler(made, f"[gateway] handler = {text!r}: {class_name}")
    return made
