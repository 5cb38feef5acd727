"""``rdmaorder gateway``: run a gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

from rdmaorder import __version__
from rdmaorder.errors import ConfigError
from rdmaorder.gateway import Gateway, GatewayConfig

__all__ = ["add_parser"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "gateway",
        help="receive orders: verify, check, journal and answer them",
        description="Runs until SIGTERM or SIGINT, then takes what is in the rings and ends; "
        "further signals are ignored meanwhile. Flags override the [gateway] table of --config.",
    )
    parser.add_argument(
        "--listen",
        metavar="URL",
        action="append",
        help="shm:///path.sock or rdma://HOST:PORT; may be given again",
    )
    parser.add_argument("--tls", choices=("on", "off"), help="off: rdma:// on a test network")
    parser.add_argument("--config", metavar="FILE", help="TOML file with a [gateway] table")
    parser.add_argument("--journal", metavar="DIR", help="directory of the journal")
    parser.add_argument("--sync", choices=("none", "interval", "batch"), help="journal sync policy")
    parser.add_argument(
        "--handler", metavar="NAME", help="accept, venue, null or package.module:Class"
    )
    parser.add_argument("--counters", metavar="FILE", help="path of the counters file")
    parser.add_argument("--idle", choices=("spin", "yield", "backoff"), help="when nothing comes")
    parser.add_argument("--cpu", type=int, help="pin the receiver to this processor")
    parser.add_argument("--verbose", action="store_true", help="log connections too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the gateway."""
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    config = GatewayConfig.from_file(arguments.config) if arguments.config else GatewayConfig()
    names = ("listen", "tls", "journal", "sync", "handler", "counters", "idle", "cpu")
    flags = {name: getattr(arguments, name) for name in names}
    try:
        config = config.with_overrides(**flags)
    except ConfigError as error:
        raise ConfigError(f"command line: {error}") from None
    with _end_signals() as wait_for_end:
        gateway = Gateway(config)
        recovered = gateway.journal_state().get("recovered_records", 0)
        with gateway:
            print(_first_line(gateway, recovered), flush=True)
            print(f"rdmaorder gateway: {wait_for_end().name}, draining", flush=True)
            started = time.monotonic()
            gateway.stop()
        counters = gateway.counters()
        print(
            f"rdmaorder gateway: ended after {counters['orders_applied']} orders "
            f"({counters['orders_rejected']} rejected at the gateway), {counters['reports_sent']} "
            f"reports; drained in {(time.monotonic() - started) * 1e3:.0f} ms",
            flush=True,
        )
    return 0


@contextlib.contextmanager
def _end_signals() -> Iterator[Callable[[], signal.Signals]]:
    """SIGTERM and SIGINT end no thread from here on; gives what waits for the first of them.

    Blocking them is not enough: numpy's threads, made when it is imported, have them unblocked and
    take them in place of a thread that does not. So each is caught, and told by a byte in a pipe
    whichever thread it comes to. The gateway's threads, made meanwhile, do block them: no call of
    theirs is to be interrupted.
    """
    pipe, writer = socket.socketpair()
    writer.setblocking(False)
    fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handlers_before = {each: signal.signal(each, lambda *_: None) for each in _SIGNALS}
    mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> signal.Signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        number = 0
        while number not in _SIGNALS:  # the pipe tells of every signal that Python catches
            number = pipe.recv(1)[0]
        for each in _SIGNALS:  # one is enough, until the process is gone
            signal.signal(each, signal.SIG_IGN)
        return signal.Signals(number)

    try:
        yield wait
    except BaseException:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask_before)
        raise
    finally:
        signal.set_wakeup_fd(fd_before)
        pipe.close()
        writer.close()


def _first_line(gateway: Gateway, recovered: int) -> str:
    config = gateway.config
    journal = "no journal"
    if config.journal is not None:
        journal = f"journal {config.journal} (sync {config.sync}"
        journal += f", {recovered} records recovered)" if recovered else ")"
    return (
        f"rdmaorder gateway {__version__}: listening on {' and '.join(gateway.urls)}, handler "
        f"{gateway.handler_name}, {journal}, counters {gateway.counters_path}, pid {os.getpid()}"
    )
