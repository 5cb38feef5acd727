"""``rdmaorder gateway``: run a gateway until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import os
import time

from rdmaorder import __version__
from rdmaorder._end_signals import end_signals
from rdmaorder.errors import ConfigError
from rdmaorder.gateway import Gateway, GatewayConfig

__all__ = ["add_parser"]


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
    with end_signals() as wait_for_end:
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
